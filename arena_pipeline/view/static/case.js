// The page of one case: its slices in NiiVue, and the controls beside them. `facts` is view/facts.py's PageFacts.
"use strict";
const facts = JSON.parse(document.getElementById("facts").textContent);
const element = (id) => document.getElementById(id);
const { Niivue, NVImage, SLICE_TYPE, DRAG_MODE, MULTIPLANAR_TYPE, SHOW_RENDER } = niivue;
const FILL_IN_3D = 1, RIM = 0.9, CROSS_PIXELS = 1.5, HEADER_BYTES = 352;
const PLANES = { Axial: [SLICE_TYPE.AXIAL, 2], Coronal: [SLICE_TYPE.CORONAL, 1], Sagittal: [SLICE_TYPE.SAGITTAL, 0] };
const VIEWS = { ...PLANES, All: [SLICE_TYPE.MULTIPLANAR, 2], "3D": [SLICE_TYPE.RENDER, null] };
const keys = {}; // key -> [what it does, in words, function]

const nv = new Niivue({
  backColor: [0, 0, 0, 1], crosshairColor: [0.49, 0.72, 0.95, 0.6], fontColor: [0.58, 0.63, 0.68, 1], crosshairWidthUnit: "mm", crosshairGap: 12, logLevel: "error",
  isRadiologicalConvention: true, sagittalNoseLeft: true, dragMode: DRAG_MODE.windowing, dragAndDropEnabled: false, viewModeHotKey: "",
  clipPlaneHotKey: "", cycleClipPlaneHotKey: "", loadingText: "", multiplanarShowRender: SHOW_RENDER.NEVER, multiplanarLayout: MULTIPLANAR_TYPE.AUTO,
});
const state = { view: null, axis: 2, hidden: new Set(), chosen: null };

/** The bytes of a volume: uncompressed NIfTI, from the page itself or, where it is a server's, from beside it. */
async function volume(name) {
  const stored = element(`volume_${name}`);
  let packed;
  if (stored === null) {
    const answer = await fetch(name);
    if (!answer.ok) throw new Error(`the ${name} can't be read: ${await answer.text()}`);
    packed = answer.body;
  } else {
    const text = stored.textContent;
    stored.remove(); // a large CT would be held twice
    packed = new Blob([Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (one) => one.charCodeAt(0))]).stream();
  }
  return new Response(packed.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

function image(bytes, name, colours, low, high) {
  return NVImage.new(bytes, `${name}.nii`, colours, 1, null, low, high);
}

/** Colours of the structures; those switched off, and integers that none has, are clear. */
function paint() {
  const lut = new Uint8ClampedArray(256 * 4);
  for (const { value, rgb } of facts.structures) lut.set([...rgb, state.hidden.has(value) ? 0 : 255], 4 * value);
  nv.drawLut = { lut, labels: [] };
  nv.refreshColormaps();
  nv.drawScene();
}

function setFill() {
  const solid = state.view === "3D";
  nv.drawRimOpacity = solid ? -1 : RIM;
  nv.drawOpacity = solid ? FILL_IN_3D : Math.max(element("fill").value / 100, 0.001);
  nv.drawScene();
}

function setView(name) {
  const [kind, axis] = VIEWS[name];
  const wasSolid = state.view === "3D", solid = name === "3D";
  [state.view, state.axis] = [name, axis];
  press("view", name);
  element("slice").hidden = solid;
  element("body_line").hidden = !solid;
  nv.setSliceType(kind);
  setFill();
  if (solid !== wasSolid) showBody();
  thinCross();
  showPlace();
}

/** NiiVue's cross is as wide as some part of the patient, whatever the window's size. */
function thinCross() {
  const tile = nv.screenSlices[0];
  if (tile && state.axis !== null) nv.setCrosshairWidth(CROSS_PIXELS * Math.abs(tile.fovMM[0]) / tile.leftTopWidthHeight[2]);
}

/** In 3D the body would hide its structures. */
function showBody() {
  const seen = state.view !== "3D" || facts.structures.length === 0 || element("body").checked;
  if (nv.volumes[0].opacity !== Number(seen)) nv.setOpacity(0, Number(seen));
}

function setWindow(name) {
  const { low, high } = facts.windows.find((one) => one.name === name);
  [nv.volumes[0].cal_min, nv.volumes[0].cal_max] = [low, high];
  press("window", name);
  nv.updateGLVolume();
}

/** Buttons of which one is pressed. */
function choices(id, names, choose) {
  for (const name of names) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: name, onclick: () => choose(name) });
    document.querySelector(`[data-choice="${id}"]`).append(button);
  }
}

function press(id, name) {
  for (const button of document.querySelectorAll(`[data-choice="${id}"] button`)) {
    button.setAttribute("aria-pressed", String(button.textContent === name));
  }
}

/** The voxel under the cross, in the axes of the array: right, anterior, superior. */
function voxel() {
  return [0, 1, 2].map((axis) => Math.min(facts.shape[axis] - 1, Math.floor(nv.scene.crosshairPos[axis] * facts.shape[axis])));
}

function goTo(target) {
  target.forEach((at, axis) => { nv.scene.crosshairPos[axis] = (Math.min(Math.max(at, 0), facts.shape[axis] - 1) + 0.5) / facts.shape[axis]; });
  nv.drawScene();
  showPlace();
}

function step(by) {
  if (state.axis === null) return;
  const at = voxel();
  at[state.axis] += by;
  goTo(at);
}

function showPlace() {
  element("place").textContent = "";
  if (state.axis === null) return;
  const at = voxel(), [nx, ny] = facts.shape, offset = at[0] + nx * (at[1] + ny * at[2]);
  const slice = element("slice");
  [slice.max, slice.value] = [facts.shape[state.axis], at[state.axis] + 1];
  const under = nv.drawBitmap ? facts.structures.find(({ value }) => value === nv.drawBitmap[offset]) : null;
  const hu = Math.round(nv.volumes[0].getValue(...at));
  element("place").textContent = `Slice ${at[state.axis] + 1} of ${facts.shape[state.axis]}, ${hu} HU${under ? `, ${under.name}` : ""}`;
}

function millilitres(ml) {
  return ml === 0 ? "none" : `${ml >= 10 ? Math.round(ml).toLocaleString("en") : ml.toPrecision(2)} ml`;
}

function show(value, seen) {
  state.hidden[seen ? "delete" : "add"](value);
  element(`show_${value}`).checked = seen;
}

function showAll(seen) {
  for (const { value } of facts.structures) show(value, seen);
  paint();
}

function choose(structure) {
  state.chosen = structure;
  for (const { value } of facts.structures) element(`row_${value}`).classList.toggle("chosen", value === structure.value);
  if (state.hidden.has(structure.value)) { show(structure.value, true); paint(); }
  if (structure.at) goTo(structure.at);
  document.dispatchEvent(new Event("chosen"));
}

function part(kind, properties, ...children) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...children);
  return made;
}

function listStructures() {
  element("structures").hidden = facts.structures.length === 0;
  for (const structure of facts.structures) {
    const { name, value, rgb, ml, reasons } = structure;
    const swatch = part("span", { className: "swatch" });
    swatch.style.background = `rgb(${rgb})`;
    const box = part("input", { type: "checkbox", id: `show_${value}`, checked: true, onchange: () => { show(value, box.checked); paint(); } });
    const label = part("label", { className: "show" }, box, swatch, part("span", { className: "hidden_text", textContent: `Show ${name}` }));
    const button = part("button", { type: "button", className: "name", textContent: name.replaceAll("_", " "), onclick: () => choose(structure) });
    const volume = part("span", { className: "ml", id: `ml_${value}`, textContent: millilitres(ml) });
    document.querySelector("#structures ul").append(part("li", { id: `row_${value}` }, label, button, volume));
    if (reasons) {
      const flag = part("button", { type: "button", textContent: `${name.replaceAll("_", " ")}: ${reasons}`, onclick: () => choose(structure) });
      document.querySelector("#flags ul").append(part("li", {}, flag));
      element("flags").hidden = false;
    }
  }
}

function listRest() {
  for (const note of facts.notes) element("notes").append(part("li", { textContent: note }));
  for (const id of ["previous", "next"]) if (facts[id]) element(id).href = facts[id];
  for (const [key, [words]] of Object.entries(keys)) {
    element("keys").append(part("dt", {}, part("kbd", { textContent: key })), part("dd", { textContent: words }));
  }
}

function listKeys() {
  keys["Arrow up"] = ["next slice (Page up: ten)", () => step(1)];
  keys["Arrow down"] = ["slice before (Page down: ten)", () => step(-1)];
  facts.windows.forEach(({ name }, index) => { keys[index + 1] = [`window: ${name.toLowerCase()}`, () => setWindow(name)]; });
  for (const name of Object.keys(VIEWS)) keys[name === "All" ? "M" : name === "3D" ? "D" : name[0]] = [name === "All" ? "all three planes" : name.toLowerCase(), () => setView(name)];
  keys.X = ["structures off and on", () => showAll(facts.structures.every(({ value }) => state.hidden.has(value)))];
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || (event.target.type === "range" && event.key.startsWith("Arrow"))) return;
  const steps = { ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10 };
  if (event.key in steps) step(steps[event.key]);
  else if (keys[event.key.toUpperCase()]) keys[event.key.toUpperCase()][1]();
  else return;
  event.preventDefault();
  event.stopPropagation(); // NiiVue has keys of its own
}, { capture: true });

/** At every change of window NiiVue 0.69 makes two textures as large as the CT for a lit 3D view, which no page has: four fifths of the drawing. They become thin ones. */
function withoutGradients() {
  const { TEXTURE6, TEXTURE8 } = nv.gl, whole = nv.rgbaTex;
  nv.rgbaTex = (texture, unit, [kind, x, y, z], ...more) => whole.call(nv, texture, unit, [kind, ...([TEXTURE6, TEXTURE8].includes(unit) ? [1, 1] : [x, y]), z], ...more);
}

async function open() {
  await nv.attachToCanvas(element("image"));
  withoutGradients();
  const [ct, labels] = await Promise.all([volume("ct"), facts.structures.length ? volume("labels") : null]);
  const { low, high } = facts.windows[0];
  nv.addVolume(await image(ct, "ct", "gray", low, high));
  if (labels) {
    state.header = labels.slice(0, HEADER_BYTES);
    nv.drawBitmap = new Uint8Array(labels, HEADER_BYTES); // what loadDrawing would do in three copies: the axes are RAS already
    nv.drawTexture = nv.r8Tex(nv.drawTexture, nv.gl.TEXTURE7, nv.back.dims, true);
    nv.refreshDrawing(false);
    paint();
  }
  if (facts.disagreement) {
    const doubt = await image(await volume("disagreement"), "disagreement", "warm", facts.disagreement.low, facts.disagreement.high);
    doubt.opacity = 0;
    nv.addVolume(doubt);
    element("disagreement").hidden = false;
  }
  choices("view", Object.keys(VIEWS), setView);
  choices("window", facts.windows.map(({ name }) => name), setWindow);
  press("window", facts.windows[0].name);
  element("slice").oninput = (event) => { const at = voxel(); at[state.axis] = event.target.value - 1; goTo(at); };
  element("fill").oninput = setFill;
  element("body").onchange = showBody;
  element("doubt").onchange = (event) => nv.setOpacity(1, event.target.checked ? 0.7 : 0);
  element("show_all").onclick = () => showAll(true);
  element("hide_all").onclick = () => showAll(false);
  nv.onLocationChange = showPlace;
  addEventListener("resize", () => requestAnimationFrame(thinCross)); // after NiiVue's own
  nv.scene.volScaleMultiplier = 1.1;
  nv.setRenderAzimuthElevation(160, 15); // from the front, a little from the patient's left
  setView(matchMedia("(max-width: 760px)").matches ? "Axial" : "All");
  const first = facts.structures.find(({ reasons, at }) => reasons && at) ?? facts.structures.find(({ at }) => at);
  goTo(first ? first.at : facts.shape.map((length) => Math.floor(length / 2)));
  element("status").textContent = "";
}

listStructures();
listKeys();
addEventListener("DOMContentLoaded", listRest); // a review adds keys
const opened = open().catch((error) => {
  const noGraphics = document.createElement("canvas").getContext("webgl2") === null;
  element("status").textContent = noGraphics ? "This browser shows no 3D graphics (WebGL 2): switch it on, or open the page in another browser." : `The scan can't be shown: ${error.message}`;
  throw error;
});
