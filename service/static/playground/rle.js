/** COCO compressed run lengths: reading and sampling masks. */

/**
 * Ends of the runs of a mask, counted in pixels in column-major order.
 * Runs 0, 2, 4, ... lie outside the mask, runs 1, 3, 5, ... inside.
 *
 * @param {{size: [number, number], counts: string}} mask size is [height, width]
 * @returns {Uint32Array}
 * @throws {RangeError} the text is damaged or does not cover the mask exactly
 */
export function runEnds(mask) {
  const [height, width] = mask.size;
  const lengths = readLengths(mask.counts);
  const ends = new Uint32Array(lengths.length);
  let end = 0;
  lengths.forEach((length, run) => {
    if (length < 0) throw new RangeError(`run ${run} of a mask has length ${length}`);
    end += length;
    ends[run] = end;
  });
  if (end !== height * width) {
    throw new RangeError(`runs of a mask cover ${end} pixels, expected ${height} x ${width}`);
  }
  return ends;
}

/** Numbers of 5-bit digits, lowest first; from the fourth on they are differences to the one before last. */
function readLengths(text) {
  const lengths = [];
  let position = 0;
  while (position < text.length) {
    let value = 0;
    let shift = 0;
    let digit;
    do {
      digit = text.charCodeAt(position) - 48;
      if (!(digit >= 0 && digit < 64)) throw new RangeError(`damaged mask at character ${position}`);
      // multiplication, because shifting by 32 and more wraps around
      value += (digit & 31) * 2 ** shift;
      shift += 5;
      position += 1;
    } while (digit & 32);
    if (digit & 16) value -= 2 ** shift;
    if (lengths.length > 2) value += lengths[lengths.length - 2];
    lengths.push(value);
  }
  return lengths;
}

/** Smallest rectangle of whole pixels around the mask; null when it is empty. */
export function maskExtent(ends, [height]) {
  let [left, top, right, bottom] = [Infinity, height, -1, -1];
  for (let run = 1; run < ends.length; run += 2) {
    const [first, last] = [ends[run - 1], ends[run] - 1];
    if (last < first) continue;
    const [firstColumn, lastColumn] = [Math.floor(first / height), Math.floor(last / height)];
    left = Math.min(left, firstColumn);
    right = Math.max(right, lastColumn);
    top = Math.min(top, firstColumn === lastColumn ? first % height : 0);
    bottom = Math.max(bottom, firstColumn === lastColumn ? last % height : height - 1);
  }
  return right < 0 ? null : { left, top, right, bottom };
}

/**
 * A mask at another resolution, nearest neighbour.
 *
 * @param {Uint32Array} ends of `runEnds`
 * @param {[number, number]} size [height, width] of the mask
 * @param {{x: number, y: number, width: number, height: number, columns: number, rows: number}} window
 *   region of a raster of `columns` x `rows` that covers the whole mask
 * @returns {Uint8Array} window.height x window.width, row by row, 1 inside
 */
export function sampleMask(ends, [height, width], window) {
  const samples = new Uint8Array(window.width * window.height);
  for (let i = 0; i < window.width; i += 1) {
    const column = nearest(window.x + i, window.columns, width);
    let run = firstRunPast(ends, column * height + nearest(window.y, window.rows, height));
    for (let j = 0; j < window.height; j += 1) {
      const pixel = column * height + nearest(window.y + j, window.rows, height);
      while (ends[run] <= pixel) run += 1;
      samples[j * window.width + i] = run & 1;
    }
  }
  return samples;
}

/** Source index under the centre of sample `index`. */
export function nearest(index, samples, size) {
  return Math.min(size - 1, Math.floor(((index + 0.5) * size) / samples));
}

function firstRunPast(ends, pixel) {
  let [low, high] = [0, ends.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ends[middle] > pixel) high = middle;
    else low = middle + 1;
  }
  return low;
}
