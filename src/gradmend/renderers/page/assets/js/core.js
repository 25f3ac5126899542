"use strict";
// What every figure shares: arrays, numbers as people read them, words that are data.
(function () {
  const gm = (window.gm = window.gm || {});
  gm.kinds = gm.kinds || {};

  // ---- arrays: the twin of renderers/page/encoding.py ----
  const TYPES = { f4: Float32Array, f8: Float64Array, i4: Int32Array, u2: Uint16Array };
  gm.MISSING = 65535;
  gm.NEGATIVE = 65534;
  gm.POSITIVE = 65533;
  gm.LEVELS = 65532;

  gm.raw = function (packed) {
    const text = atob(packed.b64);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
    return new TYPES[packed.dtype](bytes.buffer);
  };

  gm.decode = function (code, packed) {
    if (code <= gm.LEVELS) return packed.lo + (code / gm.LEVELS) * (packed.hi - packed.lo);
    return code === gm.MISSING ? NaN : code === gm.POSITIVE ? Infinity : -Infinity;
  };

  gm.array = function (packed) {
    const raw = gm.raw(packed);
    if (!("lo" in packed)) return { values: raw, shape: packed.shape };
    const values = new Float64Array(raw.length);
    for (let i = 0; i < raw.length; i++) values[i] = gm.decode(raw[i], packed);
    return { values, shape: packed.shape };
  };

  // ---- numbers as people read them: in the spirit of renderers/numbers.py ----
  const RAISED = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
  gm.raised = (power) => String(power).replace(/./g, (letter) => RAISED[letter] || letter);
  const minus = (text) => text.replace("-", "−");

  gm.number = function (value, digits = 4) {
    if (value === null || value === undefined || Number.isNaN(value)) return "n/a";
    if (value === Infinity) return "+inf";
    if (value === -Infinity) return "−inf";
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e6) return minus(value.toLocaleString("en-US"));
    if (size < 1e-4 || size >= 1e6) {
      const [mantissa, power] = value.toExponential(digits - 1).split("e");
      return minus(`${Number(mantissa)}×10`) + gm.raised(Number(power));
    }
    const rounded = Number(value.toPrecision(digits));
    return minus(rounded.toLocaleString("en-US", { maximumFractionDigits: 12 }));
  };

  gm.whole = (value) => minus(Math.round(value).toLocaleString("en-US"));

  gm.unit = (axis) => (axis.percent ? "%" : axis.unit === "1" ? "" : gm.visible(axis.unit || ""));

  gm.amount = function (value, axis) {
    const text = gm.number(axis.percent ? value * 100 : value);
    const unit = gm.unit(axis);
    return unit && text !== "n/a" ? `${text} ${unit}` : text;
  };

  // A logarithm is said with what it is the logarithm of.
  gm.reading = function (value, axis) {
    const text = Number.isNaN(value) ? "not measured" : gm.amount(value, axis);
    const plain = /^log10\b/.test(axis.label) && Number.isFinite(value);
    return plain ? `${text} (${gm.number(10 ** value, 3)})` : text;
  };

  gm.label = (axis) => gm.visible(axis.label).replace(/\blog(10|2)\b/g, (_, base) => (base === "2" ? "log₂" : "log₁₀"));
  gm.axisTitle = (axis) => gm.label(axis) + (gm.unit(axis) ? ` (${gm.unit(axis)})` : "");

  gm.isSteps = (axis) => /^(optimi[sz]er )?steps?\b/i.test(axis.label);

  gm.place = function (spec, index) {
    if (spec.categories && spec.categories.length) return gm.visible(spec.categories[index]);
    const value = spec.xs[index];
    return `${gm.label(spec.x)} ${Number.isInteger(value) ? gm.whole(value) : gm.amount(value, spec.x)}`;
  };

  // Round values between two numbers, at most so many: 1, 2 or 5 times a power of ten.
  gm.ticks = function (lo, hi, most, axis) {
    if (axis && axis.log) return logTicks(lo, hi, most);
    if (!(hi > lo)) return [lo];
    let step = 10 ** Math.floor(Math.log10((hi - lo) / Math.max(most, 1)));
    for (const factor of [1, 2, 5, 10, 20]) {
      if ((hi - lo) / (step * factor) <= most) {
        step *= factor;
        break;
      }
    }
    if (axis && axis.whole) step = Math.max(1, Math.round(step));
    const ticks = [];
    for (let i = Math.ceil(lo / step - 1e-9); i * step <= hi + step * 1e-9; i++) ticks.push(Number((i * step).toPrecision(12)));
    return ticks;
  };

  function logTicks(lo, hi, most) {
    const first = Math.ceil(Math.log10(lo) - 1e-9);
    const last = Math.floor(Math.log10(hi) + 1e-9);
    const every = Math.max(1, Math.ceil((last - first + 1) / Math.max(most, 1)));
    const ticks = [];
    for (let power = Math.ceil(first / every) * every; power <= last; power += every) ticks.push(Number(`1e${power}`));
    if (ticks.length > 1) return ticks;
    const fine = [];
    for (let power = first - 1; power <= last; power++)
      for (const factor of [1, 2, 5]) fine.push(Number(`${factor}e${power}`));
    const inside = fine.filter((value) => value >= lo * 0.999 && value <= hi * 1.001);
    return inside.length > 1 ? inside : gm.ticks(lo, hi, most);
  }

  // All numbers of an axis in one form: powers of ten, or plain with as many places each.
  gm.tickText = function (value, ticks, axis) {
    const scale = axis.percent ? 100 : 1;
    const shown = value * scale;
    const all = ticks.map((tick) => Math.abs(tick * scale));
    const most = Math.max(...all);
    if (ticks.length < 2) return gm.number(shown);
    const places = (one) => {
      const [mantissa, power] = Number(one.toPrecision(9)).toExponential().split("e");
      return Math.max(0, (mantissa.split(".")[1] || "").length - Number(power));
    };
    const raised = (digits, power) => minus(`${digits}×10`) + gm.raised(power);
    if (axis.log) {
      if (all.some((one) => one < 1e-2 || one >= 1e4)) {
        const [mantissa, power] = Number(shown.toPrecision(9)).toExponential().split("e");
        return all.every((one) => Number.isInteger(Number(Math.log10(one).toFixed(9)))) ? `10${gm.raised(Number(power))}` : raised(mantissa, Number(power));
      }
      if (all.every((one) => Number.isInteger(Number(Math.log10(one).toFixed(9))))) return gm.number(shown);
    }
    const power = Math.floor(Math.log10(most || 1) + 1e-9);
    const fine = Math.max(...all.map(places));
    if ((most < 1e6 && fine <= 5) || !Number.isFinite(power)) return minus(shown.toLocaleString("en-US", { minimumFractionDigits: fine, maximumFractionDigits: fine }));
    return shown ? raised((shown / 10 ** power).toFixed(Math.min(Math.max(...all.map((one) => places(one / 10 ** power))), 6)), power) : "0";
  };

  // ---- words: names are data; what has no glyph is written as its code ----
  gm.visible = (text) =>
    String(text).replace(/\t/g, " ").replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (letter) => {
      const code = letter.codePointAt(0);
      return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
    });

  gm.middle = function (text, most) {
    const name = gm.visible(text.length > 4 * most ? text.slice(0, 2 * most) + text.slice(-2 * most) : text);
    if (name.length <= most && text.length <= 4 * most) return name;
    const head = Math.ceil((most - 1) / 2);
    return `${name.slice(0, head)}…${name.slice(name.length - (most - 1 - head))}`;
  };

  // `2^-12` as a power.
  gm.power = (text) => gm.visible(text).replace(/(^|[\s(])(\d+)\^(-?\d+)(?![\w.])/g, (_, before, base, power) => before + base + gm.raised(power));

  // A line with a meaning: its number, unless its words begin with one.
  gm.levelText = (level, axis) => (/^[-−+]?\d/.test(level.text) ? gm.visible(level.text) : `${gm.amount(level.y, axis)}: ${gm.visible(level.text)}`);

  // A path from its end, as long as fits: `…1.self_attn` tells more layers apart than its beginning.
  gm.tail = function (path, most) {
    const name = gm.visible(path);
    if (name.length <= most) return name;
    const dots = [...name.matchAll(/\./g)].map((dot) => dot.index + 1);
    const from = dots.find((at) => name.length - at < most);
    // One long name with little behind it keeps its beginning too.
    return from === undefined || name.length - from < most / 2 ? gm.middle(name, most) : `…${name.slice(from)}`;
  };

  // The longest form of a text that is no wider than so many pixels.
  gm.fit = function (context, text, width) {
    const whole = gm.power(gm.middle(text, 240));
    if (context.measureText(whole).width <= width) return whole;
    // The name of an operation is at the end of its path, and alike for all of a kind.
    const cut = /^[^\s:]*\.[^\s:]*$/.test(whole) ? gm.tail : gm.middle;
    let [low, high] = [1, whole.length];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (context.measureText(cut(whole, middle)).width <= width) low = middle;
      else high = middle - 1;
    }
    return low < 3 ? "" : cut(whole, low);
  };

  gm.h = function (tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "class") element.className = value;
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
    return element;
  };

  // A name, cut in the middle where it is long, with the whole of it as its tooltip.
  gm.name = function (text, most) {
    const shown = gm.middle(text, most);
    return gm.h("bdi", { title: shown.includes("…") ? gm.visible(String(text).slice(0, 2000)) : null }, shown);
  };

  gm.key = (swatch, ...words) => gm.h("span", { class: "key" }, swatch, ...words);
  gm.between = (value, least, most) => Math.min(Math.max(value, least), most);

  gm.css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  gm.calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  // Once a frame at most, with the last arguments.
  gm.perFrame = function (work) {
    let waiting = 0;
    let last = [];
    return function (...given) {
      last = given;
      waiting = waiting || requestAnimationFrame(() => {
        waiting = 0;
        work(...last);
      });
    };
  };
})();
