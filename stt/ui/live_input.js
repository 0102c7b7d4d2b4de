// What the visitor does, as an action: keys, a stick for mouse and touch, buttons, a gamepad. live.js follows in the
// same function.

const KEYS = { // key -> [control, direction]
  ArrowRight: ["horizontal", 1], KeyD: ["horizontal", 1], ArrowLeft: ["horizontal", -1], KeyA: ["horizontal", -1],
  ArrowUp: ["vertical", 1], KeyW: ["vertical", 1], ArrowDown: ["vertical", -1], KeyS: ["vertical", -1],
};
const EXTRA_KEYS = [["KeyE", "KeyQ"], ["KeyX", "KeyZ"], ["Digit2", "Digit1"]]; // positive and negative end, in order
const DEAD = 0.15; // of a stick
const OPPOSITES = { right: "left", left: "right", forward: "back", back: "forward", backward: "forward", up: "down", down: "up" };
const opposite = (name) => name.replace(/\w+/g, (word) => OPPOSITES[word] || word);

const node = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
};

// Controls for the axes of a model; `changed` is called with nothing when an input changes.
function makeInput(changed) {
  const held = new Set(); // codes of keys
  const pressed = new Map(); // extra axis -> direction of its button
  let axes = [], stick = [0, 0], pad = [];

  const knob = node("span", { class: "knob" });
  const area = node("div", { class: "stick", "aria-hidden": "true" }, knob,
    ...["up", "right", "down", "left"].map((side) => node("i", { class: side })));
  const extras = node("div", { class: "extras" });

  function moveStick(x, y) {
    const size = Math.hypot(x, y), scale = size > 1 ? 1 / size : 1;
    stick = size < DEAD ? [0, 0] : [x * scale, y * scale];
    changed();
  }
  const follow = (event) => {
    const box = area.getBoundingClientRect(), radius = box.width / 2;
    moveStick((event.clientX - box.left - radius) / (0.7 * radius), -(event.clientY - box.top - radius) / (0.7 * radius));
  };
  area.addEventListener("pointerdown", (event) => {
    area.setPointerCapture(event.pointerId);
    event.preventDefault();
    follow(event);
  });
  area.addEventListener("pointermove", (event) => area.hasPointerCapture(event.pointerId) && follow(event));
  for (const name of ["pointerup", "pointercancel"]) area.addEventListener(name, () => moveStick(0, 0));

  function hold(k, direction, text, key) {
    const button = node("button", { type: "button", class: direction > 0 ? "hold plus" : "hold", "aria-label": `${text} (${key})`, title: `${text} (${key})` },
      text, node("small", {}, key));
    const set = (on) => {
      if (on) pressed.set(k, direction);
      else pressed.delete(k);
      changed();
    };
    button.addEventListener("pointerdown", (event) => {
      button.setPointerCapture(event.pointerId);
      set(true);
    });
    for (const name of ["pointerup", "pointercancel"]) button.addEventListener(name, () => set(false));
    return button;
  }

  function release() {
    held.clear();
    pressed.clear();
    stick = [0, 0];
    changed();
  }

  return {
    area, extras, release,
    setAxes(value) {
      axes = value;
      const extra = axes.filter((axis) => axis.control === "extra");
      extra.forEach((axis, i) => (axis.keys = EXTRA_KEYS[i] || []));
      extras.replaceChildren(...extra.map((axis) => node("div", { class: "extra" },
        hold(axis, 1, axis.name, (axis.keys[0] || "").slice(-1)),
        hold(axis, -1, opposite(axis.name) === axis.name ? `${axis.name}, the other way` : opposite(axis.name), (axis.keys[1] || "").slice(-1)))));
      const has = (control) => axes.some((axis) => axis.control === control);
      area.hidden = !axes.length;
      area.dataset.horizontal = has("horizontal");
      area.dataset.vertical = has("vertical");
    },
    legend() {
      const keys = { horizontal: "← →", vertical: "↑ ↓" };
      return axes.map((axis) => {
        const other = opposite(axis.name), first = axis.control === "vertical" ? 1 : -1;
        const names = first * axis.sign > 0 ? [axis.name, other] : [other, axis.name]; // as the keys stand
        return [keys[axis.control] || axis.keys.map((code) => code.slice(-1)).reverse().join(" "),
          other === axis.name ? axis.name : names.join(", ")];
      });
    },
    key(code, down) { // whether the key drives
      if (!KEYS[code] && !axes.some((axis) => axis.keys?.includes(code))) return false;
      if (down !== held.has(code)) {
        if (down) held.add(code);
        else held.delete(code);
        changed();
      }
      return true;
    },
    poll() { // the first gamepad; browsers tell of no change
      const one = [...(navigator.getGamepads?.() || [])].find((gamepad) => gamepad?.connected);
      if (!one) return;
      const live = (value = 0) => (Math.abs(value) < DEAD ? 0 : value);
      const cross = (plus, minus) => (one.buttons[plus]?.value || 0) - (one.buttons[minus]?.value || 0);
      const now = [live(one.axes[0]) + cross(15, 14), -live(one.axes[1]) + cross(12, 13), -live(one.axes[3]) + cross(7, 6)];
      if (now.some((value, i) => Math.abs(value - (pad[i] || 0)) > 0.02)) {
        pad = now;
        changed();
      }
    },
    vector() { // an action, one number per axis
      const sum = { horizontal: stick[0] + (pad[0] || 0), vertical: stick[1] + (pad[1] || 0) };
      for (const code of held) if (KEYS[code]) sum[KEYS[code][0]] += KEYS[code][1];
      let extra = 0;
      const numbers = axes.map((axis) => {
        if (axis.control !== "extra") return axis.sign * sum[axis.control];
        const keys = axis.keys.map((code) => (held.has(code) ? 1 : 0));
        return (keys[0] || 0) - (keys[1] || 0) + (pressed.get(axis) || 0) + (extra++ ? 0 : pad[2] || 0);
      });
      const [x, y] = [sum.horizontal, sum.vertical].map((value) => Math.max(-1, Math.min(1, value)));
      knob.style.transform = `translate(${x * 35}%, ${-y * 35}%)`;
      return numbers.map((value) => Math.round(100 * Math.max(-1, Math.min(1, value))) / 100 + 0);
    },
  };
}
