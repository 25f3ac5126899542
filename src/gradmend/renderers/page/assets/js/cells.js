"use strict";
// A heat map drawn by a pen, on the page as in a file. `box` says where its cells stand: {left, top,
// width, height}, the rows in view, {start, count}, and the part of x, {from, span}.
(function () {
  const gm = window.gm;
  const MOST_HEIGHT = 460; // pixels of the page
  const LABEL = 15; // pixels a row label needs
  const PAD = 24; // pixels at each end of the colour bar for its outermost labels
  const { covered, shownOf, colours } = gm.matrix;

  // How much of a width and height is for cells.
  function layout(own, width) {
    const pen = new gm.CanvasPen(document.createElement("canvas").getContext("2d"));
    const every = Math.ceil(own.rows / 300);
    let widest = 0;
    for (let row = 0; row < own.rows; row += every) widest = Math.max(widest, pen.measure(gm.power(gm.middle(own.spec.rows[row], 60)), 12, 600));
    const left = Math.round(Math.min(Math.max(widest + 14, 34), 260, width * 0.34));
    const tall = own.rows === 1 ? 44 : own.rows <= 10 ? 28 : own.rows <= 24 ? 19 : 12;
    const height = Math.round(Math.min(own.rows * tall, MOST_HEIGHT));
    return { left, top: height / own.rows < LABEL ? 8 : 2, width: Math.max(width - left - 12, 40), height, start: 0, count: own.rows, from: own.edges[0], span: own.edges[own.columns] - own.edges[0] };
  }

  const xAt = (box, where) => box.left + ((where - box.from) / box.span) * box.width;
  const yAt = (box, row) => box.top + ((row - box.start) * box.height) / box.count;

  // Which rows or columns one of so many pixels covers.
  const under = (bounds, from, length, at, pixels) => covered(bounds, from + (length * at) / pixels, from + (length * (at + 1)) / pixels);

  // The cell shown at a place of the page: of those that share its pixel, the one drawn.
  function cellAt(own, box, x, y, scale) {
    const [width, height] = [Math.round(box.width * scale), Math.round(box.height * scale)];
    const [i, j] = [Math.floor(((x - box.left) / box.width) * width), Math.floor(((y - box.top) / box.height) * height)];
    if (i < 0 || j < 0 || i >= width || j >= height || !own.codes.length) return null;
    const at = shownOf(own, ...under(own.rowEdges, box.start, box.count, j, height), ...under(own.edges, box.from, box.span, i, width));
    return { row: Math.floor(at / own.columns), column: at % own.columns };
  }

  function picture(own, box, scale) {
    const [width, height] = [Math.round(box.width * scale), Math.round(box.height * scale)];
    const each = (bounds, from, length, pixels) => Array.from({ length: pixels }, (_, at) => under(bounds, from, length, at, pixels));
    const down = each(own.rowEdges, box.start, box.count, height);
    const along = each(own.edges, box.from, box.span, width);
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
    own.shared = [down, along].map((all) => Math.max(1, ...all.map(([from, end]) => end - from)));
    const image = gm.h("canvas", { width, height });
    image.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), width, height), 0, 0);
    const whole = gm.h("canvas", { width, height });
    const context = whole.getContext("2d");
    gm.hatch(context, width, height, scale);
    context.drawImage(image, 0, 0);
    context.fillStyle = gm.css("--ground");
    const line = Math.round(scale);
    if (height / box.count / scale >= 9)
      for (let row = 1; row < box.count; row++) context.fillRect(0, Math.round((row * height) / box.count) - line, width, line);
    const seen = own.edges.slice(1, -1).filter((edge) => edge > box.from && edge < box.from + box.span);
    if (width / (seen.length + 1) / scale >= 22)
      for (const edge of seen) context.fillRect(Math.round(((edge - box.from) / box.span) * width) - line, 0, line, height);
    return whole;
  }

  // The cells and the names around them; `scale`: pixels of the picture for one of the page.
  function draw(pen, own, box, scale) {
    const soft = gm.css("--soft");
    pen.image(picture(own, box, scale), box.left, box.top, box.width, box.height);
    const every = gm.every((LABEL * box.count) / box.height);
    box.labels = [];
    for (let row = Math.ceil(box.start / every) * every; row < box.start + box.count; row += every) {
      box.labels.push(yAt(box, row + 0.5));
      pen.text(pen.fit(own.spec.rows[row], box.left - 12), box.left - 8, yAt(box, row + 0.5), { fill: soft, align: "right" });
    }
    const bottom = box.top + box.height;
    const ticks = gm.xTicks(own, [box.from, box.from + box.span], box.width).map(({ x, text }) => ({ at: xAt(box, x), text }));
    for (const { at } of ticks) pen.line([[at, bottom], [at, bottom + 4]], soft);
    box.places = gm.labelsAlong(pen, ticks, box.left, box.left + box.width + 10, bottom + 8, soft);
    if (!own.finite && !own.positive && !own.negative) {
      const middle = box.left + box.width / 2;
      pen.rect(middle - 80, box.top + box.height / 2 - 12, 160, 24, gm.css("--ground"));
      pen.text("Nothing was measured", middle, box.top + box.height / 2, { fill: soft, align: "center", size: 13 });
    }
  }

  // The selected layers that stand beside each other: [first, last] of rows or columns.
  function selectedRuns(own) {
    const runs = [];
    own.spec.layers.forEach((layer, at) => {
      if (!gm.isSelected(layer)) return;
      const last = runs[runs.length - 1];
      if (last && last[1] === at - 1) last[1] = at;
      else runs.push([at, at]);
    });
    return runs;
  }

  function drawSelected(pen, own, box) {
    const [ink, ground] = [gm.css("--ink"), gm.css("--ground")];
    const x = (where) => xAt(box, where);
    pen.within(box.left - 3, box.top - 2, box.width + 6, box.height + 4, () => {
      for (const [from, last] of selectedRuns(own)) {
        const [left, right] = [x(own.edges[from]), x(own.edges[last + 1])];
        if (own.spec.across) pen.frame(left, box.top, right - left, box.height, ink, ground);
        else pen.frame(box.left, yAt(box, from), box.width, Math.max(yAt(box, last + 1) - yAt(box, from), 1), ink, ground);
      }
      if (!own.steps || gm.selection.step === null || !own.columns) return;
      const at = x(gm.selection.step);
      for (const [colour, width] of [[ground, 4], [ink, 1.75]]) pen.line([[at, box.top], [at, box.top + box.height]], colour, width);
    });
  }

  function drawCross(pen, own, box, { row, column }) {
    const [ink, ground] = [gm.css("--ink"), gm.css("--ground")];
    const [left, right] = [own.edges[column], own.edges[column + 1]].map((edge) => gm.between(xAt(box, edge), box.left, box.left + box.width));
    const [top, bottom] = [yAt(box, row), yAt(box, row + 1)];
    const [x, y] = [(left + right) / 2, (top + bottom) / 2];
    const foot = box.top + box.height;
    for (const [colour, width] of [[ground, 3], [ink, 1]]) {
      pen.line([[x, box.top], [x, top]], colour, width, [], 0.75);
      pen.line([[x, bottom], [x, foot]], colour, width, [], 0.75);
      pen.line([[box.left, y], [left, y]], colour, width, [], 0.75);
      pen.line([[right, y], [box.left + box.width, y]], colour, width, [], 0.75);
    }
    pen.frame(left, top, right - left, bottom - top, ink, ground);
    const label = (text, from, at, width, align) => {
      pen.rect(from, at, width, 18, ground);
      pen.text(text, align === "right" ? from + width - 8 : from + width / 2, at + 9, { fill: ink, align, weight: 600 });
    };
    // What the bold labels would touch gives way.
    for (const other of box.labels) if (Math.abs(other - y) < 16) pen.rect(0, other - 8, box.left - 5, 16, ground);
    label(pen.fit(own.spec.rows[row], box.left - 12, 12, 600), 0, gm.between(y - 9, 0, box.height - 14), box.left, "right");
    const place = own.spec.categories.length ? gm.middle(own.spec.categories[column], 40) : Number.isInteger(own.at[column]) ? gm.whole(own.at[column]) : gm.number(own.at[column]);
    const width = pen.measure(place, 12, 600) + 16;
    for (const [at, wide] of box.places) if (at < x + width / 2 + 6 && at + wide > x - width / 2 - 6) pen.rect(at - 1, foot + 6, wide + 2, 18, ground);
    label(place, gm.between(x - width / 2, 0, box.left + box.width + 12 - width), foot + 6, width, "center");
  }

  // Where a number stands on the colour bar, as a share of its width without its ends.
  function onBar(own, value) {
    const [lo, hi] = own.domain;
    return hi > lo ? gm.between((value - lo) / (hi - lo), 0, 1) : 0.5;
  }

  function drawBar(pen, own, left, top, width) {
    const { colour, levels, centre } = own.spec;
    const palette = gm.palette(centre !== null);
    const [lo, hi] = own.domain;
    const inner = width - 2 * PAD;
    const flat = !(hi > lo);
    const strips = flat ? 1 : 128;
    for (let i = 0; i < strips; i++) {
      const share = own.share(lo + ((i + 0.5) / strips) * (hi - lo));
      const edge = (at) => Math.round(left + PAD + (at / strips) * inner);
      pen.rect(edge(i), top, edge(i + 1) - edge(i), 12, gm.rgb(palette[Math.round(gm.between(share, 0, 1) * 256)]));
    }
    const ink = gm.css("--soft");
    const ticks = flat ? [lo] : gm.ticks(lo, hi, 6, colour);
    const at = (value) => left + PAD + onBar(own, value) * inner;
    const text = (tick) => {
      const beyond = tick === lo && own.data[0] < lo ? "≤ " : tick === hi && own.data[1] > hi ? "≥ " : "";
      return beyond + (flat ? gm.amount(tick, colour) : gm.tickText(tick, ticks, colour));
    };
    for (const tick of ticks) pen.line([[at(tick), top + 12], [at(tick), top + 16]], ink);
    gm.labelsAlong(pen, ticks.map((tick) => ({ at: at(tick), text: text(tick) })), left - 40, left + width + 40, top + 19, ink, 6);
    for (const level of levels) {
      if (level.y < lo || level.y > hi) continue;
      pen.line([[at(level.y), top - 3], [at(level.y), top + 15]], gm.css("--ground"), 4);
      pen.line([[at(level.y), top - 4], [at(level.y), top + 16]], gm.css("--ink"), 2);
    }
  }

  function svg(own) {
    const { spec } = own;
    const some = own.codes.length > 0;
    const box = some ? { ...layout(own, 900), top: spec.marks.length ? 142 : 100 } : { top: 80, height: 80 };
    const [soft, title] = [gm.css("--soft"), gm.axisTitle(spec.colour)];
    const pen = new gm.SvgPen(912, box.top + box.height + 60, spec);
    pen.text(title, 16, 54, { fill: soft });
    if (!some) return pen.done();
    let x = pen.measure(title, 12) + 8;
    if (own.finite) drawBar(pen, own, x, 48, 300);
    x += 320;
    for (const [count, fill, text] of [[own.missing, gm.css("--rule"), "not measured"], [own.positive, gm.rgb(gm.infinite(true)), "+inf"], [own.negative, gm.rgb(gm.infinite(false)), "−inf"]]) {
      if (!count) continue;
      pen.rect(x, 48, 16, 12, fill);
      pen.text(text, x + 22, 54, { fill: soft });
      x += 40 + pen.measure(text, 12);
    }
    gm.signRow(pen, spec.marks, 16, 96);
    const inside = (value) => value >= box.from && value <= box.from + box.span;
    gm.signsAlong(pen, spec.marks, (value) => (inside(value) ? xAt(box, value) : null), 128);
    draw(pen, own, box, 2);
    drawSelected(pen, own, box);
    pen.text(gm.axisTitle(spec.x), box.left + box.width / 2, box.top + box.height + 40, { fill: soft, align: "center" });
    return pen.done();
  }

  gm.cells = { PAD, layout, xAt, yAt, cellAt, draw, selectedRuns, drawSelected, drawCross, onBar, drawBar, svg };
})();
