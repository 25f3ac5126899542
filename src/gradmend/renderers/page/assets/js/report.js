"use strict";
// Everything on the page stands without this script; it adds a download and a pointer read-out.
(function () {
  var data = document.getElementById("report-data");
  var link = document.getElementById("download");
  if (data && link && window.Blob && window.URL) {
    link.href = URL.createObjectURL(new Blob([data.textContent], { type: "application/json" }));
  }
  document.querySelectorAll("[data-readout]").forEach(function (frame) {
    var source = document.getElementById(frame.dataset.readout);
    var lines = source ? JSON.parse(source.textContent) : [];
    if (!lines.length) return;
    var pointer = document.createElement("div");
    var tip = document.createElement("div");
    pointer.className = "pointer";
    tip.className = "tip";
    frame.addEventListener("pointermove", function (event) {
      var box = frame.getBoundingClientRect();
      var share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 0.999999);
      tip.textContent = lines[Math.floor(share * lines.length)];
      pointer.style.left = 100 * share + "%";
      tip.style.left = share < 0.5 ? 100 * share + "%" : "";
      tip.style.right = share < 0.5 ? "" : 100 - 100 * share + "%";
      frame.append(pointer, tip);
    });
    frame.addEventListener("pointerleave", function () {
      pointer.remove();
      tip.remove();
    });
  });
})();
