// Dialog that shows one image with its maps.

const view = { picture: 0, among: [], opacity: data.blend, methods: new Set(), boxed: true };
const drill = root.getElementById("drill");
const parts = {};

function listenDrill() {
  const button = (name, label, run) => {
    const made = make("button", { type: "button", "aria-label": label }, name);
    made.addEventListener("click", run);
    return made;
  };
  parts.name = make("h2", { id: "drill-name" });
  parts.place = make("span", { class: "count" });
  parts.facts = make("dl", { class: "facts" });
  parts.photograph = make("canvas");
  parts.summary = make("summary");
  parts.methods = make("div", { class: "chips", role: "group", "aria-label": "Methods shown" });
  parts.tiles = make("div", { class: "tiles" });
  parts.opacity = make("input", { type: "range", min: 0, max: 1, step: 0.05, id: "opacity" });
  parts.opacity.value = view.opacity;
  parts.opacity.addEventListener("input", () => { view.opacity = Number(parts.opacity.value); drawTiles(); });
  parts.boxed = make("input", { type: "checkbox", id: "boxed" });
  parts.boxed.checked = view.boxed;
  parts.boxed.addEventListener("change", () => { view.boxed = parts.boxed.checked; drawPicture(); });
  parts.close = button("Close", "Close", () => drill.close());
  drill.replaceChildren(
    make("header", {}, parts.name, parts.place, button("←", "Previous image", () => move(-1)), button("→", "Next image", () => move(1)), parts.close),
    make("div", { class: "controls" }, make("label", { for: "opacity" }, "Opacity of the map ", parts.opacity),
      make("label", { for: "boxed", class: "box-choice" }, parts.boxed, " Box of the object")),
    make("details", { open: matchMedia("(min-width: 50rem)").matches }, parts.summary, parts.methods),
    make("div", { class: "drill-body" }, make("figure", {}, parts.photograph, parts.facts), parts.tiles),
  );
  drill.querySelector(".box-choice").hidden = data.pictures.every((picture) => !picture.box);
  drill.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.target === parts.opacity) return;
    event.preventDefault();
    move(step);
  });
  drill.addEventListener("close", () => view.group.querySelector(`button[data-picture="${view.picture}"]`)?.focus());
}

function startDrill() {
  view.methods = new Set(model().maps.map((map) => map.method));
}

/** Open a picture from a group of buttons, to which the focus returns on closing. */
function openPicture(picture, order, group) {
  view.group = group;
  view.picture = picture;
  view.among = order;
  fillMethods();
  if (!drill.open) drill.showModal();
  drawPicture();
}

function move(step) {
  const { among } = view;
  view.picture = among[(among.indexOf(view.picture) + step + among.length) % among.length];
  drawPicture();
}

function fillMethods() {
  const boxes = model().maps.map(({ method }) => {
    const box = make("input", { type: "checkbox" });
    box.checked = view.methods.has(method);
    box.addEventListener("change", () => {
      if (box.checked) view.methods.add(method); else view.methods.delete(method);
      fillTiles();
    });
    return make("label", {}, box, named(method));
  });
  parts.methods.replaceChildren(...boxes);
}

function drawPicture() {
  const picture = data.pictures[view.picture];
  const prediction = model().predictions[view.picture];
  const term = (name, value) => [make("dt", {}, name), make("dd", {}, value)];
  parts.name.replaceChildren(named(picture.name));
  parts.place.textContent = `${view.among.indexOf(view.picture) + 1} of ${view.among.length}`;
  parts.facts.replaceChildren(
    ...term("predicted", verdict(prediction)),
    ...term("probability", number(prediction.probability)),
    ...(picture.label === null ? [] : term("true class", named(picture.label))),
  );
  const canvas = make("canvas", { role: "img", "aria-label": `Photograph ${picture.name}`, "data-picture": view.picture });
  parts.photograph.replaceWith(canvas); // a new canvas each time, since the last one may still be loading
  parts.photograph = canvas;
  paintPhotograph(canvas, view.picture).then((context) => { if (view.boxed) outline(context, Number(canvas.dataset.picture)); });
  fillTiles();
}

function fillTiles() {
  const shown = model().maps.filter(({ method }) => view.methods.has(method));
  parts.summary.textContent = `Methods: ${shown.length} of ${model().maps.length}`;
  parts.tiles.replaceChildren(...shown.map(tile));
  drawTiles();
}

function tile(map) {
  const own = comparison().values[map.method] ?? {};
  const scores = Object.entries(own).flatMap(([metric, values]) =>
    [make("dt", {}, metric), make("dd", {}, number(values[view.picture]))]);
  const canvas = make("canvas", { role: "img", "aria-label": `${map.method} over ${data.pictures[view.picture].name}`, "data-method": map.method });
  const absent = map.missing.includes(view.picture) ? make("p", { class: "absent" }, "no map: the method failed here") : canvas;
  return make("figure", { class: "tile" }, make("figcaption", {}, named(map.method), make("small", {}, map.note)), absent,
    make("div", { class: "scale" }), make("dl", { class: "facts" }, ...scores));
}

function drawTiles() {
  const maps = new Map(model().maps.map((map) => [map.method, map]));
  for (const canvas of parts.tiles.querySelectorAll("canvas[data-method]")) {
    const map = maps.get(canvas.dataset.method);
    if (map.missing.includes(view.picture)) continue;
    drawOverlay(canvas, view.picture, map, view.opacity, view.boxed);
    canvas.parentElement.querySelector(".scale").replaceWith(colourBar(map, view.opacity));
  }
}
