// Thumbnails of all images, with filter and order.

const KEPT = { all: () => true, correct: (one) => one.correct === true, wrong: (one) => one.correct === false };

function startGallery() {
  const order = root.getElementById("order");
  const metrics = Object.entries(comparison().values)
    .flatMap(([method, own]) => Object.keys(own).slice(0, 1).map((metric) => ({ method, metric })));
  order.replaceChildren(
    make("option", { value: "set" }, "as in the data"),
    make("option", { value: "sure" }, "least sure first"),
    ...metrics.map(({ method, metric }) => make("option", { value: JSON.stringify([method, metric]) }, `${metric} of ${method}, from below`)),
  );
  const truths = model().predictions.some((one) => one.correct !== null);
  root.getElementById("filter").hidden = !truths;
  fillThumbnails();
}

function listenGallery() {
  root.getElementById("filter").addEventListener("change", fillThumbnails);
  root.getElementById("order").addEventListener("change", fillThumbnails);
  rove(root.getElementById("thumbnails"));
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
  const all = Array.from({ length: count }, (_, picture) => picture);
  const order = all.filter((picture) => kept(model().predictions[picture])).sort((a, b) => key(a) - key(b) || a - b);
  const buttons = order.map((picture) => thumbnail(picture, order));
  if (buttons.length) buttons[0].tabIndex = 0;
  root.getElementById("thumbnails").replaceChildren(...buttons);
  root.getElementById("images-count").textContent = `${order.length} of ${count} images`;
}

function thumbnail(picture, order) {
  const image = make("img", { src: data.pictures[picture].source, alt: data.pictures[picture].name, loading: "lazy", decoding: "async", width: WIDTH, height: HEIGHT });
  image.classList.toggle("exact", data.exact);
  const button = make("button", { type: "button", tabindex: -1, "data-picture": picture }, image, verdict(model().predictions[picture]));
  button.addEventListener("click", () => openPicture(picture, order, root.getElementById("thumbnails")));
  return button;
}
