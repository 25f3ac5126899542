"use strict";
// A figure of lines as SVG, from its numbers.
(function () {
  const gm = window.gm;
  const { yRange, trace, drawable } = gm.series;

  gm.linesSvg = function (own, view, xTicks) {
    const { spec } = own;
    const [width, left, right] = [840, 74, 20];
    const height = spec.panels.length === 1 ? 300 : 170;
    const bold = [...new Map(own.series.filter((series) => !series.faint).map((series) => [`${series.name} ${series.colour}`, series])).values()];
    const rows = Math.ceil(bold.length / 3);
    const top = 50 + rows * 18 + (spec.marks.length ? 42 : 0);
    const total = top + spec.panels.length * (height + 34) + 40;
    const pen = new gm.SvgPen(width, total, spec.title, spec.words);
    const [ink, soft, rule] = ["--ink", "--soft", "--rule"].map(gm.css);
    pen.text(pen.fit(spec.title, width - 40, 15, 600), 20, 24, { fill: ink, size: 15, weight: 600 });
    bold.forEach((series, i) => {
      const [x, y] = [20 + (i % 3) * 270, 48 + Math.floor(i / 3) * 18];
      pen.line([[x, y], [x + 24, y]], gm.css(series.colour), series.width, series.dash);
      pen.text(pen.fit(series.name, 220), x + 32, y, { fill: ink });
    });
    const scale = (value, [lo, hi], log) => (log ? Math.log(value / lo) / Math.log(hi / lo) : (value - lo) / (hi - lo || 1));
    const x = (value) => left + scale(value, view, spec.x.log && view[0] > 0) * (width - left - right);
    const inside = (value) => value >= view[0] && value <= view[1];
    const ticks = own.at.length ? xTicks() : [];
    gm.signRow(pen, spec.marks, 20, top - 40);
    gm.signsAlong(pen, spec.marks, (value) => (inside(value) ? x(value) : null), top - 14);
    spec.panels.forEach((axis, panel) => {
      const up = top + panel * (height + 34) + 20;
      const bounds = yRange(own, panel, view);
      const y = (value) => up + height - scale(value, bounds, axis.log) * height;
      pen.text(gm.axisTitle(axis), 20, up - 12, { fill: soft });
      const levels = spec.levels.filter((level) => level.panel === panel).map((level) => `- - ${gm.levelText(level, axis)}`);
      pen.text(pen.fit(levels.join("   "), 560), width - right, up - 12, { fill: soft, align: "right" });
      const marks = gm.ticks(...bounds, Math.floor(height / 40), axis);
      for (const value of marks) {
        pen.line([[left, y(value)], [width - right, y(value)]], rule);
        pen.text(gm.tickText(value, marks, axis), left - 8, y(value), { fill: soft, align: "right" });
      }
      for (const { value } of ticks) pen.line([[x(value), up], [x(value), up + height]], rule);
      for (const mark of spec.marks) if (inside(mark.x)) pen.line([[x(mark.x), up], [x(mark.x), up + height]], gm.signColour(mark.kind), 1, [3, 3]);
      for (const level of spec.levels) {
        if (level.panel !== panel) continue;
        pen.line([[left, y(level.y)], [width - right, y(level.y)]], ink, 1.25, [8, 5]);
      }
      for (const series of [...own.series].sort((a, b) => b.faint - a.faint)) {
        if (series.panel !== panel) continue;
        const strong = gm.isSelected(series.layer);
        const colour = strong && series.faint ? ink : gm.css(series.colour);
        const thin = series.faint && !strong;
        if (series.low && series.high) {
          const ends = [...own.at.keys()].filter((i) => inside(own.at[i]) && drawable(series.low[i], axis) && drawable(series.high[i], axis));
          pen.area([...ends.map((i) => [x(own.at[i]), y(series.high[i])]), ...ends.reverse().map((i) => [x(own.at[i]), y(series.low[i])])], colour);
        }
        for (const run of trace(own, series.values, axis, x, y, view)) {
          const points = run.filter(([at]) => at >= left - 1 && at <= width - right + 1);
          if (points.length) pen.line(points.length > 1 ? points : [points[0], [points[0][0] + 1.5, points[0][1]]], thin ? rule : colour, thin ? 0.8 : strong ? 3 : series.width, series.dash);
        }
      }
    });
    const foot = top + spec.panels.length * (height + 34) - 8;
    gm.labelsAlong(pen, ticks.map(({ value, text }) => ({ at: x(value), text })), left - 20, width - right + 8, foot, soft);
    pen.text(gm.axisTitle(spec.x), (left + width - right) / 2, foot + 28, { fill: soft, align: "center" });
    return pen.done();
  };
})();
