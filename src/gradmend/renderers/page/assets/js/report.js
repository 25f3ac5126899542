"use strict";
// The report as JSON: out of the page that holds it, or from the server that the page came from.
(function () {
  document.addEventListener("click", (event) => {
    const link = event.target.closest && event.target.closest("#download");
    if (!link) return;
    const data = document.getElementById("report-data");
    const source = document.body.dataset.source;
    if (data) link.href = URL.createObjectURL(new Blob([data.textContent], { type: "application/json" }));
    else if (source) link.href = `${source}/report.json`;
  });
})();
