// Draw tracks as a density map: the number of tracks through each map pixel. The rules are those of
// `ulmpaper.render_maps`: smooth, interpolate, count each track once in a pixel.

/** @typedef {import("./flow.js").Shape} Shape */
/** @typedef {import("./link.js").Track} Track */
/**
 * @typedef {object} DensityMap
 * @property {number} nZ Rows of the map.
 * @property {number} nX Columns of the map.
 * @property {number} upsample Map pixels per pixel of the frame.
 * @property {Float32Array} count Number of tracks through each map pixel.
 */
/**
 * @typedef {object} Pen Draws one track, also while it still grows.
 * @property {Set<number>} visited Map pixels that count the track already.
 * @property {number} nSmoothed Points whose smoothed place is final.
 * @property {number[]} z Their smoothed places [px].
 * @property {number[]} x Their smoothed places [px].
 * @property {number} nSamples Points of the path that are drawn.
 */
/**
 * @typedef {object} PathOptions
 * @property {number} maxDistancePx Longest step of the linking, cut into pieces of 0.8 map pixels
 *   [px].
 * @property {number} [smoothPoints] Longest span of the moving average [frames].
 */

const SMOOTH_POINTS = 20;

/**
 * An empty map.
 * @param {Shape} shape Size of a frame [px].
 * @param {number} upsample Map pixels per pixel of the frame.
 * @returns {DensityMap}
 */
export function createMap(shape, upsample) {
  const [nZ, nX] = [shape.nZ * upsample, shape.nX * upsample];
  return { nZ, nX, upsample, count: new Float32Array(nZ * nX) };
}

/** @returns {Pen} A pen that has drawn nothing. */
export function createPen() {
  return { visited: new Set(), nSmoothed: 0, z: [], x: [], nSamples: 0 };
}

/**
 * Average each value with its neighbours; the span shrinks towards the ends, which stay where they
 * are.
 * @param {number[]} values
 * @param {number} points Longest span; the largest odd number not above it and the number of values
 *   is used.
 * @returns {number[]}
 */
export function shrinkingMean(values, points) {
  const widest = Math.floor((Math.min(points, values.length) - 1) / 2);
  return values.map((_, k) => meanAround(values, k, Math.min(k, values.length - 1 - k, widest)));
}

/**
 * Mean of the values that lie at most `reach` places from k.
 * @param {number[]} values
 * @param {number} k
 * @param {number} reach
 * @returns {number}
 */
function meanAround(values, k, reach) {
  let sum = 0;
  for (let j = k - reach; j <= k + reach; j++) sum += values[j];
  return sum / (2 * reach + 1);
}

/**
 * Draw what is new of a track: smooth it, sample it densely, and count it once in each map pixel it
 * meets.
 *
 * While a track grows, the average may still move its last points. They are left out until they are
 * final, so that the map of a track drawn in many calls equals that of a track drawn in one.
 * @param {DensityMap} map Is changed in place.
 * @param {Track} track
 * @param {Pen} pen The track's own.
 * @param {boolean} isOver Whether the track has ended.
 * @param {PathOptions} options
 * @param {number[]} [touched] Takes in the map pixels whose count has changed.
 */
export function drawTrack(map, track, pen, isOver, options, touched) {
  const { maxDistancePx, smoothPoints = SMOOTH_POINTS } = options;
  smoothNew(track, pen, isOver, smoothPoints);
  if (!pen.nSmoothed) return;
  const step = 0.8 / Math.max(maxDistancePx * map.upsample, 1e-9);
  const span = pen.nSmoothed - 1;
  // Rounding must not cost the last point of a span that is a whole number of steps.
  const nSteps = Math.floor((span / step) * (isOver ? 1 + 1e-12 : 1 - 1e-12));
  for (let k = pen.nSamples; k <= nSteps; k++) countAt(map, pen, Math.min(k * step, span), touched);
  pen.nSamples = Math.max(pen.nSamples, nSteps + 1);
  if (isOver && span - nSteps * step > 1e-9 * step) countAt(map, pen, span, touched);
}

/**
 * Smooth the points whose average can no longer change.
 * @param {Track} track
 * @param {Pen} pen
 * @param {boolean} isOver
 * @param {number} smoothPoints
 */
function smoothNew(track, pen, isOver, smoothPoints) {
  const n = track.z.length;
  const widest = Math.floor((smoothPoints - 1) / 2);
  const nFinal = isOver ? n : Math.max(Math.floor((n - 1) / 2), n - 1 - widest) + 1;
  for (let k = pen.nSmoothed; k < nFinal; k++) {
    const reach = Math.min(k, n - 1 - k, widest);
    pen.z.push(meanAround(track.z, k, reach));
    pen.x.push(meanAround(track.x, k, reach));
  }
  pen.nSmoothed = Math.max(pen.nSmoothed, nFinal);
}

/**
 * Count the track in the map pixel where it is at a time.
 * @param {DensityMap} map
 * @param {Pen} pen
 * @param {number} time Since its first point [frames].
 * @param {number[]} [touched]
 */
function countAt(map, pen, time, touched) {
  const k = Math.max(0, Math.min(Math.floor(time), pen.nSmoothed - 2));
  const next = Math.min(k + 1, pen.nSmoothed - 1);
  const z = (pen.z[next] - pen.z[k]) * (time - k) + pen.z[k];
  const x = (pen.x[next] - pen.x[k]) * (time - k) + pen.x[k];
  const row = Math.floor((z + 0.5) * map.upsample);
  const column = Math.floor((x + 0.5) * map.upsample);
  if (row < 0 || row >= map.nZ || column < 0 || column >= map.nX) return;
  const pixel = row * map.nX + column;
  if (pen.visited.has(pixel)) return;
  pen.visited.add(pixel);
  map.count[pixel]++;
  touched?.push(pixel);
}

/**
 * Density map of whole tracks.
 * @param {Track[]} tracks
 * @param {Shape} shape Size of a frame [px].
 * @param {number} upsample Map pixels per pixel of the frame.
 * @param {PathOptions} options
 * @returns {DensityMap}
 */
export function renderMap(tracks, shape, upsample, options) {
  const map = createMap(shape, upsample);
  for (const track of tracks) drawTrack(map, track, createPen(), true, options);
  return map;
}

/**
 * The colours of the map, from black over red and yellow to white: lightness rises all the way, so
 * that no one needs to tell red from green.
 * @param {number} share From 0 to 1.
 * @returns {[number, number, number]} Red, green and blue, from 0 to 255.
 */
export function hotColour(share) {
  /** @param {number} value */
  const clip = (value) => Math.round(255 * Math.min(1, Math.max(0, value)));
  return [clip(2.7 * share + 0.05), clip(2.7 * share - 0.9), clip(3.3 * share - 2.3)];
}

/** Colours of 256 shares, as bytes in the order of an image of the canvas. */
const HOT = new Uint32Array(
  Uint8Array.from({ length: 1024 }, (_, k) =>
    k % 4 === 3 ? 255 : k < 4 ? [8, 8, 10][k] : hotColour(Math.floor(k / 4) / 255)[k % 4],
  ).buffer,
);

/**
 * Colour of a number of tracks; the square root lifts small vessels.
 * @param {number} count
 * @param {number} ceiling Number of tracks that is white.
 * @returns {number} The four bytes of a pixel.
 */
export function countColour(count, ceiling) {
  return HOT[Math.min(255, Math.round(255 * Math.sqrt(count / ceiling)))];
}
