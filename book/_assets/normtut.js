// What the theme's markup lacks for screen readers and the keyboard.
document.addEventListener("DOMContentLoaded", () => {
  const set = (selector, name, value) =>
    document.querySelectorAll(selector).forEach((element) => element.setAttribute(name, value));

  // The sidebar with the logo and the search field is a landmark of its own.
  set("#pst-primary-sidebar, .bd-sidebar-primary", "role", "complementary");
  set("#pst-primary-sidebar, .bd-sidebar-primary", "aria-label", "Book");

  // Boxes that scroll can be reached with the keyboard, and show on which side there is more.
  const boxes = document.querySelectorAll(".bd-article pre, .pst-scrollable-table-container, .equation-box");
  const measure = (box) => {
    const hidden = box.scrollWidth - box.clientWidth;
    if (hidden > 1) box.setAttribute("tabindex", "0");
    else box.removeAttribute("tabindex");
    box.classList.toggle("more-left", hidden > 1 && box.scrollLeft > 2);
    box.classList.toggle("more-right", hidden > 1 && box.scrollLeft < hidden - 2);
  };
  const measureAll = () => boxes.forEach(measure);
  boxes.forEach((box) => box.addEventListener("scroll", () => measure(box), { passive: true }));
  measureAll();
  document.fonts.ready.then(measureAll);
  window.addEventListener("resize", measureAll);
  document.querySelectorAll("details").forEach((fold) => fold.addEventListener("toggle", measureAll));

  // Fifty buttons to copy a cell are fifty stops for the Tab key: they are for the pointer.
  set("button.copybtn", "tabindex", "-1");

  // On paper all folds are open, and code has the colours of the light; afterwards all is as before.
  const page = document.documentElement;
  let opened = [];
  let theme = page.dataset.theme;
  window.addEventListener("beforeprint", () => {
    theme = page.dataset.theme;
    page.dataset.theme = "light";
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((fold) => { fold.open = true; });
    document.querySelectorAll("img[loading]").forEach((image) => { image.loading = "eager"; });
  });
  window.addEventListener("afterprint", () => {
    page.dataset.theme = theme;
    opened.forEach((fold) => { fold.open = false; });
  });

  // A picture of a gallery opens by itself, larger; Escape, a click or Enter closes it, the arrows go on.
  const links = [...document.querySelectorAll(".gallery a")];
  const dialog = document.createElement("dialog");
  dialog.className = "enlarged";
  dialog.innerHTML = '<button type="button" autofocus><img alt=""><span></span></button>';
  let shown = null;
  const show = (link) => {
    const small = link.querySelector("img");
    shown = link;
    dialog.style.setProperty("--ratio", small.width / small.height);
    dialog.querySelector("img").src = link.href;
    dialog.querySelector("span").textContent = small.alt.replace("Enlarge: ", "");
  };
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => shown.focus());
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key] ?? 0;
    const next = links[links.indexOf(shown) + step];
    if (step && next?.closest(".gallery") === shown.closest(".gallery")) show(next);
    if (event.key === "Escape") dialog.close();
  });
  links.forEach((link) => link.addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    document.body.append(dialog);
    show(link);
    dialog.showModal();
  }));
});
