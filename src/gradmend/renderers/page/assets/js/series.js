"use strict";
// The numbers of lines: their styles, the range of an axis, points in pixels.
(function () {
  const gm = window.gm;
  const MOST_BOLD = 12; // more lines than this nobody can tell apart by colour
  const COLOURS = [2, 1, 3, 4, 5, 11, 10, 9, 6, 8, 7, 12].map((number) => `--c${number}`);
  const ROLES = {
    loss: ["--c2", 2, []],
    limit: ["--open", 1.5, [6, 4]],
    predicted: ["--c3", 2, [2, 4]],
    before: ["--before", 1.75, [7, 4]],
    after: ["--after", 2.25, []],
    "before-seed": ["--before", 0.9, []],
    "after-seed": ["--after", 0.9, []],
    background: ["--soft", 1, []],
  };

  // What the packed spec holds, with a style for each series.
  function unpack(spec) {
    const at = Float64Array.from(gm.array(spec.at).values);
    spec.xs = at;
    const named = spec.series.filter((series) => !(series.role in ROLES));
    // Lines of one name in several panels are of one thing and one colour.
    const names = [...new Set(named.map((one) => one.name))];
    const many = names.length > MOST_BOLD;
    const taken = spec.series.map((one) => (ROLES[one.role] || [])[0]);
    const free = COLOURS.filter((colour) => !taken.includes(colour) && !(colour === "--c2" && taken.includes("--after")) && !(colour === "--c1" && taken.includes("--before")));
    // In words a name of several panels goes with what its panel measures.
    const titled = (one) => gm.visible(one.name) + (spec.series.some((other) => other.name === one.name && other.panel !== one.panel) ? `, ${gm.label(spec.panels[one.panel])}` : "");
    const series = spec.series.map((one) => {
      const faint = one.role === "background" || (many && !(one.role in ROLES));
      const index = names.indexOf(one.name);
      const [colour, width, dash] = faint ? ROLES.background : ROLES[one.role] || [free[index % free.length], 1.75, index > 5 ? [7, 3] : []];
      const take = (packed) => (packed ? gm.array(packed).values : null);
      return { ...one, faint, colour, width, dash, values: take(one.values), low: take(one.low), high: take(one.high), name: gm.visible(one.name), title: titled(one) };
    });
    return { spec, at, series, mine: [], steps: gm.isSteps(spec.x) && !spec.categories.length, full: fullRange(spec, at) };
  }

  function fullRange(spec, at) {
    const pad = at.length < 2 ? 0.5 : spec.categories.length ? 0.35 : 0;
    const lo = spec.x.lo !== null ? spec.x.lo : at[0];
    const hi = spec.x.hi !== null ? spec.x.hi : at[at.length - 1];
    if (spec.x.log && lo > 0) return at.length < 2 ? [lo / 2, hi * 2] : [lo, hi];
    return [lo - pad, hi + pad];
  }

  const drawable = (value, axis) => Number.isFinite(value) && (!axis.log || value > 0);

  // From the least to the greatest number in view, with room, and every level.
  function yRange(own, panel, [from, to]) {
    const axis = own.spec.panels[panel];
    let [lo, hi] = [Infinity, -Infinity];
    const take = (value) => {
      if (!drawable(value, axis)) return;
      if (value < lo) lo = value;
      if (value > hi) hi = value;
    };
    for (const series of own.series) {
      if (series.panel !== panel) continue;
      for (let i = 0; i < own.at.length; i++) {
        if (own.at[i] < from || own.at[i] > to) continue;
        take(series.values[i]);
        if (series.low) take(series.low[i]);
        if (series.high) take(series.high[i]);
      }
    }
    for (const level of own.spec.levels) if (level.panel === panel) take(level.y);
    if (lo > hi) [lo, hi] = axis.log ? [0.1, 10] : [0, 1];
    // What differs by less than a thousandth is level: its noise would fill the panel.
    const flat = Math.max(Math.abs(lo), Math.abs(hi)) * 1e-3;
    if (hi > lo && hi - lo < flat) [lo, hi] = [(lo + hi - flat) / 2, (lo + hi + flat) / 2];
    if (axis.log) [lo, hi] = lo === hi ? [lo / 3, hi * 3] : [lo / (hi / lo) ** 0.05, hi * (hi / lo) ** 0.05];
    else {
      const room = (hi - lo) * 0.06 || Math.abs(hi) * 0.1 || 0.5;
      const whole = axis.percent || lo >= 0;
      [lo, hi] = [whole ? Math.max(0, lo - room) : lo - room, axis.percent && hi <= 1 ? Math.min(1, hi + room) : hi + room];
    }
    return [axis.lo !== null ? axis.lo : lo, axis.hi !== null ? axis.hi : hi];
  }

  // Points of a line in pixels; where several share a pixel, the first, least, greatest and last.
  function trace(own, values, axis, x, y, [from, to]) {
    const runs = [];
    let run = null;
    let column = null;
    // What is measured now and then is one line; a hole in what is measured always is a hole.
    const seldom = values.reduce((known, value) => known + !Number.isNaN(value), 0) * 2 < values.length;
    const flush = () => {
      if (!column) return;
      const { first, least, most, last, px } = column;
      const inner = least[0] < most[0] ? [least, most] : [most, least];
      for (const one of [first, ...inner, last]) {
        const before = run[run.length - 1];
        if (!before || before[0] !== px || before[1] !== one[1]) run.push([px, one[1]]);
      }
      column = null;
    };
    for (let i = 0; i < own.at.length; i++) {
      if ((own.at[i + 1] ?? to) < from || (own.at[i - 1] ?? from) > to) continue;
      if (seldom && Number.isNaN(values[i])) continue;
      if (!drawable(values[i], axis)) {
        flush();
        run = null;
        continue;
      }
      if (!run) runs.push((run = []));
      const px = Math.round(x(own.at[i]) * 2) / 2;
      const point = [i, y(values[i])];
      if (column && column.px === px) {
        if (point[1] < column.least[1]) column.least = point;
        if (point[1] > column.most[1]) column.most = point;
        column.last = point;
      } else {
        flush();
        column = { px, first: point, least: point, most: point, last: point };
      }
    }
    flush();
    return runs;
  }

  // One of the many is black where it is alone, and has a colour where several are selected.
  function shade(own, series) {
    if (!series.faint) return series.colour;
    const at = own.mine.length > 1 ? own.mine.indexOf(series) : -1;
    return at < 0 ? "--ink" : COLOURS[at % COLOURS.length];
  }

  // The few, each name and colour once: what a legend holds.
  function distinct(own) {
    const few = own.series.filter((series) => !series.faint);
    return [...new Map(few.map((series) => [`${series.name} ${series.colour}`, series])).values()];
  }

  gm.series = { MOST_BOLD, unpack, drawable, yRange, trace, shade, distinct };
})();
