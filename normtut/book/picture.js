// Show what the script makes of a picture in its stead, and give it the picture's bytes as soon as they are there.
function fromPicture(picture, use, instead) {
  const scripted = (on) => { picture.hidden = on; $("div").hidden = !on; };
  function read() {
    const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
    canvas.width = picture.naturalWidth;
    canvas.height = picture.naturalHeight;
    pen.drawImage(picture, 0, 0);
    let bytes;
    try {
      bytes = pen.getImageData(0, 0, canvas.width, canvas.height).data;
    } catch { // a page that is opened as a file may show a picture, but not read it
      scripted(false);
      $("[role=status]").textContent = `Opened as a file, this page may not read its pictures. ${instead}`;
      return;
    }
    use(bytes);
  }
  // All stands in its place before the picture is there, so that nothing moves when it comes.
  scripted(true);
  if (picture.complete && picture.naturalWidth) read();
  else picture.addEventListener("load", read);
  // In the book it is a file of its own, which comes when the explorer is near the screen.
  new IntersectionObserver((seen, watch) => {
    if (!seen.some((s) => s.isIntersecting)) return;
    picture.loading = "eager";
    watch.disconnect();
  }, { rootMargin: "800px" }).observe(root);
}
