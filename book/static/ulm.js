// What the theme and docutils leave unclear to those who hear the page: arrows of the menu without a name, and a
// list of works whose entries are no list items.
document.addEventListener("DOMContentLoaded", () => {
  for (const arrow of document.querySelectorAll(".bd-sidebar summary:not([aria-label])")) {
    arrow.setAttribute("aria-label", "Pages below this one");
  }
  for (const works of document.querySelectorAll(".citation-list[role=list]")) {
    works.removeAttribute("role");
  }
  document.querySelectorAll("iframe.ulm-lab").forEach(serveLab);
});

// The lab is a page within the page: it takes over the colours, and says how high it is.
function serveLab(lab) {
  const tellColours = () => {
    lab.contentWindow.postMessage({ ulmTheme: document.documentElement.dataset.theme }, "*");
  };
  window.addEventListener("message", ({ source, data }) => {
    if (source !== lab.contentWindow || !Number.isFinite(data?.ulmLabHeight)) return;
    lab.style.height = `${data.ulmLabHeight}px`;
  });
  new MutationObserver(tellColours).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  lab.addEventListener("load", tellColours);
  tellColours();
}
