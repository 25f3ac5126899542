"use strict";
// The waterfall over depth: what the gradient has gained or lost since the output, by cause. It is
// an SVG, drawn anew for each stretch of the model that is looked at.
(function () {
  const gm = window.gm;
  const NS = "http://www.w3.org/2000/svg";
  const STEPS = 60; // up to this many entries are drawn as steps, more as slopes
  const MOST_CAUSES = 6;
  const HEIGHT = 320, TOP = 10, BOTTOM = 44, RIGHT = 12;

  const svg = gm.svgNode = function (name, attributes, text) {
    const made = document.createElementNS(NS, name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // Multiples of 1, 2 or 5 times a power of ten.
  function ticks(low, high, wanted) {
    const raw = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k <= high / step + 1e-9; k++) found.push(k * step);
    return [found, step];
  }

  // The causes with something to show, weightiest first; the rest goes under "other".
  function leading(books) {
    const other = books.causes.length - 1, weight = new Float64Array(other + 1);
    for (let k = 0; k < books.leaves; k++)
      for (let c = 0; c <= other; c++) weight[c] += Math.abs(books.of(c, k, k + 1));
    const order = [...weight.keys()].filter((c) => weight[c] > 0).sort((a, b) => weight[b] - weight[a]);
    if (order.length <= MOST_CAUSES) return order.map((c) => [c]);
    const kept = order.filter((c) => c !== other).slice(0, MOST_CAUSES - 1);
    return [...kept.map((c) => [c]), [other, ...order.filter((c) => c !== other && !kept.includes(c))]];
  }

  // Where bins begin and end, as leaves; a stretch shorter than its room is drawn entry by entry.
  function edges(a, b, most) {
    const count = Math.min(b - a, most), found = new Array(count + 1);
    for (let k = 0; k <= count; k++) found[k] = a + Math.floor((k * (b - a)) / count);
    return found;
  }

  // Draw into an element. `hooks.pick(leaf)` is told of a click, `hooks.move(first, last)` of the
  // entries under the pointer (or null), `hooks.zoomed(from, to)` of another stretch.
  gm.waterfall = function (host, books, hooks) {
    const shown = { from: 0, to: books.leaves, cursor: -1, band: null, hover: null, drag: null };
    const causes = leading(books);
    const root = svg("svg", { class: "waterfall", "aria-hidden": "true", height: HEIGHT });
    host.append(root);
    let layout = null;

    const sum = (list, a, b) => list.reduce((total, c) => total + books.of(c, a, b), 0);

    function draw() {
      const width = Math.max(host.clientWidth, 240);
      const tall = HEIGHT - TOP - BOTTOM;
      const { from, to } = shown;
      const cuts = edges(from, to, Math.max(20, Math.min(500, Math.floor((width - 60) / 2))));
      const bins = cuts.length - 1;
      const stepped = bins <= STEPS;
      const piles = causes.map((list) => cuts.map((cut) => sum(list, cut, to)));
      const net = cuts.map((cut) => books.sum(cut, to));
      const theory = cuts.map((cut) => books.predicted(cut, to));
      const below = new Float64Array(bins + 1), above = new Float64Array(bins + 1);
      // Losses pile up downwards and gains upwards; a cause may do both, at different depths.
      const layers = piles.flatMap((pile, rank) => [[below, Math.min], [above, Math.max]].map(([edge, part]) => ({
        cause: books.causes[causes[rank][0]][0],
        pairs: pile.map((value, k) => [edge[k], (edge[k] += part(value, 0))]),
      }))).filter(({ pairs }) => pairs.some(([p, q]) => p !== q));
      const told = theory.filter(Number.isFinite);
      let low = Math.min(0, ...below, ...told), high = Math.max(0, ...above, ...told);
      if (high - low < 1e-12) [low, high] = [-0.5, 0.5];
      const [marks, step] = ticks(low, high, 5);
      low = Math.min(low, Math.floor(low / step + 1e-9) * step);
      high = Math.max(high, Math.ceil(high / step - 1e-9) * step);
      const longest = Math.max(tick(low, step).length, tick(high, step).length);
      const left = Math.max(40, longest * 7.6 + 16), inner = width - left - RIGHT;
      const x = (k) => left + (k / Math.max(bins, 1)) * inner;
      const y = (v) => TOP + ((high - v) / (high - low)) * tall;
      layout = { left, inner, tall, cuts, bins, x, y, net, width };

      root.replaceChildren();
      root.setAttribute("width", width);
      root.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
      for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step) {
        const zero = Math.abs(v) < step * 1e-6;
        root.append(svg("path", { class: zero ? "grid zero" : "grid", d: `M${left} ${y(v).toFixed(1)}h${inner}` }));
        root.append(svg("text", { class: "tick", x: left - 8, y: y(v) + 4, "text-anchor": "end" }, tick(zero ? 0 : v, step)));
      }
      // In a stair the height between two edges is what stands at the left one: it includes the bin.
      const path = (values) => {
        let d = "";
        for (let k = 0; k < bins; k++) {
          if (!Number.isFinite(values[k])) continue;
          d += `${d ? "L" : "M"}${x(k).toFixed(1)} ${y(values[k]).toFixed(1)}`;
          if (stepped) d += `H${x(k + 1).toFixed(1)}`;
        }
        if (!d) return "";
        return stepped ? `${d}V${y(values[bins]).toFixed(1)}` : `${d}L${x(bins).toFixed(1)} ${y(values[bins]).toFixed(1)}`;
      };
      for (const { cause, pairs } of layers) {
        const under = [];
        for (let k = bins; k >= 0; k--) {
          if (stepped && k < bins) under.push(`L${x(k + 1).toFixed(1)} ${y(pairs[k][0]).toFixed(1)}`);
          under.push(`L${x(k).toFixed(1)} ${y(pairs[k][0]).toFixed(1)}`);
        }
        const d = `${path(pairs.map((p) => p[1]))}${under.join("")}Z`;
        root.append(svg("path", { class: `pile c-${cause}`, fill: `url(#p-${cause})`, d }));
      }
      root.append(svg("path", { class: "line net halo", d: path(net) }));
      root.append(svg("path", { class: "line net", d: path(net) }));
      if (told.length > 1) root.append(svg("path", { class: "line predicted", d: path(theory) }));
      positions(left, inner, bins, cuts);
      for (const name of ["hover", "band", "drag"]) root.append(svg("rect", { class: name, y: TOP, height: tall, width: 0 }));
      root.append(svg("path", { class: "cursor", d: "" }));
      overlay();
    }

    function tick(value, step) {
      const digits = Math.max(0, Math.min(6, -Math.floor(Math.log10(step) + 1e-9)));
      return value.toLocaleString("en-GB", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", "\u2212");
    }

    // Names of entries along the axis, as many as have room.
    function positions(left, inner, bins, cuts) {
      const base = HEIGHT - BOTTOM + 18, letters = inner < 420 ? 11 : 16;
      const wanted = Math.max(1, Math.min(bins, Math.floor(inner / (letters * 8.5))));
      for (let k = 0; k < wanted; k++) {
        const bin = wanted > 1 ? Math.round((k * (bins - 1)) / (wanted - 1)) : Math.floor((bins - 1) / 2);
        if (bins < 1) return;
        const last = k === wanted - 1 && wanted > 1;
        const leaf = last ? cuts[bin + 1] - 1 : cuts[bin];
        const entry = books.leafAt(leaf), name = books.path(entry) || books.name(entry) || "(the model)";
        const short = name.length <= letters ? name : "…" + name.slice(1 - letters);
        const at = left + ((bin + 0.5) / bins) * inner, room = short.length * 3.4;
        const anchor = at - room < left - 8 ? "start" : at + room > left + inner + 6 ? "end" : "middle";
        const spot = anchor === "start" ? left : anchor === "end" ? left + inner : at;
        root.append(svg("path", { class: "grid", d: `M${at.toFixed(1)} ${HEIGHT - BOTTOM}v5` }));
        root.append(svg("text", { class: "tick", x: spot.toFixed(1), y: base, "text-anchor": anchor }, short));
      }
      const [a, b] = [shown.from, shown.to];
      const amount = books.entries(a, b).toLocaleString("en-GB");
      const things = amount === "1" ? "entry" : "entries";
      const whole = b - a === books.leaves ? `${amount} ${things}` : `${amount} of ${books.entries(0, books.leaves).toLocaleString("en-GB")} ${things}`;
      const said = inner < 420 ? `input → output (${whole})` : `position in the model, input → output (${whole})`;
      root.append(svg("text", { class: "title", x: left + inner / 2, y: HEIGHT - 4, "text-anchor": "middle" }, said));
    }

    const pixel = (leaf) => layout.left + ((leaf - shown.from) / Math.max(shown.to - shown.from, 1)) * layout.inner;
    function rect(name, stretch) {
      const made = root.querySelector("rect." + name);
      const [a, b] = stretch || [0, 0];
      const x0 = Math.max(pixel(a), layout.left), x1 = Math.min(pixel(b), layout.left + layout.inner);
      made.setAttribute("x", x0.toFixed(1));
      made.setAttribute("width", stretch && x1 >= x0 && b > shown.from && a < shown.to ? Math.max(x1 - x0, 2).toFixed(1) : 0);
    }

    function overlay() {
      rect("band", shown.band);
      rect("hover", shown.hover);
      rect("drag", shown.drag);
      const { cursor } = shown, mark = root.querySelector(".cursor");
      if (cursor < 0 || cursor >= layout.bins) return mark.setAttribute("d", "");
      const at = layout.x(cursor + 0.5).toFixed(1);
      mark.setAttribute("d", `M${at} ${TOP}v${layout.tall}`);
    }

    function point(bin) {
      shown.cursor = bin;
      overlay();
      if (bin < 0) return hooks.move(null);
      hooks.move([layout.cuts[bin], layout.cuts[bin + 1]], layout.net[bin]);
    }

    function zoom(from, to) {
      const least = Math.min(4, books.leaves);
      const size = Math.max(least, Math.min(Math.round(to - from), books.leaves));
      from = Math.max(0, Math.min(Math.round(from), books.leaves - size));
      Object.assign(shown, { from, to: from + size, cursor: -1, drag: null });
      draw();
      hooks.zoomed(from, from + size);
    }

    const share = (event) => {
      const box = root.getBoundingClientRect();
      return Math.min(Math.max((event.clientX - box.left - layout.left) / layout.inner, 0), 0.999999);
    };
    const leafAt = (part) => shown.from + Math.floor(part * (shown.to - shown.from));
    let down = null;
    root.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      down = { part: share(event), x: event.clientX, moved: false };
      if (event.pointerType !== "touch") root.setPointerCapture(event.pointerId);
    });
    root.addEventListener("pointermove", (event) => {
      const part = share(event);
      if (down && Math.abs(event.clientX - down.x) > 5) {
        down.moved = true;
        const [a, b] = [down.part, part].sort((p, q) => p - q);
        shown.drag = [leafAt(a), leafAt(b) + 1];
      }
      point(Math.min(Math.floor(part * layout.bins), layout.bins - 1));
    });
    root.addEventListener("pointerup", (event) => {
      if (!down) return;
      const { moved } = down, stretch = shown.drag;
      down = shown.drag = null;
      if (moved && stretch) zoom(stretch[0], stretch[1]);
      else if (books.leaves) hooks.pick(leafAt(share(event)));
    });
    root.addEventListener("pointercancel", () => { down = shown.drag = null; overlay(); });
    root.addEventListener("pointerleave", () => { if (!down) point(-1); });
    root.addEventListener("dblclick", () => zoom(0, books.leaves));

    draw();
    return {
      root, zoom,
      causes: causes.map((list) => ({ cause: books.causes[list[0]], decades: sum(list, 0, books.leaves) })),
      get stretch() { return [shown.from, shown.to]; },
      // Mark a stretch of entries: the selected layer's, or that of a row under the pointer.
      mark(name, stretch) { shown[name] = stretch; overlay(); },
      // What a key does; true where it was one of ours.
      key(event) {
        const { from, to, cursor } = shown, size = to - from, bins = layout.bins;
        const middle = cursor < 0 ? from + size / 2 : (layout.cuts[cursor] + layout.cuts[cursor + 1]) / 2;
        const around = (wide) => zoom(middle - wide / 2, middle + wide / 2);
        const moves = { ArrowLeft: -1, ArrowRight: 1 };
        if (event.key in moves) {
          const step = moves[event.key];
          if (event.shiftKey) zoom(from + (step * size) / 4, to + (step * size) / 4);
          else point(cursor < 0 ? (step > 0 ? 0 : bins - 1) : Math.min(Math.max(cursor + step, 0), bins - 1));
        } else if (event.key === "Home") point(0);
        else if (event.key === "End") point(bins - 1);
        else if (event.key === "+" || event.key === "=") around(size / 4);
        else if (event.key === "-") around(size * 4);
        else if (event.key === "0") zoom(0, books.leaves);
        else if (event.key === "Enter" && cursor >= 0) hooks.pick(layout.cuts[cursor]);
        else return false;
        return true;
      },
      resize() { if (Math.max(host.clientWidth, 240) !== layout.width) draw(); },
      redraw: draw,
    };
  };
})();
