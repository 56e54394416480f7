// The plot: a panel for each block and device that fit the filters, drawn anew when something is
// chosen or the window's width changes.

const PANELS = 6; // shown before a button has to be pressed
// Marks that are named in a panel; with more arms, only the best of each method and those on the
// line.
const MOST_NAMES = 12;
let panelsShown = PANELS;
let plotted = [];
const hiddenMethods = new Set();
const axisX = $("#plot-x");
const axisY = $("#plot-y");

listeners.push((chosen) => {
  plotted = DATA.panels
    .filter((panel) => chosen[panel.block] && onDevice(panel.device))
    .map((panel) => ({ ...DATA.blocks[panel.block], ...panel }));
  panelsShown = PANELS;
  drawPanels();
});
for (const select of [axisX, axisY]) select.addEventListener("change", drawPanels);
for (const button of $$(".legend button")) {
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!on));
    hiddenMethods[on ? "add" : "delete"](button.dataset.method);
    drawPanels();
  });
}
$("#more-panels").addEventListener("click", () => {
  panelsShown += 4 * PANELS;
  drawPanels();
});

const ruler = document.createElement("canvas").getContext("2d");
/** How wide a text is drawn, in pixels: a mark's name, or a tick's number. */
function widthOf(text, font) {
  ruler.font = `${font} ${getComputedStyle(document.body).fontFamily}`;
  return ruler.measureText(text).width;
}

let lastWidth = 0;
new ResizeObserver(([entry]) => {
  const width = Math.round(entry.contentRect.width);
  if (width && width !== lastWidth) drawPanels();
}).observe($("#panels"));

function drawPanels() {
  const host = $("#panels");
  lastWidth = Math.round(host.getBoundingClientRect().width);
  const shown = plotted.slice(0, panelsShown);
  host.classList.toggle("single", shown.length === 1);
  const columns = shown.length === 1 || lastWidth < 720 ? 1 : 2;
  const width = columns === 1 ? Math.min(lastWidth, 860) : (lastWidth - 24) / 2;
  host.replaceChildren(...shown.map((block) => panel(block, Math.floor(width))));
  const left = plotted.length - shown.length;
  const more = $("#more-panels");
  more.hidden = left <= 0;
  more.textContent = `Show more panels (${left} not drawn)`;
}

// -- geometry -------------------------------------------------------------------------------------

/** What no other point beats where a small x is good: a point beats another if it is as good in
 * both and better in one. */
function front(points, lowerIsBetter) {
  const better = (a, b) => (lowerIsBetter ? a < b : a > b);
  const order = [...points].sort((a, b) => a.x - b.x || (lowerIsBetter ? a.y - b.y : b.y - a.y));
  const found = [];
  for (const point of order) {
    const last = found.at(-1);
    const same = last && point.x === last.x && point.y === last.y;
    if (!last || better(point.y, last.y) || same) found.push(point);
  }
  return found;
}

const STEPS = {
  2: [[1], [1, 1.5], [1, 1.25, 1.5, 1.75]],
  10: [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9]],
};
/** Round numbers between two positive ones; at least three where the range allows it, six at most.
 * base: 2 or 10. */
function roundTicks(low, high, base) {
  const power = (value) => Math.log(value) / Math.log(base);
  let ticks = [];
  for (const parts of STEPS[base]) {
    ticks = [];
    for (let p = Math.floor(power(low)); p <= Math.ceil(power(high)); p++) {
      const candidates = parts.map((part) => part * base ** p);
      ticks.push(...candidates.filter((tick) => tick >= low && tick <= high));
    }
    if (ticks.length >= 3) break;
  }
  return ticks.filter((_, i) => i % Math.ceil(ticks.length / 6) === 0);
}

/** A logarithmic scale; values of 0 stand left of a gap in the axis. */
function costScale(values, left, right, base) {
  const positive = values.filter((value) => value > 0);
  const [min, max] = positive.length ? [Math.min(...positive), Math.max(...positive)] : [1, 1];
  const room = Math.max((max / min) ** 0.09, 1.04);
  const [low, high] = [Math.log(min / room), Math.log(max * room)];
  const zero = positive.length < values.length;
  const start = zero ? left + 44 : left;
  const along = (value) => (Math.log(value) - low) / (high - low);
  const at = (value) => (value > 0 ? start + (right - start) * along(value) : left + 18);
  const ticks = [...(zero ? [0] : []), ...roundTicks(min / room, max * room, base)];
  return { at, gap: zero ? left + 34 : null, ticks };
}

/** A linear scale with round steps. */
function scoreScale(values, bottom, top) {
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low) * 0.12 || Math.abs(high) * 0.05 || 1;
  [low, high] = [low - room, high + room];
  const rough = (high - low) / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((part) => part * power >= rough) * power;
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) ticks.push(i * step);
  const at = (value) => bottom + ((top - bottom) * (value - low)) / (high - low);
  return { at, ticks, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

// -- a panel --------------------------------------------------------------------------------------

function panel(block, width) {
  const [xName, yName] = [axisX.value, axisY.value];
  const [xWords, unit] = DATA.costs[xName];
  const lower = yName === "nll";
  const yWords = lower ? "nll per token" : block.primary;
  const drawn = block.arms.filter((arm) => !hiddenMethods.has(arm.method));
  const complete = (arm) => arm[xName] !== null && arm[yName] !== null;
  const points = drawn
    .filter(complete)
    .map((arm) => ({ arm, x: arm[xName], y: arm[yName], ends: arm[`${yName}.interval`] ?? [] }));
  const note = make("span", {}, block.note);
  const title = make("figcaption", {}, make("strong", {}, block.task), ` ${block.model}`, note);
  const figure = (...parts) => make("figure", { class: "panel" }, title, ...parts);
  const nothing = "Nothing to draw: no arm that is drawn has both.";
  if (!points.length) return figure(make("p", { class: "notice" }, nothing));

  const height = Math.round(Math.min(420, Math.max(270, 0.66 * width)));
  const [left, right, top, bottom] = [54, width - 14, 14, height - 46];
  const xs = costScale(points.map((p) => p.x), left, right, unit === "bytes" ? 2 : 10);
  const ys = scoreScale(points.flatMap((p) => [p.y, ...p.ends]), bottom, top);
  for (const p of points) [p.px, p.py, p.at] = [xs.at(p.x), ys.at(p.y), p.ends.map(ys.at)];
  const best = front(points, lower);
  const image = draw("svg", {
    width,
    height,
    viewBox: `0 0 ${width} ${height}`,
    role: "group",
    "aria-label": `${yWords} against ${xWords}, ${block.task}, ${block.model}`,
  });
  const across = best.map((p, i) => (i ? `H${p.px}V${p.py}` : `M${p.px} ${p.py}`)).join("");
  image.append(
    ...scoreAxis(ys, left, right),
    ...costAxis(xs, unit, width, left, right, bottom),
    axisName(`${xWords} (less is better)`, { x: (left + right) / 2, y: height - 8 }),
    axisName(`${yWords} (${lower ? "lower" : "higher"} is better)`, {
      transform: `translate(13 ${(top + bottom) / 2}) rotate(-90)`,
    }),
    draw("path", { class: "front", d: `${across}H${right}` }),
  );
  const few = points.length <= MOST_NAMES;
  const named = points.filter((p) => few || best.includes(p) || isBest(p, points, lower));
  const tip = make("div", { class: "tip", "aria-hidden": "true", hidden: true });
  const marks = [...points]
    .sort((a, b) => a.px - b.px || a.py - b.py)
    .map((p) => mark(p, best, tip, width, { xWords, yWords, unit }));
  image.append(...names(named, points, left, right, top, bottom), ...marks);
  rove(marks);
  const skipped = drawn.filter((arm) => !complete(arm)).map((arm) => arm.label);
  const lacking = `Not drawn, for lack of a number: ${skipped.join(", ")}`;
  const hint = skipped.length ? make("p", { class: "hint" }, lacking) : null;
  return figure(make("div", { class: "canvas" }, image, tip), hint);
}

const axisName = (text, attributes) =>
  draw("text", { class: "axis-name", "text-anchor": "middle", ...attributes }, text);

function scoreAxis(ys, left, right) {
  return ys.ticks.flatMap((tick) => [
    draw("path", { class: "grid", d: `M${left} ${ys.at(tick)}H${right}` }),
    draw(
      "text",
      { class: "tick", x: left - 8, y: ys.at(tick) + 4, "text-anchor": "end" },
      tick.toFixed(ys.digits),
    ),
  ]);
}

function costAxis(xs, unit, width, left, right, bottom) {
  const parts = [];
  let lastEnd = -Infinity; // of the tick's text before, which must not run into the next
  for (const tick of xs.ticks) {
    const words = WORDS[unit](tick).replace(/\.0+(?= |$)|(\.\d*?)0+(?= |$)/, "$1");
    const text = tick === 0 ? "0" : words;
    const [at, half] = [xs.at(tick), widthOf(text, "12px") / 2 + 1];
    const middle = Math.min(at, width - half);
    parts.push(draw("path", { class: "grid", d: `M${at} ${bottom}v5` }));
    if (middle - half < lastEnd) continue;
    lastEnd = middle + half + 8;
    const attributes = { class: "tick", x: middle, y: bottom + 18, "text-anchor": "middle" };
    parts.push(draw("text", attributes, text));
  }
  const broken = `H${xs.gap - 3}M${xs.gap + 3} ${bottom}H${right}m${xs.gap - right - 6} 5`;
  const line = xs.gap ? `${broken}l6-10m0 10l6-10` : `H${right}`;
  return [...parts, draw("path", { class: "axis", d: `M${left} ${bottom}${line}` })];
}

const isBest = (point, points, lower) =>
  points
    .filter((other) => other.arm.method === point.arm.method)
    .every((other) => (lower ? other.y >= point.y : other.y <= point.y));

function mark(point, best, tip, width, { xWords, yWords, unit }) {
  const { arm, px, py, ends } = point;
  const interval = ends.length ? ` (${ends.map((end) => end.toFixed(4)).join(" to ")})` : "";
  const lines = [
    `${yWords} ${point.y.toFixed(4)}${interval}`,
    `${xWords} ${WORDS[unit](point.x)}`,
    plural(arm.seeds, "seed") + (best.includes(point) ? ", on the line" : ""),
  ];
  const label = `${arm.label}: ${lines.join(", ")}`;
  const attributes = { class: `point ${arm.colour}`, role: "img", tabindex: -1 };
  const bar = { class: "bar", d: `M${px} ${point.at[0]}V${point.at[1]}` };
  const shape = { href: `#mark-${arm.mark}`, x: px - 8, y: py - 8, width: 16, height: 16 };
  const node = draw(
    "g",
    { ...attributes, "aria-label": label },
    ends.length ? draw("path", bar) : null,
    draw("circle", { class: "halo", cx: px, cy: py, r: 12 }),
    draw("use", shape),
  );
  const show = () => {
    const spans = lines.map((line) => make("span", {}, line));
    tip.replaceChildren(make("strong", {}, arm.label), ...spans);
    tip.hidden = false;
    const above = py - tip.offsetHeight - 12;
    tip.style.left = `${Math.max(0, Math.min(px + 14, width - tip.offsetWidth - 2))}px`;
    tip.style.top = `${above < 0 ? py + 14 : above}px`;
  };
  const hide = () => (tip.hidden = true);
  for (const event of ["pointerenter", "focus"]) node.addEventListener(event, show);
  for (const event of ["pointerleave", "blur"]) node.addEventListener(event, hide);
  node.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  return node;
}

/** One stop for Tab in a panel; arrow keys, Home and End go from mark to mark. */
function rove(marks) {
  marks[0].setAttribute("tabindex", 0);
  marks.forEach((node, i) => {
    node.addEventListener("keydown", (event) => {
      const [before, after] = [i - 1, i + 1];
      const keys = { ArrowRight: after, ArrowUp: after, ArrowLeft: before, ArrowDown: before };
      const to = { ...keys, Home: 0, End: marks.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = marks[Math.max(0, Math.min(marks.length - 1, to))];
      for (const other of marks) other.setAttribute("tabindex", other === next ? 0 : -1);
      next.focus();
    });
  });
}

const DIRECTIONS = [
  ...[[1, 0], [-1, 0], [0, -1], [0, 1]],
  ...[[0.8, -0.7], [0.8, 0.7], [-0.8, -0.7], [-0.8, 0.7]],
];
const clamped = (value, low, high) => Math.max(low, Math.min(high, value));
const shared = (a, b, i) => Math.max(0, Math.min(a[i + 2], b[i + 2]) - Math.max(a[i], b[i]));
const overlap = (a, b) => shared(a, b, 0) * shared(a, b, 1);
const total = (box, others) => others.reduce((sum, other) => sum + overlap(box, other), 0);
/** The point of a box that is nearest to a mark. */
const nearest = (box, p) => [clamped(p.px, box[0], box[2]), clamped(p.py, box[1], box[3])];
const away = (box, p) => Math.hypot(nearest(box, p)[0] - p.px, nearest(box, p)[1] - p.py);

/** Labels, each where it hides least and is nearest to its own mark; a thin line leads from one
 * that stands further off. */
function names(named, points, left, right, top, bottom) {
  const boxes = points.map((p) => [p.px - 7, p.py - 7, p.px + 7, p.py + 7]);
  const bars = points
    .filter((p) => p.ends.length)
    .map((p) => [p.px - 1, Math.min(...p.at), p.px + 1, Math.max(...p.at)]);
  const inside = [left + 2, top - 12, right + 12, bottom - 2];
  const place = (p) => {
    const [w, h] = [widthOf(p.arm.label, "560 12.5px") + 4, 15];
    let [least, chosen] = [Infinity, null];
    for (const distance of [10, 16, 24, 34, 46]) {
      for (const [dx, dy] of DIRECTIONS) {
        const x = p.px + dx * distance + (dx > 0.1 ? 0 : dx < -0.1 ? -w : -w / 2);
        const y = p.py + dy * distance + (dy > 0.1 ? 0 : dy < -0.1 ? -h : -h / 2);
        const box = [x, y, x + w, y + h];
        const limit = away(box, p) + 3;
        const strange = points.filter((other) => other !== p && away(box, other) < limit).length;
        const outside = w * h - overlap(box, inside);
        const hidden = total(box, boxes) + 4 * total(box, bars);
        const cost = distance + 5 * outside + hidden + 150 * strange;
        if (cost < least) [least, chosen] = [cost, box];
      }
    }
    return chosen;
  };
  return [...named].sort((a, b) => a.py - b.py).flatMap((p) => {
    const box = place(p);
    boxes.push(box);
    const colour = p.arm.colour;
    const at = { x: (box[0] + box[2]) / 2, y: box[1] + 11.5, "text-anchor": "middle" };
    const text = draw("text", { class: `name ${colour}`, ...at }, p.arm.label);
    const [x, y] = nearest(box, p);
    const leader = { class: `leader ${colour}`, d: `M${p.px} ${p.py}L${x} ${y}` };
    return away(box, p) > 14 ? [draw("path", leader), text] : [text];
  });
}
