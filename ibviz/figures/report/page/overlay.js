// Overlay of a map on its photograph, in the colours of the printed figures.

const SHARP = 336; // least number of pixels of the longer side of a canvas
const HIGHLIGHT = [255, 170, 0]; // a colour, to stand out from the grey photograph
const [DARK, LIGHT] = data.tones;
const [RED, GREEN, BLUE] = data.luminance;
const LIT = 0.6;
const DIM = 0.75;

const turns = new WeakMap(); // number of the last drawing that was asked for on each canvas

/**
 * Resize a canvas to a whole multiple of the photograph's pixels, draw the photograph, and what `finish` adds in the
 * same step. A drawing that is overtaken while its photograph is decoded draws nothing.
 */
async function paintPhotograph(canvas, picture, finish, least = SHARP) {
  const turn = (turns.get(canvas) ?? 0) + 1;
  turns.set(canvas, turn);
  const image = await photograph(picture);
  if (turns.get(canvas) !== turn) return;
  const [height, width] = [image.naturalHeight, image.naturalWidth];
  const scale = Math.max(1, Math.ceil(least / Math.max(height, width)));
  canvas.width = width * scale;
  canvas.height = height * scale;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = !data.exact;
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  finish(context);
}

/** Grey of a pixel between the two tones, so that the map's lightness stands out from the photograph's. */
function toned(pixels, at) {
  return 255 * DARK + (LIGHT - DARK) * (RED * pixels[at] + GREEN * pixels[at + 1] + BLUE * pixels[at + 2]);
}

/** Index of the cell that covers each pixel along a side. */
function covering(cells, pixels) {
  return Int32Array.from({ length: pixels }, (_, at) => Math.floor(((at + 0.5) * cells) / pixels));
}

/** The two cells between whose centres each pixel along a side lies, and its distance from the first. */
function between(cells, pixels) {
  return Array.from({ length: pixels }, (_, at) => {
    const place = Math.min(Math.max(((at + 0.5) * cells) / pixels - 0.5, 0), cells - 1);
    const first = Math.min(Math.floor(place), Math.max(0, cells - 2));
    return [first, Math.min(first + 1, cells - 1), place - first];
  });
}

/** Value of each pixel: nearest if the map has anchors or shows pixels, otherwise bilinear. */
function enlarge(map, picture, height, width) {
  const cells = cellsOf(map, picture);
  const [rows, columns] = map.grid;
  const found = new Uint16Array(height * width);
  if (!map.smooth) {
    const [ys, xs] = [covering(rows, height), covering(columns, width)];
    for (let y = 0, at = 0; y < height; y++) for (let x = 0; x < width; x++) found[at++] = cells[ys[y] * columns + xs[x]];
    return found;
  }
  const [ys, xs] = [between(rows, height), between(columns, width)];
  for (let y = 0, at = 0; y < height; y++) {
    const [top, bottom, down] = [ys[y][0] * columns, ys[y][1] * columns, ys[y][2]];
    for (let x = 0; x < width; x++) {
      const [left, right, across] = xs[x];
      const upper = cells[top + left] + across * (cells[top + right] - cells[top + left]);
      const lower = cells[bottom + left] + across * (cells[bottom + right] - cells[bottom + left]);
      found[at++] = Math.round(upper + down * (lower - upper));
    }
  }
  return found;
}

const LAST = 255; // step at the upper end of a scale

/** Step of the value zero, which a stretched scale leaves where it is. */
const zeroOf = ({ limits: [low, high] }) => Math.min(Math.max((-low / (high - low)) * LAST, 0), LAST);

/** Factor by which a picture's steps move away from zero until one of them reaches an end; 1 for anchors and zeros. */
function stretch(map, picture) {
  if (map.anchors) return 1;
  const zero = zeroOf(map);
  let factor = Infinity;
  for (const step of cellsOf(map, picture)) {
    if (Math.abs(step - zero) >= 1) factor = Math.min(factor, (step > zero ? LAST - zero : -zero) / (step - zero));
  }
  return Number.isFinite(factor) ? factor : 1;
}

/** Draw a picture with a map over it; `opacity` is the share of the map, `factor` stretches its scale. */
function drawOverlay(canvas, picture, map, opacity, boxed, factor = 1) {
  return paintPhotograph(canvas, picture, (context) => {
    const frame = context.getImageData(0, 0, canvas.width, canvas.height);
    const values = enlarge(map, picture, canvas.height, canvas.width);
    const { colours } = unpack(map);
    const zero = factor === 1 ? 0 : zeroOf(map);
    for (let i = 0, at = 0; i < values.length; i++, at += 4) {
      const grey = (1 - opacity) * toned(frame.data, at);
      const step = 3 * (factor === 1 ? values[i] : Math.min(Math.max(Math.round(zero + factor * (values[i] - zero)), 0), LAST));
      for (let part = 0; part < 3; part++) frame.data[at + part] = grey + opacity * colours[step + part];
    }
    context.putImageData(frame, 0, 0);
    if (boxed) outline(context, picture);
  });
}

/** Draw a picture in which only the cells of the selected anchors are highlighted, by a share `strength` of colour. */
function drawRegions(canvas, picture, map, chosen, least, strength = LIT) {
  return paintPhotograph(canvas, picture, (context) => {
    const frame = context.getImageData(0, 0, canvas.width, canvas.height);
    const values = enlarge(map, picture, canvas.height, canvas.width);
    for (let i = 0, at = 0; i < values.length; i++, at += 4) {
      const lit = chosen.has(values[i]);
      const grey = toned(frame.data, at) * (lit ? 1 - strength : chosen.size ? DIM : 1);
      for (let part = 0; part < 3; part++) frame.data[at + part] = grey + (lit ? strength * HIGHLIGHT[part] : 0);
    }
    context.putImageData(frame, 0, 0);
  }, least);
}

/** Draw the object's box in white with a dark rim, visible on any photograph. */
function outline(context, picture) {
  const { box } = data.pictures[picture];
  if (!box) return;
  const { width, height } = context.canvas;
  const [x0, y0, x1, y1] = [box[0] * width, box[1] * height, box[2] * width, box[3] * height];
  for (const [colour, thickness] of [["#000", width / 70], ["#fff", width / 150]]) {
    context.strokeStyle = colour;
    context.lineWidth = thickness;
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
}

/** Ticks of a stretched scale: the values at both ends and in the middle. */
function stretchedTicks({ limits: [low, high] }, factor) {
  const zero = zeroOf({ limits: [low, high] });
  return [0, 0.5, 1].map((place) => {
    const value = low + ((high - low) * (zero + (place * LAST - zero) / factor)) / LAST;
    return [place, Math.abs(value) < 1e-12 ? "0" : String(Number(value.toPrecision(2))).replace("-", "\u2212")];
  });
}

/** Draw the colour bar of a map, blended with middle grey as in the overlay, with ticks. */
function colourBar(map, opacity, factor = 1) {
  const { colours } = unpack(map);
  const order = map.anchors
    ? [...new Map(map.anchors.map((anchor, k) => [anchor.value, k])).entries()].sort(([a], [b]) => a - b).map(([, k]) => k)
    : Array.from({ length: colours.length / 3 }, (_, step) => step);
  const canvas = make("canvas", { class: "bar", width: order.length, height: 1, "aria-hidden": true });
  const context = canvas.getContext("2d");
  const frame = context.createImageData(order.length, 1);
  const grey = (1 - opacity) * 255 * ((DARK + LIGHT) / 2);
  order.forEach((k, at) => {
    for (let part = 0; part < 3; part++) frame.data[4 * at + part] = grey + opacity * colours[3 * k + part];
    frame.data[4 * at + 3] = 255;
  });
  context.putImageData(frame, 0, 0);
  const ticks = (factor === 1 ? map.ticks : stretchedTicks(map, factor)).map(([place, label]) => {
    const tick = make("span", {}, label);
    tick.style.left = width(place < 0.1 ? 0 : place > 0.9 ? 1 : place); // keep the outermost labels below the bar
    tick.classList.toggle("first", place < 0.1);
    tick.classList.toggle("last", place > 0.9);
    return tick;
  });
  return make("div", { class: "scale" }, canvas, make("div", { class: "ticks" }, ...ticks));
}
