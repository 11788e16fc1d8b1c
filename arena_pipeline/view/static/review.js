// What a page of arena_review has beside that of arena_view: a pen, and the way of a correction into the dataset.
"use strict";
const review = facts.review;
const TOOLS = { Look: null, Pen: false, Outline: true, Erase: 0 };
let changed = false;

function setTool(name) {
  press("tool", name);
  state.tool = name;
  nv.setDrawingEnabled(name !== "Look");
  if (name === "Look") return;
  if (["3D", "All"].includes(state.view)) setView("Axial"); // a stroke is drawn in a slice, as large as can be
  nv.opts.penSize = Number(element("size").value);
  nv.setPenValue(name === "Erase" ? 0 : state.chosen.value, name === "Outline");
}

function showSize() {
  element("size_text").textContent = `${element("size").value} voxels`;
}

/** After a stroke or an undo: volumes, and what the button will do. */
function count() {
  const voxels = new Float64Array(256);
  for (const value of nv.drawBitmap) voxels[value] += 1;
  for (const structure of facts.structures) {
    const ml = voxels[structure.value] * facts.voxel_ml;
    if (ml > 0 && structure.ml === 0) element(`use_${structure.value}`).checked = true; // drawn by hand: annotated
    structure.ml = ml;
    element(`ml_${structure.value}`).textContent = millilitres(ml);
  }
  showPlace();
  tell();
}

function used() {
  return facts.structures.filter(({ value }) => element(`use_${value}`).checked).map(({ name }) => name);
}

function tell() {
  const names = used().map((name) => name.replaceAll("_", " "));
  const kept = names.length ? `with ${names.join(", ")} as annotated` : "once a structure is ticked";
  element("goes").textContent = `Becomes a training case of ${review.dataset}, ${kept}.`;
  element("save").textContent = changed ? "Save the correction" : "Accept as it is";
  element("save").disabled = names.length === 0;
}

async function save() {
  const button = element("save"), told = element("saved");
  button.disabled = true;
  told.className = "";
  told.textContent = "Saving";
  try {
    const bytes = new Blob([state.header, nv.drawBitmap]).stream().pipeThrough(new CompressionStream("gzip"));
    const body = await new Response(bytes).blob();
    const question = new URLSearchParams(used().map((name) => ["structure", name]));
    question.append("changed", changed);
    const answer = await fetch(`labels?${question}`, { method: "POST", body, headers: { "Content-Type": "application/octet-stream" } });
    const { message, command } = await answer.json();
    told.textContent = message;
    told.className = answer.ok ? "" : "bad";
    if (answer.ok) {
      changed = false;
      element("command").hidden = false;
      element("command").textContent = command;
    }
  } catch (error) {
    told.className = "bad";
    told.textContent = `Not saved: ${error.message}. Is arena_review still running?`;
  }
  tell();
}

document.querySelector("#structures h2").after(part("p", { className: "quiet", textContent: "Left: shown. Right: correct in the whole scan." }));
for (const { name, value } of facts.structures) {
  const box = part("input", { type: "checkbox", id: `use_${value}`, checked: review.annotated.includes(name), onchange: tell, title: `${name} is correct in the whole scan` });
  const words = part("span", { className: "hidden_text", textContent: `${name} is correct in the whole scan` });
  element(`row_${value}`).append(part("label", { className: "use" }, box, words));
}
choices("tool", Object.keys(TOOLS), setTool);
keys.P = ["pen", () => setTool("Pen")];
keys.O = ["outline that is filled", () => setTool("Outline")];
keys.E = ["erase", () => setTool("Erase")];
keys.L = ["look, without drawing", () => setTool("Look")];
keys.U = ["undo", () => element("undo").click()];
keys["-"] = ["smaller pen", () => resize(-1)];
keys["+"] = ["larger pen", () => resize(1)];

function resize(by) {
  element("size").value = Number(element("size").value) + by;
  element("size").oninput();
}

opened.then(() => {
  nv.drawAddUndoBitmap(); // what the first undo goes back to
  element("tools").hidden = element("keep").hidden = false;
  element("size").oninput = () => { showSize(); nv.opts.penSize = Number(element("size").value); };
  element("undo").onclick = () => { nv.drawUndo(); count(); };
  element("save").onclick = save;
  element("saved").textContent = review.state;
  document.addEventListener("chosen", () => { if (["Pen", "Outline"].includes(state.tool)) setTool(state.tool); });
  nv.onDrawingChanged = () => { changed = true; count(); };
  state.chosen = facts.structures[0];
  element(`row_${state.chosen.value}`).classList.add("chosen");
  showSize();
  setTool("Look");
  tell();
});
addEventListener("beforeunload", (event) => { if (changed) event.preventDefault(); });
