"use strict";
// The ledger along the module tree: a table whose rows open. Only what is open is in the page, and
// like siblings are one row, so that ten layers and ten thousand read alike.
(function () {
  const gm = window.gm;
  const MOST = 40; // rows that one row opens into; more are put together in tens, hundreds...
  const FIRST = 20; // rows on show before anybody has opened any
  const BAR = 14; // height of a bar, in pixels

  // What a row stands for: one entry, or neighbouring siblings (a run of like ones, or a part of it).
  function single(books, at) {
    const kids = () => arrange(books, books.children(at), books.groups(at));
    return {
      lo: at, hi: books.end[at], from: books.from(at), to: books.to(at), at,
      name: books.name(at) || (at ? "" : "(the model)"), what: books.label(at) !== books.name(at) ? books.label(at) : "",
      layer: books.kind(at) === "module" && books.path(at) ? books.path(at) : null,
      decades: books.decades(at), kids: books.size[at] ? kids : null,
    };
  }

  function several(books, ats, period, alike) {
    const first = ats[0], last = ats[ats.length - 1], repeats = ats.length / period;
    const from = books.from(first), to = books.to(last);
    const number = repeats.toLocaleString("en-GB");
    const labels = ats.slice(0, period).map((at) => books.label(at) || books.name(at));
    const pattern = period > 1 ? `[${labels.join(", ")}]` : labels[0];
    return {
      lo: first, hi: books.end[last], from, to, at: -1, layer: null,
      name: span(books.name(first), books.name(last)),
      what: alike ? `${pattern} × ${number}` : `${number} entries`,
      decades: ats.reduce((total, at) => total + books.decades(at), 0),
      kids: () => (ats.length <= MOST ? ats.map((at) => single(books, at)) : chunks(books, ats, period, alike)),
    };
  }

  function chunks(books, ats, period, alike) {
    const repeats = ats.length / period;
    const size = 10 ** (Math.ceil(Math.log10(repeats)) - 1) * period;
    const step = size >= ats.length ? Math.ceil(ats.length / 10) : size;
    const found = [];
    for (let k = 0; k < ats.length; k += step) {
      const part = ats.slice(k, k + step);
      const whole = part.length % period === 0;
      found.push(part.length === 1 ? single(books, part[0]) : several(books, part, whole ? period : 1, alike && whole));
    }
    return found;
  }

  // The children of an entry as rows.
  function arrange(books, ats, groups) {
    const found = [];
    let next = 0;
    for (const [start, count, period] of groups) {
      for (; next < start; next++) found.push(single(books, ats[next]));
      found.push(several(books, ats.slice(start, start + count), period, true));
      next = start + count;
    }
    for (; next < ats.length; next++) found.push(single(books, ats[next]));
    return found.length <= MOST || groups.length ? found : chunks(books, ats, 1, false);
  }

  // `layers.0 .. 99`: what both share is said once.
  function span(first, last) {
    const a = first.split("."), b = last.split(".");
    let shared = 0;
    while (shared < Math.min(a.length, b.length) - 1 && a[shared] === b[shared]) shared++;
    return first === last ? first : `${first} .. ${b.slice(shared).join(".")}`;
  }

  // Losses to the left of the axis and gains to the right, piled by cause; to the siblings' scale.
  function bar(books, row, scale) {
    const width = 180, parts = books.byCause(row.from, row.to);
    const x = (v) => ((v - scale.low) / (scale.high - scale.low || 1)) * (width - 2) + 1;
    const said = parts.map((v, c) => [v, c]).filter(([v]) => Math.abs(v) > 1e-9).sort((p, q) => Math.abs(q[0]) - Math.abs(p[0]));
    const made = gm.svgNode("svg", { class: "cause-bar", viewBox: `0 0 ${width} ${BAR}`, width, height: BAR, role: "img" });
    made.setAttribute("aria-label", said.map(([v, c]) => `${books.causes[c][1]} ${gm.decades(v)}`).join(", ") || "nothing");
    made.append(gm.svgNode("title", {}, said.map(([v, c]) => `${books.causes[c][1]} ${gm.decades(v)}`).join("\n")));
    let [down, up] = [0, 0];
    for (const [value, cause] of said) {
      const start = value < 0 ? down : up, stop = start + value;
      if (value < 0) down = stop; else up = stop;
      const [a, b] = [x(Math.min(start, stop)), x(Math.max(start, stop))];
      const name = books.causes[cause][0];
      made.append(gm.svgNode("rect", { class: `pile c-${name}`, x: a.toFixed(1), y: 1, width: Math.max(b - a, 0.5).toFixed(1), height: BAR - 2, fill: `url(#p-${name})` }));
    }
    made.append(gm.svgNode("path", { class: "axis", d: `M${x(0).toFixed(1)} 0V${BAR}` }));
    return made;
  }

  function scaleOf(books, rows) {
    const scale = { low: 0, high: 0 };
    for (const row of rows) {
      const parts = books.byCause(row.from, row.to);
      scale.low = Math.min(scale.low, parts.reduce((t, v) => t + Math.min(v, 0), 0));
      scale.high = Math.max(scale.high, parts.reduce((t, v) => t + Math.max(v, 0), 0));
    }
    return scale;
  }

  // `hooks.over(stretch or null)` is told of the row pointed at, `hooks.zoom(from, to)` of a wish.
  gm.treegrid = function (host, books, hooks) {
    const rows = []; // what is on show, from the top
    const body = gm.h("tbody");
    const head = [["module", "name"], ["decades", ""], ["by cause: loss ← 0 → gain", "bars"], ["predicted", ""], ["measured − predicted", ""]];
    const table = gm.h("table", { role: "treegrid", "aria-label": "The ledger along the module tree", class: "tree" },
      gm.h("thead", {}, gm.h("tr", {}, ...head.map(([text, name]) => gm.h("th", { scope: "col", class: name }, text)))), body);
    host.append(gm.h("div", { class: "scroll" }, table));

    function build(row) {
      const { level, item } = row;
      const predicted = books.predicted(item.from, item.to);
      const name = gm.visible(item.name), what = gm.visible(item.what);
      const twist = item.kids
        ? gm.h("button", { type: "button", class: "twist", tabindex: -1, "aria-hidden": "true", onclick: () => turn(row) })
        : gm.h("span", { class: "twist none" });
      const many = item.to - item.from > 1 && item.to - item.from < books.leaves;
      const zoom = many && gm.h("button", { type: "button", class: "zoom", tabindex: -1, title: "Show this stretch in the figure (z)", "aria-label": `Show ${name} in the figure`, onclick: () => hooks.zoom(item.from, item.to) }, "⤢");
      const cell = gm.h("th", { scope: "row", class: "name", role: "rowheader" },
        gm.h("span", { class: "place", style: `--level:${level}` }, twist,
          gm.h("span", { class: "label" }, name && gm.h("bdi", { class: "path", title: name }, gm.middle(name, 48)), what && gm.h("span", { class: "what" }, gm.middle(what, 60))), zoom));
      const number = (value, kind) => gm.h("td", { class: kind, role: "gridcell" }, value);
      row.element = gm.h("tr", {
        role: "row", "aria-level": level + 1, tabindex: -1, "data-layer": item.layer,
        "aria-expanded": item.kids ? "false" : null,
        onpointerenter: () => hooks.over([item.from, item.to]), onpointerleave: () => hooks.over(null),
        onfocus: (event) => { if (event.target === row.element) hooks.over([item.from, item.to]); },
        onblur: () => hooks.over(null),
      }, cell,
      number(gm.decades(item.decades), item.decades < 0 ? "n loss" : "n"),
      gm.h("td", { class: "bars", role: "gridcell" }, bar(books, item, row.scale)),
      number(Number.isFinite(predicted) ? gm.decades(predicted) : "–", "n soft"),
      number(Number.isFinite(predicted) ? gm.decades(item.decades - predicted) : "–", "n soft"));
      row.element.row = row;
      return row;
    }

    const rowsOf = (items, level, parent) => {
      const scale = scaleOf(books, items);
      return items.map((item) => build({ item, level, scale, parent, open: false }));
    };

    function open(row) {
      if (!row.item.kids || row.open) return;
      row.open = true;
      row.element.setAttribute("aria-expanded", "true");
      const made = rowsOf(row.item.kids(), row.level + 1, row);
      rows.splice(rows.indexOf(row) + 1, 0, ...made);
      row.element.after(...made.map((one) => one.element));
      gm.markSelected(body);
    }

    function close(row) {
      if (!row.open) return;
      row.open = false;
      row.element.setAttribute("aria-expanded", "false");
      const at = rows.indexOf(row) + 1;
      let end = at;
      while (end < rows.length && rows[end].level > row.level) end++;
      const gone = rows.splice(at, end - at);
      const inside = gone.some((one) => one.element === document.activeElement);
      gone.forEach((one) => one.element.remove());
      if (inside) row.element.focus();
      reach();
    }

    const turn = (row) => (row.open ? close(row) : open(row));

    // One row can be reached by Tab; the others by arrows.
    function reach(row) {
      const chosen = row || rows.find((one) => one.element.tabIndex === 0) || rows[0];
      for (const one of rows) one.element.tabIndex = one === chosen ? 0 : -1;
    }

    function step(row) {
      if (!row) return;
      reach(row);
      row.element.focus();
    }

    table.addEventListener("focusin", (event) => {
      const element = event.target.closest("tr[role=row]");
      if (element && element.row) reach(element.row);
    });
    table.addEventListener("keydown", (event) => {
      const element = event.target.closest("tr[role=row]"), row = element && element.row;
      if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
      const at = rows.indexOf(row);
      if (event.key === "ArrowDown") step(rows[at + 1]);
      else if (event.key === "ArrowUp") step(rows[at - 1]);
      else if (event.key === "Home") step(rows[0]);
      else if (event.key === "End") step(rows[rows.length - 1]);
      else if (event.key === "ArrowRight") { if (row.open) step(rows[at + 1]); else open(row); }
      else if (event.key === "ArrowLeft") { if (row.open) close(row); else step(row.parent); }
      else if (event.key === " " || (event.key === "Enter" && row.item.layer === null)) turn(row);
      else if (event.key === "z") hooks.zoom(row.item.from, row.item.to);
      else return;
      event.preventDefault();
    });
    body.addEventListener("click", (event) => {
      const element = event.target.closest("tr[role=row]");
      if (!element || event.target.closest("button")) return;
      // A row of several has no layer to select: a click opens it.
      if (element.row.item.layer === null) turn(element.row);
    });

    const top = rowsOf([single(books, 0)], 0, null);
    rows.push(...top);
    body.append(top[0].element);
    open(top[0]);
    // Whatever fits is open from the start, the weightiest first; of like ones none, for they are alike.
    for (let more = true; more;) {
      const shut = rows.filter((row) => row.item.kids && !row.open && row.level < 4 && !(row.parent && row.parent.item.at < 0));
      shut.sort((a, b) => Math.abs(b.item.decades || 0) - Math.abs(a.item.decades || 0));
      const next = shut.find((row) => rows.length + row.item.kids().length <= FIRST);
      if (next) open(next);
      more = Boolean(next);
    }
    reach(rows[0]);

    return {
      // Open whatever hides an entry.
      reveal(at) {
        for (let k = 0; k < rows.length; k++) {
          const { item } = rows[k];
          if (at < item.lo || at >= item.hi) continue;
          if (item.at === at) return;
          open(rows[k]);
        }
      },
    };
  };
})();
