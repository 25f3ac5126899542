"use strict";
// Buttons that copy a line or save a file that the page holds; hidden where no script runs.
(function () {
  document.documentElement.classList.add("scripted");
  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("[data-copy], [data-save]");
    if (!button) return;
    const tell = (text) => {
      const before = button.dataset.before || button.textContent;
      button.dataset.before = before;
      button.textContent = text;
      setTimeout(() => (button.textContent = before), 1500);
      if (window.gm && gm.say) gm.say(text);
    };
    if (button.dataset.copy !== undefined) {
      const byHand = () => {
        // Without the right to the clipboard the line is marked, ready to be copied by hand.
        const code = button.parentElement.querySelector("code");
        if (code) getSelection().selectAllChildren(code);
        tell("Press Ctrl+C");
      };
      if (navigator.clipboard) navigator.clipboard.writeText(button.dataset.copy).then(() => tell("Copied"), byHand);
      else byHand();
      return;
    }
    const island = document.getElementById(button.dataset.save);
    if (!island) return;
    const text = JSON.stringify(JSON.parse(island.textContent), null, 2) + "\n";
    gm.save(button.dataset.name || "data.json", "application/json", [text]);
    tell("Saved");
  });
})();
