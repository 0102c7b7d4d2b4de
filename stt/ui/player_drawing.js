// The player's nodes, layout and canvases; see player.js.

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
  forward: "M11 2.5h2v11h-2zM3 2.5v11L10 8z",
  full: "M2 2h5v2H4v3H2zM14 2v5h-2V4H9V2zM2 14V9h2v3h3v2zM14 14H9v-2h3V9h2z",
};
const icon = (name) => svg("svg", { viewBox: "0 0 16 16", width: 14, height: 14, class: "icon", "aria-hidden": "true" },
  svg("path", { d: ICONS[name] }));
const button = (label, content, action, more = {}) =>
  make("button", { type: "button", "aria-label": label, title: label, onclick: action, ...more }, content);

// ---- layout ------------------------------------------------------------------------------------------

const GAP = 12, BELOW = 118; // pixels: between panels; below the stage: bar, facts, measures
// Names that say more than a seed have a line of their own above the tools.
const wordy = () => cells.some(({ result, future }) => future >= 0 && (result.action || result.detail || result.model !== current.model));
const steered = () => cells.some(({ result, future }) => future >= 0 && result.action);
// name and tools in two lines or in one; what steers a future has lines of its own
const captionHeight = (side) => (steered() ? (side < 220 ? 106 : 66) : side < 300 || wordy() ? 46 : 30);

// The clip and its futures in rows, the last one in the middle: the largest pictures that fit the window.
function layOut() {
  const compared = current?.beside ? 1 + (props.rivals?.[current.model] || 0) : 0; // places of a comparison that runs
  const count = Math.max(cells.length, compared, 2), phone = window.innerWidth <= PHONE, full = !!document.fullscreenElement;
  const width = stage.clientWidth - 2 * GAP;
  const top = full ? 0 : stage.getBoundingClientRect().top + window.scrollY;
  const height = Math.max(window.innerHeight - top - (full ? 60 : BELOW), 320) - 2 * GAP;
  const across = (columns) => (width - GAP * (columns - 1)) / columns;
  const size = current?.size || [64, 64], aspect = size[0] / size[1];
  let best = { side: 0, columns: 2 }; // side: width of a picture
  if (enlarged >= 0) best = { side: Math.min(width, ((phone ? window.innerHeight - 140 : height) - 30) * aspect), columns: 1 };
  else if (phone) {
    const columns = aspect > 1.2 && count === 2 ? 1 : 2;
    best = { side: across(columns), columns };
  } else {
    for (let rows = 1; rows <= count; rows++) {
      const columns = Math.ceil(count / rows), each = (height - GAP * (rows - 1)) / rows;
      const side = Math.min(across(columns), (each - captionHeight(Math.min(across(columns), each * aspect))) * aspect);
      if (side > 1.05 * best.side) best = { side, columns };
    }
  }
  // whole multiples of the clip's pixels, unless much would be lost
  const pixel = size[0] / (window.devicePixelRatio || 1), whole = Math.floor(best.side / pixel) * pixel;
  const side = Math.max(Math.floor(whole > 0.96 * best.side ? whole : best.side), 40);
  stage.style.minHeight = phone ? "" : `${height + 2 * GAP}px`;
  panels.classList.toggle("wordy", wordy());
  panels.classList.toggle("narrow", side < 190);
  panels.style.setProperty("--side", `${side}px`);
  panels.style.setProperty("--height", `${Math.round(side / aspect)}px`);
  panels.style.setProperty("--caption", `${captionHeight(side)}px`);
  panels.style.maxWidth = `${best.columns * (side + GAP)}px`; // no more in a row
}

// ---- drawing -----------------------------------------------------------------------------------------

const STRIP_WIDTH = 16384; // pixels, as in player.py
const isLarge = (result) => Math.max(...result.size) > 128; // no pixel of these can be told from the next

function place(result, number, row = 0) { // x and y of a frame in a strip, whose rows go on in the next ones
  const [width, height] = result.cell, most = Math.max(Math.floor(STRIP_WIDTH / width), 1);
  return [(number % most) * width, (row + Math.floor(number / most)) * height];
}

function pictureOf(result, future, frame) { // [image, x, y, kind]; imagined futures did not see the clip
  const at = (number) => place(result, number);
  if (frame < result.context_frames) return [result.images.context, ...at(Math.max(frame, 0)), result.imagined && future >= 0 ? "unused" : "clip"];
  let after = frame - result.context_frames;
  const beyond = Math.min(frame - join(result), result.ending_frames - 1);
  if (beyond >= 0) return [result.images.ending, ...at(beyond), "clip"];
  if (future < 0) {
    if (after < result.truth_frames) return [result.images.truth, ...at(after), result.imagined ? "beside" : "truth"];
    const more = (result.first ?? 0) + result.context_frames + result.truth_frames < (result.clip_frames ?? 0); // which nothing is compared with
    if (result.truth_frames) return [result.images.truth, ...at(result.truth_frames - 1), more ? "held" : "ended"];
    return [result.images.context, ...at(result.context_frames - 1), more || !result.clip ? "held" : "ended"];
  }
  after = Math.min(after, done(result) - 1);
  for (const part of result.strips) {
    if (after < part.frames) return [part.image, ...place(result, after, future), "future"];
    after -= part.frames;
  }
  return [null, 0, 0, "waiting"];
}

const CAPTIONS = { clip: "clip", truth: "what really happened", ended: "clip, ended", held: "clip, held", beside: "the clip goes on" };

function nameOf(result, future, kind) {
  if (future < 0) return result.clip ? CAPTIONS[kind] : "no clip";
  const models = new Set(cells.map((cell) => cell.result.model));
  const other = result.clip && current.clip && result.clip !== current.clip ? result.clip : ""; // it was kept from another clip
  return [other, models.size > 1 ? result.model : "", result.names[future], result.detail].filter(Boolean).join(" · ");
}

function draw() {
  if (!current) return;
  if (current.state === "running") t = current.context_frames + drawable(current) - 1; // the newest frame
  t = Math.min(t, Number(time.max));
  for (const { canvas, face, caption, result, future, figure } of cells) {
    const shown = pictureOf(result, future, result === current ? t : t - current.context_frames + result.context_frames);
    const [image, x, y] = shown, kind = result.state === "ready" && future >= 0 ? "waiting" : shown[3];
    const pen = canvas.getContext("2d"), size = result.size;
    pen.imageSmoothingEnabled = false;
    if (kind === "waiting") pen.clearRect(0, 0, ...size);
    else if (image?.complete) { // until a new picture is decoded, the last one stays
      pen.clearRect(0, 0, ...size);
      pen.globalAlpha = kind === "ended" || kind === "held" || kind === "unused" ? 0.35 : 1;
      pen.drawImage(image, x, y, ...size, 0, 0, ...size);
      pen.globalAlpha = 1;
      if (result === current) drawOverlay(pen, result, future);
    }
    figure.dataset.kind = kind;
    const name = nameOf(result, future, kind);
    if (caption.textContent !== name) {
      caption.textContent = name;
      caption.title = [name, result.action, result.model].filter(Boolean).join(", ");
      face.setAttribute("aria-label", `Enlarge: ${name}`);
      face.title = kind === "waiting" ? "" : "Click to enlarge";
    }
  }
  time.value = t;
  const ahead = t - current.context_frames + 1, after = current.ending_frames && t - join(current) + 1;
  const made = current.imagined ? "imagined" : current.between ? "filled in" : "predicted";
  const before = current.first ?? 0, total = current.clip_frames ?? current.context_frames; // frames count as the clip does
  const [kind, what, at, of] = ahead <= 0 ? ["clip", "clip", before + t + 1, total]
    : after > 0 ? ["clip", "clip", before + t + 1, total]
    : current.state === "ready" ? ["clip", "gap", ahead, predicted(current)]
    : ["future", made, Math.min(ahead, current.frames), current.frames];
  where.textContent = `${what} ${at} of ${of}`;
  time.setAttribute("aria-valuetext", where.textContent);
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

function drawOverlay(pen, result, future) {
  const [, colour] = OVERLAYS[overlay.value];
  const image = result.images[overlay.value];
  if (!colour || !image?.complete || !image.naturalWidth) return;
  const spread = overlay.value === "spread";
  const at = spread ? t - result.context_frames : t;
  const count = spread ? done(result) : result.report.surprise.bits.length + 1; // the first frame has no surprise
  if ((future >= 0) !== spread || at < 0 || at >= count) return;
  const [from, size] = spread ? [place(result, at), result.size]
    : [[(at * image.naturalWidth) / count, 0], [image.naturalWidth / count, image.naturalHeight]];
  pen.imageSmoothingEnabled = true;
  pen.drawImage(tint(image, colour), ...from, ...size, 0, 0, ...result.size);
}
