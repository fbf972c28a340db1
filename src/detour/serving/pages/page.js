// The page of reviewers. Everything that comes from clients is put in as text, never as HTML.

const PAUSE_MS = 300; // a key pressed within this time of a new picture was meant for the one before
const AGAIN_MS = 10000;

const at = (id) => document.getElementById(id);
const state = { session: null, queue: [], skipped: new Set(), current: null, shown: false, busy: false, since: 0 };

const idOf = (one) => `${one.job}/${one.number}`;
const address = (one, what) => `/v1/reviews/${encodeURIComponent(one.job)}/${one.number}${what}`;

async function ask(path, options = {}) {
  const headers = { accept: "application/json" };
  if (options.body !== undefined) headers["content-type"] = "application/json";
  if (state.session) headers["x-csrf-token"] = state.session.csrf;
  const answer = await fetch(path, { ...options, headers, cache: "no-store", credentials: "same-origin" });
  const body = answer.headers.get("content-type")?.includes("json") ? await answer.json() : null;
  if (!answer.ok) {
    const error = new Error(body?.error?.message ?? `the server answered ${answer.status}`);
    error.status = answer.status;
    throw error;
  }
  return body;
}

function say(text, isBad = false) {
  at("said").textContent = text;
  at("said").classList.toggle("bad", isBad);
}

function showSignIn(isSignedOut) {
  at("sign-in").hidden = !isSignedOut;
  at("who").hidden = isSignedOut;
  if (!isSignedOut) return;
  state.session = null;
  state.current = null;
  at("held").hidden = at("empty").hidden = true;
  at("picture").removeAttribute("src");
  at("references").replaceChildren();
  at("waiting").textContent = "";
  at("key").focus();
}

async function signIn(key) {
  state.session = await ask("/review/session", { method: "POST", body: JSON.stringify({ key }) });
  await begin();
}

async function begin() {
  at("name").textContent = state.session.name;
  showSignIn(false);
  await refresh();
}

async function refresh() {
  state.queue = await ask("/v1/reviews");
  const ids = new Set(state.queue.map(idOf));
  for (const id of state.skipped) if (!ids.has(id)) state.skipped.delete(id);
  if (!state.current || !ids.has(idOf(state.current))) next();
  else count();
}

function count() {
  const mine = state.queue.filter((one) => one.mine).length;
  const open = state.queue.length - mine;
  const counts = [open ? `${open} to decide` : "", mine ? `${mine} for a second person` : ""];
  at("waiting").textContent = counts.filter(Boolean).join(", ");
}

function next() {
  const open = state.queue.filter((one) => !one.mine);
  let left = open.filter((one) => !state.skipped.has(idOf(one)));
  if (!left.length && open.length) {
    state.skipped.clear(); // all were skipped: begin again with the oldest
    left = open;
  }
  show(left[0] ?? null);
  count();
}

function show(one) {
  state.current = one;
  at("held").hidden = !one;
  at("empty").hidden = Boolean(one);
  if (!one) {
    at("picture").removeAttribute("src");
    at("references").replaceChildren();
    return;
  }
  state.since = performance.now();
  at("prompt").textContent = one.prompt;
  const facts = [
    ["Held because", one.cause],
    ["Steered away from", one.negative_prompt],
    ["Policy changed", one.revised],
    ["Adapters", one.adapters.join(", ")],
    ["References", sent(one, "reference").map((shown) => `${shown.adapter} ×${shown.strength}`).join(", ")],
    ["Begun as", sent(one, "start").map((shown) => `its picture, strength ${shown.strength}`).join(", ")],
    ["Asked by", one.client],
    ["Asked", when(one.created)],
    ["Expires", one.expires ? when(one.expires) : ""],
    ["Released by", one.needed > 1 ? `${one.released_by.join(", ") || "nobody"} (${one.needed} people needed)` : ""],
    ["Seed", `${one.seed}, ${one.width} × ${one.height} px`],
    ["Rules", one.policy],
  ];
  const rows = facts.filter(([, value]) => value).flatMap(([name, value]) => {
    const term = document.createElement("dt");
    const detail = document.createElement("dd");
    term.textContent = name;
    detail.textContent = value;
    return [term, detail];
  });
  at("list").replaceChildren(...rows);
  at("picture").width = one.width;
  at("picture").height = one.height;
  const names = { reference: "Reference picture", start: "Start picture", mask: "Mask" };
  at("references").replaceChildren(...one.references.map((shown, index) => {
    const image = document.createElement("img");
    image.alt = image.title = `${names[shown.kind]} ${index + 1}`;
    return image;
  }));
  blur(true);
}

function sent(one, kind) {
  return one.references.filter((shown) => shown.kind === kind);
}

function blur(isBlurred) {
  const one = state.current;
  state.shown = !isBlurred;
  at("frame").classList.toggle("blurred", isBlurred);
  at("picture").src = address(one, isBlurred ? "/blurred" : "/picture");
  at("references").classList.toggle("blurred", isBlurred);
  [...at("references").children].forEach((image, index) => {
    image.src = address(one, `/references/${index}/${isBlurred ? "blurred" : "picture"}`);
  });
  at("picture").alt = isBlurred ? "The held picture, blurred" : `Picture drawn for: ${one.prompt}`;
  at("blur-word").textContent = isBlurred ? "Show" : "Blur";
}

function when(seconds) {
  const minutes = Math.round((seconds * 1000 - Date.now()) / 60000);
  const words = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
  if (Math.abs(minutes) < 90) return words.format(minutes, "minute");
  if (Math.abs(minutes) < 48 * 60) return words.format(Math.round(minutes / 60), "hour");
  return words.format(Math.round(minutes / 1440), "day");
}

async function decide(release) {
  const one = state.current;
  if (release && !state.shown) {
    blur(false);
    say("Look first: the picture is shown now. Release it once more if it may go.");
    return;
  }
  state.busy = true;
  try {
    const answer = await ask(address(one, ""), { method: "POST", body: JSON.stringify({ release }) });
    const words = { done: "Released.", refused: "Refused and deleted.", held: "Noted. A second person has to agree." };
    say(words[answer.state]);
  } catch (error) {
    if (error.status !== 409) throw error;
    say(`Not decided: ${error.message}`, true); // somebody else was faster, or it expired
  } finally {
    state.busy = false;
  }
  state.current = null;
  await refresh();
}

function skip() {
  state.skipped.add(idOf(state.current));
  say("Skipped: it comes again at the end.");
  next();
}

const ACTIONS = { r: () => decide(true), x: () => decide(false), s: skip, b: () => blur(state.shown) };

async function act(action) {
  if (!state.current || state.busy) return;
  if (performance.now() - state.since < PAUSE_MS) return;
  await guarded(action);
}

async function guarded(action) {
  try {
    await action();
  } catch (error) {
    if (error.status === 401) showSignIn(true);
    say(error.status === 401 ? "Signed out." : error.message, true);
  }
}

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target instanceof HTMLInputElement) return;
  const action = ACTIONS[event.key.toLowerCase()];
  if (!action) return;
  event.preventDefault();
  act(action);
});
at("release").addEventListener("click", () => act(ACTIONS.r));
at("refuse").addEventListener("click", () => act(ACTIONS.x));
at("skip").addEventListener("click", () => act(ACTIONS.s));
at("blur").addEventListener("click", () => act(ACTIONS.b));
at("frame").addEventListener("click", () => act(ACTIONS.b));
at("sign-out").addEventListener("click", () => guarded(async () => {
  await ask("/review/session", { method: "DELETE" });
  showSignIn(true);
  say("Signed out.");
}));
at("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  say("");
  signIn(at("key").value).catch((error) => say(error.message, true)).finally(() => { at("key").value = ""; });
});
setInterval(() => { if (state.session && !state.busy) guarded(refresh); }, AGAIN_MS);

async function start() {
  try {
    state.session = await ask("/review/session");
    await begin();
  } catch {
    try {
      await signIn(""); // on loopback no key is needed
    } catch {
      showSignIn(true);
    }
  }
}
start();
