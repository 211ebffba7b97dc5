// Recordings from files, and the chain as a whole.

import assert from "node:assert/strict";
import { test } from "node:test";

import { addToChain, brightCount, createChain, spotOf } from "../../book/lab/chain.js";
import { createFilm, makeRandom, vesselMask } from "../../book/lab/flow.js";
import { addNoise, drawSpots } from "../../book/lab/image.js";
import { readRecording } from "../../book/lab/read.js";
import { USUAL } from "../../book/lab/settings.js";
import { farthest, golden } from "./golden.js";

/** Bytes as the page gets them from a file. */
function bufferOf(base64) {
  const bytes = Buffer.from(base64, "base64");
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
}

test("recordings are read as they were written", () => {
  for (const { name, bytes, shape, values } of golden.files) {
    const recording = readRecording(bufferOf(bytes));
    assert.deepEqual([recording.nT, recording.nZ, recording.nX], shape, name);
    const most = Math.max(...values);
    assert.ok(
      farthest(
        Array.from(recording.values),
        values.map((value) => value / most),
      ) < 1e-6,
      name,
    );
  }
});

test("files that are no recordings are refused in words", () => {
  assert.throws(() => readRecording(new ArrayBuffer(4)), /neither a NumPy array/);
  const { bytes } = golden.files[0];
  const cut = bufferOf(bytes).slice(0, -8);
  assert.throws(() => readRecording(cut), /ends before its last frame/);
  const complex = Buffer.from(
    Buffer.from(bytes, "base64").toString("latin1").replace("<f4", "<c8"),
    "latin1",
  );
  assert.throws(() => readRecording(bufferOf(complex.toString("base64"))), /complex/);
});

const SETTINGS = { ...USUAL, minLength: 10 };

/** The chain after some frames of a film. */
function runChain(changes = {}, nFrames = 200) {
  const settings = { ...SETTINGS, ...changes };
  const shape = { nZ: 84, nX: 143 };
  const [film, random] = [createFilm(shape, 2), makeRandom(3)];
  const chain = createChain(shape, 10, vesselMask(film.routes, shape, 10));
  const frame = new Float32Array(shape.nZ * shape.nX);
  for (let t = 0; t < nFrames; t++) {
    film.next(settings.nBubbles, settings.speed);
    drawSpots(film.truth, shape, spotOf(settings), frame);
    addNoise(frame, settings.noise, random);
    addToChain(chain, frame, film.truth, settings);
  }
  return chain;
}

/** Share of the drawn map pixels that lie in vessels. */
const shareInside = ({ nInside, nOutside }) => nInside / (nInside + nOutside);
const rms = ({ tally }) => Math.sqrt(tally.squares / tally.nFar);
const bound = ({ tally, boundSquares }) => Math.sqrt(boundSquares / tally.nFar);

test("the chain finds most bubbles, and draws most of them inside the vessels", () => {
  const chain = runChain();
  assert.equal(chain.nFrames, 200);
  assert.ok(chain.tally.nFar / chain.tally.nFound > 0.85);
  assert.ok(chain.tally.nFar / chain.tally.nTrue > 0.7);
  assert.ok(shareInside(chain) > 0.7, `${shareInside(chain)}`);
  assert.ok(chain.nInside / chain.nVessel > 0.1);
  const counts = Array.from(chain.map.count)
    .filter(Boolean)
    .sort((a, b) => a - b);
  assert.equal(counts.length, chain.nInside + chain.nOutside);
  assert.equal(brightCount(chain), counts[Math.ceil(0.995 * counts.length) - 1]);
});

test("each setting does what the page says", () => {
  const usual = runChain();
  const noisy = runChain({ noise: 0.12 });
  assert.ok(rms(noisy) > 1.3 * rms(usual) && bound(noisy) > 2.5 * bound(usual));
  assert.ok(rms(usual) > bound(usual));
  const greedy = runChain({ threshold: 0, nPeaks: 150, maxDistancePx: 5, minLength: 3 });
  assert.ok(
    greedy.tally.nFar / greedy.tally.nFound < 0.4 && shareInside(greedy) < 0.8 * shareInside(usual),
  );
  const crowded = runChain({ nBubbles: 150, nPeaks: 150 });
  assert.ok(crowded.tally.nFar / crowded.tally.nTrue < usual.tally.nFar / usual.tally.nTrue - 0.15);
  const wide = runChain({ spotPx: 2.2 });
  assert.ok(wide.tally.nFar < usual.tally.nFar);
  const fast = runChain({ speed: 4 });
  assert.ok(fast.nTracks < usual.nTracks * 2 && shareInside(fast) <= shareInside(usual) + 0.05);
  const strict = runChain({ minLength: 60 });
  assert.ok(strict.nTracks < usual.nTracks);
  const short = runChain({ maxDistancePx: 0.2 });
  assert.ok(short.nInside < usual.nInside);
});
