"use strict";
// The page around the figures: what is selected, the search, the keys, the theme, printing.
(function () {
  const gm = window.gm;
  const find = (id) => document.getElementById(id);

  // ---- what is said aloud: at most five times a second, the last word wins ----
  const voice = gm.h("p", { class: "unseen", "aria-live": "polite" });
  let next = "";
  let timer = 0;
  gm.say = function (text) {
    next = text;
    timer = timer || setTimeout(() => {
      timer = 0;
      voice.textContent = next;
    }, 200);
  };

  // ---- selection: shown in words, made by a click or Enter on anything of a layer ----
  let shown = null;
  gm.showSelection = function () {
    shown = shown || find("selection") || document.body.appendChild(gm.h("p", { id: "selection", role: "status" }));
    const { layer, step } = gm.selection;
    shown.textContent = "";
    shown.classList.toggle("some", layer !== null || step !== null);
    if (layer === null && step === null) return;
    shown.append("Selected: ");
    if (layer !== null) shown.append(gm.h("bdi", {}, gm.middle(layer, 60) || "the whole model"));
    if (step !== null) shown.append(layer === null ? "" : " at ", `step ${gm.whole(step)}`);
    const clear = () => gm.select({ layer: null, step: null });
    shown.append(" ", gm.h("button", { type: "button", class: "clear", onclick: clear, title: "Escape" }, "Clear"));
  };

  document.addEventListener("click", (event) => {
    const from = event.target.closest && event.target.closest("[data-layer]");
    if (!from) return;
    const inner = event.target.closest("a[href], button, summary, input, select");
    if (inner && inner !== from && from.contains(inner)) return;
    if (!getSelection().isCollapsed) return; // somebody marks a name to copy it
    gm.select({ layer: from.dataset.layer });
  });

  // ---- search: every layer named on the page or in one of its figures ----
  function layersOf(spec) {
    const kind = gm.kinds[spec.kind];
    if (kind && kind.layers) return kind.layers(spec);
    return [...(spec.layers || []), ...(spec.series || []).map((series) => series.layer)];
  }

  gm.layers = function () {
    const names = new Set();
    for (const element of document.querySelectorAll("[data-layer]")) names.add(element.dataset.layer);
    for (const entry of gm.figures.values()) {
      if (entry.spec && entry.named !== entry.spec) [entry.named, entry.layers] = [entry.spec, layersOf(entry.spec)];
      for (const name of entry.layers || []) if (name) names.add(name);
    }
    names.delete("");
    return [...names];
  };

  // Figures that nobody has scrolled to are asked for their layers, once, and not drawn.
  function askAll(then) {
    for (const entry of gm.figures.values()) {
      if (entry.spec || entry.layers) continue;
      entry.layers = [];
      Promise.resolve().then(() => gm.load(entry.id)).then((spec) => {
        entry.layers = layersOf(spec);
        then();
      }, () => (entry.layers = null)); // asked again, and complained about where it is drawn
    }
  }

  const MOST_OFFERED = 50; // more than anybody reads in a list that opens under a box
  function offer(list, typed) {
    const found = gm.layers().filter((name) => name.toLowerCase().includes(typed.toLowerCase()));
    found.sort((a, b) => a.length - b.length);
    list.textContent = "";
    list.append(...found.slice(0, MOST_OFFERED).map((name) => gm.h("option", { value: name })));
    return found;
  }

  function choose(box, list) {
    const typed = box.value.trim();
    if (!typed) return gm.select({ layer: null });
    const found = offer(list, typed);
    const layer = found.includes(typed) ? typed : found[0];
    if (layer === undefined) return gm.say(`No layer is named ${gm.middle(typed, 60)}`);
    box.value = layer;
    gm.select({ layer });
    const places = [...document.querySelectorAll("[data-layer]")];
    const first = places.find((element) => element.dataset.layer === layer && element.offsetParent);
    if (first) first.scrollIntoView({ behavior: gm.calm() ? "auto" : "smooth", block: "center" });
  }

  function startSearch() {
    const box = find("search");
    if (!box) return;
    let list = find(box.getAttribute("list") || "layers");
    if (!list) list = document.body.appendChild(gm.h("datalist", { id: box.getAttribute("list") || "layers" }));
    box.setAttribute("list", list.id);
    box.hidden = false;
    box.addEventListener("focus", () => {
      askAll(() => offer(list, box.value));
      offer(list, box.value);
    });
    box.addEventListener("input", () => {
      const found = offer(list, box.value);
      if (found.includes(box.value)) gm.select({ layer: box.value }); // picked from the list
    });
    box.addEventListener("keydown", (event) => {
      if (event.key === "Enter") choose(box, list);
      if (event.key === "Escape") box.blur();
    });
  }

  // ---- keys ----
  const KEYS = [
    ["/", "find a layer"],
    ["Tab", "go to the next figure or button"],
    ["← → ↑ ↓", "move through a figure (with Shift ten at a time)"],
    ["Home, End", "to the first, to the last"],
    ["Enter", "select the layer and the step"],
    ["+ − 0", "zoom in, zoom out, show all"],
    ["x, X", "zoom a heat map over steps: in, out"],
    ["drag, double click", "zoom in sideways, show all; up and down: move a zoomed heat map"],
    ["Ctrl + wheel", "zoom a heat map; with Shift over steps"],
    ["Escape", "select nothing"],
    ["?", "show these keys"],
  ];
  let help = null;
  gm.help = function () {
    if (!help) {
      const rows = KEYS.map(([key, does]) => [gm.h("dt", {}, gm.h("kbd", {}, key)), gm.h("dd", {}, does)]);
      help = gm.h("dialog", { class: "keys", "aria-labelledby": "keys-title" },
        gm.h("h2", { id: "keys-title" }, "Keys"),
        gm.h("dl", {}, ...rows.flat()),
        gm.h("form", { method: "dialog" }, gm.h("button", {}, "Close")));
      help.querySelector("button").addEventListener("click", (event) => {
        event.preventDefault(); // the page's policy allows no forms, not even this one
        help.close();
      });
      document.body.append(help);
    }
    if (!help.open) help.showModal();
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest && event.target.closest("input, textarea, select, [contenteditable]");
    if (typing || document.querySelector("dialog[open]")) return;
    if (event.key === "/" && find("search")) {
      event.preventDefault();
      find("search").focus();
    } else if (event.key === "?") {
      gm.help();
    } else if (event.key === "Escape") {
      gm.select({ layer: null, step: null });
    } else if (event.key === "Enter" && event.target.dataset && event.target.dataset.layer !== undefined) {
      gm.select({ layer: event.target.dataset.layer });
    }
  });

  // ---- theme: as the system has it, unless chosen ----
  const THEMES = { auto: "◐ Auto", light: "☀ Light", dark: "☾ Dark" };
  const root = document.documentElement;
  function remember(theme) {
    try {
      if (theme) localStorage.setItem("gradmend-theme", theme);
      return localStorage.getItem("gradmend-theme");
    } catch (error) {
      return theme; // storage may be forbidden; the choice then lasts as long as the page
    }
  }
  gm.setTheme = function (theme) {
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
    const button = find("theme");
    if (button) {
      button.hidden = false;
      button.textContent = THEMES[theme];
      button.setAttribute("aria-label", `Theme: ${theme}`);
      button.title = "Colours: as the system has them, light or dark";
    }
    gm.redrawAll();
  };
  function startTheme() {
    const kept = remember();
    gm.setTheme(kept in THEMES ? kept : "auto");
    const button = find("theme");
    if (button) {
      button.addEventListener("click", () => {
        const names = Object.keys(THEMES);
        const theme = names[(names.indexOf(root.dataset.theme || "auto") + 1) % names.length];
        remember(theme);
        gm.setTheme(theme);
      });
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", gm.redrawAll);
  }

  // ---- print: every figure, in light colours ----
  let before = null;
  window.addEventListener("beforeprint", () => {
    before = root.dataset.theme || "auto";
    root.dataset.theme = "light";
    gm.drawAll();
    gm.redrawAll();
  });
  window.addEventListener("afterprint", () => {
    if (before !== null) gm.setTheme(before);
    before = null;
  });

  function start() {
    document.body.append(voice);
    if (find("help")) {
      find("help").hidden = false;
      find("help").addEventListener("click", gm.help);
    }
    startTheme();
    startSearch();
    gm.mount();
    gm.readPermalink();
    window.addEventListener("hashchange", gm.readPermalink);
  }
  // The script stands at the end of the body; the kinds of figures come after this file.
  if (document.readyState === "complete") start();
  else document.addEventListener("DOMContentLoaded", start);
})();
