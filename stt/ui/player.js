// The player. Gradio runs this as a function's body with: element, trigger, props, watch.
// player.py makes props.value. Events to the server: 'extend', 'restore', 'compare'. The files player_*.js stand in
// front of this one, in the same function.

const SPEEDS = [0.25, 0.5, 1, 2];
const [VISIT, SHOWN, KEPT] = ["stt-visit", "stt-shown", "stt-kept"]; // in the tab's own memory: ids of this visit's results, of that on the stage, [id, future] of what is kept
const MAX_RESULTS = 12;
const PHONE = 860; // pixels of the window's width; below, one column
const root = () => (window.gradio_config?.root || location.origin + location.pathname).replace(/\/$/, "");
const file = (result, name) => `${root()}/runs/${result.id}/${name}`;

// ---- the page ----------------------------------------------------------------------------------------

const panels = make("div", { class: "panels" });
const status = make("p", { class: "status", role: "status" });
const empty = make("div", { class: "empty" },
  make("p", {}, make("b", {}, "Choose a clip, then press Predict.")),
  make("p", {}, "Its futures appear here, frame by frame."));
const busy = make("p", { class: "busy", role: "status" }); // what the page waits for
const stage = make("div", { class: "stage" }, empty, panels, busy);
const play = button("Play or pause (space)", icon("play"), () => setPlaying(!playing), { class: "play" });
const time = make("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "Frame", class: "time" });
const mark = make("span", { class: "mark", title: "The future starts here" });
const where = make("output", { class: "where" });
const speed = make("select", { "aria-label": "Speed", title: "Speed" },
  ...SPEEDS.map((s) => make("option", { value: s, selected: s === 1 }, `${s}×`)));
const all = make("a", { class: "all", download: true, onclick: save, title: "Save the clip beside all futures as one video (mp4)" }, "video");
const zip = make("a", { class: "zip", download: true, onclick: save, title: "Save all futures, one video each (zip)" }, "zip");
const saves = make("span", { class: "saves", role: "group", "aria-label": "Save" }, make("b", {}, "Save"), all, zip);
const link = button("Copy a link to this result", "Link", copyLink, { class: "link" });
const compare = button("Compare models: the same clip and seed by every model of this world", "Compare models", () => trigger("compare"), { class: "compare" });
const bar = make("div", { class: "bar" },
  button("One frame back (arrow left)", icon("back"), () => step(-1)), play, button("One frame forward (arrow right)", icon("forward"), () => step(1)),
  make("span", { class: "track" }, time, mark), where, speed,
  button("Full screen (f)", icon("full"), fullScreen), compare, saves, link);
const facts = make("div", { class: "facts" });
const strip = make("div", { class: "strip" });
const visit = make("div", { class: "visit" }, make("span", { class: "title" }, "This visit"), strip);
const home = element.querySelector(".player");
home.append(stage, bar, make("div", { class: "below" }, status, facts), measures, visit);

// ---- state -------------------------------------------------------------------------------------------

let current = null; // the result on the stage
let earlier = null; // [result, pinned ones] before the prediction that runs
let asked = null; // number of futures
let t = 0; // frame on the stage, from 0
let playing = false;
let cells = []; // {figure, canvas, caption, result, future}; future -1 is the clip
let enlarged = -1; // index of the only cell to be seen
let charts = []; // functions of the frame on the stage
const results = new Map(); // this visit's, by id, oldest first
const pinned = []; // {result, future, kept, compared}: what only a comparison has brought leaves with the next prediction

const done = (result) => result.strips.reduce((sum, part) => sum + part.frames, 0);
const length = (result) => result.context_frames + done(result);
const drawable = (result) => result.strips.reduce((sum, part) => sum + (part.image.complete ? part.frames : 0), 0);
const predicted = (result) => result.state === "ready" && !result.between ? 0 : result.state === "running" ? result.frames : done(result) || result.truth_frames;
const join = (result) => result.context_frames + predicted(result); // where a gap ends
const finished = (result) => result?.state === "done" || result?.state === "stopped";
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
  if (value.state === "ready" && finished(current) && value.key === current.key) return;
  const left = finished(current) && results.has(current.id);
  const before = current && value.id && current.id === value.id ? current : results.get(value.id);
  const grown = before === current && before;
  if (value.state === "running" && !grown) earlier = finished(current) ? [current, [...pinned]] : null;
  if (!grown) placeCompared(value);
  current = prepared(value, before);
  if (value.state === "ready" && asked) current.names = futureNames(asked);
  if (value.state === "ready") current.status = left ? "The result before is under “This visit”." : "Press Predict to see how it may go on.";
  if (value.state === "done" && !value.precomputed) remember(current);
  if (value.state === "running" || value.state === "done") wait("");
  if (value.state === "running") {
    if (!grown) scrollToStage();
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

const futureNames = (count) => Array.from({ length: count }, (_, k) => `future ${k + 1}`);

// Results of other models that a comparison shows beside this one.
function placeCompared(value) {
  const others = pinned.filter((one) => one.kept).map((one) => ({ ...one, compared: false }));
  const beside = (value.beside || []).map((id) => results.get(id)).filter(Boolean);
  const compared = beside.map((result) => ({ result, future: 0, compared: true, kept: others.some((one) => one.result === result && !one.future) }));
  pinned.splice(0, pinned.length, ...compared, ...others.filter((one) => one.future || !beside.includes(one.result)));
}

// ---- waiting -----------------------------------------------------------------------------------------

let patience = null;

function wait(text) {
  busy.textContent = text;
  home.toggleAttribute("data-waits", !!text);
  if (!text) clearInterval(patience);
}

function waitForTurn() { // Gradio alone knows the place in the queue; its own display stays hidden
  wait("Waiting for the model …");
  clearInterval(patience);
  patience = setInterval(() => {
    const [, place] = document.querySelector("#player .progress-text")?.textContent.match(/(\d+)\s*\/\s*\d+/) || [];
    if (place) wait(place === "1" ? "You are next: somebody else's prediction is running." : `${place - 1} before you in the queue.`);
  }, 250);
}

function endPrediction() { // by Stop or by an error: the frames so far stay and play, else the result before
  wait("");
  if (current?.state !== "running") return void (status.textContent = current?.status || "");
  const count = done(current), { id, frames } = current, none = "Stopped before the first frame";
  if (!count && earlier) {
    current = earlier[0];
    pinned.splice(0, pinned.length, ...earlier[1]);
    rebuild();
    setPlaying(!still);
    return void (status.textContent = `${none}; this is the result before`);
  }
  current = count ? { ...current, state: "stopped", status: stoppedAfter(count, frames), frames: count, ending_frames: 0 }
    : { ...current, state: "ready", status: none, names: futureNames(current.names.length) };
  if (count) completeStopped(id, frames);
  t = 0;
  setPlaying(!still);
  rebuild();
}

const stoppedAfter = (count, frames) => (count < frames ? `Stopped after ${count} of ${frames} frames` : "");

async function completeStopped(id, frames) { // the server knows its facts and measures a moment later
  for (let tries = 0; tries < 20 && current?.id === id; tries++) {
    const value = await load(id);
    if (value && current?.id === id) {
      current = prepared({ ...value, state: "stopped", status: stoppedAfter(value.frames, frames) }, null);
      remember(current);
      return rebuild();
    }
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
}

const scrollToStage = () => window.innerWidth <= PHONE && home.scrollIntoView({ behavior: "smooth" });

// ---- panels ------------------------------------------------------------------------------------------

function rebuild() {
  home.dataset.state = current?.state || "empty";
  memorize(SHOWN, finished(current) && !current.precomputed ? current.id : "");
  memorize(KEPT, JSON.stringify(pinned.filter((one) => one.kept).map(({ result, future }) => [result.id, future])));
  panels.replaceChildren();
  cells = [];
  enlarged = -1;
  if (current) {
    cells = [panel(current, -1)];
    const others = pinned.filter((one) => one.compared), kept = pinned.filter((one) => !one.compared && one.result.id !== current.id);
    const add = (list) => list.forEach(({ result, future }) => cells.push(panel(result, future, true)));
    add(others.slice(0, current.place ?? 0));
    current.names.forEach((_, k) => cells.push(panel(current, k)));
    add([...others.slice(current.place ?? 0), ...kept]);
    panels.append(...cells.map((cell) => cell.figure));
  }
  showMeasures();
  thumbnails();
  refresh();
}

function panel(result, future, extra = false) {
  const [width, height] = result.size, canvas = make("canvas", { width, height, class: isLarge(result) ? "large" : "" });
  const face = button("", canvas, () => enlarge(cells.findIndex((cell) => cell.canvas === canvas)), { class: "face" });
  const caption = make("span", { class: "name" });
  const action = future >= 0 && result.action ? make("span", { class: "action" }, result.action) : "";
  const tools = make("span", { class: "tools" });
  if (future >= 0 && finished(result)) {
    const name = result.names[future];
    const isPinned = pinned.some((one) => one.kept && one.result.id === result.id && one.future === future);
    const video = (kind) => make("a", { href: file(result, `future-${future + 1}.${kind}`), download: true, onclick: save, "aria-label": `Save ${name} as ${kind}`, title: `Save as ${kind}` }, kind);
    tools.append(make("span", { class: "saves" }, video("mp4"), video("gif")),
      button(`Continue ${name}: its end becomes the clip`, "Continue", () => {
        window.sttTurns.take(() => trigger("extend", { result: result.id, future }));
        waitForClip(`The end of ${name} becomes the clip …`);
      }, { class: "extend" }),
      button(isPinned ? `Let go of ${name}` : `Keep ${name} beside the next futures`, isPinned ? "Kept ×" : "Keep", () => pin(result, future), { class: "pin", "aria-pressed": isPinned }));
  }
  const figure = make("figure", { class: `panel ${future < 0 ? "clip" : "future"} ${extra ? "pinned" : ""}` },
    face, make("figcaption", {}, make("span", { class: "title" }, caption, action), tools));
  return { figure, face, canvas, caption, result, future };
}

async function save(event) { // the server makes a video when somebody asks for it first
  const anchor = event.currentTarget, words = `Making the ${anchor.textContent} …`;
  if (anchor.dataset.made === anchor.href) return;
  event.preventDefault();
  busy.textContent = words;
  const answer = await fetch(anchor.href).catch(() => null);
  if (busy.textContent === words) busy.textContent = "";
  if (!answer?.ok) return void (status.textContent = `Not saved: ${answer ? await answer.text() : "the app does not answer."}`);
  answer.body.cancel(); // it comes once more, as a file
  anchor.dataset.made = anchor.href;
  anchor.click();
}

function pin(result, future) {
  const at = pinned.findIndex((one) => one.result.id === result.id && one.future === future);
  if (at < 0) pinned.push({ result, future, kept: true });
  else if (pinned[at].compared) pinned[at].kept = !pinned[at].kept;
  else pinned.splice(at, 1);
  rebuild();
}

function enlarge(k) {
  if (cells[k]?.figure.dataset.kind === "waiting") return; // there is nothing to see
  enlarged = enlarged === k ? -1 : k;
  cells.forEach((cell, i) => (cell.figure.hidden = enlarged >= 0 && i !== enlarged));
  layOut();
}

function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else home.requestFullscreen?.();
}

function refresh() {
  layOut();
  const total = current ? join(current) + current.ending_frames : 1;
  const share = (frame) => `${current ? (100 * frame) / Math.max(total, 1) : 0}%`;
  time.max = total - 1;
  mark.style.left = share(current?.context_frames);
  mark.hidden = current?.state === "ready";
  home.style.setProperty("--start", mark.style.left);
  home.style.setProperty("--end", share(current && join(current)));
  bar.hidden = !current;
  for (const node of [saves, link]) node.hidden = !finished(current);
  compare.hidden = !current || current.between || current.imagined || !((props.rivals || {})[current.model] > 1);
  compare.disabled = current?.state === "running";
  if (!saves.hidden) [all.href, zip.href] = [file(current, "side-by-side.mp4"), file(current, "futures.zip")];
  status.textContent = current?.status || "";
  empty.hidden = !!current;
  draw();
}

// ---- playing -----------------------------------------------------------------------------------------

let last = 0;

function tick(now) {
  if (!playing || !current || !home.isConnected) return;
  const pause = 1000 / (current.fps * Number(speed.value));
  if (now - last >= pause) {
    last = now - last > 4 * pause ? now : last + pause;
    t = t < Number(time.max) ? t + 1 : 0;
    draw();
  }
  requestAnimationFrame(tick);
}

function setPlaying(on) {
  const was = playing;
  playing = on && !!current;
  play.replaceChildren(icon(playing ? "pause" : "play"));
  if (playing && !was) {
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
window.addEventListener("resize", () => current && layOut());
document.addEventListener("fullscreenchange", () => current && layOut());
window.addEventListener("stt-start", waitForTurn);
window.addEventListener("stt-end", endPrediction);
window.addEventListener("stt-stop", () => wait("Stopping …"));
window.addEventListener("stt-result", async ({ detail }) => { // a live session's
  const answer = await fetch(`${root()}/runs/${encodeURIComponent(detail)}.json`);
  if (answer.ok) show(await answer.json());
});
async function waitForClip(text) { // until the page shows what the visitor has chosen
  wait(text);
  await window.sttTurns.free();
  if (busy.textContent === text) wait("");
}

window.addEventListener("stt-example", ({ detail }) => {
  scrollToStage();
  waitForClip(detail ? `Loading “${detail}” …` : "Loading the example …");
});
window.addEventListener("stt-futures", ({ detail }) => { // as many places as are asked for
  asked = detail;
  if (current?.state !== "ready" || current.names.length === asked) return;
  current.names = futureNames(asked);
  rebuild();
});
window.addEventListener("stt-wait", ({ detail }) => waitForClip(detail));
const linked = [...new URLSearchParams(location.search).keys()].some((name) => !name.startsWith("__")); // those are Gradio's
if (linked || localStorage.getItem("stt-visited")) { // else the page stays as it opens
  const opening = setInterval(() => {
    if (!window.sttTurns) return;
    clearInterval(opening);
    waitForClip(linked ? "Opening the link …" : "Opening your last visit …");
  }, 50);
}
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input:not(.time), textarea, select, video, [contenteditable], [role=option], [role=tab]");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !current) return;
  const actions = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), " ": () => setPlaying(!playing), f: fullScreen, Escape: () => enlarged >= 0 && enlarge(enlarged) };
  const action = actions[event.key];
  if (!action || (event.key === " " && event.target.closest?.("button, a, summary"))) return;
  event.preventDefault();
  action();
});
const reloads = performance.getEntriesByType("navigation")[0]?.type === "reload", [onStage, kept] = reloads ? [recall(SHOWN), JSON.parse(recall(KEPT) || "[]")] : ["", []];
watch("value", () => show(props.value));
show(props.value);
loadVisit(onStage).then(() => keepAgain(kept));
