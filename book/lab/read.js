// Read a recording from a file's bytes: NumPy arrays and plain TIFF stacks.

/**
 * @typedef {object} Recording
 * @property {number} nT Number of frames.
 * @property {number} nZ Rows of a frame.
 * @property {number} nX Columns of a frame.
 * @property {Float32Array} values Frames one after the other, row by row.
 */
/** @typedef {(view: DataView, at: number, isLittle: boolean) => number} ReadNumber */

/** @type {Record<string, [number, ReadNumber]>} Bytes of a number, and how to read it. */
const NUMBERS = {
  f4: [4, (view, at, isLittle) => view.getFloat32(at, isLittle)],
  f8: [8, (view, at, isLittle) => view.getFloat64(at, isLittle)],
  b1: [1, (view, at) => view.getUint8(at)],
  u1: [1, (view, at) => view.getUint8(at)],
  u2: [2, (view, at, isLittle) => view.getUint16(at, isLittle)],
  u4: [4, (view, at, isLittle) => view.getUint32(at, isLittle)],
  u8: [8, (view, at, isLittle) => Number(view.getBigUint64(at, isLittle))],
  i1: [1, (view, at) => view.getInt8(at)],
  i2: [2, (view, at, isLittle) => view.getInt16(at, isLittle)],
  i4: [4, (view, at, isLittle) => view.getInt32(at, isLittle)],
  i8: [8, (view, at, isLittle) => Number(view.getBigInt64(at, isLittle))],
};
// Windows of 5 x 5 pixels must fit in.
const LEAST_SIDE_PX = 5;

/**
 * Read a recording and scale it so that its highest amplitude is 1.
 * @param {ArrayBuffer} buffer Content of the file.
 * @returns {Recording}
 * @throws {Error} With a sentence that says what the file is not.
 */
export function readRecording(buffer) {
  const view = new DataView(buffer);
  const start = view.byteLength >= 8 ? view.getUint32(0) : 0;
  const isTiff = [0x49492a00, 0x4d4d002a].includes(start);
  if (start !== 0x934e554d && !isTiff) {
    throw new Error("The file is neither a NumPy array (.npy) nor a TIFF stack (.tif).");
  }
  const recording = isTiff ? readTiff(view) : readNpy(view);
  checkSize(recording);
  scaleToOne(recording.values);
  return recording;
}

/** @param {Recording} recording */
function checkSize({ nT, nZ, nX }) {
  if (nT < 1 || nZ < LEAST_SIDE_PX || nX < LEAST_SIDE_PX) {
    throw new Error(
      `The recording has ${nT} frames of ${nZ} × ${nX} px; frames need at least 5 × 5 px.`,
    );
  }
}

/**
 * Divide amplitudes by the highest of them.
 * @param {Float32Array} values Is changed in place.
 */
function scaleToOne(values) {
  let highest = 0;
  for (const value of values) {
    if (!Number.isFinite(value))
      throw new Error("The recording holds values that are no finite numbers.");
    if (value < 0) {
      throw new Error(
        "The recording holds negative values. The lab needs amplitudes, such as np.abs(iq).",
      );
    }
    if (value > highest) highest = value;
  }
  if (highest > 0) for (let k = 0; k < values.length; k++) values[k] /= highest;
}

/**
 * Read a NumPy array (t, z, x), or (z, x) as a single frame.
 * @param {DataView} view
 * @returns {Recording} In the file's own units.
 */
export function readNpy(view) {
  const isShort = view.getUint8(6) === 1; // later versions have longer headers
  const from = isShort ? 10 : 12;
  const length = isShort ? view.getUint16(8, true) : view.getUint32(8, true);
  const header = new TextDecoder().decode(new Uint8Array(view.buffer, from, length));
  const [, order, type] = header.match(/'descr':\s*'([<>|=])(\w+)'/) ?? ["", "", "a structure"];
  if (type[0] === "c")
    throw new Error("The array is complex. Save its modulus, np.abs(frames), instead.");
  const number = NUMBERS[type];
  if (!number || order === ">")
    throw new Error(
      `The array holds numbers of type ${order}${type}, which the lab does not read.`,
    );
  if (/'fortran_order':\s*True/.test(header)) {
    throw new Error("The array is in column order. Save np.ascontiguousarray(frames) instead.");
  }
  const shape = (header.match(/'shape':\s*\(([^)]*)\)/)?.[1] ?? "")
    .split(",")
    .filter((part) => part.trim())
    .map(Number);
  if (shape.length === 2) shape.unshift(1);
  if (shape.length !== 3)
    throw new Error(`The array has ${shape.length} axes; the lab needs three, (t, z, x).`);
  const [nT, nZ, nX] = shape;
  const n = nT * nZ * nX;
  if (view.byteLength < from + length + n * number[0])
    throw new Error("The file ends before its last frame.");
  const values = new Float32Array(n);
  for (let k = 0; k < n; k++) values[k] = number[1](view, from + length + k * number[0], true);
  return { nT, nZ, nX, values };
}

// Tags of a TIFF page.
const [
  WIDTH,
  HEIGHT,
  BITS,
  COMPRESSION,
  PHOTOMETRIC,
  OFFSETS,
  SAMPLES,
  BYTE_COUNTS,
  TILE_WIDTH,
  FORMAT,
] = [256, 257, 258, 259, 262, 273, 277, 279, 322, 339];
const WHITE_IS_ZERO = 0;

/**
 * Read an uncompressed greyscale TIFF stack of 8, 16 or 32 bits; each page is a frame.
 * @param {DataView} view
 * @returns {Recording} In the file's own units.
 */
export function readTiff(view) {
  const isLittle = view.getUint16(0) === 0x4949;
  const pages = [];
  const seen = new Set();
  for (let at = view.getUint32(4, isLittle); at && !seen.has(at);) {
    seen.add(at);
    const { tags, next } = readTags(view, at, isLittle);
    pages.push(tags);
    at = next;
  }
  if (!pages.length) throw new Error("The TIFF file has no page.");
  const [nZ, nX] = [pages[0][HEIGHT]?.[0] ?? 0, pages[0][WIDTH]?.[0] ?? 0];
  const values = new Float32Array(pages.length * nZ * nX);
  pages.forEach((tags, t) => {
    if (tags[HEIGHT]?.[0] !== nZ || tags[WIDTH]?.[0] !== nX)
      throw new Error("The pages of the TIFF file differ in size.");
    readPage(view, tags, isLittle, values.subarray(t * nZ * nX, (t + 1) * nZ * nX));
  });
  return { nT: pages.length, nZ, nX, values };
}

/**
 * Tags of the page at an offset, and the offset of the next page.
 * @param {DataView} view
 * @param {number} at
 * @param {boolean} isLittle
 * @returns {{tags: Record<number, number[]>, next: number}}
 */
function readTags(view, at, isLittle) {
  /** @type {Record<number, number[]>} */
  const tags = {};
  const nTags = view.getUint16(at, isLittle);
  for (let k = 0; k < nTags; k++) {
    const entry = at + 2 + 12 * k;
    const type = view.getUint16(entry + 2, isLittle);
    // All that the lab needs are short or long whole numbers.
    if (type !== 3 && type !== 4) continue;
    const size = type === 3 ? 2 : 4;
    const count = view.getUint32(entry + 4, isLittle);
    const from = count * size <= 4 ? entry + 8 : view.getUint32(entry + 8, isLittle);
    tags[view.getUint16(entry, isLittle)] = Array.from({ length: count }, (_, j) =>
      size === 2 ? view.getUint16(from + 2 * j, isLittle) : view.getUint32(from + 4 * j, isLittle),
    );
  }
  return { tags, next: view.getUint32(at + 2 + 12 * nTags, isLittle) };
}

/**
 * Read the strips of a page.
 * @param {DataView} view
 * @param {Record<number, number[]>} tags
 * @param {boolean} isLittle
 * @param {Float32Array} frame Takes the values in.
 */
function readPage(view, tags, isLittle, frame) {
  const [bits, format] = [tags[BITS]?.[0] ?? 1, tags[FORMAT]?.[0] ?? 1];
  const type = { 1: "u", 2: "i", 3: "f" }[format];
  const number = NUMBERS[`${type}${bits / 8}`];
  if ((tags[COMPRESSION]?.[0] ?? 1) !== 1)
    throw new Error("The TIFF file is compressed. Save it without compression.");
  if ((tags[SAMPLES]?.[0] ?? 1) !== 1 || (tags[PHOTOMETRIC]?.[0] ?? 1) > 1 || tags[TILE_WIDTH]) {
    throw new Error("The TIFF file is in colour or in tiles. Save it as a plain greyscale stack.");
  }
  if (!number || bits > 32)
    throw new Error(`The TIFF file has ${bits} bits a pixel; the lab reads 8, 16 and 32.`);
  if (tags[PHOTOMETRIC]?.[0] === WHITE_IS_ZERO)
    throw new Error("White is zero in the TIFF file. Save it with black as zero.");
  let k = 0;
  (tags[OFFSETS] ?? []).forEach((from, strip) => {
    const nHere = Math.floor((tags[BYTE_COUNTS]?.[strip] ?? 0) / number[0]);
    if (from + nHere * number[0] > view.byteLength)
      throw new Error("The file ends before its last frame.");
    for (let j = 0; j < nHere && k < frame.length; j++, k++)
      frame[k] = number[1](view, from + j * number[0], isLittle);
  });
  if (k < frame.length) throw new Error("A page of the TIFF file is incomplete.");
}
