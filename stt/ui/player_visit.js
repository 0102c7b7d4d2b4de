// The player's results of this visit and the link to the one on the stage; see player.js.

function remember(result) {
  results.delete(result.id);
  results.set(result.id, result);
  while (results.size > MAX_RESULTS) results.delete(results.keys().next().value);
  memorize(VISIT, JSON.stringify([...unread, ...results.keys()].slice(-MAX_RESULTS)));
}

let unread = []; // ids of this visit's results that are still to load after a reload of the page, oldest first

function memorize(name, text) {
  try {
    sessionStorage.setItem(name, text);
  } catch {}
}

function recall(name) {
  try {
    return sessionStorage.getItem(name) || "";
  } catch {
    return "";
  }
}

function thumbnails() {
  strip.replaceChildren(...[...results.values()].reverse().map((result) => {
    const [width, height] = result.size, canvas = make("canvas", { width, height, class: isLarge(result) ? "large" : "" });
    const paint = () => {
      const [image, x, y] = pictureOf(result, 0, length(result) - 1);
      canvas.getContext("2d").drawImage(image, x, y, width, height, 0, 0, width, height);
    };
    result.strips.at(-1)?.image?.decode().then(paint, () => {});
    const lines = [result.clip || "no clip", result.model, `${result.names[0]}${result.names.length > 1 ? `, ${result.names.length - 1} more` : ""}`];
    const node = button(`Show again: ${lines.join(" ")}`, canvas, () => showAgain(result), { class: "thumbnail", "aria-pressed": result === current });
    node.append(make("span", {}, ...lines.flatMap((line) => [make("span", {}, line), " "])));
    return node;
  }));
  visit.hidden = results.size === 0;
  const newest = [...results.keys()].at(-1);
  if (strip.dataset.newest !== newest) strip.scrollLeft = 0;
  strip.dataset.newest = newest;
}

function showAgain(result) {
  if (current?.state === "running") return;
  const present = () => {
    current = result;
    t = 0;
    setPlaying(!still);
    rebuild();
  };
  present();
  window.sttTurns.take(() => {
    if (current?.state === "running") return false;
    if (current !== result) present(); // what was on its way has come onto the stage
    trigger("restore", { result: result.id });
  });
}

async function load(id) {
  const answer = await fetch(`${root()}/runs/${encodeURIComponent(id)}.json`).catch(() => null);
  return answer?.ok ? answer.json() : null;
}

async function loadVisit(onStage) { // after a reload of the page, the latest first. onStage: id of what was on it, or ""
  unread = JSON.parse(recall(VISIT) || "[]");
  const late = onStage && !unread.includes(onStage) ? [onStage] : [];
  while (unread.length || late.length) {
    const name = late.pop() ?? unread.at(-1), value = await load(name);
    if (name === unread.at(-1)) unread.pop();
    if (!value || results.has(name)) continue;
    const all = [[name, prepared(value)], ...results];
    results.clear();
    for (const [id, result] of all) results.set(id, result);
    thumbnails();
    if (name === onStage) showAgain(results.get(name));
  }
}

async function keepAgain(kept) { // what was kept before a reload: [id, future]
  for (const [id, future] of kept) {
    const known = results.get(id) || (current?.id === id && current), value = known || (await load(id));
    if (value) pinned.push({ result: known || prepared(value), future, kept: true });
  }
  if (pinned.length) rebuild();
}

async function copyLink() {
  const address = new URL(location.href);
  const settings = Object.entries(current.settings).filter(([, value]) => value !== "" && !(Array.isArray(value) && !value.length));
  address.search = new URLSearchParams(settings);
  if (current.clip) address.searchParams.set("clip", current.clip);
  address.searchParams.set("result", current.id);
  try {
    await navigator.clipboard.writeText(address.href);
    link.textContent = "Copied";
  } catch {
    prompt("The link to this result:", address.href);
  }
  setTimeout(() => (link.textContent = "Link"), 1500);
}
