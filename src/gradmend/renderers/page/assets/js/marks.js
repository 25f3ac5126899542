"use strict";
// Signs for what happened, above a figure: another shape and colour for each kind.
(function () {
  const gm = window.gm;
  const round = (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`;
  // By kind, the gravest first: colour, whether filled, shape around (0, 0).
  const SIGNS = {
    crash: ["--bad", true, "M0-6.5L1.8-2 6.5-2 2.8 1.2 4.2 6 0 3.2-4.2 6-2.8 1.2-6.5-2-1.8-2Z"],
    "non-finite": ["--bad", true, "M-4.5-4.5H4.5V4.5H-4.5Z"],
    finding: ["--bad", true, "M0-6L6 0 0 6-6 0Z"],
    stopped: ["--ink", false, "M-4.5-4.5H4.5V4.5H-4.5Z"],
    spike: ["--open", true, "M0-5.5L5.5 4.5H-5.5Z"],
    skipped: ["--open", false, "M-4-4L4 4M4-4L-4 4"],
    intervention: ["--after", true, round(4.5)],
    cleared: ["--good", false, round(4.5)],
    look: ["--soft", false, "M0-5L5 0 0 5-5 0Z"],
  };
  const ORDER = Object.keys(SIGNS);
  const grave = (kind) => (ORDER.indexOf(kind) + ORDER.length + 1) % (ORDER.length + 1);
  gm.sign = (kind) => SIGNS[kind] || SIGNS.look;
  gm.signColour = (kind) => gm.css(gm.sign(kind)[0]);

  gm.signElement = function (kind) {
    const [colour, filled, shape] = gm.sign(kind);
    const make = (tag, attributes) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      return element;
    };
    const svg = make("svg", { viewBox: "-8 -8 16 16", width: 14, height: 14, "aria-hidden": "true" });
    svg.append(make("path", { d: shape, stroke: `var(${colour})`, "stroke-width": 1.6, fill: filled ? `var(${colour})` : "none" }));
    return svg;
  };

  gm.kindsOf = (marks) => [...new Set(marks.map((mark) => mark.kind))].sort((a, b) => grave(a) - grave(b));
  gm.signKeys = (marks) => gm.kindsOf(marks).map((kind) => gm.key(gm.signElement(kind), gm.visible(kind)));

  // The same in a file: signs and kinds in a row.
  gm.signRow = function (pen, marks, x, y) {
    for (const kind of gm.kindsOf(marks)) {
      const [colour, filled, shape] = gm.sign(kind);
      pen.shape(shape, x + 6, y, gm.css(colour), filled ? gm.css(colour) : "none");
      pen.text(gm.visible(kind), x + 18, y, { fill: gm.css("--soft") });
      x += 36 + pen.measure(gm.visible(kind), 12);
    }
  };
  gm.signsAlong = function (pen, marks, position, y) {
    for (const group of gm.mergeMarks(marks, position)) {
      const [colour, filled, shape] = gm.sign(gm.kindsOf(group.marks)[0]);
      pen.shape(shape, group.left, y, gm.css(colour), filled ? gm.css(colour) : "none");
    }
  };

  const APART = 15; // pixels: the width of a sign; nearer ones become one with a count
  gm.mergeMarks = function (marks, position) {
    const groups = [];
    const placed = marks.map((mark) => ({ mark, left: position(mark.x) })).filter(({ left }) => left !== null);
    placed.sort((a, b) => a.left - b.left);
    for (const one of placed) {
      const last = groups[groups.length - 1];
      if (last && one.left - last.left < APART) last.marks.push(one.mark);
      else groups.push({ left: one.left, marks: [one.mark] });
    }
    return groups;
  };

  gm.markWords = function (marks, most = 3) {
    const words = marks.slice(0, most).map((mark) => `${gm.visible(mark.kind)}: ${gm.middle(mark.text, 120)}`);
    if (marks.length > most) words.push(`and ${gm.whole(marks.length - most)} more`);
    return words.join(" · ");
  };

  // Fills a strip as wide as the plot; `told(marks)` when pointed at, null when left.
  gm.putMarks = function (strip, marks, position, steps, told) {
    strip.textContent = "";
    strip.hidden = !marks.length;
    for (const group of gm.mergeMarks(marks, position)) {
      const [kind] = gm.kindsOf(group.marks);
      const first = group.marks.find((mark) => mark.kind === kind);
      const button = gm.h("button", {
        type: "button", class: "sign", tabindex: -1, style: `left:${group.left}px`, "aria-label": gm.markWords(group.marks),
        onpointerenter: () => told(group.marks),
        onpointerleave: () => told(null),
        onclick: () => gm.select({ ...(steps ? { step: first.x } : {}), ...(first.layer ? { layer: first.layer } : {}) }),
      }, gm.signElement(kind), group.marks.length > 1 && gm.h("sup", {}, String(group.marks.length)));
      strip.append(button);
    }
  };
})();
