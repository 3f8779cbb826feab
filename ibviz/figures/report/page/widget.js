// Explorer in a notebook: the anchor explorer beside one large image, in step with Python through `kernel`.

const stage = { picture: kernel.get("image"), boxed: true };

function startWidget() {
  const frame = make("div", { class: "widget" }, make("div", { class: "controls" }, ...choices()),
    make("section", { id: "anchors" }, make("div", { id: "explorer" })), editor());
  root.replaceChildren(make("style", {}, STYLE), frame);
  const before = kernel.get("anchors");
  explorer.open = (picture) => { stage.picture = picture; drawStage(); tell({ image: picture }); };
  showModel(0);
  if (before !== null) choose(before);
  explorer.changed = changed;
  changed();
}

/** Send values to Python that differ from what it knows. */
function tell(values) {
  const news = Object.entries(values).filter(([name, value]) => JSON.stringify(kernel.get(name)) !== JSON.stringify(value));
  for (const [name, value] of news) kernel.set(name, value);
  if (news.length) kernel.save_changes();
}

/** Controls above the explorer: model, class, opacity, box. */
function choices() {
  stage.model = make("select", {}, ...data.comparisons.map((one, at) => make("option", { value: at }, one.model)));
  stage.model.addEventListener("change", () => showModel(Number(stage.model.value)));
  stage.class = make("select", {});
  stage.class.addEventListener("change", () => showOnly(ofClass(stage.class.value)));
  stage.opacity = make("input", { type: "range", min: 0, max: 1, step: 0.05, value: kernel.get("opacity") });
  stage.opacity.addEventListener("input", () => { drawStage(); tell({ opacity: Number(stage.opacity.value) }); });
  const boxed = make("input", { type: "checkbox", checked: true });
  boxed.addEventListener("change", () => { stage.boxed = boxed.checked; drawStage(); });
  const labelled = data.pictures.some((picture) => picture.label !== null);
  return [
    make("label", { hidden: data.comparisons.length === 1 }, "Model ", stage.model),
    make("label", {}, labelled ? "Class " : "Predicted class ", stage.class), make("label", {}, "Opacity ", stage.opacity),
    make("label", { hidden: data.pictures.every((picture) => !picture.box) }, boxed, " Box of the object"),
  ];
}

/** Show one of several models. */
function showModel(at) {
  state.comparison = at;
  const names = [...new Set(ofClass("").map(classOf))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  stage.class.replaceChildren(make("option", { value: "" }, "all"), ...names.map((name) => make("option", { value: name }, name)));
  explorer.pictures = ofClass("");
  startExplorer();
  stage.canvas = make("canvas", { class: "stage", role: "img" });
  stage.caption = make("figcaption", { "aria-live": "polite" });
  explorer.grid.before(make("figure", { class: "large" }, stage.canvas, stage.caption));
  explorer.effect.hidden = !explorer.map.effect;
  if (stage.anchor) fillEditor();
  drawStage();
}

/** Follow the explorer: another image if the chosen one is not shown, and other values in Python. */
function changed() {
  const { map, chosen, pictures } = explorer;
  if (!pictures.includes(stage.picture)) stage.picture = pictures[0];
  const anchors = [...chosen].sort((a, b) => a - b);
  if (JSON.stringify(kernel.get("effect").anchors ?? anchors) !== JSON.stringify(anchors)) stage.result.replaceChildren();
  drawStage();
  tell({ anchors, shown: pictures, image: stage.picture, method: map.method, model: comparison().model });
}

/** Draw the chosen image with the cells of the chosen anchors lit. */
async function drawStage() {
  const { picture, canvas } = stage;
  const prediction = model().predictions[picture];
  canvas.setAttribute("aria-label", `${data.pictures[picture].name} with the chosen cells lit`);
  canvas.classList.toggle("exact", data.exact);
  stage.caption.replaceChildren(named(data.pictures[picture].name), ": ", verdict(prediction), ` ${number(prediction.probability)}`);
  for (const button of explorer.grid.children) button.setAttribute("aria-current", String(Number(button.dataset.picture) === picture));
  const fresh = canvas.cloneNode(); // so that no half of a drawing is seen
  stage.awaited = fresh;
  await drawRegions(fresh, picture, explorer.map, explorer.chosen, SHARP, Number(stage.opacity.value));
  if (stage.awaited !== fresh) return; // overtaken by another drawing
  if (stage.boxed) outline(fresh.getContext("2d"), picture);
  stage.canvas.replaceWith(fresh);
  stage.canvas = fresh;
}

/** Interventions on the chosen cells, which Python carries out. */
function editor() {
  stage.edit = make("select", {}, ...Object.entries(data.edits).map(([name, label]) => make("option", { value: name }, `${name}: ${label}`)));
  stage.anchor = make("select", {});
  stage.apply = make("button", { type: "button" }, "Apply");
  stage.result = make("p", { class: "summary result", "aria-live": "polite" });
  const anchor = make("label", { hidden: true }, "k ", stage.anchor);
  stage.edit.addEventListener("change", () => { anchor.hidden = stage.edit.value !== "set"; });
  stage.apply.addEventListener("click", () => {
    stage.result.textContent = "Python computes ...";
    const wanted = stage.edit.value === "set" ? Number(stage.anchor.value) : null;
    tell({ asked: { edit: stage.edit.value, anchor: wanted, number: (kernel.get("asked").number ?? 0) + 1 } });
  });
  const parts = make("section", { "aria-label": "Intervention", hidden: !Object.keys(data.edits).length },
    make("div", { class: "controls" }, make("label", {}, "Intervene ", stage.edit), anchor, stage.apply), stage.result);
  return parts;
}

function fillEditor() {
  const { order, map } = explorer;
  stage.anchor.replaceChildren(...order.map((k) => make("option", { value: k }, map.anchors[k].label)));
}

/** Say what an intervention did, over the images and on the chosen one. */
function showEffect() {
  const effect = kernel.get("effect");
  if (effect.error) { stage.result.textContent = effect.error; return; }
  if (!effect.change) return;
  const [mean, low, high] = effect.change.map((value) => number(value));
  const words = `${effect.words}: Δ probability ${mean} [${low}, ${high}] over ${effect.images} images, ${percent(effect.flips)} of the predictions flip`;
  const at = effect.pictures.indexOf(stage.picture);
  const own = at < 0 ? "" : `; this image ${number(effect.before[at])} → ${number(effect.before[at] + effect.changes[at])}`;
  stage.result.textContent = `${words}${own}.`;
}

/** Dark or light as the notebook around it, whose ground may be set by a theme. */
function followTheme() {
  let ground = root.host;
  const colour = () => getComputedStyle(ground).backgroundColor.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0, 0];
  while (ground.parentElement && colour()[3] === 0) ground = ground.parentElement;
  const [red, green, blue, opacity] = colour();
  if (opacity === 0) return;
  root.host.style.colorScheme = 0.3 * red + 0.59 * green + 0.11 * blue < 128 ? "dark" : "light";
}

const heard = {
  "change:anchors": () => {
    const anchors = kernel.get("anchors");
    if (anchors !== null && JSON.stringify(anchors) !== JSON.stringify([...explorer.chosen].sort((a, b) => a - b))) choose(anchors);
  },
  "change:image": () => { if (kernel.get("image") !== stage.picture) { stage.picture = kernel.get("image"); drawStage(); } },
  "change:shown": () => { if (JSON.stringify(kernel.get("shown")) !== JSON.stringify(explorer.pictures)) showOnly(kernel.get("shown")); },
  "change:opacity": () => { stage.opacity.value = kernel.get("opacity"); drawStage(); },
  "change:effect": showEffect,
};

followTheme();
startWidget();
for (const [name, act] of Object.entries(heard)) kernel.on(name, act);
return () => { for (const [name, act] of Object.entries(heard)) kernel.off(name, act); };
