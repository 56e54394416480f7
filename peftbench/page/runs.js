// Runs: a list that grows on demand; a run's record is unpacked when somebody looks at it.

const ROWS = 50;
const RUNS = DATA.runs;
let rowsShown = ROWS;
let chosenBlocks = [];
let packed = null;
const unpacked = new Map(); // chunk -> promise of its lines
const trial = (i) => (RUNS.trial[i] === null ? "" : `, trial ${RUNS.trial[i]}`);
const runId = (key) => key.split("/").at(-1); // a key is `<device folder>/<run id>`
const haystack = RUNS.key.map((key, i) => {
  const { task, model } = DATA.blocks[RUNS.block[i]];
  const words = [key, RUNS.label[i], task, model, `seed ${RUNS.seed[i]}`, trial(i)];
  return [...words, RUNS.status[i], RUNS.error[i] ?? ""].join(" ").toLowerCase();
});

const find = $("#runs-find");
const status = $("#runs-status");
const list = $("#runs-list");

listeners.push((chosen) => {
  chosenBlocks = chosen;
  restart();
});
find.addEventListener("input", restart);
status.addEventListener("change", restart);
$("#more-runs").addEventListener("click", () => {
  const before = list.children.length;
  rowsShown += 10 * ROWS;
  listRuns();
  $("summary", list.children[before]).focus();
});

function restart() {
  rowsShown = ROWS;
  list.replaceChildren();
  listRuns();
}

function matching() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  return [...RUNS.key.keys()].filter(
    (i) =>
      chosenBlocks[RUNS.block[i]] &&
      runOnDevice(i) &&
      (!status.value || RUNS.status[i] === status.value) &&
      words.every((word) => haystack[i].includes(word)),
  );
}

function listRuns() {
  const found = matching();
  list.append(...found.slice(list.children.length, rowsShown).map(row));
  const left = found.length - list.children.length;
  $("#runs-shown").textContent = found.length ? plural(found.length, "run") : "No run fits.";
  $("#more-runs").hidden = left <= 0;
  $("#more-runs").textContent = `Show more (${left.toLocaleString("en")} not listed)`;
}

function row(i) {
  const block = DATA.blocks[RUNS.block[i]];
  const score = RUNS.metric[i] === null ? "" : `${RUNS.primary[i]} ${RUNS.metric[i].toFixed(4)}`;
  const state = RUNS.status[i];
  const node = make(
    "details",
    { class: "run", "data-run": RUNS.key[i] },
    make(
      "summary",
      {},
      make("span", { class: "label" }, RUNS.label[i] + trial(i)),
      make("span", {}, `${block.task}, ${block.model}`),
      make("span", {}, `seed ${RUNS.seed[i]}`),
      make("span", { class: `status ${state}` }, state),
      make("span", { class: "score" }, score),
      make("code", { title: RUNS.key[i] }, runId(RUNS.key[i])),
    ),
  );
  node.addEventListener("toggle", () => node.open && node.children.length === 1 && unfold(node, i));
  return node;
}

async function unfold(node, i) {
  if (RUNS.error[i]) node.append(make("p", { class: "error" }, RUNS.error[i]));
  const name = `Record of run ${RUNS.key[i]}`;
  const text = make("pre", { tabindex: 0, "aria-label": name }, "unpacking …");
  node.append(text);
  try {
    const lines = await chunk(Math.floor(i / DATA.chunk));
    text.textContent = laidOut(JSON.parse(lines[i % DATA.chunk]));
  } catch (error) {
    text.textContent =
      `This browser cannot unpack the record (${error.message}). ` +
      `peftbench show ${RUNS.key[i]} prints it.`;
  }
}

function chunk(n) {
  packed ??= JSON.parse($("#packed").textContent);
  if (!unpacked.has(n)) {
    const bytes = Uint8Array.from(atob(packed[n]), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const lines = new Response(stream).text().then((text) => text.split("\n"));
    unpacked.set(n, lines);
  }
  return unpacked.get(n);
}

/** JSON with a line for whatever fits on one. */
function laidOut(value, indent = "") {
  const line = JSON.stringify(value, null, 1).replace(/\n */g, " ");
  if (value === null || typeof value !== "object" || line.length + indent.length <= 110)
    return line;
  const inner = `${indent}  `;
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const parts = Object.entries(value).map(
    ([key, each]) =>
      inner + (open === "{" ? `${JSON.stringify(key)}: ` : "") + laidOut(each, inner),
  );
  return `${open}\n${parts.join(",\n")}\n${indent}${close}`;
}

// A link to a run narrows the list to it and unfolds it.
function goTo() {
  const key = decodeURIComponent(location.hash).match(/^#run-(.+)$/)?.[1];
  if (!RUNS.key.includes(key)) return;
  for (const name of NAMES) filters.elements[name].value = "";
  status.value = "";
  find.value = key;
  changed();
  const target = list.firstElementChild;
  target.open = true;
  $("summary", target).focus({ preventScroll: true });
  $("#runs").scrollIntoView();
}
addEventListener("hashchange", goTo);

for (const claim of $$(".claim")) {
  $("button", claim)?.addEventListener("click", (event) => {
    const keys = JSON.parse($("#claims-data").textContent)[claim.dataset.claim].slice(DATA.links);
    const link = (key) => make("a", { href: `#run-${key}`, title: key }, runId(key));
    const links = keys.flatMap((key) => [link(key), " "]);
    $(".more", claim).replaceWith(...links);
    event.currentTarget.remove();
    links[0].focus();
  });
}
