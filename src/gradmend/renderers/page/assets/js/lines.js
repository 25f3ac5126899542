"use strict";
// Figures of kind "lines": what follows the pointer is drawn on a second canvas of each panel.
(function () {
  const gm = window.gm;
  const MOST_READ = 6; // values in the read-out; of many lines, with their long names, four
  const NEAR = 40; // pixels within which a line counts as pointed at
  const DRAG = 4; // pixels that make a drag of a click
  const { unpack, drawable, shade, distinct } = gm.series;
  const { placed, labelWidth, drawPanel, drawOver, svg } = gm.panels;

  gm.kinds.lines = function (element, first) {
    let own = unpack(first);
    let view = null; // [from, to] of x where zoomed
    let panels = []; // {frame, size, base, over} from the top
    let lit = null; // series pointed at in the legend
    let drag = null; // {from, to} of x while somebody drags
    let dragged = false; // whether a click is only the end of it

    const at = gm.stage("figure", {
      own: () => own,
      paint,
      hint: () => (own.at.length ? `Point at the figure to read values. ${view ? "Double click or 0 shows all." : "Drag to zoom; click to select."}` : ""),
      read,
      left: (x) => placed(own, 0, panels[0].frame, range()).x(x),
      move,
      choose: () => choose(at.cursor.column, current()),
      zoom: (factor) => (factor ? scaled(factor) : zoom(null)),
    });
    const { stage, legend, strip, xtitle, readout } = at;
    element.append(legend, stage, readout);

    const range = () => view || own.full;
    const here = (series) => gm.isSelected(series.layer);

    // ---- drawing ----
    function build() {
      stage.textContent = "";
      panels = [];
      drawLegend();
      if (!own.at.length) {
        stage.append(gm.h("p", { class: "fig-empty" }, "Nothing was recorded."));
        at.tell();
        return;
      }
      const width = Math.max(element.clientWidth, 200);
      const count = own.spec.panels.length;
      const height = count === 1 ? 250 : count === 2 ? 170 : 130;
      const pen = new gm.CanvasPen(document.createElement("canvas").getContext("2d"));
      const left = gm.between(labelWidth(pen, own, range(), height) + 12, element.clientWidth < 480 ? 50 : 62, 96);
      own.spec.panels.forEach((axis, panel) => {
        const levels = own.spec.levels.filter((level) => level.panel === panel);
        const keys = levels.map((level) => gm.key(gm.h("i", { class: "line-swatch level" }), gm.levelText(level, axis)));
        stage.append(gm.h("div", { class: "fig-ytitle" }, gm.h("span", {}, gm.axisTitle(axis)), ...keys));
        if (panel === 0) stage.append(strip);
        const frame = { left, top: 6, width: width - left - 10, height: height - 6 };
        const size = [width, height + (panel === count - 1 ? 26 : 8)];
        const [base, over, plot] = [gm.h("canvas"), gm.h("canvas", { class: "fig-overlay" }), gm.h("div", { class: "fig-plot" })];
        for (const [side, pixels] of Object.entries(frame)) plot.style[side] = `${pixels}px`;
        stage.append(gm.h("div", { class: "fig-panel" }, base, over, plot));
        listen(plot, panel, frame);
        panels.push({ frame, size, base, over });
      });
      stage.append(xtitle);
      xtitle.textContent = own.spec.categories.length ? gm.label(own.spec.x) : gm.axisTitle(own.spec.x);
      redraw();
    }

    function redraw() {
      panels.forEach(({ frame, base, size }, panel) => drawPanel(gm.penOn(base, ...size), own, panel, frame, range(), panel === panels.length - 1));
      if (panels.length) at.signs(panels[0].frame.left, panels[0].frame.width);
      paint();
    }

    function paint() {
      const chosen = current();
      const show = { cursor: at.cursor, chosen: lit || chosen, drag: drag && drag.moved ? [drag.from, drag.to] : null };
      panels.forEach(({ frame, over, size }, panel) => drawOver(gm.penOn(over, ...size), own, panel, frame, range(), show));
      at.tell();
    }

    function drawLegend() {
      const faint = own.series.filter((series) => series.faint);
      const bold = distinct(own);
      const keys = (faint.length || own.series.length > 1 ? bold : []).map((series) => {
        return gm.h(series.layer ? "button" : "span", {
          class: "key", type: series.layer && "button", "data-layer": series.layer || null,
          onpointerenter: () => light(series), onpointerleave: () => light(null),
        }, swatch(series), gm.name(series.name, 44));
      });
      if (faint.length) {
        const words = `${gm.whole(faint.length)} ${bold.length ? "more " : ""}${faint.length === 1 ? "line" : "lines"}, named as you point at them`;
        keys.push(gm.key(gm.h("i", { class: "line-swatch", style: "border-top:2px solid var(--soft)" }), words));
      }
      at.begin(...keys, ...beyond());
    }

    // What the triangles at the edges stand for, where there are any.
    function beyond() {
      const found = new Set();
      for (const { values, panel } of own.series) {
        const axis = own.spec.panels[panel];
        for (const value of values) {
          if (Number.isNaN(value) || drawable(value, axis)) continue;
          found.add(value === Infinity ? "▲ +inf" : axis.log ? (value < 0 ? "▼ below zero" : "▼ exactly zero") : /^log/.test(axis.label) ? "▼ exactly zero" : "▼ −inf");
        }
      }
      return [...found].sort().map((text) => gm.key(gm.h("i", { class: "edge", "aria-hidden": "true" }, text[0]), text.slice(2)));
    }

    function swatch(series) {
      const kind = series.dash.length ? (series.dash[0] < 4 ? "dotted" : "dashed") : "solid";
      return gm.h("i", { class: "line-swatch", style: `border-top:${Math.max(2, Math.round(series.width))}px ${kind} var(${shade(own, series)})` });
    }

    function light(series) {
      lit = series;
      at.soon();
    }

    // ---- pointing ----
    // The line that the cursor was moved to, or the nearest to the pointer.
    function current() {
      const { cursor } = at;
      return cursor && (cursor.top === undefined ? cursor.series : nearest(cursor));
    }

    function nearest({ panel, column, top }) {
      const { axis, y } = placed(own, panel, panels[panel].frame, range());
      let best = null;
      let least = NEAR;
      for (const series of own.series) {
        if (series.panel !== panel || !drawable(series.values[column], axis)) continue;
        const away = Math.abs(y(series.values[column]) - top);
        if (away < least) [best, least] = [series, away];
      }
      return best;
    }

    // The value of x at a pixel of the plot, and the nearest that was measured.
    function valueAt(share) {
      const [from, to] = range();
      return own.spec.x.log && own.full[0] > 0 ? from * (to / from) ** share : from + (to - from) * share;
    }

    function columnAt(pixel, { left, width }) {
      const x = placed(own, 0, panels[0].frame, range()).x;
      let [low, high] = [0, own.at.length - 1];
      const value = valueAt((pixel - left) / width);
      while (low < high) {
        const middle = (low + high) >> 1;
        if (own.at[middle] < value) low = middle + 1;
        else high = middle;
      }
      return low && pixel - x(own.at[low - 1]) < x(own.at[low]) - pixel ? low - 1 : low;
    }

    function listen(plot, panel, frame) {
      const where = (event) => {
        const box = plot.getBoundingClientRect();
        const inside = gm.between(event.clientX - box.left, 0, frame.width);
        return { x: frame.left + inside, top: frame.top + event.clientY - box.top, value: valueAt(inside / frame.width) };
      };
      plot.addEventListener("pointerdown", (event) => {
        if (event.button !== 0 || event.pointerType === "touch") return;
        const { value } = where(event);
        drag = { from: value, to: value, x: event.clientX, moved: false };
        dragged = false;
        plot.setPointerCapture(event.pointerId);
      });
      plot.addEventListener("pointermove", (event) => {
        const { x, top, value } = where(event);
        if (drag) {
          drag.moved = drag.moved || Math.abs(event.clientX - drag.x) >= DRAG;
          drag.to = value;
        }
        at.cursor = { column: columnAt(x, frame), panel, top, x };
        at.soon();
      });
      plot.addEventListener("pointerup", () => {
        const done = drag;
        drag = null;
        dragged = Boolean(done && done.moved);
        if (dragged) zoom([done.from, done.to].sort((a, b) => a - b));
      });
      plot.addEventListener("pointercancel", () => {
        drag = null;
        at.leave();
      });
      plot.addEventListener("pointerleave", at.leave);
      plot.addEventListener("click", (event) => {
        if (dragged) return;
        const { x, top } = where(event);
        const column = columnAt(x, frame);
        choose(column, nearest({ panel, column, top }));
      });
      plot.addEventListener("dblclick", () => zoom(null));
    }

    function choose(column, series) {
      const layer = own.spec.layers[column] !== undefined ? own.spec.layers[column] : series && series.layer;
      gm.select({ ...(own.steps ? { step: own.at[column] } : {}), ...(layer ? { layer } : {}) });
    }

    function zoom(next) {
      if (next) {
        const [lo, hi] = own.full;
        next = [Math.max(next[0], lo), Math.min(next[1], hi)];
        if (!(next[1] > next[0])) return;
        if (next[0] <= lo && next[1] >= hi) next = null;
      }
      view = next;
      gm.zoomed(element, view);
      redraw();
    }

    function scaled(factor) {
      const [from, to] = range();
      const middle = at.cursor ? own.at[at.cursor.column] : (from + to) / 2;
      zoom([middle - (middle - from) * factor, middle + (to - middle) * factor]);
    }

    function move(key, far) {
      const last = own.at.length - 1;
      const now = at.cursor ? at.cursor.column : key === "ArrowLeft" ? last + 1 : -1;
      const column = { ArrowLeft: now - far, ArrowRight: now + far, Home: 0, End: last, ArrowUp: now, ArrowDown: now }[key];
      if (column === undefined) return null;
      const turn = { ArrowUp: -far, ArrowDown: far }[key] || 0;
      const series = current() || own.series.find(here) || own.series[0];
      const chosen = own.series[gm.between(own.series.indexOf(series) + turn, 0, own.series.length - 1)] || null;
      at.cursor = { column: gm.between(column, 0, last), panel: chosen ? chosen.panel : 0, series: chosen };
      return chosen && `${gm.place(own.spec, at.cursor.column)}, ${gm.middle(chosen.title, 60)} ${valueText(chosen, at.cursor.column)}`;
    }

    // ---- reading ----
    function valueText(series, column) {
      const axis = own.spec.panels[series.panel];
      const plain = (value) => gm.number(axis.percent ? value * 100 : value, 3);
      const spread = series.low && series.high && Number.isFinite(series.low[column]) ? ` (${plain(series.low[column])} to ${plain(series.high[column])})` : "";
      return gm.reading(series.values[column], axis) + spread;
    }

    function read() {
      const { column, panel } = at.cursor;
      const chosen = current();
      const few = own.series.filter((series) => !series.faint);
      if (few.length > MOST_READ) few.sort((a, b) => (b.panel === panel) - (a.panel === panel));
      const plenty = few.length > MOST_READ || (chosen && chosen.faint);
      const all = [...new Set(plenty ? [chosen, ...own.series.filter(here), ...few].filter(Boolean) : few)];
      const shown = all.slice(0, all[0] && all[0].faint ? 4 : MOST_READ);
      const words = shown.map((series) => gm.h("span", { class: series === chosen && all.length > 1 ? "key chosen" : "key" },
        swatch(series), gm.name(series.title, 48), gm.h("b", {}, valueText(series, column))));
      if (all.length > shown.length) words.push(gm.h("span", { class: "hint" }, `and ${all.length - shown.length} more in the table`));
      return [gm.h("b", {}, gm.middle(gm.place(own.spec, column), 60)), ...words];
    }

    function table() {
      const { spec } = own;
      const columns = [{ title: gm.axisTitle(spec.x), of: (row) => (spec.categories.length ? gm.visible(spec.categories[row]) : own.at[row]) }];
      for (const series of own.series) {
        const axis = spec.panels[series.panel];
        const unit = gm.unit(axis) && ` (${gm.unit(axis)})`;
        for (const [values, what] of [[series.values, ""], [series.low, " least"], [series.high, " greatest"]])
          if (values) columns.push({ title: series.title + what + unit, of: (row) => values[row] * (axis.percent ? 100 : 1) });
      }
      return {
        columns: columns.map((column) => column.title),
        count: own.at.length,
        cell: (row, column) => columns[column].of(row),
        layer: (row) => spec.layers[row],
      };
    }

    build();
    return {
      update(spec) {
        const { cursor } = at;
        own = unpack(spec);
        lit = drag = null;
        const series = cursor && cursor.series && own.series.find((one) => one.name === cursor.series.name);
        const kept = cursor && own.at.length && cursor.panel < spec.panels.length;
        at.cursor = kept ? { ...cursor, series: series || null, column: Math.min(cursor.column, own.at.length - 1) } : null;
        build();
      },
      select: paint,
      resize: build,
      redraw: build,
      table,
      zoomTo: (given) => given.length === 2 && zoom(given),
      svg: () => svg(own, range()),
      destroy() {
        panels = [];
        element.textContent = "";
      },
    };
  };
})();
