// Tables: which of them are shown, and in which order their rows stand.

listeners.push((chosen) => {
  for (const section of $$(".block")) section.hidden = !chosen[section.dataset.block];
  $("#no-tables").hidden = !DATA.tables || chosen.slice(0, DATA.tables).some(Boolean);
});

function sortBy(header, direction) {
  const body = header.closest("table").tBodies[0];
  const sign = direction === "ascending" ? 1 : -1;
  const value = (row) => row.cells[header.cellIndex].dataset.v;
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    // what is unknown stands last either way
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    return sign * (Number(x) - Number(y));
  });
  body.append(...rows);
  for (const other of header.parentElement.cells)
    if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", direction);
}

for (const button of $$("thead button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th");
    const now = header.getAttribute("aria-sort");
    const first = button.dataset.first ?? "ascending";
    sortBy(header, now === "none" ? first : now === "ascending" ? "descending" : "ascending");
  });
}
// Rows come in the methods' own order, which is how the first column sorts.
for (const header of $$("thead th:first-child")) header.setAttribute("aria-sort", "ascending");
