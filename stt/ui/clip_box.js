// The clip box; see clip_box.py. Gradio runs this as a function's body with: element, trigger, props, upload, watch.
// Events to the server: 'new_clip', 'unplayable'.

const box = element.querySelector(".clip-box");
const [input, video, message, clear] = ["input", "video", "p", ".clear"].map((s) => box.querySelector(s));
const root = (window.gradio_config?.root || location.origin + location.pathname).replace(/\/$/, "");
const served = (path) => `${root}/gradio_api/file=${path.split("/").map(encodeURIComponent).join("/")}`;
const local = new Map(); // path on the server -> address of the same file in this browser
let current = null; // path of the clip
let asked = null; // path of the clip whose preview is on its way
// what the page opens with comes first: what a visitor does meanwhile comes after it and stays
const opened = new Promise((open) => {
  window.sttOpened = open;
  setTimeout(open, 20_000);
});

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
  if (fresh) trigger("new_clip");
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
  message.textContent = `Uploading ${file.name} …`;
  try {
    const { path } = await upload(file);
    await opened;
    if (!local.has(path)) local.set(path, URL.createObjectURL(file));
    asked = null;
    props.value = path;
    show();
    if (current === path && message.textContent.startsWith("Uploading")) message.textContent = "";
  } catch {
    message.textContent = ""; // Gradio says why
  }
}

input.addEventListener("change", () => {
  choose(input.files[0]);
  input.value = "";
});
clear.addEventListener("click", () => {
  props.value = null;
  show();
});
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
