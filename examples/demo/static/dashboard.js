// Asks for what stands at the apps twice a second, and shows what has changed.

const EVERY_MILLISECONDS = 500;
const KINDS = ["AccessToken", "RefreshToken", "IdToken", "Account"];
const shown = new Map();

function element(tag, text, name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = name;
  return made;
}

function row(cells) {
  const made = document.createElement("tr");
  made.append(...cells.map((cell) => element("td", cell ?? 0, cell ? "" : "none")));
  return made;
}

/** Fill a part of the page if its content has changed, and let it flash. */
function fill(key, panel, list, content, make) {
  const now = JSON.stringify(content);
  if (shown.get(key) === now) return;
  const isFirst = !shown.has(key);
  shown.set(key, now);
  list.replaceChildren(...make(content));
  panel.classList.remove("changed");
  if (isFirst) return;
  void panel.offsetWidth; // so that the animation starts again
  panel.classList.add("changed");
}

function emptyRow(text) {
  const made = document.createElement("tr");
  const cell = element("td", text, "empty");
  cell.colSpan = 1 + KINDS.length;
  made.append(cell);
  return [made];
}

function card(app) {
  const id = `app-${app.name.toLowerCase()}`;
  const there = document.getElementById(id);
  if (there) return there;
  const made = document.getElementById("app").content.firstElementChild.cloneNode(true);
  made.id = id;
  made.classList.add(app.name.toLowerCase());
  made.querySelector("h2").textContent = `${app.name} app`;
  made.querySelector(".built-on").textContent = app.built_on;
  made.querySelector(".url").textContent = app.url;
  made.querySelector(".sessions .quiet").textContent = app.session_store;
  made.querySelector(".tokens .quiet").textContent = app.token_cache;
  const link = made.querySelector("a");
  link.href = app.url;
  link.target = id;
  document.getElementById("apps").append(made);
  return made;
}

function showApp(app) {
  const place = card(app);
  const sessions = place.querySelector(".sessions");
  fill(`${app.name} sessions`, sessions, sessions.querySelector("ul"), app.sessions, (users) =>
    users.length ? users.map((user) => element("li", user || "nobody yet", user ? "chip" : "chip none"))
      : [element("li", "Nothing on the server", "empty")]);
  const tokens = place.querySelector(".tokens");
  fill(`${app.name} tokens`, tokens, tokens.querySelector("tbody"), app.tokens, (caches) =>
    caches.length ? caches.map((cache) => row([cache.user, ...KINDS.map((kind) => cache.counts[kind])]))
      : emptyRow("Nothing here"));
  const unfinished = app.unfinished ? `, ${app.unfinished} sign-outs not finished` : "";
  place.querySelector(".marks").textContent = `Marked as ended: ${app.marks} (keyed hashes, no names)${unfinished}`;
}

function show(state) {
  state.apps.forEach(showApp);
  document.querySelector("#tells span").textContent = state.provider.tells;
  const provider = document.getElementById("provider");
  fill("provider", provider, provider.querySelector("tbody"), state.provider.users, (users) =>
    users.map((user) => row([user.user, user.sessions, user.refresh_tokens])));
  const events = document.getElementById("events");
  fill("events", events, events.querySelector("ol"), state.events, (told) =>
    told.length ? told.map((event) => {
      const item = element("li", "");
      item.append(element("time", event.time), element("b", event.app), element("span", event.text));
      return item;
    }) : [element("li", "Nothing yet", "empty")]);
}

async function ask() {
  const connection = document.getElementById("connection");
  try {
    show(await (await fetch("/state")).json());
    connection.textContent = "Live.";
    connection.className = "live";
  } catch {
    connection.textContent = "The demo has stopped.";
    connection.className = "stopped";
  }
  setTimeout(ask, EVERY_MILLISECONDS);
}

ask();
