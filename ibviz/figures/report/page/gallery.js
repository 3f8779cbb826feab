// Thumbnails of all images, with filters and order.

const KEPT = { all: () => true, correct: (one) => one.correct === true, wrong: (one) => one.correct === false };
const BINS = 24;
const BARS = { width: 240, height: 40 };
const brush = { values: null, low: 0, high: 0, from: 0, to: BINS }; // bins from `from` (included) to `to` (excluded)
// A photograph is decoded when its thumbnail comes into view.
const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    target.src = data.pictures[Number(target.parentElement.dataset.picture)].source;
    seen.unobserve(target);
  }
}, { rootMargin: "300px" });

function startGallery() {
  const all = Object.entries(comparison().values).flatMap(([method, own]) => Object.keys(own).map((metric) => ({ method, metric })));
  const named = ({ method, metric }, words) => make("option", { value: JSON.stringify([method, metric]) }, `${metric} of ${method}${words}`);
  const firsts = all.filter(({ method, metric }) => Object.keys(comparison().values[method])[0] === metric);
  root.getElementById("order").replaceChildren(
    make("option", { value: "set" }, "as in the data"),
    make("option", { value: "sure" }, "least sure first"),
    ...firsts.map((one) => named(one, ", from below")),
  );
  root.getElementById("metric").replaceChildren(make("option", { value: "" }, "any"), ...all.map((one) => named(one, "")));
  const classes = [...new Set(ofClass("").map(classOf))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  root.getElementById("class").replaceChildren(make("option", { value: "" }, "all"), ...classes.map((name) => make("option", { value: name }, name)));
  const truths = model().predictions.some((one) => one.correct !== null);
  root.getElementById("filter").hidden = !truths;
  startBrush();
}

function listenGallery() {
  for (const id of ["filter", "order", "class"]) root.getElementById(id).addEventListener("change", fillThumbnails);
  root.getElementById("metric").addEventListener("change", startBrush);
  rove(root.getElementById("thumbnails"));
  const plot = root.getElementById("histogram");
  const place = (event) => {
    const { left, width } = plot.getBoundingClientRect();
    return Math.min(Math.max(Math.floor(((event.clientX - left) / width) * BINS), 0), BINS - 1);
  };
  let start = null;
  plot.addEventListener("pointerdown", (event) => { start = place(event); plot.setPointerCapture(event.pointerId); sweep(start, start); });
  plot.addEventListener("pointermove", (event) => { if (start !== null) sweep(start, place(event)); });
  plot.addEventListener("pointerup", () => { start = null; });
  for (const [id, key] of [["lowest", "from"], ["highest", "to"]]) {
    root.getElementById(id).addEventListener("input", (event) => {
      brush[key] = Number(event.target.value);
      if (brush.to <= brush.from) Object.assign(brush, key === "from" ? { to: brush.from + 1 } : { from: brush.to - 1 });
      drawBrush();
      fillThumbnails();
    });
  }
}

function sweep(one, other) {
  Object.assign(brush, { from: Math.min(one, other), to: Math.max(one, other) + 1 });
  drawBrush();
  fillThumbnails();
}

/** Show the histogram of the chosen metric, all of it selected. */
function startBrush() {
  const metric = root.getElementById("metric").value;
  const [method, heading] = metric ? JSON.parse(metric) : [];
  const values = metric ? comparison().values[method][heading] : null;
  const known = (values ?? []).filter((value) => value !== null);
  Object.assign(brush, { values, from: 0, to: BINS, low: Math.min(...known), high: Math.max(...known) });
  root.getElementById("brush").hidden = !known.length;
  if (known.length) drawBrush(); else brush.values = null;
  fillThumbnails();
}

const binOf = (value) => Math.min(Math.floor(((value - brush.low) / (brush.high - brush.low || 1)) * BINS), BINS - 1);
const inBrush = (picture) => {
  if (!brush.values || (brush.from === 0 && brush.to === BINS)) return true;
  const value = brush.values[picture];
  return value !== null && binOf(value) >= brush.from && binOf(value) < brush.to;
};

function drawBrush() {
  const counts = new Array(BINS).fill(0);
  for (const value of brush.values) if (value !== null) counts[binOf(value)]++;
  const [step, most] = [BARS.width / BINS, Math.max(...counts)];
  const bars = counts.map((bin, at) => {
    const tall = bin ? Math.max(1, (BARS.height * bin) / most) : 0;
    const bar = make("path", { d: `M${at * step + 0.5} ${BARS.height}v${-tall}h${step - 1}v${tall}Z` });
    bar.classList.add(at >= brush.from && at < brush.to ? "within" : "beyond");
    return bar;
  });
  root.getElementById("histogram").replaceChildren(...bars);
  const edge = (bin) => number(brush.low + ((brush.high - brush.low) * bin) / BINS);
  for (const [id, key] of [["lowest", "from"], ["highest", "to"]]) {
    root.getElementById(id).value = brush[key];
    root.getElementById(id).setAttribute("aria-valuetext", edge(brush[key]));
  }
  root.getElementById("brushed").textContent = `${edge(brush.from)} to ${edge(brush.to)}`;
}

/** Sort keys of images; those without a value come last. */
function sortKey(kind) {
  if (kind === "set") return (picture) => picture;
  if (kind === "sure") return (picture) => model().predictions[picture].probability ?? 2;
  const [method, metric] = JSON.parse(kind);
  return (picture) => comparison().values[method][metric][picture] ?? Infinity;
}

function fillThumbnails() {
  const kept = KEPT[root.querySelector("#filter input:checked").value];
  const key = sortKey(root.getElementById("order").value);
  const order = ofClass(root.getElementById("class").value)
    .filter((picture) => kept(model().predictions[picture]) && inBrush(picture))
    .sort((a, b) => key(a) - key(b) || a - b);
  seen.disconnect();
  const buttons = order.map((picture) => thumbnail(picture, order));
  if (buttons.length) buttons[0].tabIndex = 0;
  root.getElementById("thumbnails").replaceChildren(...buttons);
  root.getElementById("images-count").textContent = `${order.length} of ${count} images`;
}

function thumbnail(picture, order) {
  const image = make("img", { alt: data.pictures[picture].name, decoding: "async", width: WIDTH, height: HEIGHT });
  image.classList.toggle("exact", data.exact);
  const button = make("button", { type: "button", tabindex: -1, "data-picture": picture }, image, verdict(model().predictions[picture]));
  button.addEventListener("click", () => openPicture(picture, order, root.getElementById("thumbnails")));
  seen.observe(image);
  return button;
}
