// The calculator: will a step fit? Its numbers are forecasts: formulas that were fitted to what
// `peftbench estimate` says, in batch, length and rank.

const CALCULATOR = JSON.parse($("#calculator-data").textContent);
const GIB = 2 ** 30;

/** Bytes of each part at the highest of a method's stages. */
function forecast(stages, batch, length, rank) {
  const tokens = batch * length;
  const terms = [1, rank, tokens, tokens * rank, tokens * length];
  const at = ({ phase, parts }) => {
    const bytes = Object.entries(parts).map(([part, coefficients]) => [
      part,
      Math.max(0, coefficients.reduce((sum, c, i) => sum + c * terms[i], 0)),
    ]);
    return { phase, bytes, peak: bytes.reduce((sum, [, n]) => sum + n, 0) };
  };
  return stages.map(at).reduce((a, b) => (b.peak > a.peak ? b : a));
}

/** Whether so many live bytes fit: what an allocator reserves beyond them is an interval. */
function verdict(peak, gib, [low, likely, high]) {
  if (peak * high <= gib * GIB) return "fits";
  if (peak * likely <= gib * GIB) return "likely fits, but what fragments does not";
  return peak * low <= gib * GIB ? "hardly fits" : "does not fit";
}

const calculator = $("#calculator-form");
function calculate() {
  const value = (name) => calculator.elements[name].value;
  const number = (name) => Math.max(1, Math.round(Number(value(name)) || 1));
  const { window: longest, methods } = CALCULATOR.models[value("model")];
  const { ranked, stages } = methods[value("method")];
  calculator.elements.rank.disabled = !ranked;
  const length = number("length");
  const answer = $("#calculator-answer");
  answer.replaceChildren();
  if (longest && length > longest) {
    answer.append(make("p", { class: "notice" }, `The model's window is ${longest} tokens.`));
    return;
  }
  const { phase, bytes, peak } = forecast(stages, number("batch"), length, number("rank"));
  const gib = Number(value("gpu"));
  const [low, , high] = CALCULATOR.reserved;
  const scale = Math.max(peak * high, gib * GIB);
  const words = `${WORDS.bytes(peak)} live at the peak, in the ${phase} pass; ` +
    `${WORDS.bytes(peak * low)} to ${WORDS.bytes(peak * high)} reserved`;
  answer.append(make("p", {}, make("strong", {}, verdict(peak, gib, CALCULATOR.reserved)),
    `: ${words.replace("update pass", "update")}.`));
  const bar = make("div", { class: "parts", role: "img", "aria-label": words });
  for (const [part, n] of bytes) {
    const block = make("span", { class: `part ${part}`, title: `${part} ${WORDS.bytes(n)}` });
    block.style.flexBasis = `${(100 * n) / scale}%`;
    bar.append(block);
  }
  const limit = make("span", { class: "limit", title: `${gib} GiB` });
  limit.style.left = `${(100 * gib * GIB) / scale}%`;
  bar.append(limit);
  answer.append(bar, make("p", { class: "hint" }, bytes.filter(([, n]) => n >= 1)
    .map(([part, n]) => `${part} ${WORDS.bytes(n)}`).join(", ")));
}
calculator.addEventListener("input", calculate);
calculator.addEventListener("submit", (event) => event.preventDefault());
calculate();
