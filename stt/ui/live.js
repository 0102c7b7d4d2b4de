// The stage of a live session: a dialog over the whole window. Gradio runs this as a function's body with: element.
// The event "stt-play" with the page's settings opens it; "stt-result" with an id tells the player of a recording.
// ui/live.py describes the messages.

const HEADER = 16; // bytes before a frame's pixels: branch, number, count of the action, milliseconds of its step
const BACK = 2; // seconds that one press goes back
const WORN = 20; // predicted frames, one from another: for so many the models were scored, then the page warns
const SLOW = 0.8; // of the frame rate that would be real time
const root = () => (window.gradio_config?.root || location.origin + location.pathname).replace(/\/$/, "");

// ---- the page ----------------------------------------------------------------------------------------

const dialog = element.querySelector("dialog");
const press = (label, text, action, more = {}) => {
  const words = text.replace(/[^\w ]/g, "").trim(), name = new RegExp(`\\b${words}\\b`).test(label) ? label : `${words}: ${label}`;
  return node("button", { type: "button", "aria-label": name, title: label, ...more, onclick: (event) => {
    action();
    if (event.detail) event.currentTarget.blur(); // else the space bar would press it again
  } }, text);
};
const title = node("b");
const meter = node("output", { class: "meter", title: "Rate of frames, and time from a key to the first picture that follows it" });
const input = makeInput(steer);
const message = node("p", { class: "message", role: "status" });
const again = press("Play again", "Play again", () => open(settings), { class: "again primary" });
const cover = node("div", { class: "cover" }, message, again);
const panes = [0, 1].map(() => {
  const canvas = node("canvas", { role: "img", "aria-label": "Picture" }), caption = node("figcaption");
  return { canvas, caption, figure: node("figure", {}, canvas, caption) };
});
const pause = press("Pause (space)", "❚❚", () => setPaused(!paused), { class: "pause" });
const back = press(`${BACK} seconds back (Backspace)`, `↺ ${BACK} s`, goBack);
const time = node("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "Moment", class: "time" });
const where = node("output", { class: "where" });
const goOn = press("Go on from this moment, in a branch of its own (Enter)", "Go on from here", () => fork(null), { class: "primary" });
const reseed = press("From this moment with another seed (N)", "Other seed", () => fork(Math.floor(1e6 * Math.random())));
const swap = press("Drive the other branch", "⇄ Swap", () => send({ swap: true }));
const single = press("Show one branch only", "Hide other", () => setOther(null));
const drive = press("Let the model choose its own actions", "Autopilot", () => setAutopilot(!autopilot), { "aria-pressed": "false" });
const anew = press("Start again from the clip", "↻ Start again", startAgain);
const save = press("Save these frames as a result", "● Save", () => send({ save: true }), { class: "save" });
const saved = node("p", { class: "saved", role: "status" });
const warning = node("p", { class: "warning", role: "status" });
const legend = node("p", { class: "legend" });
dialog.append(
  node("header", {}, title, legend, meter, press("End (Escape)", "✕", () => dialog.close(), { class: "close" })),
  node("div", { class: "pictures" }, ...panes.map((pane) => pane.figure), cover),
  node("div", { class: "deck" }, input.area,
    node("div", { class: "desk" }, node("div", { class: "line" }, pause, back, time, where),
      node("div", { class: "line tools" }, reseed, drive, anew, save, goOn, swap, single), node("div", { class: "says" }, warning, saved)),
    input.extras),
);

// ---- state -------------------------------------------------------------------------------------------

let settings = null, socket = null, ready = null;
let branch = null, other = null; // {id, seed, at: frames shared with the other, frames: number -> RGB bytes}
let branches = new Map();
let length = 0; // frames of the branch
let moment = null; // the frame on the stage while the visitor looks back
let paused = false, autopilot = false;
let received = 0, count = 0, action = "";
let slow = 0; // frames per second, where they are too few
let stamps = new Map(), latency = null, arrivals = [], touched = 0;

function open(value) {
  close();
  settings = value;
  [ready, branch, other, moment, latency] = [null, null, null, null, null];
  [length, received, count, action, paused, autopilot, slow] = [0, 0, 0, "", false, false, 0];
  [branches, stamps, arrivals] = [new Map(), new Map(), []];
  drive.setAttribute("aria-pressed", "false");
  saved.replaceChildren();
  warn();
  say("Reading the clip …");
  dialog.dataset.state = "waiting";
  if (!dialog.open) dialog.showModal();
  dialog.focus();
  refresh();
  const mine = new WebSocket(root().replace(/^http/, "ws") + "/live");
  socket = mine;
  mine.binaryType = "arraybuffer";
  mine.onopen = () => send({ start: settings });
  mine.onmessage = ({ data }) => socket === mine && (typeof data === "string" ? hear(JSON.parse(data)) : see(data));
  mine.onclose = () => socket === mine && say(message.textContent || "The connection is gone.", true);
}

function close() {
  const old = socket;
  socket = null;
  old?.close();
}

function send(object) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(object));
}

function say(text, over = false) {
  message.textContent = text;
  again.hidden = !over;
  cover.hidden = !text;
  if (over) dialog.dataset.state = "over";
}

// ---- messages ----------------------------------------------------------------------------------------

function hear({ wait, ready: start, branch: change, saved: result, end }) {
  if (wait) say(wait === 1 ? "You are next: somebody else is playing." : `${wait - 1} before you in the queue.`);
  if (start) {
    ready = start;
    dialog.dataset.state = "live";
    say("");
    title.textContent = `${ready.model} · ${ready.clip.replace(/\.\w+$/, "")}`;
    for (const { canvas } of panes) {
      [canvas.width, canvas.height] = ready.size;
      canvas.classList.toggle("large", ready.jpeg);
    }
    layOut();
    input.setAxes(ready.axes);
    drive.hidden = !ready.axes.length;
    legend.replaceChildren(ready.axes.length ? "" : "It takes no actions; one future of the clip goes on and on. ",
      ...input.legend().flatMap(([keys, name]) => [node("kbd", {}, keys), ` ${name} `]),
      node("kbd", {}, "space"), " pause");
    branches.set(0, (branch = { id: 0, seed: ready.seed, at: 0, frames: new Map() }));
    steer();
    requestAnimationFrame(poll);
    refresh();
  }
  if (change?.fresh) {
    branches = new Map([[change.id, (branch = { id: change.id, seed: change.seed, at: 0, frames: new Map() })]]);
    [length, moment] = [0, null];
    saved.replaceChildren();
    setOther(null);
  } else if (change) {
    const before = branch;
    if (!branches.has(change.id)) {
      const frames = new Map([...branch.frames].filter(([number]) => number <= change.at));
      branches = new Map([[branch.id, branch], [change.id, { id: change.id, frames }]]);
      before.at = change.at;
    }
    branch = branches.get(change.id);
    Object.assign(branch, { seed: change.seed, at: before.at });
    length = change.at;
    moment = null;
    setOther(before);
  }
  if (result) {
    const file = (name) => `${root()}/runs/${result.id}/${name}`;
    saved.replaceChildren(`Saved ${result.frames} frames: `, node("a", { href: file("future-1.mp4"), download: true }, "mp4"), " · ",
      node("a", { href: file("future-1.gif"), download: true }, "gif"), " ",
      press("Show the recording on the page, where it can be the next prompt", "Show on the page", () => dialog.close()));
    window.dispatchEvent(new CustomEvent("stt-result", { detail: result.id })); // it stays, however the visitor leaves
  }
  if (end) say(saved.firstChild ? `${end} What was played is saved on the page.` : end, true);
}

function see(data) {
  const view = new DataView(data), [id, number, counted] = [0, 4, 8].map((at) => view.getUint32(at, true));
  send({ ack: ++received });
  const seen = branches.get(id);
  if (!seen) return;
  seen.frames.set(number, new Uint8Array(data, HEADER));
  while (seen.frames.size > ready.frames) seen.frames.delete(seen.frames.keys().next().value);
  if (seen !== branch) return;
  length = number;
  if (moment === null) draw();
  const now = performance.now(), since = stamps.get(counted);
  if (since !== undefined) latency = now - since;
  for (const old of stamps.keys()) if (old <= counted) stamps.delete(old);
  arrivals = [...arrivals, now].slice(-21);
  measure();
}

function measure() {
  const span = arrivals.at(-1) - arrivals[0];
  const rate = arrivals.length > 2 && span > 0 ? (1000 * (arrivals.length - 1)) / span : null;
  dialog.dataset.rate = rate?.toFixed(1) ?? "";
  dialog.dataset.latency = latency?.toFixed(0) ?? "";
  meter.textContent = [rate && `${rate.toFixed(1)} of ${ready.fps} frames/s`, latency && `latency ${latency.toFixed(0)} ms`].filter(Boolean).join(" · ");
  if (arrivals.length > 20) slow = rate >= SLOW * ready.fps ? 0 : Math.abs(rate / slow - 1) < 0.3 ? slow : rate;
  warn();
}

// What to expect of the picture, in words that change seldom; first what the page has found out about this clip.
function warn() {
  const doubt = document.querySelector("#verdict .verdict")?.dataset.doubt, better = document.querySelector("#verdict [data-event=model]")?.dataset.model;
  const worn = branch && length >= WORN;
  const text = [slow && `This computer makes ${slow.toFixed(slow < 3 ? 1 : 0)} frames a second here; ${ready.fps} would be real time.`,
    doubt ? `${doubt}: do not trust the picture.${better ? ` ${better} does better.` : ""}`
      : worn ? "Errors grow with every frame: after a few seconds do not trust the picture. “Start again” brings a clear one."
      : ready && `Each frame is predicted from those before it. Trust the first ${Math.round(WORN / ready.fps)} seconds.`];
  const said = text.filter(Boolean).join(" ");
  if (warning.textContent !== said) warning.textContent = said;
  for (const [one, name] of [[anew, "primary"], [warning, "grave"]]) one.classList.toggle(name, !!worn);
}

function startAgain() {
  if (!branch) return;
  send({ restart: true });
  [paused, arrivals, latency, slow] = [false, [], null, 0];
  send({ pause: false });
  refresh();
}

// ---- driving -----------------------------------------------------------------------------------------

function steer() {
  if (!ready?.axes.length) return;
  const vector = input.vector(), moves = vector.some((number) => number);
  if (moves && autopilot) setAutopilot(false);
  if (moves && paused) { // who drives goes on, from the moment on the stage
    if (moment !== null && moment < length) fork(null);
    else setPaused(false);
  }
  const text = JSON.stringify(autopilot ? [] : vector);
  if (text === action) return;
  action = text;
  stamps.set(++count, performance.now());
  send({ action: JSON.parse(text), count });
}

function setAutopilot(on) {
  autopilot = on;
  drive.setAttribute("aria-pressed", on);
  steer();
}

function poll() {
  if (!dialog.open || !socket) return;
  input.poll();
  requestAnimationFrame(poll);
}

function setPaused(on) {
  if (!ready) return;
  if (!on && moment !== null && moment < length) return fork(null);
  paused = on;
  if (!on) {
    moment = null;
    arrivals = [];
  }
  send({ pause: on });
  refresh();
}

function lookAt(number) {
  if (!paused) setPaused(true);
  const first = branch.frames.keys().next().value;
  moment = Math.max(first, Math.min(length, number));
  refresh();
}

function goBack() {
  if (branch) lookAt((moment ?? length) - Math.round(BACK * ready.fps));
}

// Another branch from the moment on the stage; from the present one, a little earlier, else nothing could differ.
function fork(seed) {
  if (!branch) return;
  send({ fork: moment ?? Math.max(0, length - Math.round(BACK * ready.fps)), seed });
  paused = false;
  [arrivals, latency, slow] = [[], null, 0]; // measured anew
  send({ pause: false });
  refresh();
}

function setOther(value) {
  other = value;
  layOut();
  refresh();
}

// ---- pictures ----------------------------------------------------------------------------------------

async function paint(canvas, bytes) {
  canvas.bytes = bytes;
  if (ready.jpeg) {
    const picture = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" })).catch(() => null);
    if (picture && canvas.bytes === bytes) canvas.getContext("2d").drawImage(picture, 0, 0); // else a later one came
    return;
  }
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  for (let from = 0, to = 0; from < bytes.length; from += 3, to += 4) {
    image.data[to] = bytes[from];
    image.data[to + 1] = bytes[from + 1];
    image.data[to + 2] = bytes[from + 2];
    image.data[to + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

function draw() {
  if (!branch) return;
  const number = moment ?? length, [left, right] = panes;
  const main = other ? right : left;
  const bytes = branch.frames.get(number);
  if (bytes) paint(main.canvas, bytes);
  main.canvas.setAttribute("aria-label", number ? `Predicted frame ${number}` : "The clip's last frame");
  const name = (one) => `${one.id > (one === branch ? other : branch).id ? "what if" : "what was"}${branch.seed === other.seed ? "" : ` · seed ${one.seed}`}`;
  main.caption.textContent = other ? name(branch) : ready.chance ? `seed ${branch.seed}` : "";
  if (other) {
    const last = Math.max(...other.frames.keys()), shown = other.frames.get(Math.min(number, last));
    if (shown) paint(left.canvas, shown);
    left.figure.classList.toggle("ended", number > last);
    left.caption.textContent = number > last ? `${name(other)} · ends here` : name(other);
  } else {
    left.figure.classList.remove("ended");
  }
  time.min = branch.frames.keys().next().value ?? 0;
  time.max = length;
  time.value = number;
  where.textContent = `${(number / ready.fps).toFixed(1)} s`;
}

function refresh() {
  panes[1].figure.hidden = !other;
  swap.hidden = single.hidden = !other;
  reseed.hidden = ready && !ready.chance;
  goOn.hidden = !(moment !== null && moment < length);
  pause.textContent = paused ? "▶" : "❚❚";
  pause.setAttribute("aria-label", paused ? "Go on (space)" : "Pause (space)");
  input.area.hidden = !ready?.axes.length;
  meter.hidden = paused;
  draw();
}

// The largest pictures that fit, in a row or below each other.
function layOut() {
  const box = dialog.querySelector(".pictures"), count = other ? 2 : 1, [gap, caption] = [12, 26];
  const aspect = ready ? ready.size[0] / ready.size[1] : 1;
  const side = (columns, rows) => Math.min((box.clientWidth - gap * (columns - 1) - 6) / columns, (box.clientHeight / rows - caption) * aspect);
  const row = side(count, 1) > 0.8 * side(1, count); // where it makes little difference, in a row
  box.style.flexDirection = row ? "row" : "column";
  const width = Math.max(Math.floor(row ? side(count, 1) : side(1, count)), 64);
  dialog.style.setProperty("--side", `${width}px`);
  dialog.style.setProperty("--height", `${Math.round(width / aspect)}px`);
}

// ---- events ------------------------------------------------------------------------------------------

const SHORTCUTS = {
  Space: () => setPaused(!paused), Backspace: goBack, KeyN: () => fork(Math.floor(1e6 * Math.random())),
  Comma: () => lookAt((moment ?? length) - 1), Period: () => moment !== null && lookAt(moment + 1),
  Enter: () => moment !== null && moment < length && fork(null),
};

function key(event) {
  if (!dialog.open || event.ctrlKey || event.metaKey || event.altKey) return;
  const down = event.type === "keydown", onButton = event.target.closest?.("button, a");
  event.stopImmediatePropagation(); // the player behind has keys of its own
  if (onButton && ["Space", "Enter"].includes(event.code)) return;
  if (input.key(event.code, down)) return event.preventDefault();
  if (down && branch && SHORTCUTS[event.code]) {
    event.preventDefault();
    if (!event.repeat || event.code !== "Space") SHORTCUTS[event.code]();
  }
}
for (const name of ["keydown", "keyup"]) window.addEventListener(name, key, true);
for (const name of ["pointermove", "pointerdown", "keydown"]) {
  dialog.addEventListener(name, () => {
    if (performance.now() - touched < 5000) return;
    touched = performance.now();
    send({ awake: true });
  }, true);
}
time.addEventListener("input", () => lookAt(Number(time.value)));
window.addEventListener("blur", input.release);
window.addEventListener("stt-play", ({ detail }) => open(detail));
window.addEventListener("pagehide", close);
document.addEventListener("visibilitychange", () => document.hidden && socket && setPaused(true));
dialog.addEventListener("close", close);
new ResizeObserver(layOut).observe(dialog.querySelector(".pictures"));
