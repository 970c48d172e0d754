// Keys A, B, T and H choose; the hidden field `seconds` gets the time for which the page was visible. The page works without this file.
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
    const choice = document.querySelector(`input[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
    if (choice) {
      choice.checked = true;
      choice.focus();
    }
  });
  if (window.matchMedia("(max-width: 60rem)").matches) {
    for (const part of document.querySelectorAll(".anchors details")) part.open = false;
  }
})();
