// Printing: what is folded on the screen is unfolded on paper, but for the runs' records.

const PRINTED = 500; // runs listed on paper, at most
let opened = [];

addEventListener("beforeprint", () => {
  rowsShown = Math.max(rowsShown, PRINTED);
  listRuns();
  opened = $$("details:not([open])").filter((node) => !node.classList.contains("run"));
  for (const node of opened) node.open = true;
});
addEventListener("afterprint", () => {
  for (const node of opened) node.open = false;
});

changed();
goTo();
