// Anchor explorer: shows the cells of the selected anchors, their number and their effect.

const PAGE = 24;
const explorer = {
  map: null, chosen: new Set(), order: [], last: 0, page: 0, counts: [],
  pictures: Array.from({ length: count }, (_, picture) => picture), // those that are shown
  open: () => {}, // called with a picture that was clicked, those among which it is, and their group
  changed: () => {}, // called when other anchors, pictures or another map are shown
};

function startExplorer() {
  const maps = model().maps.filter((map) => map.anchors);
  reveal("anchors", maps.length > 0);
  if (!maps.length) return;
  const choice = make("select", { id: "explorer-method" }, ...maps.map((map, at) => make("option", { value: at }, map.method)));
  choice.addEventListener("change", () => explore(maps[choice.value]));
  const [from, to] = [slider("lowest", Math.max), slider("highest", Math.min)];
  Object.assign(explorer, {
    from, to,
    list: make("div", { class: "anchor-list", role: "group", "aria-label": "Anchors; arrow keys move, Enter picks, Shift extends" }),
    summary: make("p", { class: "summary", "aria-live": "polite" }),
    grid: make("div", { class: "thumbnails regions", role: "group", "aria-label": "Images with the chosen cells lit; Enter opens" }),
    pager: make("div", { class: "pager" }),
    effect: make("p", { class: "note" }),
    heads: make("div", { class: "anchor heads", "aria-hidden": true }),
  });
  const preset = (name, pick) => {
    const made = make("button", { type: "button" }, name);
    made.addEventListener("click", () => choose(explorer.order.filter(pick)));
    return made;
  };
  root.getElementById("explorer").replaceChildren(
    make("div", { class: "controls" },
      make("label", { hidden: maps.length === 1 }, "Method ", choice),
      make("label", { class: "range" }, "From ", from), make("label", { class: "range" }, "to ", to),
      preset("All", () => true), preset("None", () => false)),
    explorer.summary,
    make("div", { class: "explorer-body" },
      make("div", {}, explorer.heads, explorer.list, explorer.effect), make("div", {}, explorer.grid, explorer.pager)),
  );
  rove(explorer.list);
  rove(explorer.grid);
  explore(maps[0]);
}

/** Create the slider of one end of the range, which pushes the other end along. */
function slider(name, limit) {
  const made = make("input", { type: "range", min: 0, step: 1, "aria-label": `${name} anchor of the range` });
  made.addEventListener("input", () => {
    const [from, to] = [Number(explorer.from.value), Number(explorer.to.value)];
    const place = Number(made.value);
    choose(explorer.order.slice(limit(from, place), limit(to, place) + 1));
  });
  return made;
}

/** Show the anchors of a map; initially the highest anchors are selected that cover a tenth of the cells. */
function explore(map) {
  explorer.map = map;
  explorer.order = map.anchors.map((_, k) => k).sort((a, b) => map.anchors[a].value - map.anchors[b].value || a - b);
  explorer.counts = countCells(map, explorer.pictures);
  explorer.page = 0;
  for (const one of [explorer.from, explorer.to]) one.max = explorer.order.length - 1;
  const heads = ["", "value", "share of cells", "cells", map.effect ? "effect" : ""];
  explorer.heads.replaceChildren(...heads.map((head) => make("span", {}, head)));
  explorer.heads.classList.toggle("with-effect", Boolean(map.effect));
  fillAnchors();
  explorer.effect.replaceChildren(map.effect
    ? named(`Effect: ${map.effect.what}; mean with its 95 % interval.`)
    : "No interventions were given, so there is no effect to show.");
  fillRegions();
  choose(highest(explorer.order, explorer.counts, cellsShown() / 10));
}

/** Show some of the pictures, and count the cells of these. */
function showOnly(pictures) {
  explorer.pictures = pictures;
  explorer.counts = countCells(explorer.map, pictures);
  explorer.page = 0;
  fillAnchors();
  fillRegions();
  choose([...explorer.chosen]);
}

/** Number of cells at each anchor in these pictures. */
function countCells(map, pictures) {
  const counts = new Array(map.anchors.length).fill(0);
  for (const picture of pictures) for (const k of cellsOf(map, picture)) counts[k]++;
  return counts;
}

const cellsShown = () => explorer.counts.reduce((sum, one) => sum + one, 0);

function fillAnchors() {
  explorer.list.replaceChildren(...explorer.order.map(anchorButton).reverse());
  explorer.list.firstChild.tabIndex = 0;
}

function highest(order, counts, enough) {
  let [place, cells] = [order.length, 0];
  while (place > 0 && cells < enough) cells += counts[order[--place]];
  return order.slice(place);
}

function anchorButton(k) {
  const { map, counts } = explorer;
  const swatch = make("span", { class: "swatch" });
  const [red, green, blue] = unpack(map).colours.subarray(3 * k, 3 * k + 3);
  swatch.style.background = `rgb(${red} ${green} ${blue})`;
  const share = counts[k] / Math.max(1, cellsShown());
  const fill = make("span", { class: "fill" });
  fill.style.width = width(counts[k] / Math.max(1, ...counts));
  const found = map.effect?.estimates[k];
  const effect = map.effect ? [make("span", { class: "effect" }, ...(found ? [number(found[0]), make("small", {}, ` [${number(found[1])}, ${number(found[2])}]`)] : ["–"]))] : [];
  const button = make("button", { type: "button", class: "anchor", tabindex: -1, "aria-pressed": "false", "data-anchor": k },
    swatch, make("span", { class: "value" }, map.anchors[k].label), make("span", { class: "track" }, fill, make("span", {}, percent(share))),
    make("span", { class: "cells" }, thousands(counts[k])), ...effect);
  button.classList.toggle("with-effect", Boolean(map.effect));
  button.addEventListener("click", (event) => pick(k, event.shiftKey));
  return button;
}

/** Switch an anchor, or select all from the last switched one to this one. */
function pick(k, extend) {
  const { order, chosen } = explorer;
  const place = order.indexOf(k);
  if (extend) {
    const [low, high] = [explorer.last, place].sort((a, b) => a - b);
    choose(order.slice(low, high + 1));
    return;
  }
  explorer.last = place;
  choose(chosen.has(k) ? [...chosen].filter((one) => one !== k) : [...chosen, k]);
}

function choose(anchors) {
  explorer.chosen = new Set(anchors);
  for (const button of explorer.list.children) button.setAttribute("aria-pressed", String(explorer.chosen.has(Number(button.dataset.anchor))));
  const places = explorer.order.flatMap((k, place) => (explorer.chosen.has(k) ? [place] : []));
  explorer.from.value = places[0] ?? 0;
  explorer.to.value = places.at(-1) ?? 0;
  for (const one of [explorer.from, explorer.to]) one.setAttribute("aria-valuetext", explorer.map.anchors[explorer.order[one.value]].label);
  summarise();
  drawGrid();
  explorer.changed();
}

/** Show number and share of the selected cells, the share on the object, and their effect. */
function summarise() {
  const { map, chosen, counts } = explorer;
  const cells = [...chosen].reduce((sum, k) => sum + counts[k], 0);
  const all = cellsShown();
  const words = [`${chosen.size} of ${map.anchors.length} anchors: ${thousands(cells)} of ${thousands(all)} cells (${percent(cells / Math.max(1, all))}) in ${explorer.pictures.length} images`];
  const object = cells ? onObject(map, chosen) : null;
  if (object !== null) words.push(`${percent(object)} of them on the object`);
  const mean = weightedEffect(map, chosen, counts);
  if (mean !== null) words.push(`effect ${number(mean)} (mean of the chosen, weighted by cells)`);
  explorer.summary.textContent = `${words.join("; ")}.`;
}

/** Share of the selected cells whose centre lies in the box, over images with a box. */
function onObject(map, chosen) {
  const [rows, columns] = map.grid;
  let [inside, all] = [0, 0];
  explorer.pictures.forEach((picture) => {
    const { box } = data.pictures[picture];
    if (!box) return;
    cellsOf(map, picture).forEach((k, at) => {
      if (!chosen.has(k)) return;
      const [x, y] = [((at % columns) + 0.5) / columns, (Math.floor(at / columns) + 0.5) / rows];
      all += 1;
      inside += x > box[0] && x < box[2] && y > box[1] && y < box[3];
    });
  });
  return all ? inside / all : null;
}

function weightedEffect(map, chosen, counts) {
  const known = [...chosen].filter((k) => counts[k] && map.effect?.estimates[k]?.[0] != null);
  const weight = known.reduce((sum, k) => sum + counts[k], 0);
  return weight ? known.reduce((sum, k) => sum + counts[k] * map.effect.estimates[k][0], 0) / weight : null;
}

function fillRegions() {
  const first = explorer.page * PAGE;
  const all = explorer.pictures;
  const shown = all.slice(first, first + PAGE);
  explorer.grid.replaceChildren(...shown.map((picture) => {
    const canvas = make("canvas", { role: "img", "aria-label": data.pictures[picture].name });
    canvas.classList.toggle("exact", data.exact);
    const button = make("button", { type: "button", tabindex: -1, "data-picture": picture }, canvas);
    button.addEventListener("click", () => explorer.open(picture, all, explorer.grid));
    return button;
  }));
  if (shown.length) explorer.grid.firstChild.tabIndex = 0;
  fillPager(first, shown.length, all.length);
}

function fillPager(first, shown, all) {
  const turn = (name, step, possible) => {
    const made = make("button", { type: "button", disabled: !possible }, name);
    made.addEventListener("click", () => { explorer.page += step; fillRegions(); drawGrid(); });
    return made;
  };
  explorer.pager.replaceChildren(turn("Previous", -1, first > 0), make("span", { class: "count" }, `${first + 1} to ${first + shown} of ${all}`),
    turn("Next", 1, first + shown < all));
  explorer.pager.hidden = all <= PAGE;
}

function drawGrid() {
  for (const button of explorer.grid.children) {
    drawRegions(button.firstChild, Number(button.dataset.picture), explorer.map, explorer.chosen, 96);
  }
}
