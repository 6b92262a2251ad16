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

  // A picture of a gallery opens by itself, larger; Escape, a click or Enter closes it, the arrows go on.
  const links = [...document.querySelectorAll(".gallery a")];
  const show = (link) => {
    const old = link.querySelector("img");
    const dialog = document.querySelector("dialog.enlarged") || document.createElement("dialog");
    const words = old.alt.replace("Enlarge: ", "");
    dialog.className = "enlarged";
    dialog.ariaLabel = words;
    dialog.style.setProperty("--ratio", old.width / old.height);
    dialog.innerHTML = `<form method="dialog"><button autofocus><img><span></span></button></form>`;
    Object.assign(dialog.querySelector("img"), { src: link.href, alt: "" });
    dialog.querySelector("span").textContent = words;
    dialog.onclick = () => dialog.close();
    dialog.onclose = () => link.focus();
    dialog.onkeydown = (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const next = step && links[links.indexOf(link) + step];
      if (next && next.closest(".gallery") === link.closest(".gallery")) show(next);
    };
    document.body.append(dialog);
    if (!dialog.open) dialog.showModal();
  };
  links.forEach((link) => link.addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    show(link);
  }));
});
