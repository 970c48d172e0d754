// Tables: a click on a heading sorts (missing values last); long tables have a box that filters by words.
const collator = new Intl.Collator("en", { numeric: true });

function sortRows(table, column, ascending) {
  const body = table.tBodies[0];
  const numeric = table.tHead.rows[0].cells[column].classList.contains("number");
  const sign = ascending ? 1 : -1;
  const rows = [...body.rows].map((row) => [row, row.cells[column]]);
  rows.sort(([, one], [, other]) => {
    const missing = Number("missing" in one.dataset) - Number("missing" in other.dataset);
    if (missing) return missing;
    if ("missing" in one.dataset) return 0;
    if (numeric) return sign * (Number(one.dataset.value) - Number(other.dataset.value));
    return sign * collator.compare(one.textContent, other.textContent);
  });
  body.append(...rows.map(([row]) => row));
}

function sortBy(heading) {
  const sorted = heading.getAttribute("aria-sort");
  // The first click sorts figures from the largest and texts from A; the next click reverses the order.
  const first = heading.classList.contains("number") ? "descending" : "ascending";
  const order = sorted === "none" ? first : sorted === "ascending" ? "descending" : "ascending";
  for (const each of heading.parentNode.cells) each.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", order);
  sortRows(heading.closest("table"), heading.cellIndex, order === "ascending");
}

function filterRows(box) {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...box.closest(".table").querySelectorAll("tbody tr")];
  for (const row of rows) {
    const text = [...row.cells].map((cell) => cell.textContent.toLowerCase()).join(" ");
    row.hidden = !words.every((word) => text.includes(word));
  }
  const shown = rows.filter((row) => !row.hidden).length;
  box.closest(".controls").querySelector(".count").textContent =
    shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("thead th button");
  if (button) sortBy(button.parentNode);
});
document.addEventListener("input", (event) => {
  if (event.target.matches(".filter")) filterRows(event.target);
});
