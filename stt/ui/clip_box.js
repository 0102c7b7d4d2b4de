// The clip box; see clip_box.py. Gradio runs this as a function's body with: element, trigger, props, upload, watch.
// Events to the server: 'new_clip', 'unplayable'; 'hold' and 'release' of Predict.

const box = element.querySelector(".clip-box");
const [input, video, message, clear] = ["input", "video", "p", ".clear"].map((s) => box.querySelector(s));
const root = (window.gradio_config?.root || location.origin + location.pathname).replace(/\/$/, "");
const served = (path) => `${root}/gradio_api/file=${path.split("/").map(encodeURIComponent).join("/")}`;
const local = new Map(); // path on the server -> address of the same file in this browser
let current = null; // path of the clip
let asked = null; // path of the clip whose preview is on its way
const OPENING = "The page opens …"; // said until it has

// What a visitor does with the clip, one after another: each act waits until the page shows what came before it, at first
// what the page opens with. Of those that wait only the latest is done. So no answer comes late, onto another clip.
const PATIENCE = 30_000; // milliseconds, until an answer counts as lost
let busy = 0, waiting = null, lost = null;
const turns = (window.sttTurns = {
  acts: 0, // so far
  holding: false, // whether an example waits
  uploads: 0, // under way
  typed: {}, // settings that the visitor has typed while the page was busy, see wiring.py
  busy: (most = 0) => busy > most,
  async free() {
    while (busy || waiting) await new Promise((resolve) => setTimeout(resolve, 100));
  },
  take(act, example = false) { // act: returns false where no answer follows
    turns.acts += 1;
    [waiting, turns.holding] = [act, example];
    next();
  },
  begin() {
    busy += 1;
    clearTimeout(lost);
    lost = setTimeout(() => {
      busy = 0;
      next();
      trigger("release");
    }, PATIENCE);
  },
  end: () => setTimeout(() => { // after what the answer changes
    busy = Math.max(busy - 1, 0);
    if (!busy) turns.typed = {};
    next();
  }),
});

function next() {
  if (busy || !waiting) return;
  const act = waiting;
  [waiting, turns.holding] = [null, false];
  turns.begin();
  if (act() === false) turns.end();
}
turns.begin(); // the page opens
message.textContent = OPENING;
turns.free().then(() => message.textContent === OPENING && (message.textContent = ""));

function show() {
  const value = props.value;
  const path = (typeof value === "string" ? value : value?.path) || null;
  const preview = (path && value.preview) || null;
  const fresh = path !== current;
  if (fresh && path && value.preview !== undefined) return void (props.value = current); // of a clip that has gone meanwhile
  current = path;
  clear.hidden = !path;
  if (!path) {
    video.removeAttribute("src");
    video.hidden = true;
    message.textContent = "";
  } else if (preview || fresh) {
    message.textContent = "";
    video.hidden = false;
    video.src = preview ? served(preview) : local.get(path) || served(path);
  } else if (value.preview === "") {
    message.textContent = "The clip cannot be read.";
  }
  if (!fresh) return;
  turns.begin();
  trigger("new_clip");
}

function unplayable() { // a GIF, or a codec that this browser lacks: the server decodes it
  if (!current || !video.hasAttribute("src") || asked === current) return;
  asked = current;
  video.hidden = true;
  video.removeAttribute("src");
  message.textContent = "This browser cannot play the clip; its frames are decoded …";
  trigger("unplayable");
}

async function choose(file) {
  if (!file) return;
  if (file.size > props.limit) {
    message.textContent = `The file is ${Math.ceil(file.size / 1e5) / 10} MB; the limit is ${props.limit / 1e6} MB.`;
    return;
  }
  const said = (message.textContent = `Uploading ${file.name} …`), mine = ++turns.acts;
  const silence = () => message.textContent === said && (message.textContent = "");
  turns.uploads += 1;
  trigger("hold"); // Predict would take the clip before
  try {
    const { path } = await upload(file).finally(() => (turns.uploads -= 1));
    if (mine !== turns.acts) return void silence(); // the visitor has chosen something else since
    turns.take(() => {
      if (!local.has(path)) local.set(path, URL.createObjectURL(file));
      asked = null;
      if (path === current) turns.free().then(() => trigger("release")); // the same file once more: nothing answers
      props.value = path;
      show();
      silence();
      window.dispatchEvent(new CustomEvent("stt-wait", { detail: "Reading the clip …" }));
      return false;
    });
  } catch {
    silence(); // Gradio says why
    trigger("release");
  }
}

input.addEventListener("change", () => {
  choose(input.files[0]);
  input.value = "";
});
clear.addEventListener("click", () => turns.take(() => {
  props.value = null;
  show();
  return false;
}));
video.addEventListener("error", unplayable);
video.addEventListener("loadedmetadata", () => {
  if (!video.videoWidth) unplayable(); // sound alone
  video.style.imageRendering = Math.max(video.videoWidth, video.videoHeight) > 128 ? "auto" : "";
});
const hasFiles = (event) => [...(event.dataTransfer?.items || [])].some((item) => item.kind === "file");
document.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
document.addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  choose(event.dataTransfer.files[0]);
});
watch("value", show);
show();
