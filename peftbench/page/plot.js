// The plot: a panel for each block that fits the filters, drawn anew when something is chosen or the window's width changes.

const PANELS = 6; // shown before a button has to be pressed
const MOST_NAMES = 12; // marks that are named in a panel; with more arms, only the best of each method and those on the line
let panelsShown = PANELS;
let plotted = [];
const hiddenMethods = new Set();
const axisX = $("#plot-x");
const axisY = $("#plot-y");

listeners.push((chosen) => {
  plotted = DATA.arms.map((arms, i) => ({ ...DATA.blocks[i], arms, primary: arms[0].primary })).filter((_, i) => chosen[i]);
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

// -- geometry ---------------------------------------------------------------------------------------------------------

/** What no other point beats where a small x is good: a point beats another if it is as good in both and better in one. */
function front(points, lowerIsBetter) {
  const better = (a, b) => (lowerIsBetter ? a < b : a > b);
  const order = [...points].sort((a, b) => a.x - b.x || (lowerIsBetter ? a.y - b.y : b.y - a.y));
  const found = [];
  for (const point of order) {
    const last = found.at(-1);
    if (!last || better(point.y, last.y) || (point.x === last.x && point.y === last.y)) found.push(point);
  }
  return found;
}

/** Round numbers between two positive ones; at least three where the range allows it, six at most. */
function roundTicks(low, high, base) {
  const steps = base === 2 ? [[1], [1, 1.5], [1, 1.25, 1.5, 1.75]] : [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9]];
  let ticks = [];
  for (const parts of steps) {
    ticks = [];
    for (let p = Math.floor(Math.log(low) / Math.log(base)); p <= Math.ceil(Math.log(high) / Math.log(base)); p++) {
      for (const part of parts) if (part * base ** p >= low && part * base ** p <= high) ticks.push(part * base ** p);
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
  const at = (value) => (value > 0 ? start + ((right - start) * (Math.log(value) - low)) / (high - low) : left + 18);
  return { at, gap: zero ? left + 34 : null, ticks: [...(zero ? [0] : []), ...roundTicks(min / room, max * room, base)] };
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
  return { at: (value) => bottom + ((top - bottom) * (value - low)) / (high - low), ticks, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

// -- a panel ------------------------------------------------------------------------------------------------------------

function panel(block, width) {
  const [xName, yName] = [axisX.value, axisY.value];
  const [xWords, unit] = DATA.costs[xName];
  const lower = yName === "nll";
  const points = block.arms
    .filter((arm) => arm[xName] !== null && arm[yName] !== null && !hiddenMethods.has(arm.method))
    .map((arm) => ({ arm, x: arm[xName], y: arm[yName], ends: arm[`${yName}.interval`] ?? [] }));
  const title = make("figcaption", {}, make("strong", {}, block.task), ` ${block.model}`, make("span", {}, block.note));
  if (!points.length) return make("figure", { class: "panel" }, title, make("p", { class: "notice" }, "Nothing to draw: no arm that is drawn has both."));

  const height = Math.round(Math.min(420, Math.max(270, 0.66 * width)));
  const [left, right, top, bottom] = [54, width - 14, 14, height - 46];
  const xs = costScale(points.map((p) => p.x), left, right, unit === "bytes" ? 2 : 10);
  const ys = scoreScale(points.flatMap((p) => [p.y, ...p.ends]), bottom, top);
  for (const p of points) [p.px, p.py, p.at] = [xs.at(p.x), ys.at(p.y), p.ends.map(ys.at)];
  const best = front(points, lower);
  const yWords = lower ? "nll per token" : block.primary;
  const image = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${yWords} against ${xWords}, ${block.task}, ${block.model}` });

  for (const tick of ys.ticks) {
    image.append(
      draw("path", { class: "grid", d: `M${left} ${ys.at(tick)}H${right}` }),
      draw("text", { class: "tick", x: left - 8, y: ys.at(tick) + 4, "text-anchor": "end" }, tick.toFixed(ys.digits)),
    );
  }
  let lastEnd = -Infinity; // of the tick's text before, which must not run into the next
  for (const tick of xs.ticks) {
    const text = tick === 0 ? "0" : WORDS[unit](tick).replace(/\.0+(?= |$)|(\.\d*?)0+(?= |$)/, "$1");
    const [at, half] = [xs.at(tick), widthOf(text, "12px") / 2 + 1];
    const middle = Math.min(at, width - half);
    image.append(draw("path", { class: "grid", d: `M${at} ${bottom}v5` }));
    if (middle - half < lastEnd) continue;
    lastEnd = middle + half + 8;
    image.append(draw("text", { class: "tick", x: middle, y: bottom + 18, "text-anchor": "middle" }, text));
  }
  image.append(
    draw("path", { class: "axis", d: xs.gap ? `M${left} ${bottom}H${xs.gap - 3}M${xs.gap + 3} ${bottom}H${right}m${xs.gap - right - 6} 5l6-10m0 10l6-10` : `M${left} ${bottom}H${right}` }),
    draw("text", { class: "axis-name", x: (left + right) / 2, y: height - 8, "text-anchor": "middle" }, `${xWords} (less is better)`),
    draw("text", { class: "axis-name", transform: `translate(13 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, `${yWords} (${lower ? "lower" : "higher"} is better)`),
    draw("path", { class: "front", d: best.map((p, i) => (i ? `H${p.px}V${p.py}` : `M${p.px} ${p.py}`)).join("") + `H${right}` }),
  );
  const named = points.length > MOST_NAMES ? points.filter((p) => best.includes(p) || isBest(p, points, lower)) : points;
  const tip = make("div", { class: "tip", "aria-hidden": "true", hidden: true });
  const marks = [...points].sort((a, b) => a.px - b.px || a.py - b.py).map((p) => mark(p, best, tip, width, { xWords, yWords, unit }));
  image.append(...names(named, points, left, right, top, bottom), ...marks);
  rove(marks);
  const skipped = block.arms.filter((arm) => !hiddenMethods.has(arm.method) && (arm[xName] === null || arm[yName] === null)).map((arm) => arm.label);
  const note = skipped.length ? make("p", { class: "hint" }, `Not drawn, for lack of a number: ${skipped.join(", ")}`) : null;
  return make("figure", { class: "panel" }, title, make("div", { class: "canvas" }, image, tip), note ?? "");
}

const isBest = (point, points, lower) =>
  points.every((other) => other.arm.method !== point.arm.method || (lower ? other.y >= point.y : other.y <= point.y));

function mark(point, best, tip, width, { xWords, yWords, unit }) {
  const { arm, px, py } = point;
  const lines = [
    `${yWords} ${point.y.toFixed(4)}${point.ends.length ? ` (${point.ends.map((end) => end.toFixed(4)).join(" to ")})` : ""}`,
    `${xWords} ${WORDS[unit](point.x)}`,
    plural(arm.seeds, "seed") + (best.includes(point) ? ", on the line" : ""),
  ];
  const node = draw("g", { class: `point ${arm.colour}`, role: "img", tabindex: -1, "aria-label": `${arm.label}: ${lines.join(", ")}` });
  if (point.ends.length) node.append(draw("path", { class: "bar", d: `M${px} ${point.at[0]}V${point.at[1]}` }));
  node.append(
    draw("circle", { class: "halo", cx: px, cy: py, r: 12 }),
    draw("use", { href: `#mark-${arm.mark}`, x: px - 8, y: py - 8, width: 16, height: 16 }),
  );
  const show = () => {
    tip.replaceChildren(make("strong", {}, arm.label), ...lines.map((line) => make("span", {}, line)));
    tip.hidden = false;
    tip.style.left = `${Math.max(0, Math.min(px + 14, width - tip.offsetWidth - 2))}px`;
    tip.style.top = `${py - tip.offsetHeight - 12 < 0 ? py + 14 : py - tip.offsetHeight - 12}px`;
  };
  const hide = () => (tip.hidden = true);
  for (const [event, act] of [["pointerenter", show], ["focus", show], ["pointerleave", hide], ["blur", hide]]) node.addEventListener(event, act);
  node.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  return node;
}

/** One stop for Tab in a panel; arrow keys, Home and End go from mark to mark. */
function rove(marks) {
  marks[0].setAttribute("tabindex", 0);
  marks.forEach((node, i) => {
    node.addEventListener("keydown", (event) => {
      const to = { ArrowRight: i + 1, ArrowUp: i + 1, ArrowLeft: i - 1, ArrowDown: i - 1, Home: 0, End: marks.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = marks[Math.max(0, Math.min(marks.length - 1, to))];
      for (const other of marks) other.setAttribute("tabindex", other === next ? 0 : -1);
      next.focus();
    });
  });
}

/** Labels, each where it hides least and is nearest to its own mark; a thin line leads from one that stands further off. */
function names(named, points, left, right, top, bottom) {
  const boxes = points.map((p) => [p.px - 7, p.py - 7, p.px + 7, p.py + 7]);
  const bars = points.filter((p) => p.ends.length).map((p) => [p.px - 1, Math.min(...p.at), p.px + 1, Math.max(...p.at)]);
  const inside = [left + 2, top - 12, right + 12, bottom - 2];
  const overlap = (a, b) => Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const total = (box, others) => others.reduce((sum, other) => sum + overlap(box, other), 0);
  const end = (box, p) => [Math.max(box[0], Math.min(box[2], p.px)), Math.max(box[1], Math.min(box[3], p.py))]; // the box's nearest point
  const away = (box, p) => Math.hypot(end(box, p)[0] - p.px, end(box, p)[1] - p.py);
  return [...named].sort((a, b) => a.py - b.py).flatMap((p) => {
    const [w, h] = [widthOf(p.arm.label, "560 12.5px") + 4, 15];
    let [least, chosen] = [Infinity, null];
    for (const distance of [10, 16, 24, 34, 46]) {
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, -1], [0, 1], [0.8, -0.7], [0.8, 0.7], [-0.8, -0.7], [-0.8, 0.7]]) {
        const x = p.px + dx * distance + (dx > 0.1 ? 0 : dx < -0.1 ? -w : -w / 2);
        const y = p.py + dy * distance + (dy > 0.1 ? 0 : dy < -0.1 ? -h : -h / 2);
        const box = [x, y, x + w, y + h];
        const strange = points.filter((other) => other !== p && away(box, other) < away(box, p) + 3).length;
        const cost = distance + 5 * (w * h - overlap(box, inside)) + total(box, boxes) + 4 * total(box, bars) + 150 * strange;
        if (cost < least) [least, chosen] = [cost, box];
      }
    }
    boxes.push(chosen);
    const middle = (chosen[0] + chosen[2]) / 2;
    const text = draw("text", { class: `name ${p.arm.colour}`, x: middle, y: chosen[1] + 11.5, "text-anchor": "middle" }, p.arm.label);
    const [x, y] = end(chosen, p);
    return away(chosen, p) > 14 ? [draw("path", { class: `leader ${p.arm.colour}`, d: `M${p.px} ${p.py}L${x} ${y}` }), text] : [text];
  });
}
