// Compare found with true bubbles, and with the best that any method can do. The rules are those of
// `ulmpaper.metrics.score_bubbles`.

import { bestPairs } from "./pairs.js";

/** @typedef {import("./pairs.js").Points} Points */
/** @typedef {import("./image.js").Spot} Spot */
/**
 * @typedef {object} Tally Sums over frames.
 * @property {number} nFound Found bubbles.
 * @property {number} nTrue True bubbles.
 * @property {number} nNear Pairs closer than 0.25 px.
 * @property {number} nFar Pairs closer than 0.5 px.
 * @property {number} squares Sum of the squared distances of the pairs closer than 0.5 px [px^2].
 */
/**
 * @typedef {{precision: number, recall: number, jaccard: number}} Detection Each between 0 and 1,
 *   or NaN.
 */

export const NEAR_PX = 0.25;
export const FAR_PX = 0.5;

/** @returns {Tally} A tally of no frames. */
export function createTally() {
  return { nFound: 0, nTrue: 0, nNear: 0, nFar: 0, squares: 0 };
}

/**
 * Pair found with true bubbles of one frame: as many pairs below 0.5 px as possible, then the least
 * squared distance.
 * @param {Points} found
 * @param {Points} truth
 * @returns {Int32Array} For each found bubble the true one, or -1.
 */
export function matchBubbles(found, truth) {
  return bestPairs(found, truth, (squared) => Math.sqrt(squared) < FAR_PX);
}

/**
 * Add one frame to a tally.
 * @param {Tally} tally Is changed in place.
 * @param {Points} found
 * @param {Points} truth
 * @returns {Int32Array} See `matchBubbles`.
 */
export function addFrame(tally, found, truth) {
  const partner = matchBubbles(found, truth);
  tally.nFound += found.n;
  tally.nTrue += truth.n;
  for (let i = 0; i < found.n; i++) {
    const j = partner[i];
    if (j < 0) continue;
    const squared = (found.z[i] - truth.z[j]) ** 2 + (found.x[i] - truth.x[j]) ** 2;
    tally.nFar++;
    if (Math.sqrt(squared) < NEAR_PX) tally.nNear++;
    tally.squares += squared;
  }
  return partner;
}

/**
 * Precision, recall and Jaccard index from counts.
 * @param {number} nPairs Found bubbles that are true.
 * @param {number} nFound All found bubbles.
 * @param {number} nTrue All true bubbles.
 * @returns {Detection} NaN where there is nothing to divide by.
 */
export function detectionScores(nPairs, nFound, nTrue) {
  return {
    precision: nPairs / nFound,
    recall: nPairs / nTrue,
    jaccard: nPairs / (nFound + nTrue - nPairs),
  };
}

/**
 * Root mean square distance of the pairs of a tally.
 * @param {Tally} tally
 * @returns {number} [px], NaN without pairs.
 */
export function rmsError(tally) {
  return Math.sqrt(tally.squares / tally.nFar);
}

/**
 * The Cramer-Rao bound: no unbiased method places a spot with a smaller variance.
 *
 * For a lone Gaussian spot of known width in white noise the information on z is the sum over
 * pixels of the squared derivative of the spot, over the variance of the noise. On a bright spot
 * the noise of the modulus is that of the real part. For fine pixels the sum is an integral, and
 * the variances are 2 noise^2 sigmaZ / (pi sigmaX amplitude^2) along z, and the same with z and x
 * exchanged along x. By symmetry an unknown amplitude changes nothing.
 * @param {Spot} spot Widths of the spot [px].
 * @param {number} noise Standard deviation of the noise.
 * @param {number} amplitude Peak of the spot.
 * @returns {{z: number, x: number}} Variances [px^2].
 */
export function positionBound(spot, noise, amplitude) {
  const reachZ = Math.ceil(6 * spot.sigmaZ);
  const reachX = Math.ceil(6 * spot.sigmaX);
  let [informationZ, informationX] = [0, 0];
  for (let z = -reachZ; z <= reachZ; z++) {
    for (let x = -reachX; x <= reachX; x++) {
      const value = amplitude * Math.exp(-0.5 * ((z / spot.sigmaZ) ** 2 + (x / spot.sigmaX) ** 2));
      informationZ += ((z / spot.sigmaZ ** 2) * value) ** 2;
      informationX += ((x / spot.sigmaX ** 2) * value) ** 2;
    }
  }
  return { z: noise ** 2 / informationZ, x: noise ** 2 / informationX };
}
