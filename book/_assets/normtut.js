// What the theme's markup lacks for screen readers and the keyboard.
document.addEventListener("DOMContentLoaded", () => {
  const set = (selector, name, value) =>
    document.querySelectorAll(selector).forEach((element) => element.setAttribute(name, value));

  // The sidebar with the logo and the search field is a landmark of its own.
  set("#pst-primary-sidebar, .bd-sidebar-primary", "role", "complementary");
  set("#pst-primary-sidebar, .bd-sidebar-primary", "aria-label", "Book");

  // Boxes that scroll can be reached with the keyboard.
  const scrolls = () => document
    .querySelectorAll(".bd-article pre, .pst-scrollable-table-container, .equation-box")
    .forEach((box) => {
      if (box.scrollWidth > box.clientWidth) box.setAttribute("tabindex", "0");
      else box.removeAttribute("tabindex");
    });
  scrolls();
  document.fonts.ready.then(scrolls);
  window.addEventListener("resize", scrolls);
  document.querySelectorAll("details").forEach((fold) => fold.addEventListener("toggle", scrolls));
});
