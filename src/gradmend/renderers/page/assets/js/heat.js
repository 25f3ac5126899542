"use strict";
// Figures of kind "heat": a matrix of colours on a canvas; what follows the pointer is drawn on a
// second canvas above it, so that moving never draws the matrix again.
(function () {
  const gm = window.gm;
  const MOST_HEIGHT = 460; // pixels of the page
  const LEAST_ROWS = 4; // in view when zoomed in
  const LABEL = 15; // pixels a row label needs
  const MOST_TABS = 7; // choices beside each other; more are a list to pick from

  const { unpack, covered, shownOf, colours } = gm.matrix;

  gm.kinds.heat = function (element, given) {
    let own = unpack(given);
    let choices = given.choices;
    let view = null; // [first row, rows] where zoomed
    let cursor = null; // {row, column, x, y} with x, y where a pointer is
    let pointed = null; // marks pointed at
    let dragged = null;
    let box = null;

    const tabs = gm.h("div", { class: "fig-tabs" });
    const bar = gm.h("canvas", { class: "heat-bar", role: "img" });
    const pin = gm.h("i", { class: "heat-pin", hidden: true });
    const legend = gm.h("div", { class: "fig-legend heat-legend" });
    const strip = gm.h("div", { class: "fig-marks" });
    const base = gm.h("canvas", {});
    const over = gm.h("canvas", { class: "fig-overlay" });
    const stage = gm.h("div", { class: "fig-stage heat-stage", tabindex: 0, role: "application", "aria-roledescription": "heat map" }, base, over);
    const xtitle = gm.h("div", { class: "fig-xtitle" });
    const readout = gm.h("p", { class: "fig-readout" });
    const note = gm.h("p", { class: "fig-note" });
    element.append(tabs, legend, strip, stage, xtitle, note, readout);

    const rowsInView = () => view || [0, own.rows];
    const scale = () => window.devicePixelRatio || 1;
    const name = (row) => gm.power(gm.middle(own.spec.rows[row], 60));
    const code = (row, column) => own.codes[row * own.columns + column];
    const value = (row, column) => gm.decode(code(row, column), own.spec.values);
    const layerOf = (row, column) => own.spec.layers[own.spec.across ? column : row];

    // ---- where things stand ----
    function layout(width) {
      const pen = new gm.CanvasPen(base.getContext("2d"));
      const every = Math.ceil(own.rows / 300);
      let widest = 0;
      for (let row = 0; row < own.rows; row += every) widest = Math.max(widest, pen.measure(gm.power(gm.middle(own.spec.rows[row], 60)), 12, 600));
      const left = Math.round(Math.min(Math.max(widest + 14, 34), 260, width * 0.34));
      const tall = own.rows === 1 ? 44 : own.rows <= 10 ? 28 : own.rows <= 24 ? 19 : 12;
      const height = Math.round(Math.min(own.rows * tall, MOST_HEIGHT));
      return { left, top: height / own.rows < LABEL ? 8 : 2, width: Math.max(width - left - 12, 40), height };
    }

    const from = () => own.edges[0];
    const to = () => own.edges[own.columns];
    const xAt = (where) => box.left + ((where - from()) / (to() - from())) * box.width;
    const rowHeight = () => box.height / rowsInView()[1];
    const yAt = (row) => box.top + (row - rowsInView()[0]) * rowHeight();

    // ---- the picture ----
    function picture(width, height, scaled) {
      const [start, count] = rowsInView();
      const each = (bounds, first, last, pixels) =>
        Array.from({ length: pixels }, (_, i) => covered(bounds, first + ((last - first) * i) / pixels, first + ((last - first) * (i + 1)) / pixels));
      const down = each(own.rowEdges, start, start + count, height);
      const along = each(own.edges, from(), to(), width);
      const table = colours(own);
      const pixels = new Uint32Array(width * height);
      for (let j = 0; j < height; j++) {
        const [top, bottom] = down[j];
        if (j && top === down[j - 1][0] && bottom === down[j - 1][1]) {
          pixels.copyWithin(j * width, (j - 1) * width, j * width);
          continue;
        }
        for (let i = 0; i < width; i++) pixels[j * width + i] = table[own.codes[shownOf(own, top, bottom, along[i][0], along[i][1])]];
      }
      own.shared = [down, along].map((all) => Math.max(1, ...all.map(([first, end]) => end - first)));
      const image = gm.h("canvas", { width, height });
      image.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), width, height), 0, 0);
      const whole = gm.h("canvas", { width, height });
      const context = whole.getContext("2d");
      gm.hatch(context, width, height, scaled);
      context.drawImage(image, 0, 0);
      context.fillStyle = gm.css("--ground");
      const line = Math.round(scaled);
      if (height / count / scaled >= 9) for (let row = 1; row < count; row++) context.fillRect(0, Math.round((row * height) / count) - line, width, line);
      if (width / own.columns / scaled >= 22)
        for (const edge of own.edges.slice(1, -1)) context.fillRect(Math.round(((edge - from()) / (to() - from())) * width) - line, 0, line, height);
      return whole;
    }

    function draw(pen, picturePixels) {
      const soft = gm.css("--soft");
      pen.image(picture(Math.round(box.width * picturePixels), Math.round(box.height * picturePixels), picturePixels), box.left, box.top, box.width, box.height);
      const [start, count] = rowsInView();
      const every = nice(LABEL / rowHeight());
      box.labels = [];
      for (let row = Math.ceil(start / every) * every; row < start + count; row += every) {
        box.labels.push(yAt(row + 0.5));
        pen.text(pen.fit(own.spec.rows[row], box.left - 12), box.left - 8, yAt(row + 0.5), { fill: soft, align: "right" });
      }
      const bottom = box.top + box.height;
      const ticks = xTicks();
      for (const { at } of ticks) pen.line([[at, bottom], [at, bottom + 4]], soft);
      box.places = gm.labelsAlong(pen, ticks, box.left, box.left + box.width + 10, bottom + 8, soft);
      if (!own.finite && !own.positive && !own.negative) {
        const middle = box.left + box.width / 2;
        pen.rect(middle - 80, box.top + box.height / 2 - 12, 160, 24, gm.css("--ground"));
        pen.text("Nothing was measured", middle, box.top + box.height / 2, { fill: soft, align: "center", size: 13 });
      }
    }

    const nice = (least) => [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000].find((step) => step >= least) || Math.ceil(least);

    function xTicks() {
      if (own.spec.categories.length) {
        const every = nice(118 / (box.width / own.columns));
        return [...own.at.keys()].filter((i) => i % every === 0).map((i) => ({ at: xAt(own.at[i]), text: gm.tail(own.spec.categories[i], 15) }));
      }
      if (own.columns <= 3) return Array.from(own.at, (at) => ({ at: xAt(at), text: gm.tickText(at, [at], own.spec.x) }));
      const values = gm.ticks(from(), to(), Math.max(2, Math.floor(box.width / 90)), { ...own.spec.x, log: false, whole: own.steps });
      return values.map((at) => ({ at: xAt(at), text: gm.tickText(at, values, own.spec.x) }));
    }

    // ---- the colour bar: 24 pixels at each end for its outermost labels ----
    const PAD = 24;
    function drawBar(pen, left, top, width) {
      const palette = gm.palette(own.spec.centre !== null);
      const [lo, hi] = own.domain;
      const inner = width - 2 * PAD;
      const flat = !(hi > lo);
      const strips = flat ? 1 : 128;
      for (let i = 0; i < strips; i++) {
        const share = own.share(lo + ((i + 0.5) / strips) * (hi - lo));
        pen.rect(left + PAD + (i / strips) * inner, top, inner / strips + 0.4, 12, gm.rgb(palette[Math.round(Math.min(Math.max(share, 0), 1) * 256)]));
      }
      const ink = gm.css("--soft");
      const ticks = flat ? [lo] : gm.ticks(lo, hi, 5, own.spec.colour);
      const at = (tick) => left + PAD + (flat ? 0.5 : (tick - lo) / (hi - lo)) * inner;
      const text = (tick) => {
        const beyond = tick === lo && own.data[0] < lo ? "≤ " : tick === hi && own.data[1] > hi ? "≥ " : "";
        return beyond + (flat ? gm.amount(tick, own.spec.colour) : gm.tickText(tick, ticks, own.spec.colour));
      };
      for (const tick of ticks) pen.line([[at(tick), top + 12], [at(tick), top + 16]], ink);
      gm.labelsAlong(pen, ticks.map((tick) => ({ at: at(tick), text: text(tick) })), left - 40, left + width + 40, top + 19, ink, 6);
      for (const level of own.spec.levels) {
        if (level.y < lo || level.y > hi) continue;
        pen.line([[at(level.y), top - 3], [at(level.y), top + 15]], gm.css("--ground"), 4);
        pen.line([[at(level.y), top - 4], [at(level.y), top + 16]], gm.css("--ink"), 2);
      }
    }

    function drawLegend() {
      legend.textContent = "";
      const { colour } = own.spec;
      const width = Math.min(300, element.clientWidth - 8);
      if (own.finite) {
        prepare(bar, width, 34);
        bar.setAttribute("aria-label", `Colours from ${gm.amount(own.domain[0], colour)} to ${gm.amount(own.domain[1], colour)}`);
        drawBar(new gm.CanvasPen(bar.getContext("2d")), 0, 4, width);
        legend.append(gm.h("span", { class: "heat-scale" }, gm.h("span", {}, gm.axisTitle(colour)), gm.h("span", { class: "heat-bars" }, bar, pin)));
      }
      for (const level of own.spec.levels) legend.append(gm.h("span", { class: "key" }, gm.h("i", { class: "swatch level" }), gm.levelText(level, colour)));
      const key = (count, kind, text) => count && legend.append(gm.h("span", { class: "key" }, gm.h("i", { class: `swatch ${kind}` }), `${text} (${gm.whole(count)} ${count === 1 ? "cell" : "cells"})`));
      key(own.missing, "missing", "not measured");
      key(own.positive, "positive", "+inf");
      key(own.negative, "negative", "−inf");
      legend.append(...gm.signKeys(own.spec.marks));
      if (own.rows > 24) {
        const zoomer = (label, title, work) => gm.h("button", { type: "button", title, "aria-label": title, onclick: work }, label);
        legend.append(gm.h("span", { class: "heat-zoom", role: "group", "aria-label": "Rows" },
          zoomer("−", "More rows (−)", () => zoom(2)), zoomer("+", "Fewer, taller rows (+)", () => zoom(0.5)), zoomer("All", "All rows (0)", () => show(null))));
      }
    }

    function drawTabs() {
      tabs.textContent = "";
      tabs.hidden = choices.length < 2;
      if (choices.length > MOST_TABS) {
        const options = choices.map(([id, label]) => gm.h("option", { value: id, selected: id === own.spec.id }, gm.middle(label, 80)));
        const box = gm.h("select", { "aria-label": "What is shown", onchange: () => gm.swap(element, box.value) }, ...options);
        tabs.removeAttribute("role");
        tabs.removeAttribute("aria-label");
        tabs.append(box);
        return;
      }
      tabs.setAttribute("role", "tablist");
      tabs.setAttribute("aria-label", "Quantity");
      for (const [id, label] of choices) {
        const active = id === own.spec.id;
        tabs.append(gm.h("button", { type: "button", role: "tab", "aria-selected": String(active), tabindex: active ? 0 : -1, onclick: () => gm.swap(element, id) }, gm.visible(label)));
      }
    }
    tabs.addEventListener("keydown", (event) => {
      const turn = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!turn || choices.length > MOST_TABS) return;
      const at = choices.findIndex(([id]) => id === own.spec.id);
      const next = (at + turn + choices.length) % choices.length;
      Promise.resolve(gm.swap(element, choices[next][0])).then(() => tabs.children[next].focus());
      event.preventDefault();
    });

    function prepare(canvas, width, height) {
      canvas.width = Math.round(width * scale());
      canvas.height = Math.round(height * scale());
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
      const context = canvas.getContext("2d");
      context.setTransform(scale(), 0, 0, scale(), 0, 0);
      return context;
    }

    function build() {
      const width = Math.max(element.clientWidth, 200);
      stage.setAttribute("aria-label", gm.visible(own.spec.words || own.spec.title));
      box = layout(width);
      drawTabs();
      stage.hidden = !own.codes.length;
      if (stage.hidden) {
        legend.textContent = xtitle.textContent = readout.textContent = "";
        note.textContent = "Nothing was recorded.";
        return;
      }
      drawLegend();
      prepare(over, width, box.height + 36);
      repaint();
      strip.style.marginLeft = `${box.left}px`;
      strip.style.width = `${box.width}px`;
      const inside = (x) => x >= from() && x <= to();
      gm.putMarks(strip, own.spec.marks, (x) => (inside(x) ? xAt(x) - box.left : null), own.steps, (marks) => {
        pointed = marks;
        soon();
      });
      xtitle.textContent = gm.axisTitle(own.spec.x);
      xtitle.style.marginLeft = `${box.left}px`;
      paint();
    }

    function repaint() {
      const context = prepare(base, box.left + box.width + 12, box.height + 36);
      draw(new gm.CanvasPen(context), scale());
      const [start, count] = rowsInView();
      const said = [];
      if (view) said.push(`Rows ${gm.whole(start + 1)} to ${gm.whole(start + count)} of ${gm.whole(own.rows)}; drag to move.`);
      if (own.shared[0] > 1 || own.shared[1] > 1) {
        said.push(`Each dot stands for up to ${own.shared[0]} × ${own.shared[1]} cells (rows × columns) and shows a typical one, or one that stands out.${own.shared[0] > 1 ? " Zoom in with + to part the rows." : ""}`);
      }
      note.textContent = said.join(" ");
      stage.classList.toggle("zoomed", view !== null);
    }
    const repaintSoon = gm.perFrame(() => {
      repaint();
      paint();
    });

    // ---- what follows the pointer ----
    function paint() {
      if (!own.codes.length) return;
      const context = over.getContext("2d");
      context.clearRect(0, 0, box.left + box.width + 12, box.height + 36);
      const pen = new gm.CanvasPen(context);
      const [ink, ground] = [gm.css("--ink"), gm.css("--ground")];
      const outline = (x, y, width, height) => {
        context.strokeStyle = ground;
        context.lineWidth = 4;
        context.strokeRect(x, y, width, height);
        context.strokeStyle = ink;
        context.lineWidth = 1.75;
        context.strokeRect(x, y, width, height);
      };
      context.save();
      context.beginPath();
      context.rect(box.left - 3, box.top - 2, box.width + 6, box.height + 4);
      context.clip();
      for (const [first, last] of selectedRuns()) {
        if (own.spec.across) outline(xAt(own.edges[first]), box.top, xAt(own.edges[last + 1]) - xAt(own.edges[first]), box.height);
        else outline(box.left, yAt(first), box.width, Math.max(yAt(last + 1) - yAt(first), 1));
      }
      if (own.steps && gm.selection.step !== null && own.columns) {
        const x = xAt(gm.selection.step);
        pen.line([[x, box.top], [x, box.top + box.height]], ground, 4);
        pen.line([[x, box.top], [x, box.top + box.height]], ink, 1.75);
      }
      context.restore();
      if (cursor) crosshair(context, pen, ink, ground);
      tell();
    }
    const soon = gm.perFrame(paint);

    function crosshair(context, pen, ink, ground) {
      const { row, column } = cursor;
      const [left, right] = [xAt(own.edges[column]), xAt(own.edges[column + 1])];
      const [top, bottom] = [yAt(row), yAt(row + 1)];
      context.globalAlpha = 0.75;
      const [x, y] = [(left + right) / 2, (top + bottom) / 2];
      for (const [colour, width] of [[ground, 3], [ink, 1]]) {
        pen.line([[x, box.top], [x, top]], colour, width);
        pen.line([[x, bottom], [x, box.top + box.height]], colour, width);
        pen.line([[box.left, y], [left, y]], colour, width);
        pen.line([[right, y], [box.left + box.width, y]], colour, width);
      }
      context.globalAlpha = 1;
      context.strokeStyle = ground;
      context.lineWidth = 4;
      context.strokeRect(left, top, right - left, bottom - top);
      context.strokeStyle = ink;
      context.lineWidth = 2;
      context.strokeRect(left, top, right - left, bottom - top);
      const label = (text, from, at, width, base) => {
        pen.rect(from, at, width, 18, ground);
        pen.text(text, base === "right" ? from + width - 8 : from + width / 2, at + 9, { fill: ink, align: base, weight: 600 });
      };
      // What the bold labels would touch gives way.
      for (const other of box.labels) if (Math.abs(other - y) < 16) pen.rect(0, other - 8, box.left - 5, 16, ground);
      label(pen.fit(own.spec.rows[row], box.left - 12, 12, 600), 0, Math.min(Math.max(y - 9, 0), box.height - 14), box.left, "right");
      const place = own.spec.categories.length ? gm.middle(own.spec.categories[column], 40) : Number.isInteger(own.at[column]) ? gm.whole(own.at[column]) : gm.number(own.at[column]);
      const width = pen.measure(place, 12, 600) + 16;
      for (const [at, wide] of box.places) if (at < x + width / 2 + 6 && at + wide > x - width / 2 - 6) pen.rect(at - 1, box.top + box.height + 6, wide + 2, 18, ground);
      label(place, Math.min(Math.max(x - width / 2, 0), box.left + box.width + 12 - width), box.top + box.height + 6, width, "center");
    }

    function selectedRuns() {
      const runs = [];
      if (gm.selection.layer === null) return runs;
      own.spec.layers.forEach((layer, at) => {
        if (!gm.isSelected(layer)) return;
        const last = runs[runs.length - 1];
        if (last && last[1] === at - 1) last[1] = at;
        else runs.push([at, at]);
      });
      return runs;
    }

    const words = () => gm.reading(value(cursor.row, cursor.column), own.spec.colour);
    function tell() {
      readout.textContent = "";
      const measured = cursor ? value(cursor.row, cursor.column) : NaN;
      pin.hidden = !Number.isFinite(measured) || !own.finite;
      if (!pin.hidden) {
        const [lo, hi] = own.domain;
        const share = hi > lo ? Math.min(Math.max((measured - lo) / (hi - lo), 0), 1) : 0.5;
        pin.style.left = `${PAD + share * (bar.width / scale() - 2 * PAD)}px`;
      }
      if (pointed) readout.append(gm.markWords(pointed));
      else if (!cursor) readout.append(gm.h("span", { class: "hint" }, "Point at a cell to read it; click to select."));
      else {
        readout.append(gm.h("bdi", { class: "what" }, name(cursor.row)), gm.h("span", {}, gm.middle(gm.place(own.spec, cursor.column), 60)), gm.h("b", { class: "value" }, words()));
        const close = own.spec.marks.filter((mark) => Math.abs(xAt(mark.x) - xAt(own.at[cursor.column])) < 4);
        if (close.length) readout.append(gm.h("span", { class: "happened" }, gm.markWords(close, 2)));
      }
    }

    // The cell shown at a place of the page: of those that share its pixel, the one drawn.
    function cellAt(x, y) {
      const [start, count] = rowsInView();
      const [width, height] = [Math.round(box.width * scale()), Math.round(box.height * scale())];
      const [i, j] = [Math.floor(((x - box.left) / box.width) * width), Math.floor(((y - box.top) / box.height) * height)];
      if (i < 0 || j < 0 || i >= width || j >= height || !own.codes.length) return null;
      const pixel = (first, whole, at, pixels) => [first + (whole * at) / pixels, first + (whole * (at + 1)) / pixels];
      const at = shownOf(own, ...covered(own.rowEdges, ...pixel(start, count, j, height)), ...covered(own.edges, ...pixel(from(), to() - from(), i, width)));
      return { row: Math.floor(at / own.columns), column: at % own.columns };
    }

    stage.addEventListener("pointermove", (event) => {
      const frame = stage.getBoundingClientRect();
      const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
      if (dragged && view && Math.abs(y - dragged.y) > 3) {
        dragged.moved = true;
        show([dragged.start - (y - dragged.y) / rowHeight(), view[1]]);
      }
      cursor = cellAt(x, y);
      soon();
    });
    stage.addEventListener("pointerleave", () => {
      cursor = null;
      soon();
    });
    stage.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      dragged = { y: event.clientY - stage.getBoundingClientRect().top, start: rowsInView()[0], moved: false };
    });
    window.addEventListener("pointerup", released);
    function released() {
      if (dragged && !dragged.moved) dragged = null;
    }
    stage.addEventListener("click", (event) => {
      const moved = dragged && dragged.moved;
      dragged = null;
      if (moved) return;
      const frame = stage.getBoundingClientRect();
      const cell = cellAt(event.clientX - frame.left, event.clientY - frame.top);
      if (cell) choose(cell);
    });
    stage.addEventListener("wheel", (event) => {
      if (!event.ctrlKey || own.rows <= LEAST_ROWS) return;
      event.preventDefault();
      zoom(event.deltaY < 0 ? 0.8 : 1.25);
    }, { passive: false });

    function choose({ row, column }) {
      const change = {};
      if (own.spec.layers.length) change.layer = layerOf(row, column);
      if (own.steps) change.step = own.at[column];
      gm.select(change);
    }

    function show(next) {
      if (next) {
        const count = Math.round(Math.min(Math.max(next[1], Math.min(LEAST_ROWS, own.rows)), own.rows));
        next = count >= own.rows ? null : [Math.round(Math.min(Math.max(next[0], 0), own.rows - count)), count];
      }
      view = next;
      repaintSoon();
    }

    function zoom(factor) {
      const [start, count] = rowsInView();
      const wanted = Math.max(Math.round(count * factor), LEAST_ROWS);
      const middle = cursor ? cursor.row + 0.5 : start + count / 2;
      show([middle - ((middle - start) / count) * wanted, wanted]);
    }

    stage.addEventListener("keydown", (event) => {
      if (!own.codes.length || event.ctrlKey || event.metaKey || event.altKey) return;
      const far = event.shiftKey ? 10 : 1;
      const moves = { ArrowLeft: [0, -far], ArrowRight: [0, far], ArrowUp: [-far, 0], ArrowDown: [far, 0], Home: [0, -Infinity], End: [0, Infinity], PageUp: [-10, 0], PageDown: [10, 0] };
      if (moves[event.key]) {
        const [start, count] = rowsInView();
        const [down, along] = cursor ? moves[event.key] : [0, event.key === "End" ? Infinity : 0];
        const now = cursor || { row: start, column: 0 };
        const keep = (at, most) => Math.min(Math.max(at, 0), most - 1);
        cursor = { row: keep(now.row + down, own.rows), column: keep(now.column + along, own.columns) };
        if (cursor.row < start || cursor.row >= start + count) show([cursor.row < start ? cursor.row : cursor.row - count + 1, count]);
        gm.say(`${name(cursor.row)}, ${gm.place(own.spec, cursor.column)}, ${words()}`);
        soon();
      } else if (event.key === "Enter" && cursor) choose(cursor);
      else if (event.key === "+" || event.key === "=") zoom(0.5);
      else if (event.key === "-") zoom(2);
      else if (event.key === "0") show(null);
      else return;
      event.preventDefault();
    });
    stage.addEventListener("blur", () => {
      cursor = null;
      soon();
    });

    // ---- files ----
    function table() {
      const { spec } = own;
      const place = (column) => (spec.categories.length ? gm.visible(spec.categories[column]) : String(gm.plain(own.at[column])));
      return {
        columns: [`${gm.label(spec.y)} \\ ${gm.axisTitle(spec.x)}`, ...Array.from(own.at, (_, column) => place(column))],
        count: own.rows,
        cell: (row, column) => (column ? value(row, column - 1) * (spec.colour.percent ? 100 : 1) : gm.visible(own.spec.rows[row])),
        layer: (row) => (spec.across ? undefined : spec.layers[row]),
      };
    }

    function svg() {
      const { spec } = own;
      const kept = box;
      if (own.codes.length) box = { ...layout(900), top: spec.marks.length ? 142 : 100 };
      const pen = new gm.SvgPen(912, box.top + box.height + 60 + (own.codes.length ? 0 : 80), spec.title, spec.words);
      pen.text(pen.fit(spec.title, 880, 15, 600), 16, 24, { fill: gm.css("--ink"), size: 15, weight: 600 });
      const title = gm.axisTitle(spec.colour);
      pen.text(title, 16, 54, { fill: gm.css("--soft") });
      if (!own.codes.length) return pen.done();
      let x = pen.measure(title, 12) + 8;
      if (own.finite) drawBar(pen, x, 48, 300);
      x += 320;
      for (const [count, fill, text] of [[own.missing, gm.css("--rule"), "not measured"], [own.positive, gm.rgb(gm.infinite(true)), "+inf"], [own.negative, gm.rgb(gm.infinite(false)), "−inf"]]) {
        if (!count) continue;
        pen.rect(x, 48, 16, 12, fill);
        pen.text(text, x + 22, 54, { fill: gm.css("--soft") });
        x += 40 + pen.measure(text, 12);
      }
      gm.signRow(pen, spec.marks, 16, 96);
      gm.signsAlong(pen, spec.marks, (value) => (value < from() || value > to() ? null : xAt(value)), 128);
      draw(pen, 2);
      pen.text(gm.axisTitle(spec.x), box.left + box.width / 2, box.top + box.height + 40, { fill: gm.css("--soft"), align: "center" });
      box = kept;
      return pen.done();
    }

    build();
    return {
      update(spec) {
        const same = spec.rows.length === own.rows;
        own = unpack(spec);
        if (spec.choices.length) choices = spec.choices;
        if (!same) view = null;
        if (cursor && (cursor.row >= own.rows || cursor.column >= own.columns)) cursor = null;
        build();
      },
      select(layer) {
        const [first] = own.spec.across || layer === null ? [] : selectedRuns();
        const [start, count] = rowsInView();
        if (view && first && (first[1] < start || first[0] >= start + count)) show([first[0] - count / 2, count]);
        paint();
      },
      resize: build,
      redraw: build,
      table,
      svg,
      colour: (row, column) => colours(own)[code(row, column)],
      cell: (row, column) => ({ x: (xAt(own.edges[column]) + xAt(own.edges[column + 1])) / 2, y: yAt(row + 0.5) }),
      destroy() {
        window.removeEventListener("pointerup", released);
        element.textContent = "";
      },
    };
  };
})();
