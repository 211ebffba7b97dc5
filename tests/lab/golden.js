// The golden data, and small functions that the tests share.

import { readFileSync } from "node:fs";

export const golden = JSON.parse(readFileSync(new URL("golden.json", import.meta.url), "utf-8"));

/** Frames of a golden recording, as single-precision arrays. */
export function framesOf({ shape: [nT, nZ, nX], frames }) {
  const bytes = Buffer.from(frames, "base64");
  return Array.from({ length: nT }, (_, t) =>
    Float32Array.from({ length: nZ * nX }, (_, k) => bytes.readUInt16LE(2 * (t * nZ * nX + k))),
  );
}

/** Rows (frame, z, x) as points of each frame. */
export function pointsByFrame(rows, nFrames) {
  return Array.from({ length: nFrames }, (_, t) => {
    const here = rows.filter(([frame]) => frame === t);
    return pointsOf(here.map(([, z, x]) => [z, x]));
  });
}

/** Rows (z, x) as points. */
export function pointsOf(rows) {
  return {
    n: rows.length,
    z: Float64Array.from(rows, ([z]) => z),
    x: Float64Array.from(rows, ([, x]) => x),
  };
}

/** Largest absolute difference of two arrays of one length. */
export function farthest(one, other) {
  if (one.length !== other.length) return Infinity;
  return one.reduce((most, value, k) => Math.max(most, Math.abs(value - other[k])), 0);
}
