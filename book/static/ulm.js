// What the theme and docutils leave unclear to those who hear the page: arrows of the menu without a name, and a
// list of works whose entries are no list items.
document.addEventListener("DOMContentLoaded", () => {
  for (const arrow of document.querySelectorAll(".bd-sidebar summary:not([aria-label])")) {
    arrow.setAttribute("aria-label", "Pages below this one");
  }
  for (const works of document.querySelectorAll(".citation-list[role=list]")) {
    works.removeAttribute("role");
  }
});
