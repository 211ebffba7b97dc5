// Find bubbles as peaks of a frame, and place them below the pixel. The rules are those of
// `ulmpaper.locate`.

/** @typedef {import("./flow.js").Shape} Shape */
/** @typedef {"parabola" | "radial" | "weighted" | "none"} Method */
/**
 * @typedef {object} Bubbles Bubbles found in one frame, ordered by x, then z of their peaks.
 * @property {number} n Number of bubbles.
 * @property {Float64Array} z Places [px].
 * @property {Float64Array} x Places [px].
 * @property {Float64Array} score Amplitudes of the peaks.
 */
/**
 * @typedef {object} LocateOptions
 * @property {Method} method
 * @property {number} nBubbles At most this many peaks, the highest.
 * @property {number} [minScore] Peaks must be above this amplitude.
 * @property {number} [roiPx] Side of the window round a peak, odd, 5 or more for `radial` [px].
 * @property {number} [maxPeaksInRoi] Windows with more peaks than this are skipped.
 */
/**
 * @typedef {object} Peak A pixel, or a plateau of equal pixels, without a higher neighbour.
 * @property {number} z Row of the pixel; of a plateau, the one nearest to its centre of mass.
 * @property {number} x Its column.
 * @property {number} score Its amplitude.
 * @property {number} size Number of pixels.
 * @property {number} toCentreZ Way from the pixel to the centre of mass [px].
 * @property {number} toCentreX The same along x [px].
 */
/** @typedef {{dz: number, dx: number}} Shift From the centre of a window to the bubble [px]. */

// Smaller plateaus still show where the bubble lies; of larger ones, which are saturated, the
// centre is the best guess.
const SATURATED_PIXELS = 4;

/**
 * Detect bubbles as peaks and place them below the pixel.
 * @param {Float32Array} frame nZ rows of nX amplitudes, 0 or more.
 * @param {Shape} shape Size of the frame [px].
 * @param {LocateOptions} options
 * @returns {Bubbles}
 */
export function locatePeaks(frame, shape, options) {
  const { method, nBubbles, minScore = 0, roiPx = 5, maxPeaksInRoi = 3 } = options;
  const half = (roiPx - 1) / 2;
  const peaks = highestPeaks(frame, shape, nBubbles, half, minScore);
  const window = new Float64Array(roiPx * roiPx);
  const place = METHODS[method];
  /** @type {Bubbles} */
  const found = {
    n: 0,
    z: new Float64Array(peaks.length),
    x: new Float64Array(peaks.length),
    score: new Float64Array(peaks.length),
  };
  for (const peak of peaks) {
    for (let i = 0; i < roiPx; i++) {
      const from = (peak.z - half + i) * shape.nX + peak.x - half;
      for (let j = 0; j < roiPx; j++) window[i * roiPx + j] = frame[from + j];
    }
    if (findPeaks(window, { nZ: roiPx, nX: roiPx }, 0).length > maxPeaksInRoi) continue;
    const isSaturated = peak.size >= SATURATED_PIXELS;
    let { dz, dx } = place(window, roiPx);
    const isNear = Math.abs(dz) <= half - 0.5 && Math.abs(dx) <= half - 0.5; // false for NaN too
    if (!isNear && !isSaturated) continue;
    if (isSaturated && method !== "none") [dz, dx] = [peak.toCentreZ, peak.toCentreX];
    found.z[found.n] = peak.z + dz;
    found.x[found.n] = peak.x + dx;
    found.score[found.n] = peak.score;
    found.n++;
  }
  return found;
}

/**
 * The highest peaks whose windows lie inside the frame, ordered by x, then z.
 * @param {Float32Array} frame
 * @param {Shape} shape
 * @param {number} nBubbles
 * @param {number} border Pixels from the edge that a peak must keep [px].
 * @param {number} minScore
 * @returns {Peak[]}
 */
export function highestPeaks(frame, shape, nBubbles, border, minScore) {
  const { nZ, nX } = shape;
  // The frame is in single precision, so the threshold is too.
  return findPeaks(frame, shape, Math.fround(minScore))
    .filter(({ z, x }) => z >= border && z < nZ - border && x >= border && x < nX - border)
    .sort((a, b) => b.score - a.score) // equal ones stay in the order of their pixels
    .slice(0, nBubbles)
    .filter((peak) => peak.size < nZ * nX) // a frame of one value shows nothing
    .sort((a, b) => a.x - b.x || a.z - b.z);
}

/**
 * All 8-connected regional maxima above an amplitude, each plateau once, in the order of their
 * pixels.
 * @param {Float32Array | Float64Array} image nZ rows of nX amplitudes.
 * @param {Shape} shape
 * @param {number} minScore Maxima must be above this and above 0.
 * @returns {Peak[]}
 */
export function findPeaks(image, { nZ, nX }, minScore) {
  const least = Math.max(0, minScore);
  /** @type {Peak[]} */
  const peaks = [];
  /** @type {Set<number>} Pixels of plateaus that were looked at already. */
  const seen = new Set();
  for (let z = 0; z < nZ; z++) {
    for (let x = 0; x < nX; x++) {
      const k = z * nX + x;
      const value = image[k];
      if (!(value > least)) continue;
      const highest = highestNeighbour(image, nZ, nX, z, x);
      if (highest > value) continue;
      if (highest < value) {
        peaks.push({ z, x, score: value, size: 1, toCentreZ: 0, toCentreX: 0 });
      } else if (!seen.has(k)) {
        const plateau = plateauFrom(image, nZ, nX, k, seen);
        if (plateau) peaks.push(peakOfPlateau(plateau, nX, value));
      }
    }
  }
  // Plateaus come up at their first pixel, but count by the pixel that stands for them.
  return seen.size ? peaks.sort((a, b) => a.z - b.z || a.x - b.x) : peaks;
}

/**
 * The highest of the neighbours of a pixel; -Infinity where there is none.
 * @param {Float32Array | Float64Array} image
 * @param {number} nZ
 * @param {number} nX
 * @param {number} z
 * @param {number} x
 * @returns {number}
 */
function highestNeighbour(image, nZ, nX, z, x) {
  const [top, bottom] = [z > 0 ? z - 1 : 0, z < nZ - 1 ? z + 1 : z];
  const [left, right] = [x > 0 ? x - 1 : 0, x < nX - 1 ? x + 1 : x];
  let highest = -Infinity;
  for (let i = top; i <= bottom; i++) {
    for (let j = left; j <= right; j++) {
      const value = image[i * nX + j];
      if (value > highest && (i !== z || j !== x)) highest = value;
    }
  }
  return highest;
}

/**
 * All pixels connected to one by equal pixels, in rising order; null where something higher touches
 * them.
 * @param {Float32Array | Float64Array} image
 * @param {number} nZ
 * @param {number} nX
 * @param {number} start
 * @param {Set<number>} seen Takes all of them in.
 * @returns {number[] | null}
 */
function plateauFrom(image, nZ, nX, start, seen) {
  const value = image[start];
  const plateau = [start];
  let isHighest = true;
  seen.add(start);
  for (let next = 0; next < plateau.length; next++) {
    const [z, x] = [Math.floor(plateau[next] / nX), plateau[next] % nX];
    for (let i = Math.max(0, z - 1); i <= Math.min(nZ - 1, z + 1); i++) {
      for (let j = Math.max(0, x - 1); j <= Math.min(nX - 1, x + 1); j++) {
        const k = i * nX + j;
        if (image[k] > value) isHighest = false;
        if (image[k] === value && !seen.has(k)) {
          seen.add(k);
          plateau.push(k);
        }
      }
    }
  }
  return isHighest ? plateau.sort((a, b) => a - b) : null;
}

/**
 * The peak that stands for a plateau: the pixel nearest to its centre of mass, of several the
 * first.
 * @param {number[]} plateau
 * @param {number} nX
 * @param {number} score
 * @returns {Peak}
 */
function peakOfPlateau(plateau, nX, score) {
  const size = plateau.length;
  const meanZ = plateau.reduce((sum, k) => sum + Math.floor(k / nX), 0) / size;
  const meanX = plateau.reduce((sum, k) => sum + (k % nX), 0) / size;
  let best = { z: 0, x: 0, score, size, toCentreZ: Infinity, toCentreX: Infinity };
  for (const k of plateau) {
    const [z, x] = [Math.floor(k / nX), k % nX];
    const [toCentreZ, toCentreX] = [meanZ - z, meanX - x];
    if (toCentreZ ** 2 + toCentreX ** 2 < best.toCentreZ ** 2 + best.toCentreX ** 2) {
      best = { z, x, score, size, toCentreZ, toCentreX };
    }
  }
  return best;
}

/**
 * Take the peak's pixel.
 * @returns {Shift}
 */
function centrePixel() {
  return { dz: 0, dx: 0 };
}

/**
 * Take the centre of mass. No background is removed, so shifts come out too small.
 * @param {Float64Array} window Rows of a square window.
 * @param {number} side Its side, odd [px].
 * @returns {Shift}
 */
export function weightedAverage(window, side) {
  const half = (side - 1) / 2;
  let [mass, momentZ, momentX] = [0, 0, 0];
  for (let i = 0; i < side; i++) {
    for (let j = 0; j < side; j++) {
      const value = window[i * side + j];
      mass += value;
      momentZ += value * (i - half);
      momentX += value * (j - half);
    }
  }
  return { dz: momentZ / mass, dx: momentX / mass };
}

/**
 * Fit a parabola to the logarithm of the three pixels round the peak, along each axis. Exact for a
 * Gaussian spot.
 * @param {Float64Array} window Rows of a square window.
 * @param {number} side Its side, odd [px].
 * @returns {Shift}
 */
export function logParabola(window, side) {
  const middle = (side * side - 1) / 2;
  // A pixel of amplitude 0 has no logarithm; a millionth of the peak keeps the parabola finite.
  const least = 1e-6 * window[middle];
  /** @param {number} step To the neighbour, in entries of the window. */
  const vertex = (step) => {
    const before = Math.log(Math.max(window[middle - step], least));
    const after = Math.log(Math.max(window[middle + step], least));
    const bend = before - 2 * Math.log(Math.max(window[middle], least)) + after;
    return bend < 0 ? (before - after) / (2 * bend) : 0;
  };
  return { dz: vertex(side), dx: vertex(1) };
}

/**
 * Find the point nearest to all lines along the gradient (Parthasarathy, Nat. Methods 9 (2012)
 * 724).
 *
 * Gradients live between the pixels, are taken along both diagonals and smoothed by a 3 x 3 mean.
 * Each line counts by its squared gradient over its distance from the centroid of the squared
 * gradients.
 * @param {Float64Array} window Rows of a square window.
 * @param {number} side Its side, odd, 5 or more [px].
 * @returns {Shift}
 */
export function radialSymmetry(window, side) {
  const n = side - 1;
  const rising = new Float64Array(n * n);
  const falling = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      const k = i * side + j;
      rising[i * n + j] = window[k + 1] - window[k + side];
      falling[i * n + j] = window[k] - window[k + side + 1];
    }
  }
  const u = meanOfNine(rising, n);
  const w = meanOfNine(falling, n);
  const middle = (n - 1) / 2;
  let [total, centroidZ, centroidX] = [0, 0, 0];
  for (let k = 0; k < n * n; k++) {
    const power = u[k] ** 2 + w[k] ** 2;
    total += power;
    centroidZ += power * (Math.floor(k / n) - middle);
    centroidX += power * ((k % n) - middle);
  }
  centroidZ /= total;
  centroidX /= total;
  // Least squares: each line has the unit normal (g_x, -g_z) / |g|.
  let [a, b, c, p, q] = [0, 0, 0, 0, 0];
  for (let k = 0; k < n * n; k++) {
    const power = u[k] ** 2 + w[k] ** 2;
    if (!(power > 0)) continue;
    const [z, x] = [Math.floor(k / n) - middle, (k % n) - middle];
    const [slopeZ, slopeX] = [-(u[k] + w[k]), u[k] - w[k]];
    const distance = Math.max(Math.hypot(z - centroidZ, x - centroidX), 1e-9);
    const weight = power / distance / (slopeZ ** 2 + slopeX ** 2);
    const zz = weight * slopeX ** 2;
    const xx = weight * slopeZ ** 2;
    const zx = -weight * slopeX * slopeZ;
    a += zz;
    b += zx;
    c += xx;
    p += zz * z + zx * x;
    q += zx * z + xx * x;
  }
  const determinant = a * c - b * b;
  return { dz: (c * p - b * q) / determinant, dx: (a * q - b * p) / determinant };
}

/**
 * 3 x 3 mean of a square map, with zeros outside.
 * @param {Float64Array} map
 * @param {number} n Its side.
 * @returns {Float64Array}
 */
function meanOfNine(map, n) {
  const mean = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let y = Math.max(0, i - 1); y <= Math.min(n - 1, i + 1); y++) {
        for (let x = Math.max(0, j - 1); x <= Math.min(n - 1, j + 1); x++) sum += map[y * n + x];
      }
      mean[i * n + j] = sum / 9;
    }
  }
  return mean;
}

/** @type {Record<Method, (window: Float64Array, side: number) => Shift>} */
const METHODS = {
  parabola: logParabola,
  radial: radialSymmetry,
  weighted: weightedAverage,
  none: centrePixel,
};
