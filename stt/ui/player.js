// The player. Gradio runs this as a function's body with: element, trigger, props, upload, watch.
// What arrives in props.value is described in player.py. Events that leave: 'extend', 'restore', 'dropped'.

const OVERLAYS = {
  none: ["No overlay", null],
  spread: ["Where futures differ", [251, 146, 60]],
  surprise: ["Where the clip surprises", [56, 189, 248]],
};
const SPEEDS = [0.25, 0.5, 1, 2];
const VISIT = "stt-visit"; // ids of this visit's results, in the tab's own memory
const MOST_KEPT = 12;
const NARROW = 160; // pixels; below, there is no room for words on a caption's buttons
const root = () => (window.gradio_config?.root || location.origin + location.pathname).replace(/\/$/, "");
const file = (run, name) => `${root()}/runs/${run.id}/${name}`;

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
  on: "M11 2.5h2v11h-2zM3 2.5v11L10 8z", extend: "M2 7h7V3.5L14.5 8 9 12.5V9H2z",
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
  make("p", {}, "Its futures will grow here, one frame after the other."));
const stage = make("div", { class: "stage" }, empty, panels, status);
const play = button("Play or pause (space)", icon("play"), () => setPlaying(!playing), { class: "play" });
const time = make("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "Frame", class: "time" });
const mark = make("span", { class: "mark", title: "Here the prediction starts" });
const where = make("output", { class: "where" });
const speed = make("select", { "aria-label": "Speed", title: "Speed" },
  ...SPEEDS.map((s) => make("option", { value: s, selected: s === 1 }, `${s}×`)));
const loop = make("input", { type: "checkbox", checked: true });
const overlay = make("select", { "aria-label": "Overlay", title: "Overlay", class: "overlay" },
  ...Object.entries(OVERLAYS).map(([name, [text]]) => make("option", { value: name }, text)));
const all = make("a", { class: "all", download: true }, "Save all (mp4)");
const link = button("Copy a link to these settings", "Copy link", copyLink, { class: "link" });
const bar = make("div", { class: "bar" },
  button("One frame back (arrow left)", icon("back"), () => step(-1)), play, button("One frame on (arrow right)", icon("on"), () => step(1)),
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
let cells = []; // {canvas, caption, run, future}; future -1 is the clip
let charts = []; // functions of the frame on the stage
const results = new Map(); // this visit's, by id, oldest first
const kept = []; // {run, future}

const length = (run) => run.given + done(run);
const join = (run) => run.given + (run.state === "running" ? run.frames : done(run) || run.truth_frames); // where a gap ends
const done = (run) => run.strips.reduce((sum, part) => sum + part.frames, 0);
const drawable = (run) => run.strips.reduce((sum, part) => sum + (part.image.complete ? part.frames : 0), 0);
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

function picture(source) {
  if (!source) return null;
  const image = new Image();
  image.src = source;
  image.decode().then(draw, () => {});
  return image;
}

// A result's pictures, decoded once; what the page already has of it is kept.
function prepared(value, before) {
  const strips = value.strips.map((part, i) => before?.strips[i] || { ...part, image: picture(part.src) });
  const same = (name) => (before && before[name] === value[name] ? before.images[name] : picture(value[name]));
  const images = Object.fromEntries(["prompt", "truth", "ending", "spread", "surprise"].map((name) => [name, same(name)]));
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
    for (const cell of cells) if (cell.run === before) cell.run = current;
    refresh();
  } else {
    rebuild();
  }
}

function ended() { // by Stop or by an error: what there is stays and plays
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

function remember(run) {
  results.delete(run.id);
  results.set(run.id, run);
  while (results.size > MOST_KEPT) results.delete(results.keys().next().value);
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
    for (const { run, future } of kept) if (run.id !== current.id) cells.push(panel(run, future, true));
    panels.append(...cells.map((cell) => cell.figure));
  }
  for (const option of overlay.options) {
    option.disabled = option.value !== "none" && !current?.images?.[option.value];
    if (option.selected && option.disabled) overlay.value = "none";
  }
  tell();
  thumbnails();
  refresh();
}

function panel(run, future, fromKept = false) {
  const canvas = make("canvas", { width: run.size, height: run.size, role: "img" });
  const caption = make("span", { class: "name" });
  const action = future >= 0 && run.action ? make("span", { class: "action" }, run.action) : "";
  const tools = make("span", { class: "tools" });
  if (future >= 0 && (run.state === "done" || run.state === "stopped")) {
    const name = run.names[future];
    const isKept = kept.some((one) => one.run.id === run.id && one.future === future);
    tools.append(
      make("a", { href: file(run, `future-${future + 1}.mp4`), download: true, "aria-label": `Save ${name} as mp4`, title: "Save as mp4" }, "mp4"),
      make("a", { href: file(run, `future-${future + 1}.gif`), download: true, "aria-label": `Save ${name} as GIF`, title: "Save as GIF" }, "gif"),
      button(`Use ${name} as prompt`, tool("extend", "extend"), () => trigger("extend", { run: run.id, future }), { class: "extend" }),
      button(isKept ? `Let go of ${name}` : `Keep ${name}`, tool("star", isKept ? "kept" : "keep"), () => keep(run, future), { class: "keep", "aria-pressed": isKept }),
    );
  }
  const figure = make("figure", { class: `panel ${future < 0 ? "clip" : "future"} ${fromKept ? "kept" : ""}` },
    canvas, make("figcaption", {}, caption, action, tools));
  return { figure, canvas, caption, run, future };
}

function keep(run, future) {
  const at = kept.findIndex((one) => one.run.id === run.id && one.future === future);
  if (at >= 0) kept.splice(at, 1);
  else kept.push({ run, future });
  rebuild();
}

function refresh() {
  layOut();
  const total = current ? join(current) + current.ending_frames : 1;
  const share = (frame) => `${current ? (100 * frame) / Math.max(total, 1) : 0}%`;
  time.max = total - 1;
  mark.style.left = share(current?.given);
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

// ---- drawing -----------------------------------------------------------------------------------------

function moment(run, future, frame) { // [image, x, y, what it is]; imagined futures stand apart from the clip
  const size = run.size;
  if (frame < run.given) return [run.images.prompt, Math.max(frame, 0) * size, 0, run.imagined && future >= 0 ? "apart" : "known"];
  let after = frame - run.given;
  const beyond = Math.min(frame - join(run), run.ending_frames - 1);
  if (beyond >= 0) return [run.images.ending, beyond * size, 0, "known"];
  if (future < 0) {
    if (after < run.truth_frames) return [run.images.truth, after * size, 0, run.imagined ? "beside" : "truth"];
    return [run.images.prompt, (run.given - 1) * size, 0, "over"];
  }
  after = Math.min(after, done(run) - 1);
  for (const part of run.strips) {
    if (after < part.frames) return [part.image, after * size, future * size, "guessed"];
    after -= part.frames;
  }
  return [null, 0, 0, "waiting"];
}

// Whose a kept future is, beside those of another model.
const foreign = (run) => {
  const model = run.settings?.model;
  return run !== current && current.settings && model !== current.settings.model && model !== run.detail ? model : "";
};
const CAPTIONS = { known: "clip", truth: "what really happened", over: "the clip ends here", beside: "the clip goes on" };

function draw() {
  if (!current) return;
  if (current.state === "running") t = current.given + drawable(current) - 1; // follow what grows
  t = Math.min(t, Number(time.max));
  for (const { canvas, caption, run, future, figure, } of cells) {
    const [image, x, y, kind] = moment(run, future, run === current ? t : t - current.given + run.given);
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    if (image?.complete) { // until a new picture is decoded, the last one stays
      pen.clearRect(0, 0, run.size, run.size);
      pen.globalAlpha = kind === "over" || kind === "apart" ? 0.35 : 1;
      pen.drawImage(image, x, y, run.size, run.size, 0, 0, run.size, run.size);
      pen.globalAlpha = 1;
      if (run === current) lay(pen, run, future);
    }
    figure.dataset.kind = kind;
    const name = future < 0 ? CAPTIONS[kind] : [run.names[future], run.detail, foreign(run)].filter(Boolean).join(" · ");
    if (caption.textContent !== name) caption.textContent = name;
    if (future >= 0 && run.settings) caption.title = [name, run.action, run.settings.model].filter(Boolean).join(", ");
    canvas.setAttribute("aria-label", `${name}, frame ${t + 1}`);
  }
  time.value = t;
  const predicted = t - current.given + 1, after = current.ending_frames && t - join(current) + 1;
  const made = current.imagined ? "imagined" : current.between ? "filled in" : "predicted";
  const [kind, what, at, of] = predicted <= 0 ? ["known", current.between ? "before" : "clip", t + 1, current.given]
    : after > 0 ? ["known", "after", after, current.ending_frames]
    : ["guessed", made, Math.min(predicted, current.frames), current.frames];
  where.textContent = `${what} ${at} of ${of}`;
  where.dataset.kind = kind;
  for (const chart of charts) chart(t);
}

const tinted = new WeakMap();

function tint(image, [red, green, blue]) { // gray values become opacity
  if (!tinted.has(image)) {
    const canvas = make("canvas", { width: image.naturalWidth, height: image.naturalHeight });
    const pen = canvas.getContext("2d");
    pen.drawImage(image, 0, 0);
    const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < pixels.data.length; i += 4) {
      const value = pixels.data[i];
      pixels.data.set([red, green, blue, 0.75 * value], i); // what lies below stays visible
    }
    pen.putImageData(pixels, 0, 0);
    tinted.set(image, canvas);
  }
  return tinted.get(image);
}

function lay(pen, run, future) {
  const [, colour] = OVERLAYS[overlay.value];
  const image = run.images[overlay.value];
  if (!colour || !image?.complete || !image.naturalWidth) return;
  const spread = overlay.value === "spread";
  const at = spread ? t - run.given : t;
  const count = image.naturalWidth / (spread ? run.size : image.naturalHeight);
  if ((future >= 0) !== spread || at < 0 || at >= count) return;
  const side = image.naturalHeight;
  pen.imageSmoothingEnabled = true;
  pen.drawImage(tint(image, colour), at * side, 0, side, side, 0, 0, run.size, run.size);
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

// ---- words and curves --------------------------------------------------------------------------------

function tell() {
  facts.replaceChildren();
  curves.replaceChildren();
  charts = [];
  if (!current?.report) return;
  const { report } = current;
  facts.append(make("p", { class: "line" }, (current.facts || []).join(" · ")));
  if (report.notes.length) {
    const odd = !current.imagined && report.surprise?.unusual_frames.length;
    facts.append(make("p", { class: odd ? "notes odd" : "notes" }, report.notes.join(" ")));
  }
  const start = current.given;
  const several = current.names.length > 1;
  if (several) chart("Futures lie apart by", "%", [["guessed", start, report.spread.map((v) => 100 * v), "apart"]]);
  if (report.scores) {
    for (const [name, title, unit] of [["error", "Error to what happened", "%"], ["ssim", "Likeness to it (SSIM)", ""]]) {
      const futures = report.scores.futures[name];
      const [plain, called] = report.scores.blend ? ["blend", "blended"] : ["copy", "held still"]; // what takes no model
      const mean = futures[0].map((_, i) => futures.reduce((sum, line) => sum + line[i], 0) / futures.length);
      chart(title, unit, [
        ...(several ? futures.map((line) => ["faint", start, line]) : []),
        ["guessed", start, mean, several ? "mean" : "future"], ["copy", start, report.scores[plain][name], called]],
        null, name === "ssim" ? Math.min(...futures.flat(), ...report.scores[plain][name]) : 0);
    }
  }
  if (report.surprise) chart("Surprise of the clip", "bits", [["surprise", 1, report.surprise.bits, "a pixel"]], report.surprise.usual);
}

// lines: [class, first frame, values, name or nothing]; dotted: a value to compare with
function chart(title, unit, lines, dotted = null, low = 0) {
  const width = 240, height = 74, pad = 3;
  const total = current.given + Math.max(current.frames, current.truth_frames) + current.ending_frames;
  const values = lines.flatMap((line) => line[2]).concat(dotted ?? []);
  const high = Math.max(...values, low + 1e-9);
  const digits = high >= 10 ? 1 : high >= 1 ? 2 : 3;
  const x = (frame) => pad + ((width - 2 * pad) * frame) / Math.max(total - 1, 1);
  const y = (value) => height - pad - ((height - 2 * pad) * (value - low)) / (high - low);
  const plot = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": title });
  for (const edge of [current.given, ...(current.ending_frames ? [join(current)] : [])]) {
    plot.append(svg("line", { class: "start", x1: x(edge - 0.5), x2: x(edge - 0.5), y1: 0, y2: height }));
  }
  if (dotted != null) plot.append(svg("line", { class: "usual", x1: 0, x2: width, y1: y(dotted), y2: y(dotted) }));
  for (const [kind, first, line] of lines) {
    plot.append(svg("polyline", { class: kind, points: line.map((v, i) => `${x(first + i)},${y(v)}`).join(" ") }));
  }
  const cursor = svg("line", { class: "cursor", y1: 0, y2: height });
  plot.append(cursor);
  const reading = make("span", { class: "reading" });
  const figure = make("figure", { class: "chart" }, make("figcaption", {}, make("span", {}, title), make("span", { class: "top" }, `${low ? low.toFixed(digits) : 0} – ${high.toFixed(digits)} ${unit}`)), plot, reading);
  plot.addEventListener("click", (event) => {
    const box = plot.getBoundingClientRect();
    setPlaying(false);
    t = Math.round(((event.clientX - box.left) / box.width) * (total - 1));
    draw();
  });
  curves.append(figure);
  charts.push((frame) => {
    cursor.setAttribute("x1", x(frame));
    cursor.setAttribute("x2", x(frame));
    const named = lines.filter((line) => line[3]);
    reading.replaceChildren(...named.map(([kind, first, line, name]) => {
      const value = line[frame - first];
      return make("span", { class: kind }, `${name} ${value == null ? "–" : value.toFixed(digits) + (unit && ` ${unit}`)}`);
    }));
    if (dotted != null) reading.append(make("span", { class: "usual" }, `usual ≤ ${dotted.toFixed(digits)}`));
  });
}

// ---- this visit's results ----------------------------------------------------------------------------

function thumbnails() {
  strip.replaceChildren(...[...results.values()].reverse().map((run) => {
    const canvas = make("canvas", { width: run.size, height: run.size });
    const paint = () => {
      const [image, x, y] = moment(run, 0, length(run) - 1);
      canvas.getContext("2d").drawImage(image, x, y, run.size, run.size, 0, 0, run.size, run.size);
    };
    run.strips.at(-1)?.image?.decode().then(paint, () => {});
    const label = `Show again: ${run.names.length} × ${run.frames} frames, ${run.names[0]}`;
    const node = button(label, canvas, () => again(run), { class: "thumbnail", "aria-pressed": run === current });
    node.append(make("span", {}, run.names[0].replace(/^seed | future$/, "")));
    return node;
  }));
  visit.hidden = results.size === 0;
}

function again(run) {
  if (current?.state === "running") return;
  current = run;
  t = 0;
  setPlaying(!still);
  rebuild();
  trigger("restore", { run: run.id });
}

async function recall() { // after a reload of the page
  let names = [];
  try {
    names = JSON.parse(sessionStorage.getItem(VISIT) || "[]");
  } catch {}
  for (const name of names.slice(-MOST_KEPT)) {
    const answer = await fetch(`${root()}/runs/${encodeURIComponent(name)}.json`).catch(() => null);
    const value = answer?.ok ? await answer.json() : null;
    if (value && !results.has(name)) results.set(name, prepared(value));
  }
  thumbnails();
}

async function copyLink() {
  const address = new URL(location.href);
  address.search = new URLSearchParams(Object.entries(current.settings));
  const { clip } = current.report || {};
  if (clip) address.searchParams.set("clip", clip.name.replace(/\.\w+$/, ""));
  try {
    await navigator.clipboard.writeText(address.href);
    link.textContent = "Copied";
  } catch {
    prompt("The link to these settings:", address.href);
  }
  setTimeout(() => (link.textContent = "Copy link"), 1500);
}

// ---- events ------------------------------------------------------------------------------------------

time.addEventListener("input", () => {
  setPlaying(false);
  t = Number(time.value);
  draw();
});
overlay.addEventListener("change", draw);
new ResizeObserver(() => current && layOut()).observe(home);
window.addEventListener("stt-asked", () => (status.textContent = current ? "Waiting for the model …" : ""));
window.addEventListener("stt-ended", ended);
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input:not(.time), textarea, select, video, [contenteditable], [role=option]");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !current) return;
  const action = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), " ": () => setPlaying(!playing) }[event.key];
  if (!action || (event.key === " " && event.target.closest?.("button, a"))) return;
  event.preventDefault();
  action();
});
const files = (event) => [...(event.dataTransfer?.items || [])].some((item) => item.kind === "file");
document.addEventListener("dragover", (event) => files(event) && event.preventDefault());
document.addEventListener("drop", async (event) => {
  if (!files(event) || event.defaultPrevented || event.target.closest?.("#clip .wrap, #clip button")) return;
  event.preventDefault();
  const { path } = await upload(event.dataTransfer.files[0]);
  trigger("dropped", { path });
});

watch("value", () => show(props.value));
show(props.value);
recall();
