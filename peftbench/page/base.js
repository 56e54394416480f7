"use strict";
// What all scripts of the page share: the data, the filters, and ways to make elements whose
// contents are always text.

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

// {blocks, tables: how many of them, the first, have one, panels, runs: {column: [...]}, devices,
// costs, links, chunk}
const DATA = JSON.parse($("#data").textContent);
const NAMES = ["task", "model", "device", "split"];
const listeners = []; // called whenever a filter changes

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}
const make = (name, attributes = {}, ...children) =>
  fill(document.createElement(name), attributes, children);
const draw = (name, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

const filters = $("#filters");
const chosenOf = (name) => filters.elements[name].value;
/** Whether a block is what the filters ask for; seeds of a block may come from several devices. */
const fits = (block) =>
  NAMES.every((name) => !chosenOf(name) || [block[name]].flat().includes(chosenOf(name)));
const onDevice = (device) => !chosenOf("device") || chosenOf("device") === device;
const runOnDevice = (i) => onDevice(DATA.devices[DATA.runs.device[i]]);
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

function changed() {
  const chosen = DATA.blocks.map(fits);
  for (const listener of listeners) listener(chosen);
  const tables = chosen.slice(0, DATA.tables).filter(Boolean).length;
  const runs = DATA.runs.block.filter((block, i) => chosen[block] && runOnDevice(i)).length;
  const all = !NAMES.some(chosenOf);
  $("#shown").textContent = all
    ? ""
    : `${plural(tables, "table")} of ${DATA.tables}, ${plural(runs, "run")}`;
  filters.classList.toggle("active", !all);
}
filters.addEventListener("change", changed);
// after the browser has emptied the fields
filters.addEventListener("reset", () => setTimeout(changed));
filters.addEventListener("submit", (event) => event.preventDefault());
$("#no-script").hidden = true;
for (const node of $$(".needs-script")) node.classList.remove("needs-script");

// Values in words, as the tables write them.
const three = (value) => value.toFixed(value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2);
function inUnits(value, units, last) {
  for (const [limit, unit] of units)
    if (value >= 0.9995 * limit) return `${three(value / limit)}${unit}`;
  return `${Math.round(value)}${last}`;
}
const COUNTS = [[1e9, " G"], [1e6, " M"], [1e3, " k"]];
const BYTES = [[2 ** 30, " GiB"], [2 ** 20, " MiB"], [2 ** 10, " KiB"]];
const WORDS = {
  count: (value) => inUnits(value, COUNTS, ""),
  bytes: (value) => inUnits(value, BYTES, " B"),
  seconds: (value) =>
    value === 0 ? "0 s" : value >= 0.9995 ? `${three(value)} s` : `${three(1e3 * value)} ms`,
};
