// A key selects the answer that shows it. The hidden field `seconds` gets the time that the page was visible. The page works without this file.
"use strict";
(() => {
  const form = document.querySelector("form.judgement");
  let visible = 0;
  let since = document.hidden ? null : performance.now();
  document.addEventListener("visibilitychange", () => {
    if (since !== null) visible += performance.now() - since;
    since = document.hidden ? null : performance.now();
  });
  if (form) {
    form.addEventListener("submit", () => {
      const now = since === null ? 0 : performance.now() - since;
      form.elements.namedItem("seconds").value = ((visible + now) / 1000).toFixed(1);
    });
  }
  document.addEventListener("keydown", (event) => {
    const typing = /^(TEXTAREA|SELECT)$/.test(event.target.tagName) || (event.target.tagName === "INPUT" && event.target.type === "text");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const same = [...document.querySelectorAll(`input[data-key="${CSS.escape(event.key.toLowerCase())}"]`)];
    const focused = document.activeElement.name;
    const choice = same.find((each) => each.name === focused) || same.find((each) => !answered(each)) || same[0];
    if (!choice) return;
    choice.checked = true;
    (open() || choice).focus(); // the next question; after the last one Enter saves
  });
  const answered = (input) => input.form.elements.namedItem(input.name).value !== "";
  const open = () => [...document.querySelectorAll("fieldset.choice input")].find((each) => !answered(each));
  if (window.matchMedia("(max-width: 60rem)").matches) {
    for (const part of document.querySelectorAll(".anchors details")) part.open = false;
  }
})();
