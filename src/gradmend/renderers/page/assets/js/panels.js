"use strict";
// Lines drawn by a pen, on the page as in a file: panels under each other over one x axis.
(function () {
  const gm = window.gm;
  const { MOST_BOLD, drawable, yRange, trace, shade } = gm.series;
  const DENSE = 60; // points of a line; of fewer each has a dot
  const MOST_BEYOND = 400; // signs for what is off the scale; more say nothing further
  const crisp = (at) => Math.round(at - 0.5) + 0.5; // a line of one pixel covers one

  // Where values of a panel stand in its frame {left, top, width, height}.
  function placed(own, panel, frame, view) {
    const axis = own.spec.panels[panel];
    const bounds = yRange(own, panel, view);
    const share = (value, [lo, hi], log) => (log ? Math.log(value / lo) / Math.log(hi / lo) : (value - lo) / (hi - lo || 1));
    const x = (value) => frame.left + share(value, view, own.spec.x.log && own.full[0] > 0) * frame.width;
    const y = (value) => frame.top + frame.height - share(value, bounds, axis.log) * frame.height;
    return { axis, bounds, x, y, right: frame.left + frame.width, bottom: frame.top + frame.height };
  }

  // Pixels that the labels of y need.
  function labelWidth(pen, own, view, height) {
    const widths = own.spec.panels.flatMap((axis, panel) => {
      const rounds = gm.ticks(...yRange(own, panel, view), Math.max(2, Math.floor(height / 30)), axis);
      return rounds.map((value) => pen.measure(gm.tickText(value, rounds, axis), 12));
    });
    return Math.ceil(Math.max(0, ...widths));
  }

  const inFrame = (pen, frame, work) => pen.within(frame.left, frame.top - 2, frame.width, frame.height + 4, work);

  function drawPanel(pen, own, panel, frame, view, last) {
    const { axis, bounds, x, y, right, bottom } = placed(own, panel, frame, view);
    const { left, top, height } = frame;
    const [ink, soft, rule, ground] = ["--ink", "--soft", "--rule", "--ground"].map(gm.css);
    const rounds = gm.ticks(...bounds, Math.max(2, Math.floor(height / 30)), axis);
    for (const value of rounds) {
      const at = crisp(y(value));
      pen.line([[left, at], [right, at]], rule);
      pen.text(gm.tickText(value, rounds, axis), left - 6, at, { fill: soft, align: "right" });
    }
    const ticks = gm.xTicks(own, view, frame.width).map((tick) => ({ at: x(tick.x), text: tick.text }));
    for (const { at } of ticks) pen.line([[crisp(at), top], [crisp(at), bottom + 5]], rule);
    if (last) gm.labelsAlong(pen, ticks, left - 20, right + 8, bottom + 9, soft);

    const here = own.series.filter((series) => series.panel === panel);
    const few = here.filter((series) => !series.faint);
    const many = here.filter((series) => series.faint);
    const alpha = many.length > 200 ? 0.16 : many.length > 40 ? 0.3 : 0.45;
    inFrame(pen, frame, () => {
      for (const series of many) {
        for (const run of trace(own, series.values, axis, x, y, view)) {
          if (run.length > 1) pen.line(run, soft, 1, [], alpha);
          else pen.rect(run[0][0] - 1, run[0][1] - 1, 2, 2, soft, alpha);
        }
      }
      for (const series of few) line(pen, own, series, axis, x, y, view);
    });
    for (const series of few) dots(pen, own, series, axis, x, y, frame);

    const [from, to] = view;
    for (const mark of own.spec.marks) {
      if (mark.x < from || mark.x > to) continue;
      pen.line([[x(mark.x), top], [x(mark.x), bottom]], gm.signColour(mark.kind), 1, [3, 3], own.spec.marks.length > 60 ? 0.25 : 0.55);
    }
    for (const level of own.spec.levels) {
      const at = y(level.y);
      if (level.panel !== panel || !(at >= top - 1 && at <= bottom + 1)) continue;
      pen.line([[left, at], [right, at]], ground, 4);
      pen.line([[left, at], [right, at]], ink, 1.25, [8, 5]);
    }
    for (const series of few) beyond(pen, own, series, axis, x, frame, view);
    if (!here.some((series) => series.values.some((value) => !Number.isNaN(value))))
      pen.text("Nothing was measured", left + frame.width / 2, top + height / 2, { fill: soft, align: "center", size: 13 });
  }

  // One of the few: its spread and its line.
  function line(pen, own, series, axis, x, y, view) {
    const { at } = own;
    const { values, low, high } = series;
    const colour = gm.css(series.colour);
    const seen = (i) => at[i] >= view[0] && at[i] <= view[1];
    if (low && high) {
      let ends = [];
      for (let i = 0; i <= at.length; i++) {
        const known = i < at.length && drawable(low[i], axis) && drawable(high[i], axis);
        if (known && (seen(i) || seen(i + 1) || seen(i - 1))) ends.push(i);
        if (known || !ends.length) continue;
        pen.area([...ends.map((k) => [x(at[k]), y(high[k])]), ...ends.reverse().map((k) => [x(at[k]), y(low[k])])], colour, 0.17);
        ends = [];
      }
    }
    for (const run of trace(own, values, axis, x, y, view)) if (run.length > 1) pen.line(run, colour, series.width, series.dash);
  }

  // Where points are few, or stand alone: whole ones also at the edge of the frame.
  function dots(pen, own, { values, colour }, axis, x, y, { left, top, width, height }) {
    const { at } = own;
    const known = (i) => i >= 0 && i < at.length && drawable(values[i], axis);
    for (let i = 0; i < at.length; i++) {
      if (!known(i) || (at.length > DENSE && (known(i - 1) || known(i + 1)))) continue;
      const [right, down] = [x(at[i]) - left, y(values[i]) - top];
      if (right >= -0.5 && right <= width + 0.5 && down >= -0.5 && down <= height + 0.5) pen.dot(left + right, top + down, 2.5, gm.css(colour));
    }
  }

  // Infinities at the edge they lie beyond; zero and less below a logarithmic axis.
  function beyond(pen, own, series, axis, x, { top, height }, [from, to]) {
    const bottom = top + height;
    let room = MOST_BEYOND;
    for (let i = 0; i < own.at.length && room; i++) {
      const value = series.values[i];
      if (Number.isNaN(value) || drawable(value, axis) || own.at[i] < from || own.at[i] > to) continue;
      const [at, up] = [x(own.at[i]), value === Infinity];
      const [edge, tip] = up ? [top + 8, top + 1] : [bottom - 8, bottom - 1];
      pen.area([[at - 4, edge], [at + 4, edge], [at, tip]], gm.css(series.colour));
      room -= 1;
    }
  }

  // What is selected or pointed at: `cursor` {column, x?}, `chosen` a line, `drag` [from, to] of x.
  function drawOver(pen, own, panel, frame, view, { cursor = null, chosen = null, drag = null } = {}) {
    const { axis, x, y, right, bottom } = placed(own, panel, frame, view);
    const { left, top, width, height } = frame;
    const [ink, ground] = [gm.css("--ink"), gm.css("--ground")];
    const here = (series) => gm.isSelected(series.layer);
    own.mine = own.series.filter((series) => series.faint && here(series));
    const upright = (at, ...look) => pen.line([[at, top], [at, bottom]], ...look);
    inFrame(pen, frame, () => {
      if (drag) pen.rect(x(drag[0]), top, x(drag[1]) - x(drag[0]), height, gm.css("--after"), 0.16);
      if (cursor) upright(crisp(cursor.x === undefined ? x(own.at[cursor.column]) : cursor.x), gm.css("--soft"), 1, [], 0.8);
      const { step } = gm.selection;
      if (own.steps && step !== null) upright(x(step), ink, 1.5);
      const picked = own.spec.layers.map((layer, i) => [layer, i]).filter(([layer]) => gm.isSelected(layer)).map(([, i]) => x(own.at[i]));
      if (picked.length) pen.rect(Math.min(...picked) - 4, top, Math.max(...picked) - Math.min(...picked) + 8, height, ink, 0.16);

      const bold = own.series.filter((series) => series.panel === panel && (here(series) || series === chosen)).slice(0, MOST_BOLD);
      if (chosen && chosen.panel === panel && !bold.includes(chosen)) bold.push(chosen);
      const labels = [];
      for (const series of bold) {
        const runs = trace(own, series.values, axis, x, y, view);
        for (const run of runs) {
          if (series.faint) pen.line(run, ground, 5);
          pen.line(run, gm.css(shade(own, series)), series === chosen ? 3 : 2.25, series.dash);
        }
        const run = runs[runs.length - 1];
        if (!run || !(series === chosen || bold.length < 4) || !(here(series) || series.faint)) continue;
        labels.push([series, Math.min(...run.filter(([at]) => at > right - 170).map(([, up]) => up), run[run.length - 1][1])]);
      }
      const taken = [];
      for (const [series, end] of labels) {
        const look = { fill: gm.css(shade(own, series)), weight: 600, align: "right", halo: ground };
        pen.text(pen.fit(series.name, width * 0.6, 12, 600), right - 8, roomBy(end, taken, top, bottom), look);
      }
      if (!cursor) return;
      for (const series of own.series) {
        const value = series.values[cursor.column];
        if (series.panel !== panel || (series.faint && series !== chosen && !here(series)) || !drawable(value, axis)) continue;
        pen.dot(x(own.at[cursor.column]), y(value), 4.75, ground);
        pen.dot(x(own.at[cursor.column]), y(value), 3.5, gm.css(shade(own, series)));
      }
    });
  }

  // Beside a height, above it where there is room, never where another label stands.
  function roomBy(at, taken, top, bottom) {
    const spots = [at - 10, at + 11, at - 25, at + 26].filter((spot) => spot > top + 6 && spot < bottom - 6);
    const free = spots.find((spot) => taken.every((other) => Math.abs(other - spot) > 14));
    const spot = free === undefined ? gm.between(at - 10, top + 8, bottom - 8) : free;
    taken.push(spot);
    return spot;
  }

  function svg(own, view) {
    const { spec } = own;
    const [width, left, right] = [840, 74, 20];
    const height = spec.panels.length === 1 ? 300 : 170;
    const keys = gm.series.distinct(own);
    const top = 50 + Math.ceil(keys.length / 3) * 18 + (spec.marks.length ? 42 : 0);
    const pen = new gm.SvgPen(width, top + spec.panels.length * (height + 34) + 40, spec);
    const [ink, soft] = [gm.css("--ink"), gm.css("--soft")];
    keys.forEach((series, i) => {
      const [x, y] = [20 + (i % 3) * 270, 48 + Math.floor(i / 3) * 18];
      pen.line([[x, y], [x + 24, y]], gm.css(series.colour), series.width, series.dash);
      pen.text(pen.fit(series.name, 220), x + 32, y, { fill: ink });
    });
    const frames = spec.panels.map((_, panel) => ({ left, top: top + panel * (height + 34) + 20, width: width - left - right, height }));
    if (spec.panels.length) {
      const { x } = placed(own, 0, frames[0], view);
      gm.signRow(pen, spec.marks, 20, top - 40);
      gm.signsAlong(pen, spec.marks, (value) => (value >= view[0] && value <= view[1] ? x(value) : null), top - 14);
    }
    spec.panels.forEach((axis, panel) => {
      const frame = frames[panel];
      pen.text(gm.axisTitle(axis), 20, frame.top - 12, { fill: soft });
      const levels = spec.levels.filter((level) => level.panel === panel).map((level) => `- - ${gm.levelText(level, axis)}`);
      pen.text(pen.fit(levels.join("   "), 560), width - right, frame.top - 12, { fill: soft, align: "right" });
      if (!own.at.length) return;
      drawPanel(pen, own, panel, frame, view, panel === spec.panels.length - 1);
      drawOver(pen, own, panel, frame, view);
    });
    pen.text(gm.axisTitle(spec.x), (left + width - right) / 2, top + spec.panels.length * (height + 34) + 20, { fill: soft, align: "center" });
    return pen.done();
  }

  gm.panels = { placed, labelWidth, drawPanel, drawOver, svg };
})();
