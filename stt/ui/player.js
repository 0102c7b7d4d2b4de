// The player. Gradio runs this as a function's body with: element, trigger, props, watch.
// player.py makes props.value. Events to the server: 'extend', 'restore'. The files player_*.js stand in front
// of this one, in the same function.

const OVERLAYS = {
  none: ["No overlay", null],
  spread: ["Spread", [251, 146, 60]],
  surprise: ["Surprise", [56, 189, 248]],
};
const SPEEDS = [0.25, 0.5, 1, 2];
const VISIT = "stt-visit"; // ids of this visit's results, in the tab's own memory
const MAX_RESULTS = 12;
const NARROW = 160; // pixels; below, there is no room for words on a caption's buttons
const root = () => (window.gradio_config?.root || location.origin + location.pathname).replace(/\/$/, "");
const file = (result, name) => `${root()}/runs/${result.id}/${name}`;

const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("aria-")) node.setAttribute(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
};
const svg = (tag, attributes = {}, ...children) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};
const ICONS = { // 16 x 16
  play: "M4 2.5v11l9-5.5z", pause: "M4 2.5h3v11H4zM9 2.5h3v11H9z", back: "M3 2.5h2v11H3zM13 2.5v11L6 8z",
  forward: "M11 2.5h2v11h-2zM3 2.5v11L10 8z", extend: "M2 7h7V3.5L14.5 8 9 12.5V9H2z",
  star: "M8 1.5l2 4.3 4.7.6-3.5 3.2.9 4.7L8 12l-4.1 2.3.9-4.7L1.300 6.400 6 5.800z",
};
const icon = (name) => svg("svg", { viewBox: "0 0 16 16", width: 14, height: 14, class: "icon", "aria-hidden": "true" },
  svg("path", { d: ICONS[name] }));
const tool = (picture, word) => make("span", {}, icon(picture), make("span", { class: "word" }, word));
const button = (label, text, action, more = {}) =>
  make("button", { type: "button", "aria-label": label, title: label, onclick: action, ...more }, text);

// ---- the page ----------------------------------------------------------------------------------------

const panels = make("div", { class: "panels" });
const status = make("p", { class: "status", role: "status" });
const empty = make("div", { class: "empty" },
  make("p", {}, make("b", {}, "Choose a clip, then press Predict.")),
  make("p", {}, "Its futures appear here, frame by frame."));
const stage = make("div", { class: "stage" }, empty, panels, status);
const play = button("Play or pause (space)", icon("play"), () => setPlaying(!playing), { class: "play" });
const time = make("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "Frame", class: "time" });
const mark = make("span", { class: "mark", title: "The prediction starts here" });
const where = make("output", { class: "where" });
const speed = make("select", { "aria-label": "Speed", title: "Speed" },
  ...SPEEDS.map((s) => make("option", { value: s, selected: s === 1 }, `${s}×`)));
const loop = make("input", { type: "checkbox", checked: true });
const overlay = make("select", { "aria-label": "Overlay", title: "Overlay", class: "overlay" },
  ...Object.entries(OVERLAYS).map(([name, [text]]) => make("option", { value: name }, text)));
const all = make("a", { class: "all", download: true }, "Save all (mp4)");
const link = button("Copy a link to these settings", "Copy link", copyLink, { class: "link" });
const bar = make("div", { class: "bar" },
  button("One frame back (arrow left)", icon("back"), () => step(-1)), play, button("One frame forward (arrow right)", icon("forward"), () => step(1)),
  make("span", { class: "track" }, time, mark), where, speed, make("label", { class: "loop" }, loop, "Loop"), overlay, all, link);
const facts = make("div", { class: "facts" });
const curves = make("div", { class: "curves" });
const strip = make("div", { class: "strip" });
const visit = make("div", { class: "visit" }, make("span", { class: "title" }, "This visit"), strip);
const home = element.querySelector(".player");
home.append(stage, bar, facts, curves, visit);

// ---- state -------------------------------------------------------------------------------------------

let current = null; // the result on the stage
let t = 0; // frame on the stage, from 0
let playing = false;
let cells = []; // {canvas, caption, result, future}; future -1 is the clip
let charts = []; // functions of the frame on the stage
const results = new Map(); // this visit's, by id, oldest first
const pinned = []; // {result, future}

const length = (result) => result.context_frames + done(result);
const join = (result) => result.context_frames + (result.state === "running" ? result.frames : done(result) || result.truth_frames); // where a gap ends
const done = (result) => result.strips.reduce((sum, part) => sum + part.frames, 0);
const drawable = (result) => result.strips.reduce((sum, part) => sum + (part.image.complete ? part.frames : 0), 0);
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

function picture(source) {
  if (!source) return null;
  const image = new Image();
  image.src = source;
  image.decode().then(draw, () => {});
  return image;
}

// A result's pictures, decoded once; what the page already has is used again.
function prepared(value, before) {
  const strips = value.strips.map((part, i) => before?.strips[i] || { ...part, image: picture(part.src) });
  const same = (name) => (before && before[name] === value[name] ? before.images[name] : picture(value[name]));
  const images = Object.fromEntries(["context", "truth", "ending", "spread", "surprise"].map((name) => [name, same(name)]));
  return { ...value, strips, images };
}

function show(value) {
  if (!value || !value.state || value.state === "empty") {
    current = null;
    setPlaying(false);
    return rebuild();
  }
  const finished = current && current.state !== "running" && current.state !== "ready";
  if (value.state === "ready" && finished && value.key === current.key && !value.anew) return;
  const before = current && value.id && current.id === value.id ? current : results.get(value.id);
  const grown = before === current && before;
  current = prepared(value, before);
  if (value.state === "done" && !value.precomputed) remember(current);
  if (value.state === "running") {
    if (!grown && window.innerWidth <= 860) home.scrollIntoView({ behavior: "smooth" });
    setPlaying(false);
  } else if (!grown || grown.state === "running") {
    t = 0;
    setPlaying(!still);
  }
  if (grown && current.state === "running" && before.state === "running") {
    for (const cell of cells) if (cell.result === before) cell.result = current;
    refresh();
  } else {
    rebuild();
  }
}

function endPrediction() { // by Stop or by an error: the frames so far stay and play
  if (current?.state !== "running") return void (status.textContent = current?.status || "");
  if (!done(current)) {
    current = { ...current, state: "ready", status: "" };
  } else {
    current = { ...current, state: "stopped", status: `Stopped after ${done(current)} of ${current.frames} frames`, frames: done(current), ending_frames: 0 };
    remember(current);
  }
  t = 0;
  setPlaying(!still);
  rebuild();
}

function remember(result) {
  results.delete(result.id);
  results.set(result.id, result);
  while (results.size > MAX_RESULTS) results.delete(results.keys().next().value);
  try {
    sessionStorage.setItem(VISIT, JSON.stringify([...results.keys()]));
  } catch {}
}

// ---- panels ------------------------------------------------------------------------------------------

function rebuild() {
  home.dataset.state = current?.state || "empty";
  panels.replaceChildren();
  cells = [];
  if (current) {
    cells = [panel(current, -1)];
    current.names.forEach((_, k) => cells.push(panel(current, k)));
    for (const { result, future } of pinned) if (result.id !== current.id) cells.push(panel(result, future, true));
    panels.append(...cells.map((cell) => cell.figure));
  }
  for (const option of overlay.options) {
    option.disabled = option.value !== "none" && !current?.images?.[option.value];
    if (option.selected && option.disabled) overlay.value = "none";
  }
  showReport();
  thumbnails();
  refresh();
}

function panel(result, future, extra = false) {
  const canvas = make("canvas", { width: result.size, height: result.size, role: "img" });
  const caption = make("span", { class: "name" });
  const action = future >= 0 && result.action ? make("span", { class: "action" }, result.action) : "";
  const tools = make("span", { class: "tools" });
  if (future >= 0 && (result.state === "done" || result.state === "stopped")) {
    const name = result.names[future];
    const isPinned = pinned.some((one) => one.result.id === result.id && one.future === future);
    tools.append(
      make("a", { href: file(result, `future-${future + 1}.mp4`), download: true, "aria-label": `Save ${name} as mp4`, title: "Save as mp4" }, "mp4"),
      make("a", { href: file(result, `future-${future + 1}.gif`), download: true, "aria-label": `Save ${name} as GIF`, title: "Save as GIF" }, "gif"),
      button(`Use ${name} as prompt`, tool("extend", "extend"), () => trigger("extend", { result: result.id, future }), { class: "extend" }),
      button(isPinned ? `Unpin ${name}` : `Pin ${name}`, tool("star", isPinned ? "pinned" : "pin"), () => pin(result, future), { class: "pin", "aria-pressed": isPinned }),
    );
  }
  const figure = make("figure", { class: `panel ${future < 0 ? "clip" : "future"} ${extra ? "pinned" : ""}` },
    canvas, make("figcaption", {}, caption, action, tools));
  return { figure, canvas, caption, result, future };
}

function pin(result, future) {
  const at = pinned.findIndex((one) => one.result.id === result.id && one.future === future);
  if (at >= 0) pinned.splice(at, 1);
  else pinned.push({ result, future });
  rebuild();
}

function refresh() {
  layOut();
  const total = current ? join(current) + current.ending_frames : 1;
  const share = (frame) => `${current ? (100 * frame) / Math.max(total, 1) : 0}%`;
  time.max = total - 1;
  mark.style.left = share(current?.context_frames);
  home.style.setProperty("--start", mark.style.left);
  home.style.setProperty("--end", share(current && join(current)));
  bar.hidden = !current;
  all.hidden = link.hidden = !(current?.state === "done" || current?.state === "stopped");
  if (!all.hidden) all.href = file(current, "side-by-side.mp4");
  status.textContent = current?.status || "";
  empty.hidden = !!current;
  draw();
}

// The clip at the left, its futures in rows beside it; the largest squares that fit, whole multiples of the clip's
// pixels where there is room.
function layOut() {
  const futures = Math.max(cells.length - 1, 1), gap = 10;
  const width = panels.clientWidth || home.clientWidth - 20;
  const phone = window.innerWidth <= 860;
  let best = { side: 0 };
  for (let rows = 1; rows <= futures; rows++) {
    const columns = Math.ceil(futures / rows);
    const across = (width - gap * columns) / (columns + 1);
    const high = (478 - gap * (rows - 1)) / rows - 42; // a caption's lines
    const side = Math.min(across, high, 320);
    if (side > best.side + 1) best = { side, rows, columns };
  }
  if (phone) best = { side: Math.min((width - gap) / 2, 320), rows: 1, columns: 1 };
  const pixel = (current?.size || 64) / (window.devicePixelRatio || 1); // CSS pixels of a whole picture, unenlarged
  const side = best.side >= 2 * pixel ? Math.floor(best.side / pixel) * pixel : Math.floor(best.side);
  panels.style.setProperty("--side", `${Math.max(side, 40)}px`);
  panels.style.setProperty("--columns", best.columns + 1);
  if (cells.length) cells[0].figure.style.gridRow = phone ? "" : `1 / span ${best.rows}`;
  home.dataset.narrow = side < NARROW;
}

// ---- playing -----------------------------------------------------------------------------------------

let last = 0;

function tick(now) {
  if (!playing || !current || !home.isConnected) return;
  const pause = 1000 / (current.fps * Number(speed.value));
  if (now - last >= pause) {
    last = now - last > 4 * pause ? now : last + pause;
    if (t < Number(time.max)) t += 1;
    else if (loop.checked) t = 0;
    else return setPlaying(false);
    draw();
  }
  requestAnimationFrame(tick);
}

function setPlaying(on) {
  const was = playing;
  playing = on && !!current;
  play.replaceChildren(icon(playing ? "pause" : "play"));
  if (playing && !was) {
    if (t >= Number(time.max) && !loop.checked) t = 0;
    last = performance.now();
    requestAnimationFrame(tick);
  }
}

function step(by) {
  if (!current) return;
  setPlaying(false);
  const count = Number(time.max) + 1;
  t = (t + by + count) % count;
  draw();
}

// ---- events ------------------------------------------------------------------------------------------

time.addEventListener("input", () => {
  setPlaying(false);
  t = Number(time.value);
  draw();
});
overlay.addEventListener("change", draw);
new ResizeObserver(() => current && layOut()).observe(home);
window.addEventListener("stt-start", () => (status.textContent = current ? "Waiting for the model …" : ""));
window.addEventListener("stt-end", endPrediction);
window.addEventListener("stt-result", async ({ detail }) => { // a live session's
  const answer = await fetch(`${root()}/runs/${encodeURIComponent(detail)}.json`);
  if (answer.ok) show(await answer.json());
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input:not(.time), textarea, select, video, [contenteditable], [role=option]");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !current) return;
  const action = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), " ": () => setPlaying(!playing) }[event.key];
  if (!action || (event.key === " " && event.target.closest?.("button, a"))) return;
  event.preventDefault();
  action();
});
watch("value", () => show(props.value));
show(props.value);
loadVisit();
