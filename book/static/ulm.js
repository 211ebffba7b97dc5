// The theme's arrows that unfold the menu have no name for those who hear the page.
document.addEventListener("DOMContentLoaded", () => {
  for (const arrow of document.querySelectorAll(".bd-sidebar summary:not([aria-label])")) {
    arrow.setAttribute("aria-label", "Pages below this one");
  }
});
