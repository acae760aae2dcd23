/**
 * Exact reading of 8-bit grey PNG files.
 *
 * Drawing the file on a canvas and reading it back would be shorter, but the browser may apply a colour profile
 * or, as a protection against fingerprinting, add noise: class ids would change.
 */

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

/**
 * @param {string} base64 a PNG file
 * @returns {Promise<{width: number, height: number, ids: Uint8Array}>} class ids, row by row
 * @throws {RangeError} not an 8-bit grey PNG, or damaged
 */
export async function readLabelMap(base64) {
  const file = bytesOf(base64);
  if (SIGNATURE.some((byte, index) => file[index] !== byte)) throw new RangeError("the label map is not a PNG file");
  const { width, height, packed } = readChunks(file);
  const lines = await inflate(packed);
  if (lines.length !== height * (width + 1)) {
    throw new RangeError(`the label map holds ${lines.length} bytes, expected ${height} x ${width + 1}`);
  }
  return { width, height, ids: undoFilters(lines, width, height) };
}

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let index = 0; index < text.length; index += 1) bytes[index] = text.charCodeAt(index);
  return bytes;
}

function readChunks(file) {
  const view = new DataView(file.buffer);
  const packed = [];
  let [width, height] = [0, 0];
  for (let at = SIGNATURE.length; at + 12 <= file.length; ) {
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...file.subarray(at + 4, at + 8));
    const data = file.subarray(at + 8, at + 8 + length);
    if (kind === "IHDR") {
      [width, height] = [view.getUint32(at + 8), view.getUint32(at + 12)];
      const [depth, colour, , , interlace] = data.subarray(8);
      if (depth !== 8 || colour !== 0 || interlace !== 0) {
        throw new RangeError(`the label map has depth ${depth}, colour type ${colour}; expected 8-bit grey`);
      }
    }
    if (kind === "IDAT") packed.push(data);
    at += length + 12;
  }
  return { width, height, packed };
}

async function inflate(parts) {
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The five line filters of PNG; every line starts with the number of its filter. */
function undoFilters(lines, width, height) {
  const pixels = new Uint8Array(width * height);
  for (let row = 0; row < height; row += 1) {
    const filter = lines[row * (width + 1)];
    if (filter > 4) throw new RangeError(`unknown PNG filter ${filter} in row ${row}`);
    const source = row * (width + 1) + 1;
    const target = row * width;
    for (let column = 0; column < width; column += 1) {
      const left = column > 0 ? pixels[target + column - 1] : 0;
      const up = row > 0 ? pixels[target + column - width] : 0;
      const corner = column > 0 && row > 0 ? pixels[target + column - width - 1] : 0;
      pixels[target + column] = lines[source + column] + guess(filter, left, up, corner);
    }
  }
  return pixels;
}

function guess(filter, left, up, corner) {
  if (filter === 0) return 0;
  if (filter === 1) return left;
  if (filter === 2) return up;
  if (filter === 3) return (left + up) >> 1;
  const [toLeft, toUp, toCorner] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
  if (toLeft <= toUp && toLeft <= toCorner) return left;
  return toUp <= toCorner ? up : corner;
}
