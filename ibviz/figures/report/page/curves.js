// Mean curves with their intervals, one plot per side; the buttons of the legend switch methods on and off.

const PLOT = { width: 420, height: 260, left: 54, right: 8, top: 26, bottom: 38 };
const AXES = { deletion: "fraction removed", insertion: "fraction inserted" };
const hidden = new Set();

function startCurves() {
  const chips = root.getElementById("curves-methods");
  const { curves, styles } = comparison();
  const drawn = Object.keys(styles).filter((method) => Object.values(curves).some((side) => method in side));
  chips.replaceChildren(...drawn.map((method) => chip(method, styles[method])));
  reveal("curves", drawn.length > 0);
  drawCurves();
}

function chip(method, style) {
  const sample = make("svg", { viewBox: "0 0 24 8", width: 24, height: 8, "aria-hidden": true }, stroke("M0 4H24", style));
  const button = make("button", { type: "button", "aria-pressed": !hidden.has(method) ? "true" : "false" }, sample, named(method));
  button.addEventListener("click", () => {
    if (!hidden.delete(method)) hidden.add(method);
    button.setAttribute("aria-pressed", String(!hidden.has(method)));
    drawCurves();
  });
  return button;
}

function stroke(path, style) {
  const line = make("path", { d: path, class: "curve", "stroke-dasharray": style.dashes.map((part) => part * 2).join(" ") });
  line.style.stroke = style.colour;
  line.style.strokeWidth = style.control ? 1.5 : 2;
  return line;
}

function drawCurves() {
  const { curves, styles } = comparison();
  const all = Object.values(curves).flatMap((side) => Object.values(side));
  const ticks = roundTicks(Math.min(0, ...all.flatMap((one) => one.low)), Math.max(...all.flatMap((one) => one.high)));
  const plots = Object.entries(curves).map(([side, given]) => drawSide(side, given, styles, ticks));
  root.getElementById("curves-plots").replaceChildren(...plots);
}

/** Return at most seven round numbers that span all values. */
function roundTicks(least, most) {
  const power = 10 ** Math.floor(Math.log10((most - least) / 6 || 1));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => (most - least) / one <= 6);
  const [first, last] = [Math.floor(least / step + 1e-9), Math.ceil(most / step - 1e-9)];
  return Array.from({ length: last - first + 1 }, (_, at) => (first + at) * step);
}

function drawSide(side, given, styles, ticks) {
  const [least, most] = [ticks[0], ticks.at(-1)];
  const x = (value) => PLOT.left + value * (PLOT.width - PLOT.left - PLOT.right);
  const y = (value) => PLOT.height - PLOT.bottom - ((value - least) / (most - least)) * (PLOT.height - PLOT.top - PLOT.bottom);
  const trace = (xs, ys) => xs.map((value, i) => `${i ? "L" : "M"}${x(value).toFixed(1)} ${y(ys[i]).toFixed(1)}`).join("");
  const shown = Object.entries(given).filter(([method]) => !hidden.has(method)).sort(([a], [b]) => styles[b].control - styles[a].control);
  const banded = [shown, shown.filter(([method]) => !styles[method].control), []].find((some) => some.length <= data.banded);
  const bands = banded.map(([method, one]) => {
    const back = trace([...one.fractions].reverse(), [...one.low].reverse()).replace("M", "L");
    const band = make("path", { d: `${trace(one.fractions, one.high)}${back}Z`, class: "band" });
    band.style.fill = styles[method].colour;
    return band;
  });
  const lines = shown.map(([method, one]) => {
    const line = stroke(trace(one.fractions, one.mean), styles[method]);
    line.dataset.method = method;
    line.append(make("title", {}, method));
    return line;
  });
  const label = `${side}: mean ${comparison().score} against ${AXES[side] ?? "fraction"} of ${shown.map(([method]) => method).join(", ")}`;
  return make("svg", { viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, role: "img", "aria-label": label, "data-side": side },
    make("text", { x: PLOT.left, y: 14, class: "plot-title" }, side), ...axes(side, x, y, ticks), ...bands, ...lines);
}

function axes(side, x, y, ticks) {
  const bottom = PLOT.height - PLOT.bottom;
  const rules = ticks.flatMap((value, at) => [
    make("line", { x1: x(0), x2: x(1), y1: y(value), y2: y(value), class: at ? "rule" : "axis" }),
    make("text", { x: PLOT.left - 6, y: y(value) + 4, class: "tick end" }, number(value, 2)),
  ]);
  const marks = [0, 0.25, 0.5, 0.75, 1].map((share) => make("text", { x: x(share), y: bottom + 15, class: "tick middle" }, String(share)));
  const name = make("text", { x: (x(0) + x(1)) / 2, y: bottom + 32, class: "tick middle" }, AXES[side] ?? "fraction");
  const [left, middle] = [11, (y(ticks[0]) + y(ticks.at(-1))) / 2];
  const score = make("text", { x: left, y: middle, transform: `rotate(-90 ${left} ${middle})`, class: "score middle" }, comparison().score);
  return [...rules, ...marks, name, score];
}
