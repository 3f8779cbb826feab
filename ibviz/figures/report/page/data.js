// Data of a page or widget and its decoding. `data` is what Python packed, `root` the document or the shadow root.

const [HEIGHT, WIDTH] = data.size;
const state = { comparison: 0 };

const comparison = () => data.comparisons[state.comparison];
const model = () => data.models[comparison().model];
const count = data.pictures.length;

function bytes(text) {
  const binary = atob(text);
  const found = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) found[i] = binary.charCodeAt(i);
  return found;
}

const unpacked = new WeakMap();

/** Cells of all pictures and the colours of their values, decoded on first use. */
function unpack(map) {
  if (!unpacked.has(map)) {
    const raw = bytes(map.cells);
    const cells = map.bytes === 1 ? raw : new Uint16Array(raw.buffer);
    unpacked.set(map, { cells, colours: bytes(map.colours) });
  }
  return unpacked.get(map);
}

/** Cells of one picture, row by row: anchor numbers, or steps of the scale. */
function cellsOf(map, picture) {
  const size = map.grid[0] * map.grid[1];
  return unpack(map).cells.subarray(picture * size, (picture + 1) * size);
}

const photographs = new Map();

/** The photograph as an image that can be drawn, decoded once. */
function photograph(picture) {
  if (!photographs.has(picture)) {
    const image = new Image();
    image.src = data.pictures[picture].source;
    photographs.set(picture, image.decode().then(() => image));
  }
  return photographs.get(picture);
}

/** Create an element; strings among its children become text, never markup. */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "g", "title"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** Isolate a name from the data, so that right-to-left text does not reorder the words around it. */
const named = (text) => make("bdi", {}, text);

/** The true class of a picture or, if it is unknown, the predicted one; and the pictures of a class, "" for all. */
const classOf = (picture) => data.pictures[picture].label ?? model().predictions[picture].name;
const ofClass = (name) => Array.from({ length: count }, (_, picture) => picture).filter((picture) => !name || classOf(picture) === name);

/** The predicted class, marked as correct or wrong if the true class is known. */
function verdict(prediction) {
  const words = { true: "correct", false: "wrong", null: "" }[prediction.correct];
  return make("span", { class: `verdict ${words}` }, { correct: "✓ ", wrong: "✗ ", "": "" }[words], named(prediction.name));
}

const number = (value, digits = 3) =>
  value === null || value === undefined ? "–" : value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "\u2212");
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}\u00a0%`;
const width = (share) => `${(100 * share).toFixed(3)}%`;
const thousands = (value) => value.toLocaleString("en");

/** Show or hide a section and the link to it, if there is one. */
function reveal(section, shown) {
  for (const one of root.querySelectorAll(`#${section}, nav a[href="#${section}"]`)) one.hidden = !shown;
}

/** Make a group of buttons one tab stop; arrows, Home and End move between them. */
function rove(container) {
  const buttons = () => [...container.querySelectorAll("button")];
  const columns = (all) => Math.max(1, all.filter((one) => one.offsetTop === all[0].offsetTop).length);
  container.addEventListener("keydown", (event) => {
    const all = buttons();
    const at = all.indexOf(root.activeElement);
    const steps = { ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - columns(all), ArrowDown: at + columns(all), Home: 0, End: all.length - 1 };
    if (at < 0 || !(event.key in steps)) return;
    event.preventDefault();
    all[Math.min(Math.max(steps[event.key], 0), all.length - 1)].focus();
  });
  container.addEventListener("focusin", (event) => {
    for (const button of buttons()) button.tabIndex = button === event.target ? 0 : -1;
  });
}
