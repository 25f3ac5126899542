"use strict";
// What is selected, and figures drawn when they come into view.
//
// A kind of figure is `gm.kinds[kind] = function (element, spec) -> handle`. Of the handle only
// `destroy` must be there; used where they are: `update(spec)`, `select(layer, step)`, `resize()`,
// `redraw()` (colours changed), `table()` -> {columns, count, cell(row, column), text?(row, column)}
// and `svg()` -> text. What has a `table` can be read as one and downloaded as CSV, what has an
// `svg` as SVG and PNG.
(function () {
  const gm = window.gm;

  // ---- selection ----
  gm.selection = { layer: null, step: null };
  gm.figures = new Map(); // by element: {element, id, spec, handle, body, state}

  gm.inside = (layer, container) => layer === container || (container !== "" && layer.startsWith(`${container}.`));
  gm.isSelected = (layer) => gm.selection.layer !== null && typeof layer === "string" && gm.inside(layer, gm.selection.layer);

  gm.select = function (change) {
    const next = { ...gm.selection, ...change };
    if (next.layer === gm.selection.layer && next.step === gm.selection.step) return;
    gm.selection = next;
    for (const entry of gm.figures.values()) if (entry.handle && entry.handle.select) entry.handle.select(next.layer, next.step);
    gm.markSelected(document);
    gm.permalink();
    if (gm.showSelection) gm.showSelection();
  };

  gm.markSelected = function (root) {
    for (const element of root.querySelectorAll("[data-layer]")) {
      const selected = gm.isSelected(element.dataset.layer);
      element.classList.toggle("selected", selected);
      if (selected) element.setAttribute("aria-current", "true");
      else element.removeAttribute("aria-current");
    }
  };

  gm.link = function (figure) {
    const words = new URLSearchParams();
    if (figure) words.set("figure", figure);
    if (gm.selection.layer !== null) words.set("layer", gm.selection.layer);
    if (gm.selection.step !== null) words.set("step", gm.selection.step);
    if (gm.zoom) words.set("zoom", [gm.zoom.figure, ...gm.zoom.view.map((value) => gm.plain(value))].join("~"));
    return `${location.href.split("#")[0]}#${words}`;
  };

  // The figure last zoomed is kept in the address: {figure, view}, a few numbers of its own.
  gm.zoom = null;
  gm.zoomed = function (element, view) {
    const { figure } = element.closest("[data-figure]").dataset;
    if (!view && !(gm.zoom && gm.zoom.figure === figure)) return;
    gm.zoom = view && { figure, view };
    gm.permalink();
  };
  const zoomIn = (entry) => {
    if (gm.zoom && entry.handle && entry.handle.zoomTo && gm.zoom.figure === entry.element.dataset.figure) entry.handle.zoomTo(gm.zoom.view);
  };

  gm.permalink = function () {
    if (location.protocol === "about:") return; // a notebook's frame has no address
    const link = gm.link();
    history.replaceState(null, "", link.endsWith("#") ? location.pathname + location.search : link);
  };

  gm.readPermalink = function () {
    const words = new URLSearchParams(location.hash.slice(1));
    const step = words.has("step") ? Number(words.get("step")) : null;
    if (words.has("layer") || words.has("step"))
      gm.select({ layer: words.get("layer"), step: Number.isFinite(step) ? step : null });
    const [name, ...view] = (words.get("zoom") || "").split("~");
    gm.zoom = name && view.length && view.every((value) => value && Number.isFinite(Number(value))) ? { figure: name, view: view.map(Number) } : null;
    for (const entry of gm.figures.values()) zoomIn(entry);
    const figure = words.get("figure") && document.getElementById(`fig-${words.get("figure")}`);
    if (figure) figure.scrollIntoView({ behavior: gm.calm() ? "auto" : "smooth", block: "center" });
  };

  // ---- drawing when in view ----
  gm.load = function (id) {
    const island = document.getElementById(`spec-${id}`);
    if (island) return JSON.parse(island.textContent);
    const source = document.body.dataset.source;
    if (!source) throw new Error("the page holds no numbers for it");
    return fetch(`${source}/figure/${encodeURIComponent(id)}.json`).then((answer) => {
      if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
      return answer.json();
    });
  };

  // Sections that stand in the page are drawn at once, those that are fetched when they are there.
  function withSpec(entry, id, use) {
    const failed = (error) => {
      entry.state = "failed";
      complain(entry, `This figure could not be drawn: ${error.message}.`);
      console.error(error);
    };
    const guarded = (spec) => {
      try {
        use(spec);
        complain(entry, "");
      } catch (error) {
        failed(error);
      }
    };
    try {
      const spec = gm.load(id);
      return spec && spec.then ? spec.then(guarded, failed) : Promise.resolve(guarded(spec));
    } catch (error) {
      return Promise.resolve(failed(error));
    }
  }

  function complain(entry, sentence) {
    if (!entry.problem) {
      if (!sentence) return;
      entry.problem = gm.h("p", { class: "fig-problem", role: "alert" });
      entry.body.before(entry.problem);
    }
    entry.problem.textContent = sentence;
    entry.problem.hidden = !sentence;
  }

  function draw(entry) {
    if (entry.state !== "waiting") return Promise.resolve();
    entry.state = "loading";
    return withSpec(entry, entry.id, (spec) => put(entry, spec));
  }

  function put(entry, spec) {
    if (!gm.kinds[spec.kind]) throw new Error(`nothing draws a figure of kind ${spec.kind}`);
    const same = entry.handle && entry.spec.kind === spec.kind && entry.handle.update;
    entry.spec = spec;
    entry.words();
    if (same) {
      entry.handle.update(spec);
    } else {
      if (entry.handle) entry.handle.destroy();
      entry.body.textContent = "";
      entry.handle = gm.kinds[spec.kind](entry.body, spec);
      entry.element.classList.add("drawn");
      if (gm.tools) gm.tools(entry);
      zoomIn(entry);
    }
    entry.state = "drawn";
    if (entry.handle.select) entry.handle.select(gm.selection.layer, gm.selection.step);
    if (entry.refreshTable) entry.refreshTable();
  }

  // Another figure in this place: another quantity over the same layers and steps.
  gm.swap = function (element, id) {
    const entry = gm.figures.get(element.closest("[data-figure]"));
    entry.id = id;
    return withSpec(entry, id, (spec) => {
      if (entry.id === id) put(entry, spec);
    });
  };

  gm.refetch = function (ids) {
    const wanted = new Set(ids);
    const found = [...gm.figures.values()].filter((entry) => wanted.has(entry.id) && /drawn|failed/.test(entry.state));
    return Promise.all(found.map((entry) => {
      if (entry.fetching) {
        entry.again = true; // what is on its way may already be old
        return entry.fetching;
      }
      const id = entry.id;
      entry.fetching = withSpec(entry, id, (spec) => {
        if (entry.id === id) put(entry, spec);
      }).then(() => {
        entry.fetching = null;
        const again = entry.again;
        entry.again = false;
        return again ? gm.refetch([id]) : undefined;
      });
      return entry.fetching;
    }));
  };

  const near = new IntersectionObserver((seen) => {
    for (const one of seen) {
      if (!one.isIntersecting) continue;
      near.unobserve(one.target);
      const entry = gm.figures.get(one.target);
      if (entry) draw(entry);
    }
  }, { rootMargin: "600px 0px" });

  const sizes = new ResizeObserver((seen) => {
    for (const one of seen) {
      const entry = gm.figures.get(one.target.closest("[data-figure]"));
      const width = Math.round(one.contentRect.width);
      if (!entry || entry.width === width) continue;
      entry.width = width;
      if (entry.handle && entry.handle.resize) entry.handle.resize();
    }
  });

  // Takes up figures that were put into the page, forgets those that are gone.
  gm.mount = function (root = document) {
    for (const [element, entry] of gm.figures) {
      if (element.isConnected) continue;
      if (entry.handle) entry.handle.destroy();
      near.unobserve(element);
      sizes.unobserve(entry.body);
      gm.figures.delete(element);
    }
    for (const element of root.querySelectorAll("[data-figure]")) {
      if (gm.figures.has(element)) continue;
      const body = gm.h("div", { class: "fig-body" });
      const caption = element.querySelector("figcaption") || element.appendChild(gm.h("figcaption"));
      caption.after(body);
      const entry = { element, body, id: element.dataset.figure, state: "waiting", handle: null, spec: null };
      entry.words = () => {
        caption.textContent = "";
        caption.append(gm.h("strong", { class: "fig-title" }, gm.visible(entry.spec.title)));
        if (entry.spec.caption) caption.append(" ", gm.h("span", { class: "fig-caption" }, gm.power(entry.spec.caption)));
      };
      gm.figures.set(element, entry);
      near.observe(element);
      sizes.observe(body);
    }
    gm.markSelected(root);
  };

  gm.drawAll = () => Promise.all([...gm.figures.values()].map(draw));
  gm.redrawAll = function () {
    for (const entry of gm.figures.values()) if (entry.handle && entry.handle.redraw) entry.handle.redraw();
  };
})();
