// Speeches with replies, filtered by topic and risk. A crisis text is put into the page only when its button is pressed.
function filterSpeeches(browser) {
  const speeches = [...browser.querySelectorAll(".speech")];
  const topic = browser.querySelector(".topic")?.value || "";
  const risk = browser.querySelector(".risk")?.value || "";
  for (const each of speeches) {
    each.hidden = Boolean((topic && each.dataset.topic !== topic) || (risk && each.dataset.risk !== risk));
  }
  const shown = speeches.filter((each) => !each.hidden).length;
  browser.querySelector(".count").textContent =
    shown === speeches.length ? `${shown} speeches` : `${shown} of ${speeches.length} speeches`;
}

document.addEventListener("change", (event) => {
  const browser = event.target.closest(".browser");
  if (event.target.matches(".marking")) browser.classList.toggle("unmarked", !event.target.checked);
  else if (browser) filterSpeeches(browser);
});
document.addEventListener("click", (event) => {
  const button = event.target.closest(".reveal");
  if (!button) return;
  const speech = button.closest(".speech");
  const words = speech.querySelector("template").content.cloneNode(true);
  words.querySelector(".client").tabIndex = -1;
  speech.append(words);
  speech.querySelector(".client").focus();
  button.nextElementSibling.remove();
  button.remove();
});
