/** The picture with its layers: pixels, tinted overlay, boxes, tags. */

// overlays are drawn at this length of the longer side, whatever the picture's own
const RASTER_SIDE = 1280;
// small pictures are enlarged, but not without limit
const LARGEST_ZOOM = 6;
const SVG = "http://www.w3.org/2000/svg";

export class Stage {
  constructor(root) {
    this.root = root;
    this.picture = root.querySelector("#picture");
    this.overlay = root.querySelector("#overlay");
    this.boxes = root.querySelector("#boxes");
    this.tags = root.querySelector("#tags");
    this.width = 1;
    this.height = 1;
    this.handlers = new AbortController();
    this.anchors = new WeakMap(); // tag -> point of the picture
    new ResizeObserver(() => this.#placeTags()).observe(root);
  }

  /**
   * Show a picture without result.
   *
   * @param {ImageBitmap|null} bitmap null: a blank sheet of the given size
   * @param {{width: number, height: number}} size of the upright picture
   * @param {string} description for screen readers
   */
  show(bitmap, { width, height }, description) {
    [this.width, this.height] = [width, height];
    const scale = Math.min(LARGEST_ZOOM, RASTER_SIDE / Math.max(width, height));
    this.columns = Math.max(1, Math.round(width * scale));
    this.rows = Math.max(1, Math.round(height * scale));
    this.root.style.setProperty("--ratio", width / height);
    this.root.style.setProperty("--widest", `${Math.ceil(width * LARGEST_ZOOM)}px`);
    for (const canvas of [this.picture, this.overlay]) [canvas.width, canvas.height] = [this.columns, this.rows];
    const context = this.picture.getContext("2d");
    if (bitmap) {
      context.imageSmoothingQuality = "high";
      context.drawImage(bitmap, 0, 0, this.columns, this.rows);
    } else {
      context.fillStyle = "#7d8785";
      context.fillRect(0, 0, this.columns, this.rows);
    }
    this.picture.setAttribute("aria-label", description);
    this.boxes.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.root.hidden = false;
    this.clear();
  }

  /** Remove the result; the picture stays. */
  clear() {
    this.handlers.abort();
    this.handlers = new AbortController();
    this.overlay.getContext("2d").clearRect(0, 0, this.columns, this.rows);
    this.overlay.style.opacity = "";
    this.boxes.replaceChildren();
    this.tags.replaceChildren();
  }

  /** Listen until the next `clear`. */
  on(event, handler) {
    this.root.addEventListener(event, handler, { signal: this.handlers.signal });
  }

  /** Pixel of the upright picture under the pointer; null beside it. */
  pixelAt(event) {
    const frame = this.root.getBoundingClientRect();
    const x = Math.floor(((event.clientX - frame.left) / frame.width) * this.width);
    const y = Math.floor(((event.clientY - frame.top) / frame.height) * this.height);
    return x >= 0 && y >= 0 && x < this.width && y < this.height ? { x, y } : null;
  }

  /** A rectangle in pixels of the picture, with a dark halo that keeps it visible on any background. */
  addBox({ xmin, ymin, xmax, ymax }, colour) {
    const group = document.createElementNS(SVG, "g");
    for (const kind of ["halo", "line"]) {
      const box = document.createElementNS(SVG, "rect");
      const facts = { class: kind, x: xmin, y: ymin, width: Math.max(0, xmax - xmin), height: Math.max(0, ymax - ymin) };
      for (const [name, value] of Object.entries(facts)) box.setAttribute(name, value);
      if (kind === "line") box.setAttribute("stroke", colour);
      group.append(box);
    }
    this.boxes.append(group);
    return group;
  }

  /** A tag at a point of the picture, moved so that it stays inside. */
  addTag(text, { x, y }, { kind = "", paper = "", ink = "" } = {}) {
    const tag = document.createElement("span");
    tag.className = `tag ${kind}`;
    tag.textContent = text;
    Object.assign(tag.style, { background: paper, color: ink });
    this.tags.append(tag);
    this.moveTag(tag, { x, y });
    return tag;
  }

  #placeTags() {
    for (const tag of this.tags.children) {
      if (this.anchors.has(tag)) this.moveTag(tag, this.anchors.get(tag));
    }
  }

  moveTag(tag, { x, y }) {
    this.anchors.set(tag, { x, y });
    const room = this.root.getBoundingClientRect();
    const left = Math.min((x / this.width) * room.width, room.width - tag.offsetWidth);
    const above = (y / this.height) * room.height - tag.offsetHeight;
    const top = Math.min(Math.max(0, above), room.height - tag.offsetHeight);
    tag.style.left = `${(Math.max(0, left) / room.width) * 100}%`;
    tag.style.top = `${(Math.max(0, top) / room.height) * 100}%`;
  }
}
