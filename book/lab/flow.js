// Vessels and the bubbles that flow through them. Places are in pixels of the frame, z down and x
// to the right, with the origin at the centre of the first pixel; times are in frames.

/** @typedef {{nZ: number, nX: number}} Shape Rows and columns of a frame [px]. */
/** @typedef {() => number} Random Gives numbers evenly spread from 0 to below 1. */
/**
 * @typedef {object} Route A way from the inlet of a vessel tree to one of its ends (or back, in a
 *   vein).
 * @property {Float64Array} z Centreline, sampled so that a bubble on the axis passes two samples a
 *   frame [px].
 * @property {Float64Array} x The same along x [px].
 * @property {Float64Array} normalZ Unit vector across the vessel at each sample.
 * @property {Float64Array} normalX The same along x.
 * @property {Float64Array} radius Radius of the vessel at each sample [px].
 * @property {number} flow Share of all bubbles that take this route.
 */
/**
 * @typedef {object} Truth Bubbles of one frame; only the first `n` entries count.
 * @property {number} n Number of bubbles.
 * @property {Float64Array} z Their places [px].
 * @property {Float64Array} x Their places [px].
 * @property {Float64Array} amplitude Their peak amplitudes.
 */
/**
 * @typedef {object} Film Bubbles in motion.
 * @property {Route[]} routes The vessels.
 * @property {Truth} truth The bubbles of the present frame.
 * @property {(nBubbles: number, speed: number) => void} next Go on by one frame.
 */
/** @typedef {{z: number, x: number, radius: number}} LinePoint */

export const MOST_BUBBLES = 400;
const SAMPLES_PER_FRAME = 2;
const LINE_STEP_PX = 0.5;
// A bubble has a size: its centre keeps away from the wall.
const FARTHEST_OFFSET = 0.9;
// Windows of 5 x 5 pixels round the bubbles must lie inside the frame.
const MARGIN_PX = 4;
const LEAST_AMPLITUDE = 0.6;

/**
 * Make a random generator; the same seed gives the same numbers.
 *
 * Marsaglia's xorshift with 128 bits, filled from the seed by a linear congruential generator.
 * @param {number} seed Whole number.
 * @returns {Random}
 */
export function makeRandom(seed) {
  let fill = seed >>> 0;
  const state = new Uint32Array(4);
  for (let k = 0; k < 4; k++) {
    fill = (Math.imul(fill, 1664525) + 1013904223) >>> 0;
    state[k] = fill ^ (fill >>> 15);
  }
  state[0] |= 1; // a state of zeros would stay there
  const random = () => {
    let t = state[0] ^ (state[0] << 11);
    t ^= t >>> 8;
    state[0] = state[1];
    state[1] = state[2];
    state[2] = state[3];
    state[3] = state[3] ^ (state[3] >>> 19) ^ t;
    return state[3] / 4294967296;
  };
  // Seeds that lie side by side begin alike; some steps drive them apart.
  for (let k = 0; k < 20; k++) random();
  return random;
}

/**
 * Grow two trees of vessels that cross: an artery that divides, and a vein that gathers.
 *
 * Radii follow Murray's law: the cube of a vessel's radius is the sum of the cubes of its branches,
 * and flow goes with the cube of the radius.
 * @param {Shape} shape Size of a frame [px].
 * @param {Random} random
 * @returns {Route[]}
 */
export function growVessels(shape, random) {
  const { nZ, nX } = shape;
  const low = MARGIN_PX;
  const artery = growTree(shape, random, {
    z: low,
    x: nX * (0.2 + 0.15 * random()),
    heading: 0.5 + 0.5 * random(),
    radius: 2.1,
  });
  const vein = growTree(shape, random, {
    z: nZ - 1 - low,
    x: nX * (0.65 + 0.15 * random()),
    heading: -2.1 - 0.5 * random(),
    radius: 2.3,
  });
  const lines = [...artery, ...vein.map((line) => line.slice().reverse())];
  const routes = lines.map(sampleInTime);
  const total = routes.reduce((sum, route) => sum + route.flow, 0);
  for (const route of routes) route.flow /= total;
  return routes;
}

/**
 * Lines from the root of a tree to each of its ends, in steps of LINE_STEP_PX.
 * @param {Shape} shape
 * @param {Random} random
 * @param {{z: number, x: number, heading: number, radius: number}} root Heading in radians from x
 *   towards z.
 * @returns {LinePoint[][]}
 */
function growTree(shape, random, root) {
  /** @type {LinePoint[][]} */
  const lines = [];
  /**
   * @type {(before: LinePoint[], z: number, x: number, heading: number, radius: number, depth:
   *   number) => void}
   */
  const grow = (before, z, x, heading, radius, depth) => {
    const line = before.slice();
    const length = depth === 0 ? 16 + 10 * random() : 14 + 22 * random();
    const bend = 0.05 * (random() - 0.5);
    const sway = 0.06 * (random() - 0.5);
    let isInside = true;
    for (let way = 0; way < length; way += LINE_STEP_PX) {
      heading += (bend + sway * Math.sin((2 * Math.PI * way) / 17)) * LINE_STEP_PX;
      z += Math.sin(heading) * LINE_STEP_PX;
      x += Math.cos(heading) * LINE_STEP_PX;
      isInside =
        z >= MARGIN_PX &&
        z <= shape.nZ - 1 - MARGIN_PX &&
        x >= MARGIN_PX &&
        x <= shape.nX - 1 - MARGIN_PX;
      if (!isInside) break;
      line.push({ z, x, radius });
    }
    if (!isInside || depth === 4) {
      if (line.length > 12) lines.push(line);
      return;
    }
    const share = 0.3 + 0.4 * random();
    const fork = 0.45 + 0.35 * random();
    // The wider branch turns less.
    grow(line, z, x, heading + fork * (1 - share), radius * Math.cbrt(share), depth + 1);
    grow(line, z, x, heading - fork * share, radius * Math.cbrt(1 - share), depth + 1);
  };
  grow(
    [{ z: root.z, x: root.x, radius: root.radius }],
    root.z,
    root.x,
    root.heading,
    root.radius,
    0,
  );
  return lines;
}

/**
 * Speed on the axis of a vessel: wide vessels are fast.
 * @param {number} radius [px]
 * @returns {number} [px/frame]
 */
function axisSpeed(radius) {
  return 0.15 + 0.35 * radius;
}

/**
 * Smooth a line, and sample it evenly in the time of a bubble on the axis.
 * @param {LinePoint[]} line
 * @returns {Route}
 */
function sampleInTime(line) {
  const flow = Math.min(line[0].radius, line[line.length - 1].radius) ** 3;
  let z = line.map((point) => point.z);
  let x = line.map((point) => point.x);
  let radius = line.map((point) => point.radius);
  for (let pass = 0; pass < 2; pass++) [z, x, radius] = [z, x, radius].map(smoothLine);
  const time = new Float64Array(line.length);
  for (let k = 1; k < line.length; k++) {
    const way = Math.hypot(z[k] - z[k - 1], x[k] - x[k - 1]);
    time[k] = time[k - 1] + way / axisSpeed((radius[k] + radius[k - 1]) / 2);
  }
  const n = Math.floor(time[line.length - 1] * SAMPLES_PER_FRAME) + 1;
  const [normalZ, normalX] = [new Float64Array(n), new Float64Array(n)];
  const [evenZ, evenX, evenRadius] = [z, x, radius].map((values) => atEvenTimes(values, time, n));
  for (let k = 0; k < n; k++) {
    const [before, after] = [Math.max(0, k - 1), Math.min(n - 1, k + 1)];
    const alongZ = evenZ[after] - evenZ[before];
    const alongX = evenX[after] - evenX[before];
    const length = Math.hypot(alongZ, alongX) || 1;
    normalZ[k] = alongX / length;
    normalX[k] = -alongZ / length;
  }
  return { z: evenZ, x: evenX, normalZ, normalX, radius: evenRadius, flow };
}

/**
 * Average over 6.5 px along a line; both ends stay.
 * @param {number[]} values
 * @returns {number[]}
 */
function smoothLine(values) {
  return values.map((_, k) => {
    const reach = Math.min(6, k, values.length - 1 - k);
    let sum = 0;
    for (let j = k - reach; j <= k + reach; j++) sum += values[j];
    return sum / (2 * reach + 1);
  });
}

/**
 * Values at n even times, SAMPLES_PER_FRAME a frame.
 * @param {number[]} values
 * @param {Float64Array} time Rising times of the values [frames].
 * @param {number} n
 * @returns {Float64Array}
 */
function atEvenTimes(values, time, n) {
  const even = new Float64Array(n);
  let after = 1;
  for (let k = 0; k < n; k++) {
    const when = k / SAMPLES_PER_FRAME;
    while (after < time.length - 1 && time[after] < when) after++;
    const share = Math.min(1, (when - time[after - 1]) / (time[after] - time[after - 1]));
    even[k] = values[after - 1] + share * (values[after] - values[after - 1]);
  }
  return even;
}

/**
 * Let bubbles flow: a parabolic profile across each vessel, fast on the axis and slow at the wall.
 *
 * A bubble that leaves a vessel is replaced by one that enters, so that their number stays.
 * @param {Shape} shape Size of a frame [px].
 * @param {number} seed The same seed gives the same vessels and bubbles.
 * @returns {Film}
 */
export function createFilm(shape, seed) {
  const random = makeRandom(seed);
  const routes = growVessels(shape, random);
  const route = new Int16Array(MOST_BUBBLES);
  const sample = new Float64Array(MOST_BUBBLES); // fractional place along the route's samples
  const offset = new Float64Array(MOST_BUBBLES); // from the axis, in radii
  /** @type {Truth} */
  const truth = {
    n: 0,
    z: new Float64Array(MOST_BUBBLES),
    x: new Float64Array(MOST_BUBBLES),
    amplitude: new Float64Array(MOST_BUBBLES),
  };

  /** @param {number} k Slot of the bubble. */
  const enter = (k) => {
    route[k] = drawIndex(routes, (one) => one.flow, random);
    do offset[k] = FARTHEST_OFFSET * (2 * random() - 1);
    while (random() > 1 - offset[k] ** 2); // as many enter at each place as the flow there carries
    sample[k] = random() * SAMPLES_PER_FRAME * (1 - offset[k] ** 2);
    truth.amplitude[k] = LEAST_AMPLITUDE + (1 - LEAST_AMPLITUDE) * random();
  };

  /** @param {number} k Slot of a bubble that is somewhere on its way already. */
  const scatter = (k) => {
    enter(k);
    route[k] = drawIndex(routes, (one) => one.flow * one.z.length, random);
    offset[k] = FARTHEST_OFFSET * (2 * random() - 1);
    sample[k] = random() * (routes[route[k]].z.length - 1);
  };

  return {
    routes,
    truth,
    next(nBubbles, speed) {
      const n = Math.min(nBubbles, MOST_BUBBLES);
      for (let k = 0; k < Math.min(n, truth.n); k++) {
        sample[k] += SAMPLES_PER_FRAME * speed * (1 - offset[k] ** 2);
        if (sample[k] > routes[route[k]].z.length - 1) enter(k);
      }
      for (let k = truth.n; k < n; k++) scatter(k);
      truth.n = n;
      for (let k = 0; k < n; k++) {
        const one = routes[route[k]];
        const j = Math.min(Math.floor(sample[k]), one.z.length - 2);
        const share = sample[k] - j;
        const across = offset[k] * (one.radius[j] + share * (one.radius[j + 1] - one.radius[j]));
        truth.z[k] =
          one.z[j] +
          share * (one.z[j + 1] - one.z[j]) +
          across * (one.normalZ[j] + share * (one.normalZ[j + 1] - one.normalZ[j]));
        truth.x[k] =
          one.x[j] +
          share * (one.x[j + 1] - one.x[j]) +
          across * (one.normalX[j] + share * (one.normalX[j + 1] - one.normalX[j]));
      }
    },
  };
}

/**
 * Draw an index, each with the weight of its item.
 * @template T
 * @param {T[]} items
 * @param {(item: T) => number} weight
 * @param {Random} random
 * @returns {number}
 */
function drawIndex(items, weight, random) {
  let left = random() * items.reduce((sum, item) => sum + weight(item), 0);
  for (let k = 0; k < items.length - 1; k++) {
    left -= weight(items[k]);
    if (left < 0) return k;
  }
  return items.length - 1;
}

/**
 * Mark the map pixels that centres of bubbles can reach.
 * @param {Route[]} routes
 * @param {Shape} shape Size of a frame [px].
 * @param {number} upsample Map pixels per pixel of the frame.
 * @returns {Uint8Array} 1 inside a vessel, else 0; nZ * upsample rows of nX * upsample map pixels.
 */
export function vesselMask(routes, shape, upsample) {
  const [nZ, nX] = [shape.nZ * upsample, shape.nX * upsample];
  const mask = new Uint8Array(nZ * nX);
  for (const route of routes) {
    for (let k = 0; k < route.z.length; k++) {
      const centreZ = (route.z[k] + 0.5) * upsample - 0.5;
      const centreX = (route.x[k] + 0.5) * upsample - 0.5;
      const reach = Math.max(FARTHEST_OFFSET * route.radius[k] * upsample, 0.5);
      for (
        let z = Math.max(0, Math.ceil(centreZ - reach));
        z <= Math.min(nZ - 1, centreZ + reach);
        z++
      ) {
        const half = Math.sqrt(Math.max(0, reach ** 2 - (z - centreZ) ** 2));
        const from = Math.max(0, Math.ceil(centreX - half));
        const to = Math.min(nX - 1, Math.floor(centreX + half));
        if (from <= to) mask.fill(1, z * nX + from, z * nX + to + 1);
      }
    }
  }
  return mask;
}
