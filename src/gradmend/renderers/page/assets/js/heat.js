"use strict";
// Figures of kind "heat": a matrix of colours on a canvas; what follows the pointer is drawn on a
// second canvas above it, so that moving never draws the matrix again.
(function () {
  const gm = window.gm;
  const LEAST_ROWS = 4; // in view when zoomed in
  const MANY_ROWS = 24; // more have buttons to zoom
  const FOOT = 36; // pixels below the cells for the labels of x
  const { unpack } = gm.matrix;
  const { PAD, layout, draw, drawSelected, drawCross, drawBar, selectedRuns, onBar, svg } = gm.cells;

  gm.kinds.heat = function (element, given) {
    let own = unpack(given);
    let view = null; // [first row, rows] where zoomed
    let dragged = null;
    let box = null;

    const at = gm.stage("heat map", {
      own: () => own,
      paint,
      hint: () => "Point at a cell to read it; click to select.",
      read: () => [gm.h("bdi", { class: "what" }, name(at.cursor.row)), gm.h("span", {}, gm.middle(gm.place(own.spec, at.cursor.column), 60)), gm.h("b", {}, words())],
      left: xAt,
      move,
      choose: () => choose(at.cursor),
      zoom: (factor) => (factor ? zoom(factor) : show(null)),
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
    const name = (row) => gm.power(gm.middle(own.spec.rows[row], 60));
    const value = (row, column) => gm.decode(own.codes[row * own.columns + column], own.spec.values);
    const words = () => gm.reading(value(at.cursor.row, at.cursor.column), own.spec.colour);
    function xAt(where) {
      return gm.cells.xAt(own, box, where);
    }
    const size = () => [box.left + box.width + 12, box.height + FOOT];

    // ---- drawing ----
    function build() {
      box = layout(own, Math.max(element.clientWidth, 200));
      choices.show(own.spec);
      stage.hidden = !own.codes.length;
      if (stage.hidden) {
        legend.textContent = xtitle.textContent = readout.textContent = "";
        note.textContent = "Nothing was recorded.";
        return;
      }
      drawLegend();
      at.signs(box.left, box.width);
      xtitle.textContent = gm.axisTitle(own.spec.x);
      xtitle.style.marginLeft = `${box.left}px`;
      redraw();
    }

    function redraw() {
      const [start, count] = rowsInView();
      Object.assign(box, { start, count });
      draw(gm.penOn(base, ...size()), own, box, scale());
      const said = [];
      if (view) said.push(`Rows ${gm.whole(start + 1)} to ${gm.whole(start + count)} of ${gm.whole(own.rows)}; drag to move.`);
      if (own.shared[0] > 1 || own.shared[1] > 1)
        said.push(`Each dot stands for up to ${own.shared[0]} × ${own.shared[1]} cells (rows × columns) and shows a typical one, or one that stands out.${own.shared[0] > 1 ? " Zoom in with + to part the rows." : ""}`);
      note.textContent = said.join(" ");
      stage.classList.toggle("zoomed", view !== null);
      paint();
    }
    const redrawSoon = gm.perFrame(redraw);

    function paint() {
      if (!own.codes.length) return;
      const pen = gm.penOn(over, ...size());
      drawSelected(pen, own, box);
      const { cursor } = at;
      if (cursor) drawCross(pen, own, box, cursor);
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
      if (own.rows > MANY_ROWS) {
        const button = (label, title, onclick) => gm.h("button", { type: "button", title, "aria-label": title, onclick }, label);
        legend.append(gm.h("span", { class: "heat-zoom", role: "group", "aria-label": "Rows" },
          button("−", "More rows (−)", () => zoom(2)), button("+", "Fewer, taller rows (+)", () => zoom(0.5)), button("All", "All rows (0)", () => show(null))));
      }
    }

    // ---- pointing ----
    const where = (event) => {
      const frame = stage.getBoundingClientRect();
      return [event.clientX - frame.left, event.clientY - frame.top];
    };
    stage.addEventListener("pointermove", (event) => {
      const [x, y] = where(event);
      if (dragged && view && Math.abs(y - dragged.y) > 3) {
        dragged.moved = true;
        show([dragged.start - ((y - dragged.y) * view[1]) / box.height, view[1]]);
      }
      at.cursor = gm.cells.cellAt(own, box, x, y, scale());
      at.soon();
    });
    stage.addEventListener("pointerleave", at.leave);
    stage.addEventListener("pointerdown", (event) => {
      if (event.button === 0) dragged = { y: where(event)[1], start: rowsInView()[0], moved: false };
    });
    window.addEventListener("pointerup", released);
    function released() {
      if (dragged && !dragged.moved) dragged = null;
    }
    stage.addEventListener("click", (event) => {
      const moved = dragged && dragged.moved;
      dragged = null;
      const cell = moved ? null : gm.cells.cellAt(own, box, ...where(event), scale());
      if (cell) choose(cell);
    });
    stage.addEventListener("wheel", (event) => {
      if (!event.ctrlKey || own.rows <= LEAST_ROWS) return;
      event.preventDefault();
      zoom(event.deltaY < 0 ? 0.8 : 1.25);
    }, { passive: false });

    function choose({ row, column }) {
      const { layers, across } = own.spec;
      gm.select({ ...(layers.length ? { layer: layers[across ? column : row] } : {}), ...(own.steps ? { step: own.at[column] } : {}) });
    }

    // Of so many rows, those that can be shown; null for all.
    function fitting(next) {
      if (!next) return null;
      const count = Math.round(gm.between(next[1], Math.min(LEAST_ROWS, own.rows), own.rows));
      return count >= own.rows ? null : [Math.round(gm.between(next[0], 0, own.rows - count)), count];
    }

    function show(next) {
      view = fitting(next);
      redrawSoon();
    }

    function zoom(factor) {
      const [start, count] = rowsInView();
      const wanted = Math.max(Math.round(count * factor), LEAST_ROWS);
      const middle = at.cursor ? at.cursor.row + 0.5 : start + count / 2;
      show([middle - ((middle - start) / count) * wanted, wanted]);
    }

    function move(key, far) {
      const step = { ArrowLeft: [0, -far], ArrowRight: [0, far], ArrowUp: [-far, 0], ArrowDown: [far, 0], Home: [0, -Infinity], End: [0, Infinity], PageUp: [-10, 0], PageDown: [10, 0] }[key];
      if (!step || !own.rows) return null;
      const [start, count] = rowsInView();
      const [down, along] = at.cursor ? step : [0, key === "End" ? Infinity : 0];
      const now = at.cursor || { row: start, column: 0 };
      const row = gm.between(now.row + down, 0, own.rows - 1);
      at.cursor = { row, column: gm.between(now.column + along, 0, own.columns - 1) };
      if (row < start || row >= start + count) show([row < start ? row : row - count + 1, count]);
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
      svg: () => svg(own),
      cell: (row, column) => ({ x: (xAt(own.edges[column]) + xAt(own.edges[column + 1])) / 2, y: gm.cells.yAt(box, row + 0.5) }),
      destroy() {
        window.removeEventListener("pointerup", released);
        element.textContent = "";
      },
    };
  };
})();
