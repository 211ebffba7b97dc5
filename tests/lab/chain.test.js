// The steps of the lab against the package's, on golden data, and what must hold for any data.

import assert from "node:assert/strict";
import { test } from "node:test";

import { createFilm, makeRandom } from "../../book/lab/flow.js";
import { addNoise, drawSpots } from "../../book/lab/image.js";
import { createTracker, dropShort, link } from "../../book/lab/link.js";
import { locatePeaks } from "../../book/lab/locate.js";
import { bestPairs, leastAssignment } from "../../book/lab/pairs.js";
import {
  createMap,
  createPen,
  drawTrack,
  renderMap,
  shrinkingMean,
} from "../../book/lab/render.js";
import {
  addFrame,
  createTally,
  detectionScores,
  positionBound,
  rmsError,
} from "../../book/lab/score.js";
import { farthest, framesOf, golden, pointsByFrame, pointsOf } from "./golden.js";

const METHODS = ["parabola", "radial", "weighted", "none"];

test("bubbles are found where the package finds them", () => {
  for (const made of golden.located) {
    const shape = { nZ: made.shape[1], nX: made.shape[2] };
    for (const method of METHODS) {
      const found = framesOf(made).flatMap((frame, t) => {
        const options = { method, nBubbles: made.n_bubbles, minScore: made.min_score };
        const { n, z, x, score } = locatePeaks(frame, shape, options);
        return Array.from({ length: n }, (_, k) => [t, z[k], x[k], score[k]]);
      });
      assert.equal(found.length, made.found[method].length, method);
      assert.ok(found.length > 15);
      const off = farthest(found.flat(), made.found[method].flat());
      assert.ok(off < 1e-6, `${method} is off by ${off} px`);
    }
  }
});

test("plateaus are bubbles too", () => {
  const { found } = golden.located[2];
  assert.ok(found.weighted.some(([, z, x, score]) => score === 255 && (z % 1 || x % 1)));
});

test("tracks are the package's", () => {
  for (const made of golden.tracked) {
    const tracks = link(pointsByFrame(made.bubbles, made.n_frames), made.max_distance_px);
    const rows = tracks.map(({ firstFrame, z, x }) =>
      z.map((value, k) => [firstFrame + k, value, x[k]]),
    );
    const expected = tracks.map(({ id }) => made.bubbles.filter((_, k) => made.track[k] === id));
    assert.equal(tracks.length, new Set(made.track).size);
    assert.deepEqual(rows, expected);
    assert.equal(dropShort(tracks, made.min_length).length, made.n_long);
  }
});

test("the map is the package's", () => {
  for (const made of golden.tracked) {
    const shape = { nZ: made.shape[0], nX: made.shape[1] };
    const tracks = link(pointsByFrame(made.bubbles, made.n_frames), made.max_distance_px);
    const long = dropShort(tracks, made.min_length);
    const { count } = renderMap(long, shape, made.upsample, {
      maxDistancePx: made.max_distance_px,
    });
    const expected = new Float32Array(count.length);
    made.map_pixel.forEach((pixel, k) => (expected[pixel] = made.map_count[k]));
    assert.deepEqual(count, expected);
  }
});

test("a map drawn frame by frame equals one drawn at once", () => {
  const made = golden.tracked[0];
  const shape = { nZ: made.shape[0], nX: made.shape[1] };
  const options = { maxDistancePx: made.max_distance_px };
  const frames = pointsByFrame(made.bubbles, made.n_frames);
  const [map, tracker, pens] = [createMap(shape, 10), createTracker(), new Map()];
  const draw = (track, isOver) => {
    if (!pens.has(track.id)) pens.set(track.id, createPen());
    drawTrack(map, track, pens.get(track.id), isOver, options);
  };
  for (const found of frames) {
    tracker.add(found, made.max_distance_px).forEach((track) => draw(track, true));
    tracker.open.forEach((track) => draw(track, false));
  }
  tracker.open.forEach((track) => draw(track, true));
  const whole = renderMap(link(frames, made.max_distance_px), shape, 10, options);
  assert.deepEqual(map.count, whole.count);
});

test("scores are the package's", () => {
  for (const { found, truth, scores } of golden.scored) {
    const tally = createTally();
    const truths = pointsByFrame(truth, 4);
    pointsByFrame(found, 4).forEach((points, t) => addFrame(tally, points, truths[t]));
    const near = detectionScores(tally.nNear, tally.nFound, tally.nTrue);
    const far = detectionScores(tally.nFar, tally.nFound, tally.nTrue);
    assert.equal(tally.nFar, scores.n_pairs);
    for (const name of ["precision", "recall", "jaccard"]) {
      assert.ok(Math.abs(near[name] - scores[`${name}_near`]) < 1e-5);
      assert.ok(Math.abs(far[name] - scores[`${name}_far`]) < 1e-5);
    }
    assert.ok(Math.abs(rmsError(tally) - scores.rms) < 1e-5);
  }
});

/** Two noisy frames of a film. */
function noisyFrame(shape, seed, nBubbles = 20) {
  const film = createFilm(shape, seed);
  film.next(nBubbles, 1);
  const frame = new Float32Array(shape.nZ * shape.nX);
  drawSpots(film.truth, shape, { sigmaZ: 1, sigmaX: 1.2 }, frame);
  addNoise(frame, 0.05, makeRandom(seed));
  return { film, frame };
}

test("a mirrored frame has mirrored bubbles", () => {
  const shape = { nZ: 60, nX: 80 };
  const { frame } = noisyFrame(shape, 3);
  const mirrored = new Float32Array(frame.length);
  frame.forEach((value, k) => {
    const [z, x] = [Math.floor(k / shape.nX), k % shape.nX];
    mirrored[(shape.nZ - 1 - z) * shape.nX + shape.nX - 1 - x] = value;
  });
  for (const method of METHODS) {
    const options = { method, nBubbles: 30, minScore: 0.15 };
    const one = locatePeaks(frame, shape, options);
    const other = locatePeaks(mirrored, shape, options);
    assert.equal(one.n, other.n);
    // The order is by x, then z, so that mirroring turns it round.
    const z = Array.from(other.z.subarray(0, other.n), (value) => shape.nZ - 1 - value).reverse();
    const x = Array.from(other.x.subarray(0, other.n), (value) => shape.nX - 1 - value).reverse();
    assert.ok(farthest(z, one.z.subarray(0, one.n)) < 1e-9);
    assert.ok(farthest(x, one.x.subarray(0, one.n)) < 1e-9);
  }
});

test("a shifted frame has shifted bubbles", () => {
  const shape = { nZ: 60, nX: 80 };
  const wide = { nZ: 70, nX: 95 };
  const { frame } = noisyFrame(shape, 5);
  const shifted = new Float32Array(wide.nZ * wide.nX);
  frame.forEach((value, k) => {
    const [z, x] = [Math.floor(k / shape.nX), k % shape.nX];
    shifted[(z + 4) * wide.nX + x + 9] = value;
  });
  for (const method of METHODS) {
    const options = { method, nBubbles: 15, minScore: 0.3 };
    const one = locatePeaks(frame, shape, options);
    const other = locatePeaks(shifted, wide, options);
    assert.ok(one.n > 5);
    assert.ok(
      farthest(
        Array.from(one.z, (z) => z + 4),
        Array.from(other.z),
      ) < 1e-9,
    );
    assert.ok(
      farthest(
        Array.from(one.x, (x) => x + 9),
        Array.from(other.x),
      ) < 1e-9,
    );
  }
});

test("the log-parabola is exact for a lone Gaussian, the centre of mass too small", () => {
  const shape = { nZ: 21, nX: 21 };
  const frame = new Float32Array(21 * 21);
  const truth = { ...pointsOf([[10.3, 9.8]]), amplitude: Float64Array.of(0.9) };
  drawSpots(truth, shape, { sigmaZ: 1.1, sigmaX: 1.4 }, frame);
  const at = (method) => locatePeaks(frame, shape, { method, nBubbles: 1 });
  assert.ok(Math.abs(at("parabola").z[0] - 10.3) < 1e-5);
  assert.ok(Math.abs(at("parabola").x[0] - 9.8) < 1e-5);
  assert.ok(Math.abs(at("radial").z[0] - 10.3) < 0.15);
  assert.ok(at("weighted").z[0] > 10 && at("weighted").z[0] < 10.3);
});

test("frames without a picture have no bubbles", () => {
  const shape = { nZ: 20, nX: 20 };
  for (const value of [0, 1]) {
    const frame = new Float32Array(400).fill(value);
    assert.equal(locatePeaks(frame, shape, { method: "radial", nBubbles: 5 }).n, 0);
  }
});

test("the assignment is the best of all", () => {
  const random = makeRandom(4);
  for (let round = 0; round < 200; round++) {
    const nRows = 1 + Math.floor(4 * random());
    const nColumns = nRows + Math.floor(3 * random());
    const cost = Array.from({ length: nRows }, () =>
      Float64Array.from({ length: nColumns }, random),
    );
    const columns = leastAssignment(cost);
    assert.equal(new Set(columns).size, nRows);
    const sum = cost.reduce((total, row, k) => total + row[columns[k]], 0);
    assert.ok(Math.abs(sum - leastSum(cost, 0, new Set())) < 1e-12);
  }
});

/** Least sum over all ways to give rows their own columns. */
function leastSum(cost, row, taken) {
  if (row === cost.length) return 0;
  let least = Infinity;
  cost[row].forEach((value, column) => {
    if (!taken.has(column)) {
      least = Math.min(least, value + leastSum(cost, row + 1, new Set([...taken, column])));
    }
  });
  return least;
}

test("more pairs come before near pairs", () => {
  const first = pointsOf([
    [0, 0],
    [0, 1],
  ]);
  const second = pointsOf([
    [0, 1.1],
    [0, 2.9],
  ]);
  assert.deepEqual([...bestPairs(first, second, (squared) => squared <= 4)], [0, 1]);
  const far = pointsOf([
    [0, 0.9],
    [0, -1.9],
  ]);
  assert.deepEqual([...bestPairs(first, far, (squared) => squared <= 4)], [1, 0]);
});

test("tracks run backwards as they run forwards", () => {
  const made = golden.tracked[0];
  const frames = pointsByFrame(made.bubbles, made.n_frames);
  const lengths = (tracks) => tracks.map((track) => track.z.length).sort((a, b) => a - b);
  assert.deepEqual(
    lengths(link(frames, made.max_distance_px)),
    lengths(link(frames.slice().reverse(), made.max_distance_px)),
  );
});

test("smoothing keeps the ends and even motion", () => {
  const even = Array.from({ length: 30 }, (_, k) => 2 + 0.25 * k);
  assert.ok(farthest(shrinkingMean(even, 20), even) < 1e-12);
  assert.deepEqual(
    shrinkingMean([0, 0.9, 0], 3).map((value) => Math.round(10 * value)),
    [0, 3, 0],
  );
});

test("a seed gives the same film, another seed another", () => {
  const shape = { nZ: 84, nX: 143 };
  const places = (seed) => {
    const film = createFilm(shape, seed);
    for (let t = 0; t < 50; t++) film.next(40, 1);
    return [...film.truth.z.subarray(0, 40), ...film.truth.x.subarray(0, 40)];
  };
  assert.deepEqual(places(1), places(1));
  assert.notDeepEqual(places(1), places(2));
});

test("bubbles stay in their vessels, whatever the seed", async () => {
  const { vesselMask } = await import("../../book/lab/flow.js");
  const shape = { nZ: 84, nX: 143 };
  for (const seed of [1, 2, 3, 4, 5, 6, 7, 8]) {
    const film = createFilm(shape, seed);
    assert.ok(film.routes.length >= 6, `seed ${seed} has only ${film.routes.length} routes`);
    const mask = vesselMask(film.routes, shape, 10);
    for (let t = 0; t < 30; t++) {
      film.next(40, 1);
      for (let k = 0; k < 40; k++) {
        const [z, x] = [film.truth.z[k], film.truth.x[k]];
        assert.ok(z > 2 && z < shape.nZ - 3 && x > 2 && x < shape.nX - 3);
        // A pixel further: the mask is made of discs at samples, bubbles lie between them.
        const [row, column] = [Math.floor((z + 0.5) * 10), Math.floor((x + 0.5) * 10)];
        const near = [-1, 0, 1].flatMap((i) =>
          [-1, 0, 1].map((j) => mask[(row + i) * 1430 + column + j]),
        );
        assert.ok(near.some(Boolean), `seed ${seed}: a bubble at ${z}, ${x}`);
      }
    }
  }
});

test("noise is Rayleigh where nothing is, and Gaussian on a bright spot", () => {
  const moments = (value) => {
    const frame = new Float32Array(40000).fill(value);
    addNoise(frame, 0.1, makeRandom(9));
    const mean = frame.reduce((sum, v) => sum + v, 0) / frame.length;
    const variance = frame.reduce((sum, v) => sum + (v - mean) ** 2, 0) / frame.length;
    return [mean, Math.sqrt(variance)];
  };
  const [mean, spread] = moments(0);
  assert.ok(Math.abs(mean - 0.1 * Math.sqrt(Math.PI / 2)) < 0.001);
  assert.ok(Math.abs(spread - 0.1 * Math.sqrt(2 - Math.PI / 2)) < 0.001);
  assert.ok(Math.abs(moments(2)[1] - 0.1) < 0.002);
});

test("the bound is the closed form for fine pixels, and no method beats it", () => {
  const spot = { sigmaZ: 1.2, sigmaX: 1.5 };
  const bound = positionBound(spot, 0.03, 0.8);
  const closed = (2 * 0.03 ** 2 * spot.sigmaZ) / (Math.PI * spot.sigmaX * 0.8 ** 2);
  assert.ok(Math.abs(bound.z / closed - 1) < 1e-3);
  assert.ok(Math.abs(bound.x / (closed * (spot.sigmaX / spot.sigmaZ) ** 2) - 1) < 1e-3);
  const shape = { nZ: 21, nX: 21 };
  const frame = new Float32Array(441);
  const random = makeRandom(1);
  let [squares, n] = [0, 0];
  for (let round = 0; round < 600; round++) {
    const truth = { ...pointsOf([[10 + random() - 0.5, 10]]), amplitude: Float64Array.of(0.8) };
    drawSpots(truth, shape, spot, frame);
    addNoise(frame, 0.03, random);
    const found = locatePeaks(frame, shape, { method: "parabola", nBubbles: 1, minScore: 0.4 });
    if (found.n) [squares, n] = [squares + (found.z[0] - truth.z[0]) ** 2, n + 1];
  }
  const excess = squares / n / bound.z;
  assert.ok(n > 500 && excess > 1 && excess < 8, `${excess} times the bound`);
});
