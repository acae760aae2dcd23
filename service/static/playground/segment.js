/** Result of a segmentation: coloured class map, legend, class under the pointer. */

import { element, percent, plural } from "./dom.js";
import { readLabelMap } from "./label_map.js";
import { classColour, cssColour } from "./palette.js";
import { nearest } from "./rle.js";

export const parameters = {};

// the class of everything that is nothing in particular stays uncoloured
const BACKGROUND = "background";

/** Class map of one answer; keeps the opacity across answers. */
export class SegmentationView {
  opacity = 0.6;

  /** @returns {Promise<{summary: string, content: Node[]}>} */
  async show(answer, stage) {
    this.stage = stage;
    this.classes = answer.predictions;
    this.map = await readLabelMap(answer.label_map);
    this.names = new Map(this.classes.map(({ class_id, label }) => [class_id, label]));
    this.active = null;
    this.pinned = null;
    this.pointer = null;
    this.legend = element("ul", { class: "items", "aria-label": "Classes" });
    this.legend.append(...this.classes.map((area) => element("li", {}, this.#legendButton(area))));
    stage.overlay.style.opacity = this.opacity;
    this.#paint();
    stage.on("pointermove", (event) => this.#point(event));
    stage.on("pointerleave", () => this.#leave());
    return { summary: this.#summary(), content: [this.#slider(), this.#shares(), this.legend] };
  }

  #summary() {
    const named = this.classes.slice(0, 3).map(({ label, fraction }) => `${label} ${percent(fraction)}`);
    const more = this.classes.length > 3 ? " …" : "";
    return `${plural(this.classes.length, "class").replace("classs", "classes")}: ${named.join(", ")}${more}`;
  }

  #slider() {
    const output = element("output", { class: "number", textContent: percent(this.opacity) });
    const input = element("input", { type: "range", id: "opacity", min: "0", max: "1", step: "0.01", value: String(this.opacity) });
    input.addEventListener("input", () => {
      this.opacity = Number(input.value);
      this.stage.overlay.style.opacity = this.opacity;
      output.textContent = percent(this.opacity);
    });
    const label = element("label", { htmlFor: "opacity", textContent: "Opacity" });
    return element("div", { class: "slider" }, element("div", { class: "line" }, label, output), input);
  }

  #shares() {
    const parts = this.classes.map((area) => {
      const part = element("span");
      Object.assign(part.style, { width: `${area.fraction * 100}%`, background: isBackground(area) ? "transparent" : colourOf(area) });
      return part;
    });
    return element("div", { class: "share", "aria-hidden": "true" }, ...parts);
  }

  #legendButton(area) {
    const swatch = element("span", { class: isBackground(area) ? "swatch none" : "swatch" });
    if (!isBackground(area)) swatch.style.background = colourOf(area);
    const button = element(
      "button", { type: "button", "aria-pressed": "false", "data-class": area.class_id },
      swatch, element("span", { textContent: area.label }), element("span", { class: "number", textContent: percent(area.fraction) }),
    );
    button.addEventListener("pointerenter", () => this.#highlight(area.class_id));
    button.addEventListener("pointerleave", () => this.#highlight(null));
    button.addEventListener("focus", () => this.#highlight(area.class_id));
    button.addEventListener("blur", () => this.#highlight(null));
    button.addEventListener("click", () => this.#pin(area.class_id));
    return button;
  }

  #pin(classId) {
    this.pinned = this.pinned === classId ? null : classId;
    for (const button of this.legend.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.class) === this.pinned));
    }
    this.#highlight(classId);
  }

  #highlight(classId) {
    const active = classId ?? this.pinned;
    if (active === this.active) return;
    this.active = active;
    for (const button of this.legend.querySelectorAll("button")) {
      button.classList.toggle("active", Number(button.dataset.class) === active);
    }
    this.#paint();
  }

  /** Say which class is under the pointer. */
  #point(event) {
    const pixel = this.stage.pixelAt(event);
    if (!pixel) return;
    const classId = this.map.ids[pixel.y * this.map.width + pixel.x];
    const label = this.names.get(classId) ?? `class ${classId}`;
    this.pointer ??= this.stage.addTag(label, pixel, { kind: "pointer" });
    this.pointer.textContent = label;
    this.stage.moveTag(this.pointer, pixel);
    for (const button of this.legend.querySelectorAll("button")) {
      button.classList.toggle("active", Number(button.dataset.class) === classId);
    }
  }

  #leave() {
    this.pointer?.remove();
    this.pointer = null;
    for (const button of this.legend.querySelectorAll("button")) button.classList.remove("active");
  }

  #paint() {
    const { columns, rows, overlay } = this.stage;
    const { width, height, ids } = this.map;
    const image = new ImageData(columns, rows);
    const pixels = new Uint32Array(image.data.buffer);
    const palette = this.#packedColours();
    const sources = Array.from({ length: columns }, (_, column) => nearest(column, columns, width));
    for (let row = 0; row < rows; row += 1) {
      const start = nearest(row, rows, height) * width;
      for (let column = 0; column < columns; column += 1) pixels[row * columns + column] = palette[ids[start + sources[column]]];
    }
    overlay.getContext("2d").putImageData(image, 0, 0);
  }

  /** class id -> RGBA bytes as one number; transparent where nothing is painted. */
  #packedColours() {
    const bytes = new Uint8ClampedArray(256 * 4);
    for (const area of this.classes) {
      if (isBackground(area) && this.active !== area.class_id) continue;
      const alpha = this.active === null || this.active === area.class_id ? 255 : 50;
      bytes.set([...classColour(area.class_id), alpha], area.class_id * 4);
    }
    return new Uint32Array(bytes.buffer);
  }
}

function isBackground({ label }) {
  return label === BACKGROUND;
}

function colourOf({ class_id }) {
  return cssColour(classColour(class_id));
}
