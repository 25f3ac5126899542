"use strict";
// What one place can show instead: a few beside each other as tabs, many as a list to pick from.
(function () {
  const gm = window.gm;
  const MOST_TABS = 7;

  gm.choices = function (element, choices, of = "Quantity") {
    const tabs = gm.h("div", { class: "fig-tabs" });

    function show(spec) {
      if (spec.choices.length) choices = spec.choices;
      tabs.hidden = choices.length < 2;
      if (choices.length > MOST_TABS) {
        const options = choices.map(([id, label]) => gm.h("option", { value: id, selected: id === spec.id }, gm.middle(label, 80)));
        const box = gm.h("select", { "aria-label": "What is shown", onchange: () => gm.swap(element, box.value) }, ...options);
        tabs.removeAttribute("role");
        tabs.removeAttribute("aria-label");
        tabs.replaceChildren(box);
        return;
      }
      tabs.setAttribute("role", "tablist");
      tabs.setAttribute("aria-label", of);
      tabs.replaceChildren(...choices.map(([id, label]) => {
        const active = id === spec.id;
        return gm.h("button", { type: "button", role: "tab", "aria-selected": String(active), tabindex: active ? 0 : -1, onclick: () => gm.swap(element, id) }, gm.visible(label));
      }));
    }

    tabs.addEventListener("keydown", (event) => {
      const turn = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!turn || choices.length > MOST_TABS) return;
      const at = [...tabs.children].indexOf(document.activeElement);
      const next = (at + turn + choices.length) % choices.length;
      Promise.resolve(gm.swap(element, choices[next][0])).then(() => tabs.children[next].focus());
      event.preventDefault();
    });
    return { tabs, show };
  };
})();
