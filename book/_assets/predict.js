// A Predict is answered here. Guesses stay in this browser's own storage; nothing is sent.
(() => {
  const STORE = "normtut-predict";
  let memory = {};
  try { memory = JSON.parse(localStorage.getItem(STORE)) || {}; } catch { /* private window: this page remembers */ }
  const save = () => {
    try { localStorage.setItem(STORE, JSON.stringify(memory)); } catch { /* nothing to be done about it */ }
  };
  const write = (number) => String(+number.toPrecision(4)).replace("-", "−");

  // "1,000", "0,5", "1/3", "12 %": what people type for a number. NaN for anything else.
  const read = (text) => {
    let t = text.replace(/[\s%]/g, "").replace("−", "-");
    t = /^-?\d{1,3}(,\d{3})+(\.\d+)?$/.test(t) ? t.replace(/,/g, "") : t.replace(",", ".");
    const [top, bottom] = t.split("/");
    return t === "" ? NaN : bottom === undefined ? Number(top) : Number(top) / Number(bottom);
  };

  // In which way a guess differs from the answer, in words; right within a tenth.
  function judge(data, guess) {
    if (data.number === undefined) {
      const right = guess === data.answer, letter = "abcdefgh"[data.answer];
      return { right, say: right ? `Right: (${letter}).` : `Not (${"abcdefgh"[guess]}): it is (${letter}).` };
    }
    const { number, unit } = data, off = guess - number, size = Math.abs(off);
    const is = `${write(number)}${unit ? ` ${unit}` : ""}`;
    if (size <= 0.005 * Math.abs(number)) return { right: true, say: `Right: ${is}.` };
    const ratio = guess / number, side = off < 0 ? "too low" : "too high";
    const by = ratio >= 3 ? `${write(ratio)} times too high` : ratio > 0 && ratio <= 1 / 3
      ? `${write(1 / ratio)} times too low` : `${write(size)}${unit === "%" ? " points" : ""} ${side}`;
    const right = size <= 0.1 * Math.abs(number);
    return { right, say: `${right ? "Close: y" : "Y"}ou said ${write(guess)}, it is ${is}: ${by}.` };
  }

  const questions = [...document.querySelectorAll(".predict-form")].map((form) => {
    const quote = form.closest(".predict"), answer = document.getElementById(`${quote.id}-answer`);
    const data = JSON.parse(form.dataset.predict);
    return {
      form, quote, answer, data,
      verdict: form.querySelector(".predict-verdict"),
      submit: form.querySelector("[type=submit]"),
      skip: form.querySelector(".predict-skip"),
      inputs: [...form.querySelectorAll("input")],
      folds: answer
        ? [...answer.querySelectorAll("details")].filter((fold) => !fold.closest(".tag_check-cell, details details"))
        : [],
    };
  });

  const guessOf = ({ data }) => (data.key in memory ? memory[data.key] : undefined);

  function show(q, shown) {
    if (!q.answer) return;
    q.answer.classList.toggle("shown", shown);
    if (shown) q.answer.removeAttribute("hidden");
    else q.answer.setAttribute("hidden", "until-found");
    q.folds.forEach((fold) => { fold.open = shown; });
  }

  // The page as the memory has it.
  function draw(q) {
    const guess = guessOf(q), made = guess !== undefined, choices = [...q.form.querySelectorAll("li")];
    const told = made ? judge(q.data, guess) : null;
    q.inputs.forEach((input) => {
      input.disabled = made;
      if (input.type === "radio") input.checked = made && +input.value === guess;
      else input.value = made ? write(guess) : "";
    });
    choices.forEach((choice, k) => {
      choice.classList.toggle("right", made && k === q.data.answer);
      choice.classList.toggle("wrong", made && k === guess && k !== q.data.answer);
    });
    q.verdict.textContent = told ? told.say : "";
    q.verdict.className = `predict-verdict${told ? (told.right ? " right" : " wrong") : ""}`;
    q.submit.textContent = made ? "Guess again" : "Check my guess";
    const open = made || Boolean(memory.all);
    q.skip.hidden = open;
    show(q, open);
  }

  function answered() {
    const made = questions.filter((q) => guessOf(q) !== undefined);
    return { made, right: made.filter((q) => judge(q.data, guessOf(q)).right) };
  }

  function score() {
    const panel = document.querySelector(".predict-score");
    const { made, right } = answered();
    document.querySelectorAll(".predict-all").forEach((b) => {
      b.textContent = memory.all ? "Hide the answers again" : "Show all answers";
    });
    panel.querySelector("p").textContent = made.length
      ? `You have answered ${made.length} of the ${questions.length} predictions on this page, ${right.length} of them right.`
      : `This page has ${questions.length} predictions. You have answered none yet.`;
    panel.querySelector(".predict-copy").hidden = panel.querySelector(".predict-forget").hidden = !made.length;
  }

  function redraw() { questions.forEach(draw); score(); }

  questions.forEach((q) => {
    q.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (guessOf(q) !== undefined) {
        delete memory[q.data.key];
      } else {
        const chosen = q.inputs.find((input) => input.checked);
        const guess = q.data.number === undefined ? (chosen ? +chosen.value : NaN) : read(q.inputs[0].value);
        if (!Number.isFinite(guess)) {
          q.verdict.textContent = q.data.number === undefined ? "Choose one first." : "Type a number first, such as 0.5.";
          q.inputs[0].focus();
          return;
        }
        memory[q.data.key] = guess;
      }
      save();
      draw(q);
      score();
    });
    q.skip.addEventListener("click", () => {
      show(q, true);
      q.verdict.textContent = "The answer is below.";
      q.skip.hidden = true;
      q.submit.focus();
    });
    // Found by the browser's own search, or by a link to something in it.
    if (q.answer) q.answer.addEventListener("beforematch", () => show(q, true));
  });

  const panel = document.querySelector(".predict-score");
  panel.querySelector(".predict-forget").addEventListener("click", () => {
    questions.forEach((q) => delete memory[q.data.key]);
    save();
    redraw();
    panel.querySelector("p").textContent = "Your guesses on this page are forgotten.";
    panel.querySelector(".predict-all").focus();
  });
  panel.querySelector(".predict-copy").addEventListener("click", async (event) => {
    const { right } = answered();
    const squares = questions.map((q) => {
      const guess = guessOf(q);
      return guess === undefined ? "⬜" : judge(q.data, guess).right ? "🟩" : "🟥";
    });
    const title = document.querySelector("h1").firstChild.textContent.trim();
    const text = `${title}: ${right.length} of ${questions.length}\n${squares.join("")}\n${location.href.split("#")[0]}`;
    let said = "Copied";
    try { await navigator.clipboard.writeText(text); } catch { said = text; }
    if (said === "Copied") event.target.textContent = said;
    else panel.querySelector("p").textContent = said;
  });
  document.querySelectorAll(".predict-all").forEach((button) => button.addEventListener("click", () => {
    if (memory.all) delete memory.all;
    else memory.all = 1;
    save();
    redraw();
  }));

  function follow() {
    let target = null;
    try { target = document.getElementById(decodeURIComponent(location.hash.slice(1))); } catch { return; }
    const q = target && questions.find(({ answer }) => answer && answer.contains(target));
    if (!q || !q.answer.hasAttribute("hidden")) return;
    show(q, true);
    target.scrollIntoView();
  }
  redraw();
  follow();
  const root = document.documentElement;
  requestAnimationFrame(() => requestAnimationFrame(() => root.classList.remove("nt-returning")));
  window.addEventListener("hashchange", follow);
  window.addEventListener("beforeprint", () => questions.forEach((q) => q.answer && q.answer.removeAttribute("hidden")));
  window.addEventListener("afterprint", () => questions.forEach((q) => {
    if (q.answer && !q.answer.classList.contains("shown")) show(q, false);
  }));
})();
