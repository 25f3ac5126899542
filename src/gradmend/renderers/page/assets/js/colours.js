"use strict";
// Colours for numbers. Sequential: nine colours of viridis, which grow evenly in lightness and stay
// apart for the colour-blind. Two ways from a centre: blue and orange, which do so too.
(function () {
  const gm = window.gm;
  const SEQUENTIAL = "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725";
  const DIVERGING = {
    light: "0a3f78 2f79b5 8fbcdc f1efea f0b67c d9772a 8f3f00",
    dark: "8ad0ff 3f93d6 285880 232a32 6e4a26 c9772a ffbc7d",
  };
  const POSITIVE = [232, 23, 93];
  const NEGATIVE = [0, 0, 0];
  const parts = (hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));

  // Whether the page stands on a dark ground.
  gm.dark = () => parts(gm.css("--ground").slice(1)).reduce((sum, part) => sum + part, 0) < 384;

  // 257 colours from the least to the greatest: an odd number, so that one is the very middle.
  gm.palette = function (diverging) {
    const stops = (diverging ? DIVERGING[gm.dark() ? "dark" : "light"] : SEQUENTIAL).split(" ").map(parts);
    return Array.from({ length: 257 }, (_, i) => {
      const at = (i / 256) * (stops.length - 1);
      const stop = Math.min(Math.floor(at), stops.length - 2);
      return stops[stop].map((part, channel) => Math.round(part + (stops[stop + 1][channel] - part) * (at - stop)));
    });
  };
  gm.rgb = (parts) => `rgb(${parts.join(" ")})`;
  gm.infinite = (positive) => (positive ? POSITIVE : NEGATIVE);

  // Diagonal lines: nothing was measured here.
  gm.hatch = function (context, width, height, scale) {
    context.fillStyle = gm.css("--raised");
    context.fillRect(0, 0, width, height);
    context.strokeStyle = gm.css("--rule");
    context.lineWidth = 1.2 * scale;
    context.beginPath();
    for (let x = -height; x < width; x += 7 * scale) {
      context.moveTo(x, height);
      context.lineTo(x + height, 0);
    }
    context.stroke();
  };
})();
