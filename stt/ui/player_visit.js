// The player's results of this visit and the link to their settings; see player.js.

function thumbnails() {
  strip.replaceChildren(...[...results.values()].reverse().map((result) => {
    const canvas = make("canvas", { width: result.size, height: result.size });
    const paint = () => {
      const [image, x, y] = pictureOf(result, 0, length(result) - 1);
      canvas.getContext("2d").drawImage(image, x, y, result.size, result.size, 0, 0, result.size, result.size);
    };
    result.strips.at(-1)?.image?.decode().then(paint, () => {});
    const label = `Show again: ${result.names.length} × ${result.frames} frames, ${result.names[0]}`;
    const node = button(label, canvas, () => showAgain(result), { class: "thumbnail", "aria-pressed": result === current });
    node.append(make("span", {}, result.names[0].replace(/^seed | future$/, "")));
    return node;
  }));
  visit.hidden = results.size === 0;
}

function showAgain(result) {
  if (current?.state === "running") return;
  current = result;
  t = 0;
  setPlaying(!still);
  rebuild();
  trigger("restore", { result: result.id });
}

async function loadVisit() { // after a reload of the page
  let names = [];
  try {
    names = JSON.parse(sessionStorage.getItem(VISIT) || "[]");
  } catch {}
  for (const name of names.slice(-MAX_RESULTS)) {
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
