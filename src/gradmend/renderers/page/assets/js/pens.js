"use strict";
// Pens: one drawing, on a canvas or as SVG.
(function () {
  const gm = window.gm;
  const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
  gm.font = (size = 12, weight = "") => `${weight} ${size}px ${FONT}`.trim();
  const escaped = (text) => String(text).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
  const round = (value) => Math.round(value * 100) / 100;

  class CanvasPen {
    constructor(context) {
      this.c = context;
    }
    measure(text, size, weight) {
      this.c.font = gm.font(size, weight);
      return this.c.measureText(text).width;
    }
    fit(text, width, size, weight) {
      this.c.font = gm.font(size, weight);
      return gm.fit(this.c, text, width);
    }
    rect(x, y, width, height, fill, alpha = 1) {
      this.c.globalAlpha = alpha;
      this.c.fillStyle = fill;
      this.c.fillRect(x, y, width, height);
      this.c.globalAlpha = 1;
    }
    // In a ground of its own, so that it is seen on every colour.
    frame(x, y, width, height, stroke, ground) {
      for (const [colour, thick] of [[ground, 4], [stroke, 1.75]]) {
        this.c.strokeStyle = colour;
        this.c.lineWidth = thick;
        this.c.strokeRect(x, y, width, height);
      }
    }
    line(points, stroke, width = 1, dash = [], alpha = 1) {
      this.c.globalAlpha = alpha;
      this.c.strokeStyle = stroke;
      this.c.lineWidth = width;
      this.c.lineJoin = "round";
      this.c.setLineDash(dash);
      this.c.beginPath();
      points.forEach(([x, y], at) => (at ? this.c.lineTo(x, y) : this.c.moveTo(x, y)));
      this.c.stroke();
      this.c.setLineDash([]);
      this.c.globalAlpha = 1;
    }
    area(points, fill, alpha = 1) {
      this.c.globalAlpha = alpha;
      this.c.fillStyle = fill;
      this.c.beginPath();
      for (const [x, y] of points) this.c.lineTo(x, y);
      this.c.fill();
      this.c.globalAlpha = 1;
    }
    dot(x, y, radius, fill) {
      this.c.fillStyle = fill;
      this.c.beginPath();
      this.c.arc(x, y, radius, 0, 7);
      this.c.fill();
    }
    text(text, x, y, { fill, align = "left", size = 12, weight = "", base = "middle", halo = "" } = {}) {
      this.c.font = gm.font(size, weight);
      this.c.textAlign = align;
      this.c.textBaseline = base;
      if (halo) {
        this.c.strokeStyle = halo;
        this.c.lineWidth = 4;
        this.c.lineJoin = "round";
        this.c.strokeText(text, x, y);
      }
      this.c.fillStyle = fill;
      this.c.fillText(text, x, y);
    }
    image(canvas, x, y, width, height) {
      this.c.imageSmoothingEnabled = false;
      this.c.drawImage(canvas, x, y, width, height);
    }
    within(x, y, width, height, work) {
      this.c.save();
      this.c.beginPath();
      this.c.rect(x, y, width, height);
      this.c.clip();
      work();
      this.c.restore();
    }
  }

  const ruler = document.createElement("canvas").getContext("2d");
  const path = (points) => points.map(([x, y]) => `${round(x)},${round(y)}`).join(" ");
  const box = (x, y, width, height) => `x="${round(x)}" y="${round(y)}" width="${round(width)}" height="${round(height)}"`;
  class SvgPen extends CanvasPen {
    // A sheet with a title; `words` for those who cannot see it.
    constructor(width, height, { title, words }) {
      super(ruler);
      this.clips = 0;
      this.parts = [
        `<svg xmlns="http://www.w3.org/2000/svg" width="${round(width)}" height="${round(height)}" viewBox="0 0 ${round(width)} ${round(height)}" role="img">`,
        `<title>${escaped(gm.visible(title))}</title><desc>${escaped(gm.visible(words))}</desc>`,
      ];
      this.rect(0, 0, width, height, gm.css("--ground"));
      this.text(this.fit(title, width - 36, 15, 600), 18, 24, { fill: gm.css("--ink"), size: 15, weight: 600 });
    }
    rect(x, y, width, height, fill, alpha = 1) {
      this.parts.push(`<rect ${box(x, y, width, height)} fill="${fill}" fill-opacity="${alpha}"/>`);
    }
    frame(x, y, width, height, stroke) {
      this.parts.push(`<rect ${box(x, y, width, height)} fill="none" stroke="${stroke}" stroke-width="1.75"/>`);
    }
    line(points, stroke, width = 1, dash = [], alpha = 1) {
      const dashes = dash.length ? ` stroke-dasharray="${dash.join(" ")}"` : "";
      this.parts.push(`<polyline points="${path(points)}" fill="none" stroke="${stroke}" stroke-width="${width}" stroke-opacity="${alpha}" stroke-linejoin="round"${dashes}/>`);
    }
    area(points, fill, alpha = 1) {
      this.parts.push(`<polygon points="${path(points)}" fill="${fill}" fill-opacity="${alpha}"/>`);
    }
    dot(x, y, radius, fill) {
      this.parts.push(`<circle cx="${round(x)}" cy="${round(y)}" r="${radius}" fill="${fill}"/>`);
    }
    text(text, x, y, { fill, align = "left", size = 12, weight = "", base = "middle", halo = "" } = {}) {
      const anchor = { left: "start", center: "middle", right: "end" }[align];
      const down = { middle: 0.35, top: 0.8 }[base] * size;
      const bold = weight ? ` font-weight="${weight}"` : "";
      const around = halo ? ` stroke="${halo}" stroke-width="4" stroke-linejoin="round" paint-order="stroke"` : "";
      this.parts.push(
        `<text x="${round(x)}" y="${round(y + down)}" text-anchor="${anchor}" font-family='${FONT}' font-size="${size}"${bold}${around} fill="${fill}">${escaped(text)}</text>`);
    }
    image(canvas, x, y, width, height) {
      this.parts.push(
        `<image ${box(x, y, width, height)} preserveAspectRatio="none" style="image-rendering:pixelated" href="${canvas.toDataURL("image/png")}"/>`);
    }
    shape(shape, x, y, stroke, fill) {
      this.parts.push(`<path d="${shape}" transform="translate(${round(x)} ${round(y)})" stroke="${stroke}" stroke-width="1.5" fill="${fill}"/>`);
    }
    within(x, y, width, height, work) {
      const name = `clip-${(this.clips += 1)}`;
      this.parts.push(`<clipPath id="${name}"><rect ${box(x, y, width, height)}/></clipPath><g clip-path="url(#${name})">`);
      work();
      this.parts.push("</g>");
    }
    done() {
      return `${this.parts.join("\n")}\n</svg>\n`;
    }
  }
  gm.CanvasPen = CanvasPen;
  gm.SvgPen = SvgPen;

  // A canvas of so many pixels of the page, as sharp as the screen; a pen on its empty ground.
  gm.penOn = function (canvas, width, height) {
    const scale = window.devicePixelRatio || 1;
    const wanted = [Math.round(width * scale), Math.round(height * scale)];
    if (canvas.width !== wanted[0] || canvas.height !== wanted[1]) {
      [canvas.width, canvas.height] = wanted;
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    return new CanvasPen(context);
  };

  // Labels along a horizontal axis: kept inside its ends, left out where they would touch.
  gm.labelsAlong = function (pen, labels, from, to, y, fill, gap = 10) {
    let taken = -Infinity;
    const placed = [];
    for (const { at, text } of labels) {
      const width = pen.measure(text, 12);
      const left = Math.min(Math.max(at - width / 2, from), to - width);
      if (left < taken + gap || at < from - 1 || at > to + 1) continue;
      pen.text(text, left, y, { fill, base: "top" });
      taken = left + width;
      placed.push([left, width]);
    }
    return placed;
  };
})();
