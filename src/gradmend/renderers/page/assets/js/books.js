"use strict";
// The gradient's books, as written by renderers/ledger_tree.py: any stretch of the model is added
// up by two look-ups, so that 10,000 layers are as quick as ten.
(function () {
  const gm = window.gm;

  // A tree of entries, parents first. A stretch is [first leaf, last leaf).
  gm.books = function (spec) {
    const names = spec.names, forms = spec.forms;
    const name = gm.array(spec.name).values, form = gm.array(spec.form).values, size = gm.array(spec.size).values;
    const decades = gm.array(spec.decades).values, predicted = gm.array(spec.predicted).values;
    const share = spec.share ? gm.array(spec.share).values : null;
    const calls = new Map(spec.calls), amounts = new Map(spec.amount), groups = new Map(spec.groups);
    const count = name.length, causes = spec.causes.length;
    const parent = new Int32Array(count).fill(-1), end = new Int32Array(count);
    const paths = new Array(count), leafFrom = new Int32Array(count + 1), leaves = [];

    const full = (at) => {
      const word = names[name[at]];
      if (word[0] === "=") return word.slice(1);
      return paths[parent[at]] + word; // it begins with the dot
    };
    const kind = (at) => forms[form[at]][0];
    const open = []; // [entry, children still to come]
    for (let at = 0; at < count; at++) {
      parent[at] = open.length ? open[open.length - 1][0] : -1;
      const named = kind(at) === "module";
      paths[at] = named || parent[at] < 0 ? full(at) : paths[parent[at]];
      leafFrom[at] = leaves.length;
      if (!size[at]) leaves.push(at);
      if (open.length) open[open.length - 1][1]--;
      open.push([at, size[at]]);
      while (open.length && open[open.length - 1][1] === 0) end[open.pop()[0]] = at + 1;
    }
    leafFrom[count] = leaves.length;

    // Sums from the left: by cause, of predictions, of entries that theory has no figure for,
    // and of those that are no number.
    const piled = Array.from({ length: causes }, () => new Float64Array(leaves.length + 1));
    const foretold = new Float64Array(leaves.length + 1);
    const untold = new Int32Array(leaves.length + 1), broken = new Int32Array(leaves.length + 1);
    const booked = new Int32Array(leaves.length + 1);
    const partAt = gm.array(spec.partAt).values, partCause = gm.array(spec.partCause).values;
    const partDecades = gm.array(spec.partDecades).values;
    for (let k = 0, p = 0; k < leaves.length; k++) {
      const at = leaves[k];
      for (let c = 0; c < causes; c++) piled[c][k + 1] = piled[c][k];
      const known = Number.isFinite(decades[at]);
      if (amounts.has(at)) {
        for (; p < partAt.length && partAt[p] <= at; p++)
          if (partAt[p] === at) piled[partCause[p]][k + 1] += partDecades[p];
      } else if (known) piled[forms[form[at]][2]][k + 1] += decades[at];
      const told = Number.isFinite(predicted[at]);
      foretold[k + 1] = foretold[k] + (told ? predicted[at] : 0);
      untold[k + 1] = untold[k] + (!told && !(Math.abs(decades[at]) <= 1e-9) ? 1 : 0);
      broken[k + 1] = broken[k] + (known ? 0 : 1);
      booked[k + 1] = booked[k] + (amounts.get(at) || 1);
    }

    const books = {
      count, causes: spec.causes, leaves: leaves.length, parent, end, size,
      leafAt: (k) => leaves[k],
      from: (at) => leafFrom[at],
      to: (at) => leafFrom[end[at]],
      kind,
      label: (at) => forms[form[at]][1],
      cause: (at) => forms[form[at]][2],
      source: (at) => forms[form[at]][3],
      share: (at) => (share ? share[at] : 1),
      pooled: (at) => amounts.get(at) || 0,
      // As it is called: a module by its path, an operation by its own name.
      name: (at) => full(at) + (calls.has(at) ? " (call " + (calls.get(at) + 1) + ")" : ""),
      // The module an entry belongs to.
      path: (at) => paths[at],
      decades: (at) => decades[at],
      // Decades by cause between two leaves.
      byCause: (a, b) => piled.map((sums) => sums[b] - sums[a]),
      sum: (a, b) => piled.reduce((total, sums) => total + sums[b] - sums[a], 0),
      of: (cause, a, b) => piled[cause][b] - piled[cause][a],
      // What theory expects; NaN where an entry of weight has no prediction.
      predicted: (a, b) => (untold[b] > untold[a] ? NaN : foretold[b] - foretold[a]),
      untold: (a, b) => untold[b] - untold[a],
      broken: (a, b) => broken[b] - broken[a],
      entries: (a, b) => booked[b] - booked[a],
      // Direct children, in forward order.
      children(at) {
        const found = [];
        for (let child = at + 1; child < end[at]; child = end[child]) found.push(child);
        return found;
      },
      // [first child, how many, period] of runs of like ones.
      groups: (at) => groups.get(at) || [],
      // The first entry of a module; -1 where it has none.
      find(path) {
        if (path === null) return -1;
        for (let at = 0; at < count; at++) if (kind(at) === "module" && paths[at] === path) return at;
        return -1;
      },
    };
    const modules = new Set();
    for (let at = 0; at < count; at++) if (kind(at) === "module") modules.add(paths[at]);
    books.layers = [...modules];
    return books;
  };

  const places = (digits) => new Intl.NumberFormat("en-GB", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const [one, two] = [places(1), places(2)];
  // Decades as the rest of the page writes them: with a sign, and a minus as wide as the plus.
  gm.decades = function (value) {
    if (!Number.isFinite(value)) return Number.isNaN(value) ? "n/a" : value > 0 ? "+inf" : "\u2212inf";
    const text = (Math.abs(value) >= 1000 ? one : two).format(Math.abs(value));
    if (text === "0.00") return text;
    return (value < 0 ? "\u2212" : "+") + text;
  };
})();
