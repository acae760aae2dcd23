/** The picture that is sent, and what can be shown of it. */

const EXTENSIONS = { "image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/bmp": "bmp", "image/tiff": "tif", "image/gif": "gif" };

/**
 * @typedef {object} Picture
 * @property {string} name file name for the curl line and downloads
 * @property {string} type media type sent with it
 * @property {Blob} blob the bytes that are sent, unchanged
 * @property {ImageBitmap|null} bitmap upright pixels; null when the browser cannot read the format
 * @property {string|null} sampleUrl where the server itself offers it
 */

/**
 * @param {File|Blob} file
 * @param {{name?: string, sampleUrl?: string}} origin
 * @returns {Promise<Picture>}
 */
export async function readPicture(file, { name, sampleUrl } = {}) {
  const type = file.type || "application/octet-stream";
  return {
    name: name ?? file.name ?? `pasted.${EXTENSIONS[type] ?? "img"}`,
    type,
    blob: file,
    bitmap: await readBitmap(file),
    sampleUrl: sampleUrl ?? null,
  };
}

/** The server turns pictures upright as their EXIF orientation says; so do we. */
async function readBitmap(file) {
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    return null; // damaged, or a format of which only the server knows how to read it
  }
}

/** First file of a drop or paste; null when it holds none. */
export function transferredFile(transfer) {
  return transfer?.files?.[0] ?? null;
}
