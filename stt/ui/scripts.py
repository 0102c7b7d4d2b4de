"""What the page's events do in the browser: JavaScript functions, of components' values to values."""

from __future__ import annotations

import json

# settings into the address and the browser's memory, which keeps the clip too
SAVE = """(...values) => {
  const names = NAMES, settings = Object.fromEntries(names.map((name, i) => [name, values[i]]));
  const path = settings.clip?.path ?? settings.clip, address = new URL(location.href);
  const example = EXAMPLES[path];
  for (const [name, value] of Object.entries({ ...settings, clip: example, result: null })) {
    const none = value == null || value === "" || (Array.isArray(value) && !value.length);
    if (none || value === DEFAULTS[name] || (name === "seed" && values.at(-1))) address.searchParams.delete(name);
    else address.searchParams.set(name, value);
  }
  history.replaceState(history.state, "", address);
  localStorage.setItem("stt-visited", "yes");
  window.dispatchEvent(new CustomEvent("stt-clip", { detail: example ?? "" }));
  for (const name of ["seed", "prompt_frames", "labels", "action", "between"]) delete settings[name];
  return { ...settings, clip: path };
}"""
# dropdowns -> labels; "any digit" in the places after the first adds nothing
LABELS = "(first, ...others) => [first === '' ? [] : [first, ...others.filter((label) => label >= 0)]]"
# sliders -> action, as many as the model has axes; and action -> sliders, but for those that the visitor moves
ACTION = """(model, steered, ...axes) => [steered ? axes.slice(0, AXES[model]) : []]"""
SLIDERS = """(action, ...axes) => {
  const skip = { __type__: "update" }, mine = document.querySelector("#steering :focus");
  return [action.length > 0, ...axes].map((value, k) => mine ? skip : k ? action[k - 1] ?? skip : value);
}"""
# the number of futures to the player; a model without chance has no slider for it, and one future
COUNT = """async (futures) => {
  await new Promise((go) => setTimeout(go));
  const detail = document.querySelector("#future-count") ? futures : 1;
  window.dispatchEvent(new CustomEvent("stt-futures", { detail }));
  return [];
}"""
# A visitor's acts come one after another (clip_box.js); what answers a control counts as one of them
BEGIN = """(...values) => {
  window.sttTurns.begin();
  return values;
}"""
CHANGE = """(...values) => {
  window.sttTurns.begin();
  window.dispatchEvent(new CustomEvent("stt-wait", { detail: `Reading the clip for ${values[1]} …` }));
  return values;
}"""
# what a visitor types while an answer is on its way, which must not overwrite it; the length of a gap it may
TYPED = ("frames", "futures", "temperature", "seed")
TYPE = "(value) => { if (window.sttTurns.busy()) window.sttTurns.typed.NAME = value; return []; }"
# the number of frames changes what is shown before a prediction where it is the length of a gap
GAP = "(between, frames) => between ? [frames, Date.now()] : null"
# a model that comes by itself stays away from what the visitor does meanwhile
FOLLOW = """(clip, ...values) => {
  const free = !window.sttTurns.busy();
  window.sttTurns.begin();
  return [free ? clip : null, ...values];
}"""
# Predict waits for an example or an upload that is on its way, so that it does not take the clip before
HOLD = "() => ({ __type__: 'update', interactive: false })"
OPENED = """() => {
  window.sttTurns?.end();
  return { __type__: "update", interactive: !window.sttTurns?.uploads };
}"""
FREE = """() => {
  const turns = window.sttTurns, stopped = document.querySelector("#stop")?.disabled ?? true;
  return { __type__: "update", interactive: !turns.holding && !turns.uploads && !turns.busy(MOST) && stopped };
}"""
RELEASE = """(between) => {
  const turns = window.sttTurns, kept = { ...turns.typed, ...(between ? { frames: undefined } : {}) };
  turns.end();
  return [(FREE)(), ...NAMES.map((name) => kept[name] ?? { __type__: "update" })];
}"""
RELEASE = RELEASE.replace("FREE", FREE.replace("MOST", "1")).replace("NAMES", json.dumps(TYPED))  # 1: the act that ends
FREE = FREE.replace("MOST", "0")
STARTED, DONE, ENDED = (
    f"() => {{ window.dispatchEvent(new Event('stt-{what}')); return []; }}" for what in ("start", "done", "end")
)
STOPS = "() => { window.dispatchEvent(new Event('stt-stop')); return []; }"
# answers, whichever comes last -> that of the present clip, model, stride and fit; a whole one before one on its way
VERDICT = """(answer, clip, ...others) => {
  const verdicts = (window.sttVerdicts ??= new Map()), key = JSON.stringify(answer?.of), began = /…/.test(answer?.html);
  if (!began || !verdicts.has(key) || /…/.test(verdicts.get(key))) verdicts.set(key, answer?.html);
  return verdicts.get(JSON.stringify([clip?.path ?? clip, ...others])) ?? "";
}"""
