/** Result of a detection: boxes, masks, a list of objects and a live threshold. */

import { element, percent, plural } from "./dom.js";
import { classColour, cssColour, inkOn } from "./palette.js";
import { maskExtent, runEnds, sampleMask } from "./rle.js";

// asked for once; the slider hides what is below it without a new request
export const parameters = { threshold: 0.05 };

const MASK_TINT = 0.42;

/** Objects of one answer; keeps the threshold across answers. */
export class DetectionView {
  threshold = 0.5;
  withMasks = true;

  /** @returns {{summary: string, content: Node[]}} */
  show(answer, stage, announce) {
    this.stage = stage;
    this.announce = announce;
    this.objects = answer.predictions.map((found, index) => this.#makeObject(found, index));
    this.active = null;
    this.pinned = null;
    this.list = element("ul", { class: "items", "aria-label": "Objects" });
    this.output = element("output", { class: "number" });
    const content = [this.#slider(), ...this.#masksChoice(), this.list];
    stage.on("pointermove", (event) => this.#highlight(this.#objectAt(event)));
    stage.on("pointerleave", () => this.#highlight(null));
    this.#refresh();
    return { summary: this.#summary(), content };
  }

  #makeObject(found, index) {
    const colour = classColour(found.class_id);
    return { ...found, index, colour, css: cssColour(colour), raster: undefined };
  }

  get visible() {
    return this.objects.filter((found) => found.score >= this.threshold);
  }

  #slider() {
    const input = element("input", {
      type: "range", id: "threshold", min: "0.05", max: "0.95", step: "0.01", value: String(this.threshold),
    });
    input.addEventListener("input", () => {
      this.threshold = Number(input.value);
      this.#refresh();
      this.announce(this.#summary());
    });
    const label = element("label", { htmlFor: "threshold", textContent: "Score threshold" });
    return element("div", { class: "slider" }, element("div", { class: "line" }, label, this.output), input);
  }

  #masksChoice() {
    if (!this.objects.some((found) => found.mask)) return [];
    const input = element("input", { type: "checkbox", checked: this.withMasks });
    input.addEventListener("change", () => {
      this.withMasks = input.checked;
      this.#paintMasks();
    });
    return [element("label", { class: "check" }, input, "Show masks")];
  }

  /** Draw everything that passes the threshold. */
  #refresh() {
    const { stage } = this;
    this.output.textContent = this.threshold.toFixed(2);
    this.active = null;
    this.pinned = null;
    stage.boxes.replaceChildren();
    stage.tags.replaceChildren();
    const shown = this.visible;
    // the best object is drawn last, on top
    for (const found of shown.toReversed()) {
      found.boxElement = stage.addBox(found.box, found.css);
      found.tag = stage.addTag(`${found.label} ${percent(found.score)}`, { x: found.box.xmin, y: found.box.ymin }, {
        paper: found.css, ink: inkOn(found.colour),
      });
    }
    this.list.replaceChildren(...shown.map((found) => element("li", {}, this.#listButton(found))));
    this.#paintMasks();
  }

  #listButton(found) {
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = found.css;
    const button = element(
      "button", { type: "button", "aria-pressed": "false" },
      swatch, element("span", { textContent: found.label }), element("span", { class: "number", textContent: percent(found.score) }),
    );
    button.addEventListener("pointerenter", () => this.#highlight(found));
    button.addEventListener("pointerleave", () => this.#highlight(null));
    button.addEventListener("focus", () => this.#highlight(found));
    button.addEventListener("blur", () => this.#highlight(null));
    button.addEventListener("click", () => this.#pin(found));
    found.button = button;
    return button;
  }

  /** Keep one object highlighted until it is chosen again. */
  #pin(found) {
    this.pinned = this.pinned === found ? null : found;
    for (const other of this.visible) other.button.setAttribute("aria-pressed", String(other === this.pinned));
    this.#highlight(found);
  }

  #highlight(found) {
    const active = found ?? this.pinned;
    if (active === this.active) return;
    this.active = active;
    for (const other of this.visible) {
      const isDimmed = active !== null && other !== active;
      other.boxElement.classList.toggle("dimmed", isDimmed);
      other.tag.classList.toggle("dimmed", isDimmed);
      other.button.classList.toggle("active", other === active);
    }
    this.#paintMasks();
  }

  /** The smallest object around the pointer, so that one inside another can be reached. */
  #objectAt(event) {
    const point = this.stage.pixelAt(event);
    if (!point) return null;
    const around = this.visible.filter(({ box }) =>
      point.x >= box.xmin && point.x <= box.xmax && point.y >= box.ymin && point.y <= box.ymax);
    const area = ({ box }) => (box.xmax - box.xmin) * (box.ymax - box.ymin);
    return around.sort((one, other) => area(one) - area(other))[0] ?? null;
  }

  #paintMasks() {
    const { stage } = this;
    const context = stage.overlay.getContext("2d");
    context.clearRect(0, 0, stage.columns, stage.rows);
    if (!this.withMasks) return;
    for (const found of this.visible.toReversed()) {
      found.raster ??= found.mask ? paintMask(found.mask, found.colour, stage) : null;
      if (!found.raster) continue;
      context.globalAlpha = this.active && this.active !== found ? 0.2 : 1;
      context.drawImage(found.raster.canvas, found.raster.x, found.raster.y);
    }
    context.globalAlpha = 1;
  }

  #summary() {
    const shown = this.visible;
    if (this.objects.length === 0) return "No object found.";
    if (shown.length === 0) return `No object scores ${this.threshold.toFixed(2)} or more; ${plural(this.objects.length, "object")} below.`;
    const counts = new Map();
    for (const { label } of shown) counts.set(label, (counts.get(label) ?? 0) + 1);
    const names = [...counts].map(([label, count]) => (count > 1 ? `${count} × ${label}` : label));
    return `${plural(shown.length, "object")}: ${names.join(", ")}.`;
  }
}

/** One mask, tinted and with a solid outline, at the resolution of the stage; null when it is empty. */
function paintMask(mask, colour, { columns, rows }) {
  const ends = runEnds(mask);
  const extent = maskExtent(ends, mask.size);
  if (!extent) return null;
  const [height, width] = mask.size;
  const x = Math.floor((extent.left * columns) / width);
  const y = Math.floor((extent.top * rows) / height);
  const window = {
    x, y, columns, rows,
    width: Math.min(columns, Math.ceil(((extent.right + 1) * columns) / width)) - x,
    height: Math.min(rows, Math.ceil(((extent.bottom + 1) * rows) / height)) - y,
  };
  const inside = sampleMask(ends, mask.size, window);
  const canvas = element("canvas", { width: window.width, height: window.height });
  const image = new ImageData(window.width, window.height);
  for (let index = 0; index < inside.length; index += 1) {
    if (!inside[index]) continue;
    const alpha = isEdge(inside, index, window.width) ? 235 : Math.round(MASK_TINT * 255);
    image.data.set([...colour, alpha], index * 4);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return { canvas, x, y };
}

function isEdge(inside, index, width) {
  const column = index % width;
  return (
    column < 2 || column >= width - 2 ||
    !inside[index - 2] || !inside[index + 2] || !inside[index - 2 * width] || !inside[index + 2 * width]
  );
}
