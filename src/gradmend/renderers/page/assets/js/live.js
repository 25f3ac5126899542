"use strict";
// The live page: what changes on the server changes here, and nothing else moves.
//
// Sections come as markup that the server escaped. The page is changed into the new one node by
// node, so that what is selected, focused, unfolded or drawn stays as it is.
(function () {
  const gm = window.gm;
  const source = document.body.dataset.source;
  if (!source) return;

  // ---- from the old markup to the new, touching only what differs ----
  // Belongs to whoever uses the page, and stays when the server does not know of it.
  const OURS = new Set(["open", "tabindex", "aria-current", "aria-expanded", "aria-pressed", "role"]);

  const isFigure = (node) => node.nodeType === 1 && node.matches("[data-figure]");
  const isKept = (node) => node.nodeType === 1 && node.hasAttribute("data-keep");

  // The same thing in two versions of a page has the same key.
  function key(node) {
    if (node.nodeType !== 1) return node.nodeName;
    const name = node.dataset.figure || node.id || node.dataset.key || node.dataset.layer || "";
    return `${node.nodeName} ${name}`;
  }

  function attributes(old, next) {
    for (const { name, value } of next.attributes) {
      if (name === "class") continue;
      if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    for (const { name } of [...old.attributes])
      if (name !== "class" && !next.hasAttribute(name) && !OURS.has(name)) old.removeAttribute(name);
    const chosen = old.classList.contains("selected");
    const wanted = next.getAttribute("class") || "";
    if ((old.getAttribute("class") || "").replace(/ ?selected$/, "") !== wanted) {
      if (wanted || old.hasAttribute("class")) old.setAttribute("class", wanted);
      if (chosen) old.classList.add("selected");
    }
  }

  function morph(old, next) {
    if (isFigure(old) || isKept(old)) return; // redrawn by its numbers, or filled in here
    if (old.nodeType !== 1) {
      if (old.data !== next.data) old.data = next.data;
      return;
    }
    attributes(old, next);
    children(old, next);
  }

  function children(old, next) {
    const waiting = new Map();
    for (const child of old.childNodes) {
      const name = key(child);
      if (!waiting.has(name)) waiting.set(name, []);
      waiting.get(name).push(child);
    }
    let place = old.firstChild;
    for (const child of [...next.childNodes]) {
      const same = (waiting.get(key(child)) || []).shift();
      if (!same) {
        old.insertBefore(document.importNode(child, true), place);
        continue;
      }
      if (same === place) place = place.nextSibling;
      else old.insertBefore(same, place);
      morph(same, child);
    }
    for (const left of waiting.values()) for (const child of left) child.remove();
  }

  // ---- sections ----
  function replace(section, html) {
    const next = document.createElement("template");
    next.innerHTML = html; // made and escaped by the server; scripts in it never run
    const fresh = document.createElement("div");
    fresh.append(next.content);
    children(section, fresh);
    section.hidden = !html;
  }

  // The first thing in view stays where it is, whatever grows above it.
  function steadily(work) {
    const root = document.documentElement;
    const bar = document.querySelector(".topbar");
    const edge = bar ? bar.getBoundingClientRect().bottom : 0;
    const seen = scrollY > 0 && document.elementFromPoint(innerWidth / 2, Math.min(edge + 8, innerHeight - 1));
    const anchor = seen && seen.closest("main *");
    const before = anchor && anchor.getBoundingClientRect().top;
    root.style.overflowAnchor = "none"; // else the browser moves as well
    const focused = document.activeElement;
    work();
    if (anchor && anchor.isConnected) scrollBy({ top: anchor.getBoundingClientRect().top - before, behavior: "instant" });
    if (focused && focused !== document.body && focused !== document.activeElement && focused.isConnected)
      focused.focus({ preventScroll: true });
    requestAnimationFrame(() => (root.style.overflowAnchor = ""));
  }

  // A page of another kind: the run that could not be read can be read now.
  function reload() {
    try {
      const last = Number(sessionStorage.getItem("gradmend-reload") || 0);
      if (Date.now() - last < 5000) return;
      sessionStorage.setItem("gradmend-reload", Date.now());
    } catch (error) {
      return; // storage may be forbidden; then somebody reloads by hand
    }
    location.reload();
  }

  function takeSections(sections) {
    const places = Object.keys(sections).map((id) => [document.getElementById(`section-${id}`), sections[id]]);
    if (places.some(([place, html]) => !place && html)) return reload();
    steadily(() => {
      for (const [place, html] of places) if (place) replace(place, html);
      contents();
      if (gm.mount) gm.mount();
    });
    offerComparison();
  }

  // The links in the bar lead to the sections there are.
  function contents() {
    const nav = document.querySelector(".topbar nav");
    if (!nav) return;
    const shown = [...document.querySelectorAll("main > section:not([hidden])")].filter((section) => section.querySelector(":scope > h2"));
    const fresh = document.createElement("nav");
    for (const section of shown) {
      const link = document.createElement("a");
      link.href = `#${section.id}`;
      link.textContent = section.querySelector(":scope > h2").textContent;
      fresh.append(link);
    }
    children(nav, fresh);
  }

  // ---- the status line ----
  const WORDS = {
    running: "running",
    finished: "finished",
    stopped: "ended early",
    crashed: "crashed",
    killed: "killed",
    damaged: "the run cannot be read",
    gone: "the run's folder is gone",
  };
  let status = document.getElementById("status");
  if (!status) {
    status = document.createElement("p");
    status.id = "status";
    status.setAttribute("role", "status");
    document.body.prepend(status);
  }
  // Ages change every second: read when asked for, and said aloud only when the status changes.
  status.setAttribute("aria-live", "off");
  let state = null;
  let told = 0;
  let lost = false;
  let spoken = "";

  function ago(seconds) {
    if (seconds < 2) return "just now";
    if (seconds < 60) return `${Math.floor(seconds)} s ago`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
    if (seconds < 129600) return `${Math.round(seconds / 3600)} h ago`;
    return `${Math.round(seconds / 86400).toLocaleString("en-US")} days ago`;
  }

  function words() {
    if (lost) return "connection lost, trying again";
    if (!state) return "";
    if (!("status" in state)) {
      const runs = `${state.runs} ${state.runs === 1 ? "run" : "runs"}`;
      return state.running ? `${runs}, ${state.running} running` : state.runs ? runs : "waiting for a run";
    }
    const parts = [WORDS[state.status] || String(state.status || "waiting for its first step")];
    if (state.runs) parts[0] = state.running ? `${state.running} of ${state.runs} runs running` : "no run is running";
    if (state.step !== null && state.step !== undefined) parts.push(`step ${state.step.toLocaleString("en-US")}`);
    if (state.seconds !== null && state.seconds !== undefined) parts.push(ago(state.seconds + (performance.now() - told) / 1000));
    return parts.join(", ");
  }

  function showStatus() {
    const text = words();
    if (status.textContent !== text) status.textContent = text;
    const kind = lost ? "lost" : (state && state.status) || "";
    status.dataset.status = kind;
    if (state && !lost && state.step !== undefined) status.dataset.step = state.step;
    if (kind !== spoken && gm.say) gm.say(text);
    spoken = kind;
  }

  function takeState(next) {
    state = next;
    told = performance.now();
    if (next.title) document.title = next.title;
    showStatus();
  }

  setInterval(showStatus, 1000);

  // ---- the connection ----
  const FIRST_WAIT = 500; // ms; then longer and longer, up to the last
  const LAST_WAIT = 5000;
  const HIDDEN_WAIT = 10000; // a page that nobody sees asks for nothing
  let stream = null;
  let wait = FIRST_WAIT;
  let timer = 0;

  function connect() {
    clearTimeout(timer);
    close();
    stream = new EventSource(`${source}/stream`);
    const on = (name, use) => stream.addEventListener(name, (message) => {
      wait = FIRST_WAIT;
      lost = false;
      use(JSON.parse(message.data));
    });
    on("state", takeState);
    on("sections", takeSections);
    on("figures", (ids) => gm.refetch && gm.refetch(ids));
    stream.onerror = () => {
      close();
      lost = true;
      showStatus();
      timer = setTimeout(connect, wait);
      wait = Math.min(wait * 1.6, LAST_WAIT);
    };
  }

  function close() {
    if (stream) stream.close();
    stream = null;
  }

  // A browser keeps six connections to a server: tabs in the background give theirs back.
  let hiding = 0;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiding);
    if (!document.hidden) {
      if (!stream) connect();
      return;
    }
    hiding = setTimeout(() => {
      clearTimeout(timer);
      close();
    }, HIDDEN_WAIT);
  });
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", (event) => event.persisted && connect());

  // ---- the list of runs: marked runs can be compared ----
  function offerComparison() {
    const link = document.getElementById("compare");
    if (!link) return;
    const marked = [...document.querySelectorAll("input[data-run]:checked")].map((box) => box.dataset.run);
    const chosen = marked.slice(0, 8);
    link.hidden = chosen.length < 2;
    link.textContent = `Compare ${chosen.length} runs side by side`;
    link.href = `/compare?${chosen.map((name) => `run=${encodeURIComponent(name)}`).join("&")}`;
  }
  document.addEventListener("change", (event) => event.target.matches("input[data-run]") && offerComparison());

  function start() {
    const search = document.getElementById("search");
    if (search && !source.startsWith("/run/")) search.hidden = true; // there is no layer to be found
    connect();
  }

  gm.live = { morph: children, connect };
  if (document.readyState === "complete") start();
  else document.addEventListener("DOMContentLoaded", start);
})();
