// One frame after the other through all steps: find, link, draw, score. It knows nothing of the
// page.

import { addFrame, createTally, positionBound } from "./score.js";
import { createMap, createPen, drawTrack } from "./render.js";
import { createTracker } from "./link.js";
import { locatePeaks } from "./locate.js";

/** @typedef {import("./flow.js").Shape} Shape */
/** @typedef {import("./flow.js").Truth} Truth */
/** @typedef {import("./image.js").Spot} Spot */
/** @typedef {import("./locate.js").Bubbles} Bubbles */
/** @typedef {import("./locate.js").Method} Method */
/** @typedef {import("./link.js").Track} Track */
/** @typedef {import("./link.js").Tracker} Tracker */
/** @typedef {import("./render.js").DensityMap} DensityMap */
/** @typedef {import("./render.js").Pen} Pen */
/** @typedef {import("./score.js").Tally} Tally */
/**
 * @typedef {object} Settings
 * @property {number} nBubbles Bubbles in each frame.
 * @property {number} noise Standard deviation of the real and of the imaginary part.
 * @property {number} spotPx Standard deviation of a spot along x [px].
 * @property {number} speed Factor on all speeds.
 * @property {Method} method
 * @property {number} nPeaks At most this many peaks a frame.
 * @property {number} threshold Peaks must be above this amplitude.
 * @property {number} maxDistancePx Longest step of a track [px].
 * @property {number} minLength Tracks must have more points than this.
 */
/**
 * @typedef {object} Chain What has become of the frames so far.
 * @property {Shape} shape Size of a frame [px].
 * @property {DensityMap} map
 * @property {Uint8Array | null} mask 1 for map pixels inside vessels; null where they are not
 *   known.
 * @property {Tracker} tracker
 * @property {Map<number, Pen>} pens By number of the track.
 * @property {Bubbles} found Bubbles of the last frame.
 * @property {number} nFrames
 * @property {number} nTracks Tracks that are drawn.
 * @property {number[]} touched Map pixels whose count the last frame changed.
 * @property {number[]} nPixels Number of map pixels with 0, 1, 2 ... tracks; that of 0 is not kept.
 * @property {number} nInside Map pixels drawn inside vessels.
 * @property {number} nOutside Map pixels drawn outside vessels.
 * @property {number} nVessel Map pixels inside vessels.
 * @property {Tally} tally
 * @property {number} boundSquares Sum of the bound's variances over all pairs of the tally [px^2].
 */

// An axial resolution better than the lateral one, as in most images.
const Z_TO_X = 0.85;
// Share of the drawn map pixels that may be brighter than the colours reach.
const FEW = 0.005;

/**
 * How a bubble looks at a setting.
 * @param {Settings} settings
 * @returns {Spot}
 */
export function spotOf({ spotPx }) {
  return { sigmaZ: Z_TO_X * spotPx, sigmaX: spotPx };
}

/**
 * Begin anew: no frames, no tracks, an empty map.
 * @param {Shape} shape Size of a frame [px].
 * @param {number} upsample Map pixels per pixel of the frame.
 * @param {Uint8Array | null} mask 1 for map pixels inside vessels.
 * @returns {Chain}
 */
export function createChain(shape, upsample, mask) {
  return {
    shape,
    map: createMap(shape, upsample),
    mask,
    tracker: createTracker(),
    pens: new Map(),
    found: { n: 0, z: new Float64Array(0), x: new Float64Array(0), score: new Float64Array(0) },
    nFrames: 0,
    nTracks: 0,
    touched: [],
    nPixels: [0],
    nInside: 0,
    nOutside: 0,
    nVessel: mask ? mask.reduce((sum, isInside) => sum + isInside, 0) : 0,
    tally: createTally(),
    boundSquares: 0,
  };
}

/**
 * Take one frame through all steps.
 * @param {Chain} chain Is changed in place.
 * @param {Float32Array} frame nZ rows of nX amplitudes.
 * @param {Truth | null} truth True bubbles of the frame, where they are known.
 * @param {Settings} settings
 */
export function addToChain(chain, frame, truth, settings) {
  const { method, nPeaks, threshold, maxDistancePx } = settings;
  chain.found = locatePeaks(frame, chain.shape, { method, nBubbles: nPeaks, minScore: threshold });
  chain.touched.length = 0;
  for (const track of chain.tracker.add(chain.found, maxDistancePx))
    draw(chain, track, true, settings);
  for (const track of chain.tracker.open) draw(chain, track, false, settings);
  chain.nFrames++;
  if (truth) scoreFrame(chain, truth, settings);
}

/**
 * Draw what is new of a track, once it is long enough.
 * @param {Chain} chain
 * @param {Track} track
 * @param {boolean} isOver
 * @param {Settings} settings
 */
function draw(chain, track, isOver, { maxDistancePx, minLength }) {
  if (track.z.length <= minLength) return;
  let pen = chain.pens.get(track.id);
  if (!pen) {
    pen = createPen();
    chain.pens.set(track.id, pen);
    chain.nTracks++;
  }
  const nBefore = chain.touched.length;
  drawTrack(chain.map, track, pen, isOver, { maxDistancePx }, chain.touched);
  // Track by track, for the next one may enter the same pixels.
  for (let k = nBefore; k < chain.touched.length; k++) countPixel(chain, chain.touched[k]);
  if (isOver) chain.pens.delete(track.id);
}

/**
 * Keep account of a map pixel that a track has just entered.
 * @param {Chain} chain
 * @param {number} pixel
 */
function countPixel(chain, pixel) {
  const count = chain.map.count[pixel];
  chain.nPixels[count] = (chain.nPixels[count] ?? 0) + 1;
  if (count > 1) chain.nPixels[count - 1]--;
  if (count > 1 || !chain.mask) return;
  if (chain.mask[pixel]) chain.nInside++;
  else chain.nOutside++;
}

/**
 * The count that few drawn pixels of the map exceed: where its colours should end.
 * @param {Chain} chain
 * @returns {number} 0 for an empty map.
 */
export function brightCount({ nPixels }) {
  const few = FEW * nPixels.reduce((sum, n) => sum + n, 0);
  let [count, nAbove] = [nPixels.length - 1, 0];
  while (count > 0 && nAbove + nPixels[count] <= few) nAbove += nPixels[count--];
  return count;
}

/**
 * Score a frame, and sum up what the bound allows for the bubbles that were found.
 * @param {Chain} chain
 * @param {Truth} truth
 * @param {Settings} settings
 */
function scoreFrame(chain, truth, settings) {
  const partner = addFrame(chain.tally, chain.found, truth);
  const bound = positionBound(spotOf(settings), settings.noise, 1);
  for (const j of partner) {
    if (j >= 0) chain.boundSquares += (bound.z + bound.x) / truth.amplitude[j] ** 2;
  }
}
