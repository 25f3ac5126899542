"use strict";
// The numbers of a heat map: decoded, placed along x, and which of them a pixel shows.
(function () {
  const gm = window.gm;

  function unpack(spec) {
    const codes = gm.raw(spec.values);
    const [rows, columns] = spec.values.shape;
    spec.xs = Float64Array.from(gm.array(spec.at).values);
    const own = { spec, codes, rows, columns, at: spec.xs, steps: gm.isSteps(spec.x) && !spec.categories.length };
    own.missing = own.positive = own.negative = 0;
    let [least, most] = [Infinity, -Infinity];
    for (const code of codes) {
      if (code > gm.LEVELS) {
        if (code === gm.MISSING) own.missing += 1;
        else if (code === gm.POSITIVE) own.positive += 1;
        else own.negative += 1;
        continue;
      }
      if (code < least) least = code;
      if (code > most) most = code;
    }
    own.finite = codes.length - own.missing - own.positive - own.negative;
    own.data = own.finite ? [gm.decode(least, spec.values), gm.decode(most, spec.values)] : [0, 1];
    const [lo, hi] = [spec.colour.lo ?? own.data[0], spec.colour.hi ?? own.data[1]];
    const two = spec.centre !== null;
    own.domain = two ? [Math.min(lo, spec.centre), Math.max(hi, spec.centre)] : [lo, hi];
    const reach = Math.max(own.domain[1] - spec.centre, spec.centre - own.domain[0]) || 1;
    own.share = (value) => {
      if (two) return 0.5 + (value - spec.centre) / (2 * reach);
      return own.domain[1] > own.domain[0] ? (value - own.domain[0]) / (own.domain[1] - own.domain[0]) : 0.5;
    };
    // Where cells share a pixel, this far from their mean one stands out and is shown.
    own.apart = (((own.domain[1] - own.domain[0]) / (spec.values.hi - spec.values.lo)) * gm.LEVELS) / 4;
    own.edges = edges(own.at);
    own.rowEdges = Float64Array.from({ length: rows + 1 }, (_, row) => row);
    return own;
  }

  function edges(at) {
    if (at.length < 2) return [(at[0] ?? 0) - 0.5, (at[0] ?? 0) + 0.5];
    const inner = Array.from(at.slice(1), (value, i) => (value + at[i]) / 2);
    return [at[0] - (inner[0] - at[0]), ...inner, 2 * at[at.length - 1] - inner[inner.length - 1]];
  }

  function locate(bounds, where) {
    let [low, high] = [0, bounds.length - 2];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (bounds[middle] <= where) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  // The cells a pixel shows: all it covers where these are smaller, else the one in its middle.
  function covered(bounds, lo, hi) {
    const nudge = (hi - lo) * 1e-6;
    const [first, last] = [locate(bounds, lo + nudge), locate(bounds, hi - nudge)];
    const thin = (cell) => bounds[cell + 1] - bounds[cell] < hi - lo - nudge;
    if (last > first + 1 || thin(first) || thin(last)) return [first, last + 1];
    const middle = locate(bounds, (lo + hi) / 2);
    return [middle, middle + 1];
  }

  // Which of the cells that share a pixel is shown: an infinite one, one that stands out from
  // their mean, else the first that is like the mean.
  function shownOf(own, top, bottom, left, right) {
    const { codes, columns } = own;
    if (bottom === top + 1 && right === left + 1) return top * columns + left;
    let [least, most, sum, count, infinite] = [-1, -1, 0, 0, -1];
    for (let row = top; row < bottom; row++) {
      for (let at = row * columns + left, end = row * columns + right; at < end; at++) {
        const one = codes[at];
        if (one > gm.LEVELS) {
          if (one !== gm.MISSING && (infinite < 0 || one === gm.POSITIVE)) infinite = at;
          continue;
        }
        sum += one;
        count += 1;
        if (least < 0 || one < codes[least]) least = at;
        if (most < 0 || one > codes[most]) most = at;
      }
    }
    if (infinite >= 0) return infinite;
    if (!count) return top * columns + left;
    const mean = sum / count;
    const [below, above] = [mean - codes[least], codes[most] - mean];
    if (Math.max(below, above) > own.apart) return below > above ? least : most;
    let [best, away] = [least, below];
    for (let row = top; row < bottom && away > own.apart / 50; row++) {
      for (let at = row * columns + left, end = row * columns + right; at < end; at++) {
        const off = codes[at] > gm.LEVELS ? Infinity : Math.abs(codes[at] - mean);
        if (off < away) [best, away] = [at, off];
      }
    }
    return best;
  }

// The colour of each code, as a canvas keeps it.
  function colours(own) {
    const palette = gm.palette(own.spec.centre !== null).map(([r, g, b]) => 0xff000000 | (b << 16) | (g << 8) | r);
    const table = new Uint32Array(65536);
    for (let at = 0; at <= gm.LEVELS; at++) {
      const share = Math.min(Math.max(own.share(gm.decode(at, own.spec.values)), 0), 1);
      table[at] = palette[Math.round(share * 256)];
    }
    for (const [at, [r, g, b]] of [[gm.POSITIVE, gm.infinite(true)], [gm.NEGATIVE, gm.infinite(false)]]) table[at] = 0xff000000 | (b << 16) | (g << 8) | r;
    return table;
  }

  gm.matrix = { unpack, covered, shownOf, colours };
})();
