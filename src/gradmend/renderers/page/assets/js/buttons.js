"use strict";
// Buttons that copy a line or save what the page holds; hidden where no script runs.
(function () {
  const gm = window.gm;
  document.documentElement.classList.add("scripted");

  gm.save = function (name, type, parts) {
    const link = gm.h("a", { href: URL.createObjectURL(new Blob(parts, { type })), download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };

  // Says on the button, for a moment, and aloud what became of it.
  gm.told = function (button, text) {
    button.dataset.before = button.dataset.before || button.textContent;
    button.textContent = text;
    gm.say(text);
    setTimeout(() => (button.textContent = button.dataset.before), 1500);
  };

  // Without the right to the clipboard, `byHand()` shows the text ready to be copied.
  gm.copy = function (button, text, byHand) {
    if (navigator.clipboard) navigator.clipboard.writeText(text).then(() => gm.told(button, "Copied"), byHand);
    else byHand();
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("[data-copy], [data-save], #download");
    if (!button) return;
    if (button.dataset.copy !== undefined) {
      gm.copy(button, button.dataset.copy, () => {
        const code = button.parentElement.querySelector("code");
        if (code) getSelection().selectAllChildren(code);
        gm.told(button, "Press Ctrl+C");
      });
    } else if (button.dataset.save !== undefined) {
      const island = document.getElementById(button.dataset.save);
      if (!island) return;
      const text = `${JSON.stringify(JSON.parse(island.textContent), null, 2)}\n`;
      gm.save(button.dataset.name || "data.json", "application/json", [text]);
      gm.told(button, "Saved");
    } else {
      // The report as JSON: out of the page that holds it, or from the server the page came from.
      const data = document.getElementById("report-data");
      const source = document.body.dataset.source;
      if (data) button.href = URL.createObjectURL(new Blob([data.textContent], { type: "application/json" }));
      else if (source) button.href = `${source}/report.json`;
    }
  });
})();
