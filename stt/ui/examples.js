// The tabs of the examples; see examples.py. Gradio runs this as a function's body with: element, trigger.
// Events to the server: 'hold' and, in its turn, 'choose' {number}; 'model' {name}. Listens to: 'stt-clip' {example}, which
// marks the chosen one; 'stt-model' {name}, which opens the tab of its examples.

const tabs = [...element.querySelectorAll('[role="tab"]')];
const panels = [...element.querySelectorAll('[role="tabpanel"]')];
let current, model = document.querySelector("#knows .knows:not([hidden])")?.dataset.of; // the clip and the model on the page
let touched = false, stays = false; // whether the visitor has opened a tab, and has just done so while the page was busy

function open(k, focus = false) {
  tabs.forEach((tab, i) => {
    tab.setAttribute("aria-selected", i === k);
    tab.tabIndex = i === k ? 0 : -1;
    panels[i].hidden = i !== k;
  });
  if (focus) tabs[k].focus();
}

element.addEventListener("keydown", (event) => {
  const at = tabs.indexOf(event.target), by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (at < 0 || !by) return;
  event.preventDefault();
  event.stopPropagation();
  touched = true;
  open((at + by + tabs.length) % tabs.length, true);
});
element.addEventListener("click", (event) => {
  const node = event.target.closest("button");
  if (!node) return;
  if (tabs.includes(node)) {
    touched = stays = true;
    window.sttTurns.free().then(() => setTimeout(() => (stays = false), 500));
    return open(tabs.indexOf(node));
  }
  if (node.dataset.model) return trigger("model", { model: node.dataset.model });
  for (const one of element.querySelectorAll(".example")) one.setAttribute("aria-pressed", one === node); // before the server answers
  trigger("hold");
  window.sttTurns.take(() => trigger("choose", { number: Number(node.dataset.number) }), true);
  window.dispatchEvent(new CustomEvent("stt-example", { detail: node.querySelector("span").textContent }));
});
window.addEventListener("stt-clip", ({ detail }) => { // which clip is on the page; a new one opens its tab
  const opens = detail !== current && !stays && !(current === undefined && touched);
  current = detail;
  for (const node of element.querySelectorAll(".example")) {
    const chosen = node.dataset.clip === detail;
    node.setAttribute("aria-pressed", chosen);
    if (chosen && opens) open(panels.indexOf(node.closest('[role="tabpanel"]')));
  }
});
window.addEventListener("stt-model", ({ detail }) => {
  const fresh = detail !== model && !stays;
  model = detail;
  const own = [...element.querySelectorAll("[data-models]")].filter((node) => JSON.parse(node.dataset.models).includes(model));
  const node = own.find((one) => one.getAttribute("aria-pressed") === "true") ?? own[0];
  if (fresh && node) open(panels.indexOf(node.closest('[role="tabpanel"]')));
});
if (tabs.length) open(0);
