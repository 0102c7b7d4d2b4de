// The player's canvases; see player.js.

function pictureOf(result, future, frame) { // [image, x, y, kind]; imagined futures did not see the clip
  const size = result.size;
  if (frame < result.context_frames) return [result.images.context, Math.max(frame, 0) * size, 0, result.imagined && future >= 0 ? "unused" : "clip"];
  let after = frame - result.context_frames;
  const beyond = Math.min(frame - join(result), result.ending_frames - 1);
  if (beyond >= 0) return [result.images.ending, beyond * size, 0, "clip"];
  if (future < 0) {
    if (after < result.truth_frames) return [result.images.truth, after * size, 0, result.imagined ? "beside" : "truth"];
    return [result.images.context, (result.context_frames - 1) * size, 0, "ended"];
  }
  after = Math.min(after, done(result) - 1);
  for (const part of result.strips) {
    if (after < part.frames) return [part.image, after * size, future * size, "future"];
    after -= part.frames;
  }
  return [null, 0, 0, "waiting"];
}

// The model of a pinned future, beside futures of another model.
const otherModel = (result) => {
  const model = result.settings?.model;
  return result !== current && current.settings && model !== current.settings.model && model !== result.detail ? model : "";
};
const CAPTIONS = { clip: "clip", truth: "what really happened", ended: "the clip ends here", beside: "the clip goes on" };

function draw() {
  if (!current) return;
  if (current.state === "running") t = current.context_frames + drawable(current) - 1; // the newest frame
  t = Math.min(t, Number(time.max));
  for (const { canvas, caption, result, future, figure } of cells) {
    const [image, x, y, kind] = pictureOf(result, future, result === current ? t : t - current.context_frames + result.context_frames);
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    if (image?.complete) { // until a new picture is decoded, the last one stays
      pen.clearRect(0, 0, result.size, result.size);
      pen.globalAlpha = kind === "ended" || kind === "unused" ? 0.35 : 1;
      pen.drawImage(image, x, y, result.size, result.size, 0, 0, result.size, result.size);
      pen.globalAlpha = 1;
      if (result === current) drawOverlay(pen, result, future);
    }
    figure.dataset.kind = kind;
    const name = future < 0 ? CAPTIONS[kind] : [result.names[future], result.detail, otherModel(result)].filter(Boolean).join(" · ");
    if (caption.textContent !== name) caption.textContent = name;
    if (future >= 0 && result.settings) caption.title = [name, result.action, result.settings.model].filter(Boolean).join(", ");
    canvas.setAttribute("aria-label", `${name}, frame ${t + 1}`);
  }
  time.value = t;
  const predicted = t - current.context_frames + 1, after = current.ending_frames && t - join(current) + 1;
  const made = current.imagined ? "imagined" : current.between ? "filled in" : "predicted";
  const [kind, what, at, of] = predicted <= 0 ? ["clip", current.between ? "before" : "clip", t + 1, current.context_frames]
    : after > 0 ? ["clip", "after", after, current.ending_frames]
    : ["future", made, Math.min(predicted, current.frames), current.frames];
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

function drawOverlay(pen, result, future) {
  const [, colour] = OVERLAYS[overlay.value];
  const image = result.images[overlay.value];
  if (!colour || !image?.complete || !image.naturalWidth) return;
  const spread = overlay.value === "spread";
  const at = spread ? t - result.context_frames : t;
  const count = image.naturalWidth / (spread ? result.size : image.naturalHeight);
  if ((future >= 0) !== spread || at < 0 || at >= count) return;
  const side = image.naturalHeight;
  pen.imageSmoothingEnabled = true;
  pen.drawImage(tint(image, colour), at * side, 0, side, side, 0, 0, result.size, result.size);
}
