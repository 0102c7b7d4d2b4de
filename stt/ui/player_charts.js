// The player's facts and measures; see player.js.

const OVERLAYS = {
  none: ["Plain pictures", null],
  spread: ["Mark where the futures differ", [251, 146, 60]],
  surprise: ["Mark what surprised the model", [56, 189, 248]],
};
const overlay = make("select", { "aria-label": "Overlay", class: "overlay" },
  ...Object.entries(OVERLAYS).map(([name, [text]]) => make("option", { value: name }, text)));
const heading = make("summary", {}, "Measures");
const explanation = make("p", {});
const curves = make("div", { class: "curves" });
const measures = make("details", { class: "measures" }, heading, explanation, curves, make("label", {}, "Overlay ", overlay));

const EXPLAINED = {
  Spread: "How much the futures differ from each other: 0 % is not at all, 50 % is half of them black and half white.",
  Error: "How far the pixels are from what really happened, in percent of the step from black to white.",
  Likeness: "How much the picture looks like what really happened (structural similarity, SSIM): 1 is the same picture.",
  Alone: "How unlikely each frame of the clip is for the model: 1 is usual in this clip, since there are no figures of other clips.",
  Surprise: "How unlikely each frame of the clip is for the model. 1 is as rare as one frame in a hundred of the clips that it knows; above 1.5 it is unlike them.",
};

const notes = (sentences, kind) => // the terms of the trade are in the tooltip
  make("p", { class: kind, title: current.details?.length ? current.details.join(" ") : null }, sentences.join(" "));

function showMeasures() {
  facts.replaceChildren();
  curves.replaceChildren();
  charts = [];
  measures.hidden = !current?.report;
  for (const option of overlay.options) {
    option.disabled = option.value !== "none" && !current?.images?.[option.value];
    if (option.selected && option.disabled) overlay.value = "none";
  }
  if (!current?.report) {
    if (current?.notes?.length) facts.append(notes(current.notes, "notes"));
    return;
  }
  const { report } = current;
  const compared = pinned.filter((one) => one.compared).map((one) => one.result);
  for (const result of [current, ...compared]) facts.append(make("p", { class: "line" }, (result.facts || []).join(" · ")));
  heading.textContent = compared.length ? `Measures of ${current.model}` : "Measures";
  if (report.notes.length) {
    const odd = !current.imagined && report.surprise?.unusual_frames.length;
    facts.append(notes(report.notes, odd ? "notes odd" : "notes"));
  }
  const start = current.context_frames, several = current.names.length > 1, said = [];
  if (several) {
    said.push("how much the futures differ");
    chart("Spread", "%", [["future", start, report.spread.map((v) => 100 * v), "futures"]]);
  }
  if (report.scores) {
    said.push("how close they come to what really happened");
    for (const [name, title, unit] of [["error", "Error", "%"], ["ssim", "Likeness", ""]]) {
      const futures = report.scores.futures[name];
      const baselines = report.scores.blend ? [["copy", "blend", "ends blended"]]
        : [["flow", "flow", "motion carried on"], ["copy", "copy", "last frame"]].filter(([, key]) => report.scores[key]);
      const compared = baselines.map(([kind, key, label]) => [kind, start, report.scores[key][name], label]);
      const mean = futures[0].map((_, i) => futures.reduce((sum, line) => sum + line[i], 0) / futures.length);
      chart(title, unit, [
        ...(several ? futures.map((line, k) => ["faint", start, line, k ? null : "each future"]) : []),
        ["future", start, mean, several ? "average" : "future"], ...compared],
        null, name === "ssim" ? Math.min(...futures.flat(), ...compared.flatMap((line) => line[2])) : 0);
    }
  }
  if (report.surprise?.bits.length > 1) { // before its first frame no motion is seen
    said.push("how unusual the clip is for the model");
    const { bits, usual } = report.surprise, middle = [...bits].sort((a, b) => a - b)[bits.length >> 1];
    const lines = [["surprise", 2, bits.slice(1).map((b) => b / (usual || middle || 1)), "clip"]];
    if (usual) chart("Surprise", "", lines, 1, 0, EXPLAINED.Surprise, "1: one frame in a hundred");
    else chart("Surprise", "", lines, 1, 0, EXPLAINED.Alone, "1 is usual in this clip");
  }
  explanation.textContent = said.length ? `Over time: ${said.join(", ")}. The thin vertical line is where the future starts.` : "";
  measures.hidden = !said.length;
}

// A line's name beside a piece of the line, and what it says at the frame on the stage.
const legend = (kind, text) => make("span", { class: kind },
  svg("svg", { class: "key", viewBox: "0 0 22 8", width: 22, height: 8, "aria-hidden": "true" }, svg("line", { class: kind, x1: 0, x2: 22, y1: 4, y2: 4 })), text);

// lines: [class, first frame, values, name or nothing]; dotted: a value to compare with, and its name
function chart(title, unit, lines, dotted = null, low = 0, meaning = EXPLAINED[title], level = "") {
  const width = 240, height = 74, pad = 3;
  const total = current.context_frames + Math.max(current.frames, current.truth_frames) + current.ending_frames;
  const values = lines.flatMap((line) => line[2]).concat(dotted ?? []);
  const high = Math.max(...values, low + 1e-9);
  const digits = high >= 10 ? 0 : high >= 1 ? 1 : 2;
  const x = (frame) => pad + ((width - 2 * pad) * frame) / Math.max(total - 1, 1);
  const y = (value) => height - pad - ((height - 2 * pad) * (value - low)) / (high - low);
  const plot = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}. ${meaning}` });
  for (const edge of [current.context_frames, ...(current.ending_frames ? [join(current)] : [])]) {
    plot.append(svg("line", { class: "start", x1: x(edge - 0.5), x2: x(edge - 0.5), y1: 0, y2: height }));
  }
  if (dotted != null) plot.append(svg("line", { class: "usual", x1: 0, x2: width, y1: y(dotted), y2: y(dotted) }));
  for (const [kind, first, line] of lines) {
    plot.append(svg("polyline", { class: kind, points: line.map((v, i) => `${x(first + i)},${y(v)}`).join(" ") }));
  }
  const cursor = svg("line", { class: "cursor", y1: 0, y2: height });
  plot.append(cursor);
  const reading = make("span", { class: "reading" });
  const range = `${low ? low.toFixed(digits) : 0} – ${high.toFixed(digits)} ${unit}`;
  const figure = make("figure", { class: "chart", title: meaning }, make("figcaption", {}, make("span", {}, title), make("span", { class: "top" }, range)), plot, reading);
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
      return legend(kind, kind === "faint" ? name : `${name} ${value == null ? "–" : value.toFixed(digits) + (unit && ` ${unit}`)}`);
    }), ...(dotted == null ? [] : [legend("usual", level)]));
  });
}
