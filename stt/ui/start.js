// The marker on the clip's timeline; see start.py. Gradio runs this with: element, trigger, props, watch.

const [picture, after, marker, text] = ["img", ".after", "input", "output"].map((s) => element.querySelector(s));

function paint() {
  const { count, gap } = props.value, start = Number(marker.value);
  const [from, to] = [start, gap ? start + gap : count].map((frame) => (100 * frame) / count);
  after.style.left = `${from}%`;
  after.style.width = `${to - from}%`;
  text.textContent = gap ? `gap after frame ${start} of ${count}`
    : start === count ? `after frame ${count} of ${count}, the clip's end` : `after frame ${start} of ${count}; the rest is compared`;
}

function show() {
  if (!props.value) return;
  picture.src = props.value.strip;
  Object.assign(marker, { min: 0, max: props.value.count, value: props.value.start });
  paint();
}

marker.addEventListener("input", () => {
  marker.value = Math.min(Math.max(Number(marker.value), 1), props.value.last);
  paint();
});
marker.addEventListener("change", () => {
  const start = Number(marker.value);
  trigger("move", { start: start === props.value.count ? 0 : start });
});
watch("value", show);
show();
