"use strict";
// What every figure on canvases has: a place that takes the focus, a legend, signs along x, labels
// of x, and words that follow the pointer or the arrow keys.
(function () {
  const gm = window.gm;
  const NEAR = 5; // pixels within which a mark belongs to what is pointed at

  // A figure's `hooks`: `own()` its numbers, `paint()` what follows the pointer, `hint()` the words
  // where nothing is pointed at, `read()` the elements and `left(x)` the place of what is,
  // `move(key, far)` -> what to say, or null where it is no key of ours, `choose()` and
  // `zoom(factor)`, 0 for all.
  gm.stage = function (role, hooks) {
    const at = {
      cursor: null, // {row or index, column...} where pointed at or moved to
      pointed: null, // marks pointed at
      legend: gm.h("div", { class: "fig-legend" }),
      strip: gm.h("div", { class: "fig-marks" }),
      stage: gm.h("div", { class: "fig-stage", tabindex: 0, role: "application", "aria-roledescription": role }),
      xtitle: gm.h("div", { class: "fig-xtitle" }),
      readout: gm.h("p", { class: "fig-readout" }),
    };
    const { stage, strip, readout } = at;
    at.soon = gm.perFrame(() => {
      if (stage.isConnected) hooks.paint();
    });
    at.leave = function () {
      at.cursor = null;
      at.soon();
    };
    stage.addEventListener("blur", at.leave);
    stage.addEventListener("keydown", (event) => {
      if (!hooks.own().at.length || event.ctrlKey || event.metaKey || event.altKey) return;
      const factor = { "+": 0.5, "=": 0.5, "-": 2, 0: 0 }[event.key];
      if (event.key === "Enter" && at.cursor) hooks.choose();
      else if (factor !== undefined) hooks.zoom(factor);
      else {
        const said = hooks.move(event.key, event.shiftKey ? 10 : 1);
        if (said === null) return;
        if (said) gm.say(said);
        at.soon();
      }
      event.preventDefault();
    });

    // A legend begun anew, with words for those who cannot see the figure.
    at.begin = function (...keys) {
      const { spec } = hooks.own();
      stage.setAttribute("aria-label", gm.visible(spec.words || spec.title));
      at.legend.replaceChildren(...keys, ...gm.signKeys(spec.marks));
      at.legend.hidden = !at.legend.childNodes.length;
      gm.markSelected(at.legend);
    };

    at.signs = function (left, width) {
      const { spec, steps } = hooks.own();
      strip.style.marginLeft = `${left}px`;
      strip.style.width = `${width}px`;
      const position = (x) => {
        const place = hooks.left(x) - left;
        return place >= -0.5 && place <= width + 0.5 ? place : null;
      };
      gm.putMarks(strip, spec.marks, position, steps, (marks) => {
        at.pointed = marks;
        at.soon();
      });
    };

    at.tell = function () {
      const { spec } = hooks.own();
      if (at.pointed) return readout.replaceChildren(gm.markWords(at.pointed));
      if (!at.cursor) return readout.replaceChildren(gm.h("span", { class: "hint" }, hooks.hint()));
      readout.replaceChildren(...hooks.read());
      const here = hooks.left(spec.xs[at.cursor.column]);
      const close = spec.marks.filter((mark) => Math.abs(hooks.left(mark.x) - here) < NEAR);
      if (close.length) readout.append(gm.h("span", { class: "happened" }, gm.markWords(close, 2)));
    };
    return at;
  };

  // Round numbers of things: every so many has a label.
  gm.every = (least) => [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000].find((step) => step >= least) || Math.ceil(least);

  // Labels of x, between two values of it: names of places, or round numbers.
  gm.xTicks = function (own, [from, to], width) {
    const { spec, at } = own;
    if (spec.categories.length) {
      const inside = [...at.keys()].filter((i) => at[i] >= from && at[i] <= to);
      const every = gm.every((inside.length * 115) / width);
      return inside.filter((i) => i % every === 0).map((i) => ({ x: at[i], text: gm.tail(spec.categories[i], 15) }));
    }
    // Of a heat map of few columns, each has its own.
    if (own.columns <= 3) return Array.from(at, (x) => ({ x, text: gm.tickText(x, [x], spec.x) }));
    const axis = { ...spec.x, log: spec.x.log && !own.columns, whole: own.steps || spec.layers.length > 0 };
    const values = gm.ticks(from, to, Math.max(2, Math.floor(width / 90)), axis);
    return values.map((x) => ({ x, text: gm.tickText(x, values, spec.x) }));
  };
})();
