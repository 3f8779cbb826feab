// Dialog that shows one image with its maps, or two of them side by side.

const view = { picture: 0, beside: null, among: [], opacity: data.blend, methods: new Set(), boxed: true, own: false };
const drill = root.getElementById("drill");
const parts = {};

function listenDrill() {
  const button = (name, label, run) => {
    const made = make("button", { type: "button", "aria-label": label }, name);
    made.addEventListener("click", run);
    return made;
  };
  const check = (id, name, key, attributes = {}) => {
    const box = make("input", { type: "checkbox", id });
    box.checked = view[key];
    box.addEventListener("change", () => { view[key] = box.checked; fillBodies(); });
    return make("label", { for: id, ...attributes }, box, ` ${name}`);
  };
  parts.name = make("h2", { id: "drill-name" });
  parts.place = make("span", { class: "count" });
  parts.subject = make("p", { class: "subject" });
  parts.summary = make("summary");
  parts.methods = make("div", { class: "chips", role: "group", "aria-label": "Methods shown" });
  parts.bodies = make("div", { class: "drill-bodies" });
  parts.opacity = make("input", { type: "range", min: 0, max: 1, step: 0.05, id: "opacity" });
  parts.opacity.value = view.opacity;
  parts.opacity.addEventListener("input", () => { view.opacity = Number(parts.opacity.value); drawTiles(); });
  parts.beside = button("Keep beside", "Keep this image beside the next ones", keepBeside);
  parts.close = button("Close", "Close", () => drill.close());
  drill.replaceChildren(
    make("header", {}, parts.name, parts.place, button("←", "Previous image", () => move(-1)), button("→", "Next image", () => move(1)),
      parts.beside, parts.close),
    parts.subject,
    make("div", { class: "controls" }, make("label", { for: "opacity" }, "Opacity of the map ", parts.opacity),
      check("boxed", "Box of the object", "boxed", { hidden: data.pictures.every((picture) => !picture.box) }),
      check("own-scale", "Scale of each image", "own")),
    make("details", { open: matchMedia("(min-width: 50rem)").matches }, parts.summary, parts.methods),
    parts.bodies,
  );
  drill.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.target === parts.opacity || event.target.tagName === "SELECT") return;
    event.preventDefault();
    move(step);
  });
  drill.addEventListener("close", () => {
    view.beside = null;
    link();
    view.group.querySelector(`button[data-picture="${view.picture}"]`)?.focus();
  });
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

/** Keep the image that is shown beside those that follow, or let it go. */
function keepBeside() {
  view.beside = view.beside === null ? view.picture : null;
  if (view.beside !== null && view.among.length > 1) move(1); else drawPicture();
}

function fillMethods() {
  const boxes = model().maps.map(({ method }) => {
    const box = make("input", { type: "checkbox" });
    box.checked = view.methods.has(method);
    box.addEventListener("change", () => {
      if (box.checked) view.methods.add(method); else view.methods.delete(method);
      fillBodies();
      link();
    });
    return make("label", {}, box, named(method));
  });
  parts.methods.replaceChildren(...boxes);
}

/** Name model and protocol of the numbers; with several, a choice that the page follows. */
function fillSubject() {
  const names = data.comparisons.map((one) => `${one.model}, ${one.protocol}`);
  if (names.length === 1) { parts.subject.replaceChildren(named(names[0])); return; }
  const choice = make("select", { id: "drill-comparison" }, ...names.map((name, at) => make("option", { value: at, selected: at === state.comparison }, name)));
  choice.addEventListener("change", () => {
    show(Number(choice.value));
    openPicture(view.picture, view.among, view.group);
    parts.subject.querySelector("select").focus();
  });
  parts.subject.replaceChildren(make("label", { for: "drill-comparison" }, "Model and protocol "), choice);
}

function drawPicture() {
  parts.name.replaceChildren(named(data.pictures[view.picture].name));
  parts.place.textContent = `${view.among.indexOf(view.picture) + 1} of ${view.among.length}`;
  parts.beside.setAttribute("aria-pressed", String(view.beside !== null));
  fillSubject();
  fillBodies();
  link();
}

function fillBodies() {
  const shown = model().maps.filter(({ method }) => view.methods.has(method));
  parts.summary.textContent = `Methods: ${shown.length} of ${model().maps.length}`;
  const pictures = view.beside === null ? [view.picture] : [view.beside, view.picture];
  parts.bodies.classList.toggle("two", pictures.length > 1);
  parts.bodies.replaceChildren(...pictures.map((picture) => body(picture, shown, pictures.length > 1)));
  drawTiles();
}

/** One image: its photograph, its facts, and a tile for each map. */
function body(picture, shown, headed) {
  const prediction = model().predictions[picture];
  const { name, label } = data.pictures[picture];
  const term = (word, value) => [make("dt", {}, word), make("dd", {}, value)];
  const facts = make("dl", { class: "facts" }, ...term("predicted", verdict(prediction)), ...term("probability", number(prediction.probability)),
    ...(label === null ? [] : term("true class", named(label))));
  const canvas = make("canvas", { role: "img", "aria-label": `Photograph ${name}` });
  paintPhotograph(canvas, picture, (context) => { if (view.boxed) outline(context, picture); });
  const heading = headed ? [make("h3", {}, named(name))] : [];
  return make("div", { class: "drill-body", "data-picture": picture }, ...heading, make("figure", {}, canvas, facts),
    make("div", { class: "tiles" }, ...shown.map((map) => tile(map, picture))));
}

function tile(map, picture) {
  const own = comparison().values[map.method] ?? {};
  const scores = Object.entries(own).flatMap(([metric, values]) => [make("dt", {}, metric), make("dd", {}, number(values[picture]))]);
  const canvas = make("canvas", { role: "img", "aria-label": `${map.method} over ${data.pictures[picture].name}`, "data-method": map.method, "data-picture": picture });
  const absent = map.missing.includes(picture) ? make("p", { class: "absent" }, "no map: the method failed here") : canvas;
  const note = view.own && !map.anchors ? `${map.note}; stretched to this image` : map.note;
  return make("figure", { class: "tile" }, make("figcaption", {}, named(map.method), make("small", {}, note)), absent,
    make("div", { class: "scale" }), make("dl", { class: "facts" }, ...scores));
}

function drawTiles() {
  const maps = new Map(model().maps.map((map) => [map.method, map]));
  for (const canvas of parts.bodies.querySelectorAll("canvas[data-method]")) {
    const [map, picture] = [maps.get(canvas.dataset.method), Number(canvas.dataset.picture)];
    const factor = view.own ? stretch(map, picture) : 1;
    drawOverlay(canvas, picture, map, view.opacity, view.boxed, factor);
    canvas.parentElement.querySelector(".scale").replaceWith(colourBar(map, view.opacity, factor));
  }
}

/** Keep the address that opens what is shown: #image=12&method=Grad-CAM, with model and protocol if there are several. */
function link() {
  const said = new URLSearchParams();
  if (drill.open) {
    said.set("image", view.picture);
    if (view.beside !== null) said.set("beside", view.beside);
    if (data.comparisons.length > 1) { said.set("model", comparison().model); said.set("protocol", comparison().protocol); }
    if (view.methods.size < model().maps.length) for (const method of view.methods) said.append("method", method);
  }
  const address = `#${said}`;
  if (address !== location.hash && (drill.open || location.hash.startsWith("#image="))) history.replaceState(null, "", address);
}

/** Open what an address names; a name or number that is not there is said beside the images. */
function followLink() {
  const asked = new URLSearchParams(location.hash.slice(1));
  if (!asked.has("image")) return;
  const at = data.comparisons.findIndex((one) => ["model", "protocol"].every((key) => !asked.has(key) || asked.get(key) === one[key]));
  const numbers = ["image", "beside"].filter((key) => asked.has(key)).map((key) => Number(asked.get(key)));
  const unknown = numbers.find((one) => !(one in data.pictures)) ?? (at < 0 ? "model and protocol" : undefined);
  if (unknown !== undefined) {
    root.getElementById("images-count").textContent = `This page has no image ${unknown}, which its address names; images count from 0 to ${count - 1}.`;
    return;
  }
  if (at !== state.comparison) show(at);
  const known = model().maps.map(({ method }) => method);
  const methods = asked.getAll("method").filter((method) => known.includes(method));
  view.methods = new Set(methods.length ? methods : known);
  view.beside = numbers[1] ?? null;
  const all = Array.from({ length: count }, (_, picture) => picture);
  openPicture(numbers[0], all, root.getElementById("thumbnails"));
}
