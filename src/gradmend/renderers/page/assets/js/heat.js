"use strict";
// Figures of kind "heat": a matrix of colours on a canvas; what follows the pointer is drawn on a
// second canvas above it, so that moving never draws the matrix again.
(function () {
  const gm = window.gm;
  const LEAST = 4; // rows, or columns of a mean width, in view when zoomed in
  const MANY = 24; // of rows or columns: more have buttons to zoom
  const DRAG = 4; // pixels that make a drag of a click
  const FOOT = 36; // pixels below the cells for the labels of x
  const { unpack } = gm.matrix;
  const { PAD, layout, draw, drawSelected, drawCross, drawBar, selectedRuns, onBar, svg } = gm.cells;

  gm.kinds.heat = function (element, given) {
    let own = unpack(given);
    let view = null; // [first row, rows] where zoomed
    let wide = null; // [from, to] of x where zoomed
    let dragged = null; // {x, y, start, way: "move" the rows or "zoom" into what is drawn over}
    let box = null;
    let all = null; // [from, to] of x in full

    const at = gm.stage("heat map", {
      own: () => own,
      paint,
      hint: () => ["Point at a cell to read it; click to select.", own.columns > LEAST && `Drag sideways, or press x, to zoom into ${own.steps ? "steps" : "columns"}.`, (view || wide) && "Double click or 0 shows all."].filter(Boolean).join(" "),
      read: () => [gm.h("bdi", { class: "what" }, name(at.cursor.row, 120)), gm.h("span", {}, gm.middle(gm.place(own.spec, at.cursor.column), 60)), gm.h("b", {}, words())],
      left: xAt,
      move,
      choose: () => choose(at.cursor),
      zoom: (factor) => (factor ? zoom(factor) : reset()),
    });
    const { stage, legend, strip, xtitle, readout } = at;
    const choices = gm.choices(element, given.choices);
    const bar = gm.h("canvas", { class: "heat-bar", role: "img" });
    const pin = gm.h("i", { class: "heat-pin", hidden: true });
    const base = gm.h("canvas");
    const over = gm.h("canvas", { class: "fig-overlay" });
    const note = gm.h("p", { class: "fig-note" });
    legend.classList.add("heat-legend");
    stage.classList.add("heat-stage");
    stage.append(base, over);
    element.append(choices.tabs, legend, strip, stage, xtitle, note, readout);

    const rowsInView = () => view || [0, own.rows];
    const scale = () => window.devicePixelRatio || 1;
    const name = (row, most = 60) => gm.power(gm.middle(own.spec.rows[row], most));
    const value = (row, column) => gm.decode(own.codes[row * own.columns + column], own.spec.values);
    const words = () => gm.reading(value(at.cursor.row, at.cursor.column), own.spec.colour);
    function xAt(where) {
      return gm.cells.xAt(box, where);
    }
    const size = () => [box.left + box.width + 12, box.height + FOOT];

    // ---- drawing ----
    function build() {
      box = layout(own, Math.max(element.clientWidth, 200));
      all = [box.from, box.from + box.span];
      choices.show(own.spec);
      stage.hidden = !own.codes.length;
      if (stage.hidden) {
        legend.textContent = xtitle.textContent = readout.textContent = "";
        note.textContent = "Nothing was recorded.";
        return;
      }
      drawLegend();
      xtitle.textContent = gm.axisTitle(own.spec.x);
      xtitle.style.marginLeft = `${box.left}px`;
      redraw();
    }

    function redraw() {
      const [start, count] = rowsInView();
      const [from, to] = wide || all;
      Object.assign(box, { start, count, from, span: to - from });
      draw(gm.penOn(base, ...size()), own, box, scale());
      const said = [];
      if (view) said.push(`Rows ${gm.whole(start + 1)} to ${gm.whole(start + count)} of ${gm.whole(own.rows)}; drag to move.`);
      if (wide) said.push(`${seen(wide).replace(/^./, (letter) => letter.toUpperCase())} of ${seen(all, false)}.`);
      if (own.shared[0] > 1 || own.shared[1] > 1)
        said.push(`Each dot stands for up to ${own.shared[0]} × ${own.shared[1]} cells (rows × columns) and shows a typical one, or one that stands out.${own.shared[0] > 1 ? " Zoom in with + to part the rows." : ""}${own.shared[1] > 1 ? " Drag sideways, or press x, to part the columns." : ""}`);
      note.textContent = said.join(" ");
      stage.classList.toggle("zoomed", view !== null);
      at.signs(box.left, box.width);
      paint();
    }
    const redrawSoon = gm.perFrame(redraw);

    function paint() {
      if (!own.codes.length) return;
      const pen = gm.penOn(over, ...size());
      drawSelected(pen, own, box);
      const { cursor } = at;
      if (dragged && dragged.way === "zoom") {
        const [left, right] = brush(dragged.x, dragged.to);
        pen.rect(left, box.top, right - left, box.height, gm.css("--after"), 0.3);
        pen.frame(left, box.top, right - left, box.height, gm.css("--ink"), gm.css("--ground"));
      } else if (cursor) drawCross(pen, own, box, cursor);
      at.tell();
      const measured = cursor ? value(cursor.row, cursor.column) : NaN;
      pin.hidden = !Number.isFinite(measured) || !own.finite;
      if (!pin.hidden) pin.style.left = `${PAD + onBar(own, measured) * (bar.width / scale() - 2 * PAD)}px`;
    }

    function drawLegend() {
      const { colour, levels } = own.spec;
      const keys = [];
      if (own.finite) {
        const width = Math.min(300, element.clientWidth - 8);
        bar.setAttribute("aria-label", `Colours from ${gm.amount(own.domain[0], colour)} to ${gm.amount(own.domain[1], colour)}`);
        drawBar(gm.penOn(bar, width, 34), own, 0, 4, width);
        keys.push(gm.h("span", { class: "heat-scale" }, gm.h("span", {}, gm.axisTitle(colour)), gm.h("span", { class: "heat-bars" }, bar, pin)));
      }
      for (const level of levels) keys.push(gm.key(gm.h("i", { class: "swatch level" }), gm.levelText(level, colour)));
      for (const [count, kind, text] of [[own.missing, "missing", "not measured"], [own.positive, "positive", "+inf"], [own.negative, "negative", "−inf"]])
        if (count) keys.push(gm.key(gm.h("i", { class: `swatch ${kind}` }), `${text} (${gm.whole(count)} ${count === 1 ? "cell" : "cells"})`));
      at.begin(...keys);
      const zooms = gm.h("span", { class: "heat-zoom" });
      const button = (label, title, onclick) => gm.h("button", { type: "button", title, "aria-label": title, onclick }, label);
      const group = (what, ...buttons) => zooms.append(gm.h("span", { role: "group", "aria-label": what }, what, ...buttons));
      const things = own.steps ? "steps" : "columns";
      if (own.rows > MANY) group("rows", button("−", "More rows (−)", () => zoom(2)), button("+", "Fewer, taller rows (+)", () => zoom(0.5)));
      if (own.columns > MANY) group(things, button("−", `More ${things} (X)`, () => across(2)), button("+", `Fewer, wider ${things} (x)`, () => across(0.5)));
      if (zooms.childNodes.length) zooms.append(button("All", "All of the figure (0)", reset));
      legend.append(zooms);
    }

    // ---- pointing ----
    const where = (event) => {
      const frame = stage.getBoundingClientRect();
      return [event.clientX - frame.left, event.clientY - frame.top];
    };
    stage.addEventListener("pointermove", (event) => {
      const [x, y] = where(event);
      if (dragged) {
        const [aside, down] = [Math.abs(x - dragged.x), Math.abs(y - dragged.y)];
        if (!dragged.way && Math.max(aside, down) >= DRAG) dragged.way = aside > down && event.pointerType !== "touch" ? "zoom" : "move";
        dragged.to = x;
        if (dragged.way === "move" && view) show([dragged.start - ((y - dragged.y) * view[1]) / box.height, view[1]]);
      }
      at.cursor = gm.cells.cellAt(own, box, x, y, scale());
      at.soon();
    });
    stage.addEventListener("pointerleave", at.leave);
    stage.addEventListener("pointerdown", (event) => {
      const [x, y] = where(event);
      if (event.button === 0) dragged = { x, y, start: rowsInView()[0], way: null };
    });
    // What is drawn over, in pixels.
    const brush = (from, to) => [from, to].sort((a, b) => a - b).map((x) => gm.between(x, box.left, box.left + box.width));
    window.addEventListener("pointerup", released);
    function released() {
      if (!dragged) return;
      const { way, x, to } = dragged;
      if (way === "zoom") spread(brush(x, to).map((pixel) => box.from + ((pixel - box.left) / box.width) * box.span));
      dragged = way && { ...dragged, way: "done" }; // the click to come is the end of it
      setTimeout(() => (dragged = dragged && dragged.way === "done" ? null : dragged));
    }
    stage.addEventListener("click", (event) => {
      const cell = dragged ? null : gm.cells.cellAt(own, box, ...where(event), scale());
      if (cell) choose(cell);
    });
    stage.addEventListener("dblclick", () => reset());
    stage.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      const factor = (event.deltaY || event.deltaX) < 0 ? 0.8 : 1.25;
      if (event.shiftKey) across(factor);
      else if (own.rows > LEAST) zoom(factor);
    }, { passive: false });

    function choose({ row, column }) {
      const { layers, across } = own.spec;
      gm.select({ ...(layers.length ? { layer: layers[across ? column : row] } : {}), ...(own.steps ? { step: own.at[column] } : {}) });
    }

    // Of so many rows, those that can be shown; null for all.
    function fitting(next) {
      if (!next) return null;
      const count = Math.round(gm.between(next[1], Math.min(LEAST, own.rows), own.rows));
      return count >= own.rows ? null : [Math.round(gm.between(next[0], 0, own.rows - count)), count];
    }

    function show(next) {
      view = fitting(next);
      changed();
    }

    function changed() {
      const [start, count] = rowsInView();
      gm.zoomed(element, view || wide ? [start, count, ...(wide || all)] : null);
      redrawSoon();
    }

    function reset() {
      view = wide = null;
      changed();
    }

    // The part of x that can be shown; null for all.
    function narrow(next) {
      if (!next || !next.every(Number.isFinite)) return null;
      const least = ((all[1] - all[0]) * Math.min(LEAST, own.columns)) / own.columns;
      const length = gm.between(next[1] - next[0], least, all[1] - all[0]);
      const from = gm.between((next[0] + next[1] - length) / 2, all[0], all[1] - length);
      return length >= all[1] - all[0] ? null : [from, from + length];
    }

    function spread(next) {
      wide = narrow(next);
      changed();
    }

    function across(factor) {
      const [from, to] = wide || all;
      const middle = at.cursor ? own.at[at.cursor.column] : (from + to) / 2;
      spread([middle - (middle - from) * factor, middle + (to - middle) * factor]);
    }

    // The columns of a part of x in words.
    function seen([from, to], named = true) {
      const inside = [...own.at.keys()].filter((column) => own.edges[column + 1] > from && own.edges[column] < to);
      const text = (column) => (own.spec.categories.length ? gm.middle(own.spec.categories[column], 40) : gm.number(own.at[column]));
      return `${named ? `${gm.label(own.spec.x)}: ` : ""}${text(inside[0])} to ${text(inside[inside.length - 1])}`;
    }

    function zoom(factor) {
      const [start, count] = rowsInView();
      const wanted = Math.max(Math.round(count * factor), LEAST);
      const middle = at.cursor ? at.cursor.row + 0.5 : start + count / 2;
      show([middle - ((middle - start) / count) * wanted, wanted]);
    }

    function move(key, far) {
      if (/^x$/i.test(key)) {
        across(key === "x" ? 0.5 : 2);
        return seen(wide || all);
      }
      const step = { ArrowLeft: [0, -far], ArrowRight: [0, far], ArrowUp: [-far, 0], ArrowDown: [far, 0], Home: [0, -Infinity], End: [0, Infinity], PageUp: [-10, 0], PageDown: [10, 0] }[key];
      if (!step || !own.rows) return null;
      const [start, count] = rowsInView();
      const [down, along] = at.cursor ? step : [0, key === "End" ? Infinity : 0];
      const now = at.cursor || { row: start, column: 0 };
      const row = gm.between(now.row + down, 0, own.rows - 1);
      at.cursor = { row, column: gm.between(now.column + along, 0, own.columns - 1) };
      if (row < start || row >= start + count) show([row < start ? row : row - count + 1, count]);
      const [left, right] = [own.edges[at.cursor.column], own.edges[at.cursor.column + 1]];
      if (wide && (left < wide[0] || right > wide[1])) spread([0, 1].map((end) => wide[end] + (left < wide[0] ? left - wide[0] : right - wide[1])));
      return `${name(row)}, ${gm.place(own.spec, at.cursor.column)}, ${words()}`;
    }

    function table() {
      const { spec } = own;
      const place = (column) => (spec.categories.length ? gm.visible(spec.categories[column]) : String(gm.plain(own.at[column])));
      return {
        columns: [`${gm.label(spec.y)} \\ ${gm.axisTitle(spec.x)}`, ...Array.from(own.at, (_, column) => place(column))],
        count: own.rows,
        cell: (row, column) => (column ? value(row, column - 1) * (spec.colour.percent ? 100 : 1) : gm.visible(spec.rows[row])),
        layer: (row) => (spec.across ? undefined : spec.layers[row]),
      };
    }

    build();
    return {
      update(spec) {
        const { rows, spec: { id } } = own;
        own = unpack(spec);
        // The same figure with more rows keeps its zoom as well as it can; another begins anew.
        view = rows === own.rows || id === spec.id ? fitting(view) : null;
        all = [own.edges[0], own.edges[own.columns]];
        wide = own.columns ? narrow(wide) : null;
        if (at.cursor && (at.cursor.row >= own.rows || at.cursor.column >= own.columns)) at.cursor = null;
        build();
      },
      select(layer) {
        const [first] = own.spec.across || layer === null ? [] : selectedRuns(own);
        const [start, count] = rowsInView();
        if (view && first && (first[1] < start || first[0] >= start + count)) show([first[0] - count / 2, count]);
        paint();
      },
      resize: build,
      redraw: build,
      table,
      // As the address keeps it: first row, rows, and a part of x.
      zoomTo(given) {
        view = given && fitting(given.slice(0, 2));
        wide = given && narrow(given.slice(2));
        redraw();
      },
      svg: () => svg(own),
      cell: (row, column) => ({ x: (xAt(own.edges[column]) + xAt(own.edges[column + 1])) / 2, y: gm.cells.yAt(box, row + 0.5) }),
      destroy() {
        window.removeEventListener("pointerup", released);
        element.textContent = "";
      },
    };
  };
})();
