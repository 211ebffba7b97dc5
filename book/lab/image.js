// Frames from bubbles: each bubble is a Gaussian spot, and the noise is that of an envelope.

/** @typedef {import("./flow.js").Shape} Shape */
/** @typedef {import("./flow.js").Truth} Truth */
/** @typedef {import("./flow.js").Random} Random */
/**
 * @typedef {object} Spot How a bubble looks.
 * @property {number} sigmaZ Standard deviation along z [px].
 * @property {number} sigmaX Standard deviation along x [px].
 */

// A Gaussian is below a ten-thousandth of its peak there.
const REACH_IN_SIGMAS = 4.5;

/**
 * Draw the sum of the spots of all bubbles.
 * @param {Truth} truth Bubbles of the frame [px].
 * @param {Shape} shape Size of the frame [px].
 * @param {Spot} spot
 * @param {Float32Array} frame Is overwritten: nZ rows of nX amplitudes.
 */
export function drawSpots(truth, shape, spot, frame) {
  const { nZ, nX } = shape;
  frame.fill(0);
  const reachX = Math.ceil(REACH_IN_SIGMAS * spot.sigmaX);
  const reachZ = Math.ceil(REACH_IN_SIGMAS * spot.sigmaZ);
  const profile = new Float64Array(2 * reachX + 1);
  for (let k = 0; k < truth.n; k++) {
    const middleZ = Math.round(truth.z[k]);
    const middleX = Math.round(truth.x[k]);
    for (let j = 0; j < profile.length; j++) {
      profile[j] = Math.exp(-0.5 * ((middleX - reachX + j - truth.x[k]) / spot.sigmaX) ** 2);
    }
    const firstX = Math.max(0, middleX - reachX);
    const lastX = Math.min(nX - 1, middleX + reachX);
    for (let z = Math.max(0, middleZ - reachZ); z <= Math.min(nZ - 1, middleZ + reachZ); z++) {
      const height = truth.amplitude[k] * Math.exp(-0.5 * ((z - truth.z[k]) / spot.sigmaZ) ** 2);
      for (let x = firstX; x <= lastX; x++)
        frame[z * nX + x] += height * profile[x - middleX + reachX];
    }
  }
}

/**
 * Add complex Gaussian noise and take the modulus, as for the envelope of an echo.
 *
 * Where there is no bubble the result has a Rayleigh distribution; on a bright spot it is the spot
 * plus Gaussian noise.
 * @param {Float32Array} frame Amplitudes, changed in place.
 * @param {number} noise Standard deviation of the real and of the imaginary part.
 * @param {Random} random
 */
export function addNoise(frame, noise, random) {
  if (!(noise > 0)) return;
  for (let k = 0; k < frame.length; k++) {
    // Box and Muller: a random length and a random direction make two Gaussian numbers.
    const length = noise * Math.sqrt(-2 * Math.log(1 - random()));
    const angle = 2 * Math.PI * random();
    const real = frame[k] + length * Math.cos(angle);
    const imaginary = length * Math.sin(angle);
    frame[k] = Math.sqrt(real * real + imaginary * imaginary);
  }
}
