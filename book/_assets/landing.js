// The landing page: a photograph, normalized with its own statistics and denormalized with others.
(() => {
  const root = document.getElementById("play"), $ = (s) => root.querySelector(s), all = (s) => [...root.querySelectorAll(s)];
  const canvas = $("canvas"), stage = $(".play-stage"), slider = $("#play-at"), status = $(".play-outside");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  let photo = null; // its bytes, and what was measured on them
  let style = null; // six numbers and a name
  let frame = 0, tour = 0;

  // Means and standard deviations of red, green and blue, with values from 0 to 1; and the range of the bytes.
  function measure(bytes) {
    const counts = [0, 1, 2].map(() => new Float64Array(256));
    for (let k = 0; k < bytes.length; k += 4) for (let c = 0; c < 3; c++) counts[c][bytes[k + c]]++;
    const n = bytes.length / 4, found = { mean: [], std: [], low: [], high: [], counts };
    counts.forEach((count) => {
      let sum = 0, square = 0;
      count.forEach((m, v) => { sum += (m * v) / 255; });
      count.forEach((m, v) => { square += m * (v / 255 - sum / n) ** 2; });
      found.mean.push(sum / n);
      found.std.push(Math.sqrt(square / n));
      found.low.push(count.findIndex((m) => m > 0));
      found.high.push(255 - [...count].reverse().findIndex((m) => m > 0));
    });
    return found;
  }

  // Where the slider stands: 0 the photograph's own statistics, 1 mean 0 and std 1, 2 those of the style.
  function statistics(t) {
    const mix = (a, b, w) => a.map((v, c) => v + (b[c] - v) * w);
    const zero = [0, 0, 0], one = [1, 1, 1];
    return t <= 1
      ? { mean: mix(photo.mean, zero, t), std: mix(photo.std, one, t) }
      : { mean: mix(zero, style.mean, t - 1), std: mix(one, style.std, t - 1) };
  }

  const write = (v) => v.toFixed(2).replace("-0.00", "0.00").replace("-", "−");

  function draw() {
    frame = 0;
    if (!photo || !style) return;
    const t = slider.value / 100, { mean, std } = statistics(t);
    // Every byte of a channel becomes the same new value: a table of 256 instead of a sum for each pixel. A
    // channel of one single value has no std; its z is 0.
    const tables = [0, 1, 2].map((c) => Float64Array.from({ length: 256 }, (_, v) =>
      (photo.std[c] ? (v / 255 - photo.mean[c]) / photo.std[c] : 0) * std[c] + mean[c]));
    const low = Math.min(...tables.map((table, c) => table[photo.low[c]]));
    const high = Math.max(...tables.map((table, c) => table[photo.high[c]]));
    const clipped = tables.map((table) => Uint8ClampedArray.from(table, (v) => v * 255));
    const rescaled = tables.map((table) => Uint8ClampedArray.from(table, (v) => ((v - low) / (high - low || 1)) * 255));

    // The rescaled picture comes in from the right as the statistics come near 0 and 1.
    const near = Math.max(0, 1 - Math.abs(t - 1) / 0.5), part = near * near * (3 - 2 * near) * 0.5;
    const { width, height } = canvas, edge = Math.round(width * (1 - part));
    const image = context.createImageData(width, height), to = image.data, from = photo.bytes;
    for (let y = 0, k = 0; y < height; y++) {
      for (let x = 0; x < width; x++, k += 4) {
        const table = x < edge ? clipped : rescaled;
        to[k] = table[0][from[k]];
        to[k + 1] = table[1][from[k + 1]];
        to[k + 2] = table[2][from[k + 2]];
        to[k + 3] = 255;
      }
    }
    context.putImageData(image, 0, 0);
    if (part > 0) {
      context.fillStyle = "#fff";
      context.fillRect(edge - 1, 0, 2, height);
    }
    all(".play-side").forEach((label) => { label.style.opacity = part > 0.3 ? 1 : 0; });

    all("tbody tr").forEach((row, c) => {
      row.cells[1].textContent = write(mean[c]);
      row.cells[2].textContent = write(std[c]);
      const at = (v) => `${((v + 1.1) / 2.6) * 100}%`; // the track runs from −1.1 to 1.5
      row.style.setProperty("--from", at(Math.max(-1.1, mean[c] - std[c])));
      row.style.setProperty("--mean", at(mean[c]));
      row.style.setProperty("--to", at(Math.min(1.5, mean[c] + std[c])));
    });
    let outside = 0;
    tables.forEach((table, c) => table.forEach((v, k) => {
      if (v < -1e-9 || v > 1 + 1e-9) outside += photo.counts[c][k];
    }));
    const share = (100 * outside) / (3 * width * height);
    status.textContent = `${share > 0 && share < 0.5 ? "Less than 1" : share.toFixed(0)} % of the values do not fit on a screen.`;
    const place = ["its own statistics", "on the way to 0 and 1", "mean 0 and std 1", `on the way to ${style.name}`, `the statistics of ${style.name}`];
    slider.setAttribute("aria-valuetext", place[t === 0 ? 0 : t < 1 ? 1 : t === 1 ? 2 : t < 2 ? 3 : 4]);
    slider.style.setProperty("--at", `${slider.value / 2}%`);
    all(".play-stops button").forEach((b) => b.classList.toggle("here", b.dataset.at === slider.value));
  }

  const later = () => { if (!frame) frame = requestAnimationFrame(draw); };

  // Move the slider as a hand would. Whoever touches anything is in charge from then on.
  function glide(stops) {
    cancelAnimationFrame(tour);
    if (still) { slider.value = stops[stops.length - 1].to; later(); return; }
    let { to, ms, wait = 0 } = stops[0], from = +slider.value, start = 0;
    const step = (now) => {
      start ||= now;
      const p = Math.min(1, Math.max(0, now - start - wait) / ms), eased = p * p * (3 - 2 * p);
      slider.value = from + (to - from) * eased;
      later();
      if (p < 1) tour = requestAnimationFrame(step);
      else if (stops.length > 1) glide(stops.slice(1));
    };
    tour = requestAnimationFrame(step);
  }
  slider.addEventListener("input", () => { cancelAnimationFrame(tour); later(); });
  all(".play-stops button").forEach((b) => b.addEventListener("click", () => glide([{ to: +b.dataset.at, ms: 700 }])));

  // The pixels of a picture, at most so many on a side.
  function pixels(picture, most) {
    const w = picture.naturalWidth || picture.width, h = picture.naturalHeight || picture.height;
    const scale = Math.min(1, most / Math.max(w, h)), c = document.createElement("canvas");
    c.width = Math.max(1, Math.round(w * scale));
    c.height = Math.max(1, Math.round(h * scale));
    const ctx = c.getContext("2d", { willReadFrequently: true });
    ctx.fillStyle = "#fff"; // under what is transparent
    ctx.fillRect(0, 0, c.width, c.height);
    ctx.drawImage(picture, 0, 0, c.width, c.height);
    return ctx.getImageData(0, 0, c.width, c.height);
  }

  function usePhoto(picture) {
    const { data, width, height } = pixels(picture, 960);
    photo = { ...measure(data), bytes: data };
    canvas.width = width;
    canvas.height = height;
    stage.classList.add("ready");
    later();
  }
  function useStyle(found, name) {
    style = { mean: found.mean, std: found.std, name };
    $(".play-name").textContent = name;
    later();
  }
  const press = (button) => button.parentElement.querySelectorAll("[aria-pressed]")
    .forEach((b) => b.setAttribute("aria-pressed", b === button));
  const load = (url) => new Promise((done, failed) => {
    const picture = new Image();
    picture.onload = () => done(picture);
    picture.onerror = failed;
    picture.src = url;
  });

  async function photoButton(button) {
    usePhoto(await load(button.dataset.photo));
    press(button);
  }
  function styleButton(button) {
    const six = button.dataset.style.split(",").map(Number);
    useStyle({ mean: six.slice(0, 3), std: six.slice(3) }, button.textContent.trim());
    press(button);
  }
  all("[data-photo]").forEach((b) => b.addEventListener("click", () => photoButton(b)));
  all("[data-style]").forEach((b) => b.addEventListener("click", () => {
    styleButton(b);
    if (+slider.value < 200) glide([{ to: 200, ms: 700 }]);
  }));

  // A picture of the reader's own: it is read here, and goes nowhere.
  async function own(file, what) {
    if (!file) return;
    const url = URL.createObjectURL(file);
    try {
      const picture = await load(url);
      cancelAnimationFrame(tour);
      if (what === "photo") usePhoto(picture);
      else useStyle(measure(pixels(picture, 512).data), "your picture");
      $(`[data-for=${what}]`).closest(".play-pick").querySelectorAll("[aria-pressed]").forEach((b) => b.setAttribute("aria-pressed", false));
      if (what === "style") glide([{ to: 200, ms: 700 }]);
    } catch {
      status.textContent = `${file.name} is not a picture that this browser can read.`;
    } finally {
      URL.revokeObjectURL(url);
    }
  }
  all("input[type=file]").forEach((input) => input.addEventListener("change", () => {
    own(input.files[0], input.dataset.for);
    input.value = "";
  }));
  const styles = all(".play-pick")[1];
  [[stage, "photo"], [styles, "style"]].forEach(([place, what]) => {
    place.addEventListener("dragover", (event) => { event.preventDefault(); place.classList.add("over"); });
    place.addEventListener("dragleave", () => place.classList.remove("over"));
    place.addEventListener("drop", (event) => {
      event.preventDefault();
      place.classList.remove("over");
      own(event.dataTransfer.files[0], what);
    });
  });
  $(".play-save").addEventListener("click", (event) => { event.currentTarget.href = canvas.toDataURL("image/png"); });

  styleButton($("[data-style]"));
  const first = $(".play-stage img");
  first.decode().then(() => {
    usePhoto(first);
    if (still) slider.value = 200;
    else glide([{ to: 100, ms: 1600, wait: 900 }, { to: 200, ms: 1600, wait: 1100 }]);
    draw();
  });
  root.addEventListener("pointerdown", () => cancelAnimationFrame(tour));
  root.addEventListener("keydown", () => cancelAnimationFrame(tour));
})();
