"use strict";
// Under each figure: its numbers as a table and as files, its picture as SVG and PNG, its link.
(function () {
  const gm = window.gm;
  const MOST_ROWS = 2000; // more makes a browser slow and nobody reads them
  const MOST_COLUMNS = 40;

  // ---- files ----
  const fileName = (entry, ending) => `${entry.spec.id.replace(/[^\w-]+/g, "-").slice(0, 60) || "figure"}.${ending}`;

  // Single precision has seven digits: 0.1 is not to become 0.10000000149011612.
  gm.plain = (value, digits = 7) => (Number.isInteger(value) ? value : Number(value.toPrecision(digits)));

  gm.csvCell = function (value) {
    if (typeof value === "number") {
      if (Number.isNaN(value)) return "";
      return Number.isFinite(value) ? String(gm.plain(value)) : value > 0 ? "inf" : "-inf";
    }
    // A spreadsheet takes what begins so for a formula; names come from elsewhere.
    const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  };

  function csv(table) {
    const parts = [`${table.columns.map(gm.csvCell).join(",")}\n`];
    for (let row = 0; row < table.count; row++) {
      const cells = [];
      for (let column = 0; column < table.columns.length; column++) cells.push(gm.csvCell(table.cell(row, column)));
      parts.push(`${cells.join(",")}\n`);
    }
    return parts;
  }

  // The figure as JSON with plain numbers: null where not measured, "inf" and "-inf" as words.
  function unpacked(value) {
    if (Array.isArray(value)) return value.map(unpacked);
    if (!value || typeof value !== "object") return value;
    if ("b64" in value) {
      const { values, shape } = gm.array(value);
      const digits = "lo" in value ? 9 : 7;
      const flat = Array.from(values, (one) => (Number.isNaN(one) ? null : Number.isFinite(one) ? gm.plain(one, digits) : one > 0 ? "inf" : "-inf"));
      if (shape.length !== 2) return flat;
      return Array.from({ length: shape[0] }, (_, row) => flat.slice(row * shape[1], (row + 1) * shape[1]));
    }
    return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, unpacked(inner)]));
  }
  // What a figure works out for itself is no part of what it was given.
  const given = ({ xs, ...spec }) => spec;

  function png(svg, done) {
    const image = new Image();
    image.onload = () => {
      const scale = 2; // sharp on a slide
      const canvas = gm.h("canvas", { width: image.width * scale, height: image.height * scale });
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob(done, "image/png");
    };
    image.onerror = () => gm.say("The picture could not be made");
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  }

  // ---- the table ----
  // Numbers of like size stand with as many places each, so that their points are under each other.
  function form(table, column, rows) {
    const sizes = [];
    for (let row = 0; row < rows; row++) {
      const value = table.cell(row, column);
      if (typeof value === "number" && Number.isFinite(value) && value !== 0) sizes.push(Math.abs(value));
    }
    const [least, most] = [sizes.reduce((a, b) => Math.min(a, b), Infinity), sizes.reduce((a, b) => Math.max(a, b), 0)];
    if (sizes.every(Number.isInteger) || !(least >= 1e-4 && most < 1e6 && most / least < 1e4)) return (value) => gm.number(value);
    const digits = sizes.reduce((longest, one) => Math.max(longest, (String(Number(one.toPrecision(4))).split(".")[1] || "").length), 0);
    return (value) => (Number.isFinite(value) ? value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", "−") : gm.number(value));
  }

  function fill(details, table, title) {
    for (const old of [...details.children].slice(1)) old.remove();
    const rows = Math.min(table.count, MOST_ROWS);
    const every = Math.ceil((table.columns.length - 1) / MOST_COLUMNS) || 1;
    const columns = table.columns.map((_, column) => column).filter((column) => !column || (column - 1) % every === 0);
    const said = [];
    if (rows < table.count) said.push(`the first ${gm.whole(rows)} of ${gm.whole(table.count)} rows`);
    if (every > 1) said.push(`one of every ${gm.whole(every)} columns`);
    const note = said.length ? `Here are ${said.join(" and ")}; the CSV file has all.` : "";
    const head = gm.h("tr", {}, ...columns.map((column) => gm.h("th", { scope: "col" }, gm.name(table.columns[column], 48))));
    const forms = new Map(columns.map((column) => [column, form(table, column, rows)]));
    const body = gm.h("tbody");
    for (let row = 0; row < rows; row++) {
      const cells = columns.map((column) => {
        const value = table.cell(row, column);
        const text = table.text ? table.text(row, column) : null;
        const shown = text !== null ? text : typeof value === "number" ? forms.get(column)(value) : gm.name(value, 64);
        return gm.h(column ? "td" : "th", column ? {} : { scope: "row" }, Number.isNaN(value) ? "–" : shown);
      });
      const line = gm.h("tr", {}, ...cells);
      if (table.layer && table.layer(row)) line.dataset.layer = table.layer(row);
      body.append(line);
    }
    const whole = gm.h("table", {}, gm.h("thead", {}, head), body);
    const frame = gm.h("div", { class: "fig-scroll", tabindex: 0, role: "region", "aria-label": `Table: ${title}` }, whole);
    if (note) details.append(gm.h("p", { class: "small" }, note));
    details.append(frame);
    gm.markSelected(details);
  }

  function copyLink(entry, button) {
    const link = gm.link(entry.element.dataset.figure);
    gm.copy(button, link, () => {
      const box = gm.h("input", { class: "fig-link", readonly: true, value: link, "aria-label": "Link to this figure" });
      box.addEventListener("blur", () => box.remove());
      button.after(box);
      box.select();
      box.focus();
    });
  }

  // ---- the toolbar ----
  gm.tools = function (entry) {
    if (entry.tools) entry.tools.remove();
    const { handle } = entry;
    const buttons = gm.h("span", { class: "fig-buttons", role: "group", "aria-label": "Download" });
    const add = (label, title, work) => {
      const button = gm.h("button", { type: "button", title, onclick: () => work(button) }, label);
      buttons.append(button);
    };
    const details = gm.h("details", {}, gm.h("summary", {}, "Table"));
    details.hidden = !handle.table;
    entry.refreshTable = () => {
      if (details.open && handle.table) fill(details, handle.table(), gm.visible(entry.spec.title));
    };
    details.addEventListener("toggle", entry.refreshTable);
    if (handle.table) add("CSV", "The numbers, for a spreadsheet", () => gm.save(fileName(entry, "csv"), "text/csv", csv(handle.table())));
    add("JSON", "The numbers, for a program", () =>
      gm.save(fileName(entry, "json"), "application/json", [JSON.stringify(unpacked(given(entry.spec)))]));
    if (handle.svg) {
      add("PNG", "The picture, as dots", () => png(handle.svg(), (blob) => gm.save(fileName(entry, "png"), "image/png", [blob])));
      add("SVG", "The picture, as lines", () => gm.save(fileName(entry, "svg"), "image/svg+xml", [handle.svg()]));
    }
    if (location.protocol !== "about:") add("Link", "Copy a link to this figure as it is selected", (button) => copyLink(entry, button));
    entry.tools = gm.h("div", { class: "fig-tools" }, details, buttons);
    entry.element.append(entry.tools);
  };
})();
