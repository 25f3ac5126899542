"use strict";
// Figures of kind "lines": panels under each other over one x axis, drawn by uPlot.
(function () {
  const gm = window.gm;
  const MOST_READ = 6; // values in the read-out; of many lines, with their long names, four
  const NEAR = 40; // pixels within which a line counts as pointed at
  const { COLOURS, MOST_BOLD, unpack, drawable, yRange, trace } = gm.series;

  gm.kinds.lines = function (element, first) {
    let own = unpack(first);
    let view = null; // [from, to] of x where zoomed
    let plots = [];
    let cursor = null; // {index, panel, top} where pointed at or moved to
    let pointed = null; // marks pointed at
    let lit = null; // series pointed at in the legend
    let telling = false;
    let mine = []; // of the many, those that are selected

    const legend = gm.h("div", { class: "fig-legend" });
    const strip = gm.h("div", { class: "fig-marks" });
    const stage = gm.h("div", { class: "fig-stage", tabindex: 0, role: "application", "aria-roledescription": "figure" });
    const readout = gm.h("p", { class: "fig-readout" });
    element.append(legend, stage, readout);

    const range = () => view || own.full;
    const here = (series) => gm.isSelected(series.layer);

    // ---- drawing ----
    function build() {
      for (const plot of plots) plot.destroy();
      stage.textContent = "";
      stage.setAttribute("aria-label", gm.visible(own.spec.words || own.spec.title));
      plots = [];
      drawLegend();
      if (!own.at.length) {
        stage.append(gm.h("p", { class: "fig-empty" }, "Nothing was recorded."));
        return;
      }
      const count = own.spec.panels.length;
      const height = count === 1 ? 250 : count === 2 ? 170 : 130;
      own.spec.panels.forEach((axis, panel) => {
        const levels = own.spec.levels.filter((level) => level.panel === panel);
        stage.append(gm.h("div", { class: "fig-ytitle" }, gm.h("span", {}, gm.axisTitle(axis)), ...levels.map((level) => levelKey(level, axis))));
        if (panel === 0) stage.append(strip);
        plots.push(makePlot(panel, height, panel === count - 1));
      });
      stage.append(gm.h("div", { class: "fig-xtitle" }, own.spec.categories.length ? gm.label(own.spec.x) : gm.axisTitle(own.spec.x)));
      // uPlot lays out its axes after this turn.
      queueMicrotask(() => {
        placeMarks();
        paint();
      });
    }

    const levelKey = (level, axis) => gm.h("span", { class: "key" }, gm.h("i", { class: "line-swatch level" }), gm.levelText(level, axis));

    function makePlot(panel, height, last) {
      const axis = own.spec.panels[panel];
      const bold = own.series.filter((series) => series.panel === panel && !series.faint);
      const dense = own.at.length > 60;
      const clean = (values) => Array.from(values, (value) => (drawable(value, axis) ? value : null));
      const alone = (values) => values.map((value, i) => i).filter((i) => values[i] !== null && (values[i - 1] ?? null) === null && (values[i + 1] ?? null) === null);
      const data = [Array.from(own.at)];
      const options = [{}];
      const bands = [];
      for (const series of bold) {
        const colour = gm.css(series.colour);
        const values = clean(series.values);
        const lonely = dense ? alone(values) : null;
        data.push(values);
        options.push({
          stroke: colour, width: series.width, dash: series.dash,
          points: { show: true, size: 5, stroke: colour, fill: colour, filter: () => lonely },
        });
        if (!series.low || !series.high) continue;
        data.push(clean(series.high), clean(series.low));
        options.push({ width: 0, points: { show: false } }, { width: 0, points: { show: false } });
        bands.push({ series: [data.length - 2, data.length - 1], fill: `${colour}2b` });
      }
      if (data.length === 1) {
        data.push(new Array(own.at.length).fill(null)); // uPlot lays out no axis without a line
        options.push({ points: { show: false } });
      }
      const soft = gm.css("--soft");
      const grid = { stroke: gm.css("--rule"), width: 1 };
      const narrow = element.clientWidth < 480;
      const plot = new uPlot({
        width: Math.max(element.clientWidth, 200),
        height: height + (last ? 26 : 8),
        padding: [6, 10, 0, 0],
        legend: { show: false },
        series: options,
        bands,
        scales: {
          x: { time: false, distr: own.spec.x.log && own.full[0] > 0 ? 3 : 1, range: () => range() },
          y: { distr: axis.log ? 3 : 1, range: () => yRange(own, panel, range()) },
        },
        axes: [
          { size: last ? 26 : 8, grid, ticks: { ...grid, size: 5 }, splits: (u) => xTicks(u).map(({ value }) => value), values: (u, splits) => splits.map(() => "") },
          {
            size: narrow ? 50 : 62, gap: 6, stroke: soft, font: gm.font(12), grid, ticks: { show: false },
            filter: (u, splits) => splits,
            splits: (u, _, lo, hi) => gm.ticks(lo, hi, Math.max(2, Math.floor(height / 30)), axis),
            values: (u, splits) => splits.map((value) => gm.tickText(value, splits, axis)),
          },
        ],
        cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false, dist: 4 }, bind: { dblclick: () => () => zoom(null) } },
        hooks: {
          drawAxes: [(u) => underneath(u, panel)],
          draw: [(u) => above(u, panel, last)],
          setCursor: [(u) => moved(u, panel)],
          setSelect: [(u) => {
            const { left, width } = u.select;
            if (width < 4) return;
            u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
            zoom([u.posToVal(left, "x"), u.posToVal(left + width, "x")]);
          }],
        },
      }, data, stage);
      plot.overlay = gm.h("canvas", { class: "fig-overlay" });
      plot.over.prepend(plot.overlay);
      plot.over.addEventListener("click", (event) => clicked(event, plot, panel));
      plot.over.addEventListener("pointerleave", () => {
        cursor = null;
        soon();
      });
      return plot;
    }

    const fonts = (u) => u.ctx.canvas.width / u.width; // device pixels for one of the page's

    function xTicks(u) {
      const [from, to] = range();
      const width = u.bbox.width / uPlot.pxRatio;
      if (own.spec.categories.length) {
        const every = Math.max(1, Math.ceil(((to - from) * 112) / Math.max(width, 112)));
        const inside = [...own.at.keys()].filter((i) => own.at[i] >= from && own.at[i] <= to && i % every === 0);
        return inside.map((i) => ({ value: own.at[i], text: gm.tail(own.spec.categories[i], 15) }));
      }
      const values = gm.ticks(from, to, Math.max(2, Math.floor(width / 90)), { ...own.spec.x, whole: own.steps || own.spec.layers.length > 0 });
      return values.map((value) => ({ value, text: gm.tickText(value, values, own.spec.x) }));
    }

    // The many: thin and grey, under the few.
    function underneath(u, panel) {
      const axis = own.spec.panels[panel];
      const scale = fonts(u);
      const many = own.series.filter((series) => series.panel === panel && series.faint);
      if (!many.length) return;
      const { ctx } = u;
      ctx.save();
      ctx.beginPath();
      ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
      ctx.clip();
      ctx.strokeStyle = gm.css("--soft");
      ctx.globalAlpha = many.length > 200 ? 0.16 : many.length > 40 ? 0.3 : 0.45;
      ctx.lineWidth = scale;
      for (const series of many) {
        const runs = trace(own, series.values, axis, (v) => u.valToPos(v, "x", true), (v) => u.valToPos(v, "y", true), range());
        ctx.beginPath();
        for (const run of runs) {
          if (run.length === 1) ctx.rect(run[0][0] - scale, run[0][1] - scale, 2 * scale, 2 * scale);
          run.forEach(([x, y], i) => (i ? ctx.lineTo(x, y) : ctx.moveTo(x, y)));
        }
        ctx.stroke();
      }
      ctx.restore();
    }

    // Marks, levels, what is off the scale, and the labels of x.
    function above(u, panel, last) {
      const { ctx } = u;
      const scale = fonts(u);
      ctx.save();
      ctx.scale(scale, scale);
      const box = { left: u.bbox.left / scale, top: u.bbox.top / scale, width: u.bbox.width / scale, height: u.bbox.height / scale };
      const [right, bottom] = [box.left + box.width, box.top + box.height];
      const pen = new gm.CanvasPen(ctx);
      const x = (value) => box.left + u.valToPos(value, "x");
      const y = (value) => box.top + u.valToPos(value, "y");
      if (last) gm.labelsAlong(pen, xTicks(u).map(({ value, text }) => ({ at: x(value), text })), box.left - 20, right + 8, bottom + 9, gm.css("--soft"));
      const [from, to] = range();
      ctx.globalAlpha = own.spec.marks.length > 60 ? 0.25 : 0.55;
      for (const mark of own.spec.marks) {
        if (mark.x < from || mark.x > to) continue;
        pen.line([[x(mark.x), box.top], [x(mark.x), bottom]], gm.signColour(mark.kind), 1, [3, 3]);
      }
      ctx.globalAlpha = 1;
      for (const level of own.spec.levels) {
        const at = y(level.y);
        if (level.panel !== panel || at < box.top - 1 || at > bottom + 1) continue;
        pen.line([[box.left, at], [right, at]], gm.css("--ground"), 4);
        pen.line([[box.left, at], [right, at]], gm.css("--ink"), 1.25, [8, 5]);
      }
      for (const series of own.series) if (series.panel === panel && !series.faint) offScale(pen, series, own.spec.panels[panel], x, box.top, bottom);
      if (!own.series.some((series) => series.panel === panel && series.values.some((value) => !Number.isNaN(value))))
        pen.text("Nothing was measured", box.left + box.width / 2, box.top + box.height / 2, { fill: gm.css("--soft"), align: "center", size: 13 });
      ctx.restore();
    }

    // Infinities at the edge they lie beyond; zero and less below a logarithmic axis.
    function offScale(pen, series, axis, x, top, bottom) {
      const [from, to] = range();
      const colour = gm.css(series.colour);
      let left = 400; // more say nothing further
      for (let i = 0; i < own.at.length && left; i++) {
        const value = series.values[i];
        if (Number.isNaN(value) || drawable(value, axis) || own.at[i] < from || own.at[i] > to) continue;
        const [at, up] = [x(own.at[i]), value === Infinity];
        const [edge, tip] = up ? [top + 8, top + 1] : [bottom - 8, bottom - 1];
        pen.c.fillStyle = colour;
        pen.c.beginPath();
        pen.c.moveTo(at - 4, edge);
        pen.c.lineTo(at + 4, edge);
        pen.c.lineTo(at, tip);
        pen.c.fill();
        left -= 1;
      }
    }

    function haloed(ctx, pen, text, x, y, fill, weight = "", align = "left") {
      ctx.font = gm.font(12, weight);
      ctx.textAlign = align;
      ctx.textBaseline = "middle";
      ctx.strokeStyle = gm.css("--ground");
      ctx.lineWidth = 4;
      ctx.lineJoin = "round";
      ctx.setLineDash([]);
      ctx.strokeText(text, x, y);
      pen.text(text, x, y, { fill, weight, align });
    }

    function drawLegend() {
      legend.textContent = "";
      const bold = own.series.filter((series) => !series.faint);
      const faint = own.series.filter((series) => series.faint);
      const one = new Map(bold.map((series) => [`${series.name} ${series.colour}`, series]));
      const shown = bold.length > 1 || faint.length ? [...one.values()] : [];
      for (const series of shown) {
        const chip = gm.h(series.layer ? "button" : "span", { class: "key", type: series.layer && "button" }, swatch(series), gm.h("bdi", {}, gm.middle(series.name, 44)));
        if (series.layer) chip.dataset.layer = series.layer;
        chip.addEventListener("pointerenter", () => light(series));
        chip.addEventListener("pointerleave", () => light(null));
        legend.append(chip);
      }
      if (faint.length) legend.append(gm.h("span", { class: "key" }, gm.h("i", { class: "line-swatch", style: "border-top:2px solid var(--soft)" }), `${gm.whole(faint.length)} ${bold.length ? "more " : ""}${faint.length === 1 ? "line" : "lines"}, named as you point at them`));
      legend.append(...gm.signKeys(own.spec.marks));
      legend.hidden = !legend.childNodes.length;
      gm.markSelected(legend);
    }

    function swatch(series) {
      const kind = series.dash.length ? (series.dash[0] < 4 ? "dotted" : "dashed") : "solid";
      return gm.h("i", { class: "line-swatch", style: `border-top:${Math.max(2, Math.round(series.width))}px ${kind} var(${shade(series)})` });
    }

    const light = (series) => {
      lit = series;
      soon();
    };

    function placeMarks() {
      const [plot] = plots;
      if (!plot) return;
      strip.style.marginLeft = `${plot.bbox.left / uPlot.pxRatio}px`;
      strip.style.width = `${plot.bbox.width / uPlot.pxRatio}px`;
      const [from, to] = range();
      gm.putMarks(strip, own.spec.marks, (x) => (x < from || x > to ? null : plot.valToPos(x, "x")), own.steps, (marks) => {
        pointed = marks;
        soon();
      });
    }

    // ---- pointing, reading ----
    function nearest(panel, index, top) {
      let best = null;
      let least = NEAR;
      for (const series of own.series) {
        if (series.panel !== panel || !drawable(series.values[index], own.spec.panels[panel])) continue;
        const away = Math.abs(plots[panel].valToPos(series.values[index], "y") - top);
        if (away < least) [best, least] = [series, away];
      }
      return best;
    }

    function moved(u, panel) {
      if (telling) return;
      telling = true;
      const { left, top, idx } = u.cursor;
      cursor = left >= 0 && idx !== null && idx !== undefined ? { index: idx, panel, top } : null;
      for (const other of plots) if (other !== u) other.setCursor({ left, top: left < 0 ? -10 : 0 });
      telling = false;
      soon();
    }

    function paint() {
      const chosen = cursor && (cursor.series || nearest(cursor.panel, cursor.index, cursor.top));
      mine = own.series.filter((series) => series.faint && here(series));
      plots.forEach((u, panel) => overlay(u, panel, lit || chosen));
      tell(chosen);
    }
    const soon = gm.perFrame(paint);

    function overlay(u, panel, chosen) {
      const scale = window.devicePixelRatio || 1;
      const width = u.bbox.width / uPlot.pxRatio;
      const height = u.bbox.height / uPlot.pxRatio;
      const canvas = u.overlay;
      if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
        canvas.width = Math.round(width * scale);
        canvas.height = Math.round(height * scale);
      }
      const ctx = canvas.getContext("2d");
      ctx.setTransform(scale, 0, 0, scale, 0, 0);
      ctx.clearRect(0, 0, width, height);
      const pen = new gm.CanvasPen(ctx);
      const x = (value) => u.valToPos(value, "x");
      const y = (value) => u.valToPos(value, "y");
      const axis = own.spec.panels[panel];
      if (own.steps && gm.selection.step !== null) pen.line([[x(gm.selection.step), 0], [x(gm.selection.step), height]], gm.css("--ink"), 1.5);
      const picked = own.spec.layers.map((layer, i) => [layer, i]).filter(([layer]) => gm.isSelected(layer)).map(([, i]) => x(own.at[i]));
      if (picked.length) {
        ctx.globalAlpha = 0.16;
        pen.rect(Math.min(...picked) - 4, 0, Math.max(...picked) - Math.min(...picked) + 8, height, gm.css("--ink"));
        ctx.globalAlpha = 1;
      }
      const bold = own.series.filter((series) => series.panel === panel && (here(series) || series === chosen)).slice(0, MOST_BOLD);
      if (chosen && chosen.panel === panel && !bold.includes(chosen)) bold.push(chosen);
      const labels = [];
      for (const series of bold) {
        const runs = trace(own, series.values, axis, x, y, range());
        for (const run of runs) {
          if (series.faint) pen.line(run, gm.css("--ground"), 5);
          pen.line(run, gm.css(shade(series)), series === chosen ? 3 : 2.25, series.dash);
        }
        const run = runs[runs.length - 1];
        if (run && (series === chosen || bold.length < 4) && (here(series) || series.faint)) labels.push([series, Math.min(...run.filter(([at]) => at > width - 170).map(([, up]) => up), run[run.length - 1][1])]);
      }
      const taken = [];
      for (const [series, end] of labels) haloed(ctx, pen, pen.fit(series.name, width * 0.6, 12, 600), width - 8, roomBy(end, taken, 0, height), gm.css(shade(series)), 600, "right");
      if (!cursor) return;
      for (const series of own.series) {
        const value = series.values[cursor.index];
        if (series.panel !== panel || (series.faint && series !== chosen && !here(series)) || !drawable(value, axis)) continue;
        ctx.beginPath();
        ctx.arc(x(own.at[cursor.index]), y(value), 4, 0, 7);
        ctx.fillStyle = gm.css(shade(series));
        ctx.fill();
        ctx.strokeStyle = gm.css("--ground");
        ctx.lineWidth = 1.5;
        ctx.stroke();
      }
    }

    // One of the many is black where it is alone, and has a colour where several are selected.
    function shade(series) {
      if (!series.faint) return series.colour;
      const at = mine.length > 1 ? mine.indexOf(series) : -1;
      return at < 0 ? "--ink" : COLOURS[at % COLOURS.length];
    }

    // Beside a height, above it where there is room, never where another label stands.
    function roomBy(at, taken, top, bottom) {
      const spots = [at - 10, at + 11, at - 25, at + 26].filter((spot) => spot > top + 6 && spot < bottom - 6);
      const free = spots.find((spot) => taken.every((other) => Math.abs(other - spot) > 14));
      const spot = free === undefined ? Math.min(Math.max(at - 10, top + 8), bottom - 8) : free;
      taken.push(spot);
      return spot;
    }

    function readings(index, chosen) {
      const few = own.series.filter((series) => !series.faint);
      if (few.length > MOST_READ) few.sort((a, b) => (b.panel === cursor.panel) - (a.panel === cursor.panel));
      const order = few.length <= MOST_READ && !(chosen && chosen.faint) ? few : [chosen, ...own.series.filter(here), ...few].filter(Boolean);
      return [...new Set(order)].map((series) => ({ series, text: valueText(series, index) }));
    }

    function valueText(series, index) {
      const axis = own.spec.panels[series.panel];
      const spread = series.low && series.high && Number.isFinite(series.low[index])
        ? ` (${gm.number(axis.percent ? series.low[index] * 100 : series.low[index], 3)} to ${gm.number(axis.percent ? series.high[index] * 100 : series.high[index], 3)})` : "";
      return gm.reading(series.values[index], axis) + spread;
    }

    function tell(chosen) {
      readout.textContent = "";
      if (pointed) {
        readout.append(gm.markWords(pointed));
        return;
      }
      if (!cursor) {
        const zoomed = view ? "Double click or 0 shows all." : "Drag to zoom; click to select.";
        readout.append(gm.h("span", { class: "hint" }, own.at.length ? `Point at the figure to read values. ${zoomed}` : ""));
        return;
      }
      const all = readings(cursor.index, chosen);
      readout.append(gm.h("b", {}, gm.middle(gm.place(own.spec, cursor.index), 60)));
      const most = all[0] && all[0].series.faint ? 4 : MOST_READ;
      for (const { series, text } of all.slice(0, most)) {
        const strong = series === chosen && all.length > 1;
        readout.append(gm.h("span", { class: strong ? "key chosen" : "key" }, swatch(series), gm.h("bdi", {}, gm.middle(series.title, 48)), gm.h("b", {}, text)));
      }
      if (all.length > most) readout.append(gm.h("span", { class: "hint" }, `and ${all.length - most} more in the table`));
      const left = plots[0].valToPos(own.at[cursor.index], "x");
      const close = own.spec.marks.filter((mark) => Math.abs(plots[0].valToPos(mark.x, "x") - left) < 5);
      if (close.length) readout.append(gm.h("span", { class: "happened" }, gm.markWords(close, 2)));
    }

    function clicked(event, u, panel) {
      const { idx, top } = u.cursor;
      if (idx === null || idx === undefined) return;
      choose(idx, nearest(panel, idx, top));
    }

    function choose(index, series) {
      const change = {};
      if (own.steps) change.step = own.at[index];
      if (own.spec.layers[index] !== undefined) change.layer = own.spec.layers[index];
      else if (series && series.layer) change.layer = series.layer;
      gm.select(change);
    }

    function zoom(next) {
      if (!plots.length) return;
      if (next) {
        const [lo, hi] = own.full;
        next = [Math.max(next[0], lo), Math.min(next[1], hi)];
        if (!(next[1] > next[0])) return;
        if (next[0] <= lo && next[1] >= hi) next = null;
      }
      view = next;
      const [min, max] = range();
      for (const plot of plots) plot.setScale("x", { min, max });
      requestAnimationFrame(() => {
        placeMarks();
        paint();
      });
    }

    function scaled(factor) {
      const [from, to] = range();
      const middle = cursor ? own.at[cursor.index] : (from + to) / 2;
      zoom([middle - (middle - from) * factor, middle + (to - middle) * factor]);
    }

    // ---- keys ----
    stage.addEventListener("keydown", (event) => {
      if (!own.at.length || event.ctrlKey || event.metaKey || event.altKey) return;
      const far = event.shiftKey ? 10 : 1;
      const last = own.at.length - 1;
      const now = cursor || { index: event.key === "ArrowLeft" ? last + 1 : -1, panel: 0, series: null };
      const series = now.series || (cursor && nearest(now.panel, now.index, now.top)) || own.series.find(here) || own.series[0] || null;
      const by = (steps) => Math.min(Math.max(now.index + steps, 0), last);
      const next = { ArrowLeft: () => by(-far), ArrowRight: () => by(far), Home: () => 0, End: () => last, ArrowUp: () => by(0), ArrowDown: () => by(0) }[event.key];
      if (next) {
        const turn = event.key === "ArrowUp" ? -far : event.key === "ArrowDown" ? far : 0;
        const at = Math.min(Math.max(own.series.indexOf(series) + turn, 0), own.series.length - 1);
        const chosen = own.series[at] || null;
        cursor = { index: next(), panel: chosen ? chosen.panel : 0, series: chosen, top: 0 };
        if (chosen) gm.say(`${gm.place(own.spec, cursor.index)}, ${gm.middle(chosen.title, 60)} ${valueText(chosen, cursor.index)}`);
        telling = true;
        for (const plot of plots) plot.setCursor({ left: plot.valToPos(own.at[cursor.index], "x"), top: 0 });
        telling = false;
        paint();
      } else if (event.key === "Enter" && cursor) choose(cursor.index, series);
      else if (event.key === "+" || event.key === "=") scaled(0.5);
      else if (event.key === "-") scaled(2);
      else if (event.key === "0") zoom(null);
      else return;
      event.preventDefault();
    });
    stage.addEventListener("blur", () => {
      cursor = null;
      soon();
    });

    // ---- files ----
    function table() {
      const title = (series, what) => `${series.title}${what}${gm.unit(own.spec.panels[series.panel]) ? ` (${gm.unit(own.spec.panels[series.panel])})` : ""}`;
      const columns = [{ title: gm.axisTitle(own.spec.x), of: (row) => (own.spec.categories.length ? gm.visible(own.spec.categories[row]) : own.at[row]) }];
      const add = (series, values, what) => values && columns.push({ title: title(series, what), of: (row) => share(series, values[row]) });
      const share = (series, value) => (own.spec.panels[series.panel].percent ? value * 100 : value);
      for (const series of own.series) {
        add(series, series.values, "");
        add(series, series.low, " least");
        add(series, series.high, " greatest");
      }
      return {
        columns: columns.map((column) => column.title),
        count: own.at.length,
        cell: (row, column) => columns[column].of(row),
        layer: (row) => own.spec.layers[row],
      };
    }

    build();
    return {
      update(spec) {
        own = unpack(spec);
        lit = null;
        const series = cursor && cursor.series && own.series.find((one) => one.name === cursor.series.name);
        cursor = cursor && own.at.length && cursor.panel < spec.panels.length ? { ...cursor, series: series || null, index: Math.min(cursor.index, own.at.length - 1) } : null;
        build();
      },
      select: paint,
      resize: build,
      redraw: build,
      table,
      svg: () => gm.linesSvg(own, range(), () => xTicks(plots[0] || { bbox: { width: 700 * uPlot.pxRatio } })),
      destroy() {
        for (const plot of plots) plot.destroy();
        plots = [];
        element.textContent = "";
      },
    };
  };
})();
