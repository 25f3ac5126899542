"use strict";
// The gradient ledger: the waterfall over depth and, below it, the same books along the module tree.
(function () {
  const gm = window.gm;
  const HELP = "← → move, Shift+← → shift the stretch, + − 0 zoom, Enter selects; drag to zoom.";

  // A picture that stands alone: colours written out, hatches inside.
  function alone(root, spec, yTitle, causes) {
    const copy = root.cloneNode(true);
    const kept = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "opacity", "font-size", "font-family", "font-weight"];
    const write = (from, to) => {
      const style = getComputedStyle(from);
      for (const name of kept) {
        const value = style.getPropertyValue(name);
        if (name === "fill" && from.hasAttribute("fill")) continue;
        if (value) to.setAttribute(name, value);
      }
      for (let k = 0; k < from.children.length; k++) write(from.children[k], to.children[k]);
    };
    write(root, copy);
    const defs = gm.svgNode("defs", {});
    const used = new Set([...copy.querySelectorAll("[fill^='url']")].map((one) => one.getAttribute("fill").slice(5, -1)));
    for (const id of used) {
      const pattern = document.getElementById(id);
      if (!pattern) continue;
      const made = pattern.cloneNode(true);
      write(pattern, made);
      defs.append(made);
    }
    for (const one of copy.querySelectorAll("rect.hover, rect.drag, path.cursor")) one.remove();
    // Around it what the page says beside it: title, the axis, and a key to the hatches.
    const width = Number(copy.getAttribute("width")), high = Number(copy.getAttribute("height")), top = 46;
    const ink = gm.css("--ink"), soft = gm.css("--soft"), font = getComputedStyle(document.body).fontFamily;
    const inner = gm.svgNode("g", { transform: `translate(0 ${top})` });
    inner.append(...copy.childNodes);
    const words = (text, x, y, size, fill, weight) => gm.svgNode("text", { x, y, fill, "font-size": size, "font-weight": weight || 400, "font-family": font }, text);
    copy.append(words(spec.title, 8, 20, 16, ink, 600), words(yTitle, 8, 42, 12.5, soft), inner);
    let [x, y] = [8, top + high + 18];
    for (const { cause, decades } of causes) {
      const text = `${cause[1]} ${gm.decades(decades)}`, room = 44 + text.length * 7.2;
      if (x > 8 && x + room > width) [x, y] = [8, y + 22];
      copy.append(gm.svgNode("rect", { x, y: y - 11, width: 22, height: 13, fill: `url(#p-${cause[0]})` }), words(text, x + 28, y, 12.5, ink));
      x += room;
    }
    copy.setAttribute("height", y + 14);
    copy.setAttribute("viewBox", `0 0 ${width} ${y + 14}`);
    const ground = gm.svgNode("rect", { width: "100%", height: "100%", fill: getComputedStyle(document.body).backgroundColor });
    copy.prepend(gm.svgNode("title", {}, spec.words), defs, ground);
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    return new XMLSerializer().serializeToString(copy);
  }

  function swatch(kind, text) {
    const picture = gm.svgNode("svg", { class: "swatch", viewBox: "0 0 24 14", "aria-hidden": "true" });
    if (kind.startsWith("line")) picture.append(gm.svgNode("path", { class: kind, d: "M0 7H24" }));
    else picture.append(gm.svgNode("rect", { class: `c-${kind}`, width: 24, height: 14, fill: `url(#p-${kind})` }));
    return gm.key(picture, text);
  }

  gm.kinds.ledger = function (element, spec) {
    let books, chart, tree, parts;
    const choices = gm.choices(element, spec.choices, "Look");

    function read(range) {
      const { readout } = parts;
      readout.textContent = "";
      if (!range) {
        const [from, to] = chart ? chart.stretch : [0, books.leaves], told = books.predicted(from, to);
        const whole = to - from === books.leaves ? "The whole depth" : "This stretch";
        readout.append(gm.h("b", {}, whole), `: ${gm.decades(books.sum(from, to))} decades`,
          Number.isFinite(told) ? `, predicted ${gm.decades(told)}` : "", gm.h("br"), gm.h("span", { class: "hint" }, HELP));
        return;
      }
      const [a, b] = range, at = books.leafAt(a), one = b - a === 1;
      const name = gm.visible(books.name(at) || "(the model)");
      const last = gm.visible(books.name(books.leafAt(b - 1)));
      const pooled = books.pooled(at);
      const count = books.entries(a, b).toLocaleString("en-GB");
      const title = one ? gm.middle(name, 60) : `${gm.middle(name, 28)} .. ${gm.middle(last, 28)}`;
      const words = [];
      if (one && books.label(at) && books.label(at) !== books.name(at)) words.push(gm.visible(books.label(at)));
      if (!one || pooled) words.push(`${count} entries`);
      const causes = books.byCause(a, b).map((v, c) => [v, c]).filter(([v]) => Math.abs(v) > 5e-4);
      causes.sort((p, q) => Math.abs(q[0]) - Math.abs(p[0]));
      const total = one ? books.decades(at) : books.sum(a, b), told = books.predicted(a, b);
      const whole = causes.length > 1 ? causes.slice(0, 3).map(([v, c]) => `${books.causes[c][1]} ${gm.decades(v)}`).join(", ")
        : causes.length ? books.causes[causes[0][1]][1] : "";
      if (whole) words.push(whole);
      const share = one && Math.abs(books.share(at) - 1) > 1e-3 ? `; ${Math.round(100 * books.share(at))} % of the gradient passes here` : "";
      const figures = `${gm.decades(total)} decades${Number.isFinite(told) ? `, predicted ${gm.decades(told)}` : ", no prediction"}`;
      readout.append(gm.h("b", {}, gm.h("bdi", {}, title)), " ", words.join(" · "), gm.h("br"),
        figures, `; ${gm.decades(books.sum(a, books.leaves))} since the output${share}`);
    }

    function legend() {
      const total = books.sum(0, books.leaves);
      const keys = chart.causes.map(({ cause, decades }) => swatch(cause[0], `${cause[1]} ${gm.decades(decades)}`));
      keys.push(swatch("line net", `all together ${gm.decades(total)}`));
      if (books.untold(0, books.leaves) < books.leaves) keys.push(swatch("line predicted", "predicted by theory"));
      parts.legend.replaceChildren(...keys);
    }

    function zoomed(from, to) {
      const all = to - from === books.leaves;
      parts.whole.hidden = all;
      parts.title.textContent = all ? "decades gained or lost since the output" : "decades gained or lost since the end of this stretch";
      read(null);
    }

    function pick(leaf) {
      const layer = books.path(books.leafAt(leaf));
      if (layer) gm.select({ layer });
    }

    function build(given) {
      // A stretch that is looked at stays where the same model is drawn anew.
      const kept = chart && chart.stretch;
      const whole = books ? books.leaves : -1;
      spec = given;
      books = gm.books(spec);
      parts = {
        legend: gm.h("div", { class: "legend" }),
        title: gm.h("p", { class: "axis-title" }),
        whole: gm.h("button", { type: "button", class: "whole", hidden: true }, "Show the whole depth"),
        chart: gm.h("div", { class: "chart", tabindex: 0, role: "application", "aria-label": `${spec.words} ${HELP}` }),
        readout: gm.h("p", { class: "readout" }),
        tree: gm.h("div", { class: "tree-host" }),
      };
      const broken = books.broken(0, books.leaves);
      const note = broken ? gm.h("p", { class: "small" }, `${broken.toLocaleString("en-GB")} ${broken === 1 ? "entry" : "entries"} without a finite figure left out of the sums.`) : null;
      choices.show(spec);
      element.replaceChildren(choices.tabs, gm.h("div", { class: "ledger-live" }, parts.legend,
        gm.h("div", { class: "chart-head" }, parts.title, parts.whole), parts.chart, parts.readout, note,
        gm.h("h3", {}, "Along the module tree"),
        gm.h("p", { class: "small" }, "Rows open into what is inside. Bars are to one scale among siblings, hatched by cause as above. A dash: theory has no figure for a part of it."),
        parts.tree));
      chart = gm.waterfall(parts.chart, books, { pick, move: read, zoomed });
      tree = gm.treegrid(parts.tree, books, {
        over: (stretch) => chart.mark("hover", stretch),
        zoom(from, to) {
          chart.zoom(from, to);
          parts.chart.scrollIntoView({ behavior: gm.calm() ? "auto" : "smooth", block: "nearest" });
        },
      });
      legend();
      if (whole === books.leaves) chart.zoom(...kept);
      else zoomed(0, books.leaves);
      parts.whole.addEventListener("click", () => chart.zoom(0, books.leaves));
      parts.chart.addEventListener("keydown", (event) => {
        if (event.ctrlKey || event.metaKey || event.altKey || !chart.key(event)) return;
        event.preventDefault();
        gm.say(parts.readout.textContent);
      });
    }

    build(spec);
    return {
      update: build,
      resize: () => chart.resize(),
      redraw: () => chart.redraw(),
      select(layer) {
        const at = books.find(layer);
        chart.mark("band", at < 0 ? null : [books.from(at), books.to(at)]);
        if (at >= 0) tree.reveal(at);
      },
      table: () => ({
        columns: ["module", "entry", "what", "cause", "decades", "predicted", "since the output"],
        count: books.leaves,
        layer: (row) => books.path(books.leafAt(row)),
        cell(row, column) {
          const at = books.leafAt(row);
          const told = books.predicted(row, row + 1);
          return [books.path(at), books.name(at), books.label(at), books.pooled(at) ? "several" : books.causes[books.cause(at)][0],
            books.decades(at), told, books.sum(row, books.leaves)][column];
        },
      }),
      svg: () => alone(chart.root, spec, parts.title.textContent, chart.causes),
      destroy() { element.replaceChildren(); },
    };
  };
  gm.kinds.ledger.layers = (spec) => gm.books(spec).layers;
})();
