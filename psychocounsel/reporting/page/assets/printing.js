// Prints everything except crisis texts that nobody opened, and except the tables of charts, which would fill hundreds
// of pages. Charts are drawn in light colours at the paper's width.
const PAPER = 660; // pixels between the margins of a page of A4 or Letter
let printing = false;
let opened = [];

addEventListener("beforeprint", () => {
  if (printing) return;
  printing = true;
  opened = [...document.querySelectorAll("details:not([open], .figures)")];
  for (const each of opened) each.open = true;
  document.documentElement.dataset.theme = "light";
  for (const chart of charts) draw(chart, PAPER);
});
addEventListener("afterprint", () => {
  if (!printing) return;
  printing = false;
  for (const each of opened) each.open = false;
  setTheme(theme.value);
  for (const chart of charts) draw(chart);
});
