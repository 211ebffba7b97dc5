// Link bubbles from frame to frame into tracks. The rules are those of `ulmpaper.core.link` without
// gaps.

import { bestPairs } from "./pairs.js";

/** @typedef {import("./pairs.js").Points} Points */
/**
 * @typedef {object} Track One bubble through time, without missing frames.
 * @property {number} id Number of the track, by first bubble.
 * @property {number} firstFrame Frame of its first point.
 * @property {number[]} z Places, one a frame [px].
 * @property {number[]} x Places, one a frame [px].
 */
/**
 * @typedef {object} Tracker Links frame by frame.
 * @property {Track[]} open Tracks that reach to the present frame, in the order of its bubbles.
 * @property {(found: Points, maxDistancePx: number) => Track[]} add Take in the next frame; gives
 *   the tracks that ended.
 */

/**
 * Begin to link.
 *
 * From one frame to the next as many links as possible are made, and of all such sets the one with
 * the least sum of squared distances. A bubble without a partner begins a new track.
 * @returns {Tracker}
 */
export function createTracker() {
  let [nTracks, frame] = [0, 0];
  /** @type {Points} */
  let before = { n: 0, z: new Float64Array(0), x: new Float64Array(0) };
  /** @type {Tracker} */
  const tracker = {
    open: [],
    add(found, maxDistancePx) {
      const reach = maxDistancePx * maxDistancePx;
      const partner = bestPairs(before, found, (squared) => squared <= reach);
      /** @type {(Track | undefined)[]} */
      const trackOf = new Array(found.n);
      /** @type {Track[]} */
      const ended = [];
      tracker.open.forEach((track, i) => {
        if (partner[i] >= 0) trackOf[partner[i]] = track;
        else ended.push(track);
      });
      tracker.open = [];
      for (let j = 0; j < found.n; j++) {
        const track = trackOf[j] ?? { id: nTracks++, firstFrame: frame, z: [], x: [] };
        track.z.push(found.z[j]);
        track.x.push(found.x[j]);
        tracker.open.push(track);
      }
      before = found;
      frame++;
      return ended;
    },
  };
  return tracker;
}

/**
 * Link all frames of a recording.
 * @param {Points[]} frames Bubbles of each frame [px].
 * @param {number} maxDistancePx Longest step, itself allowed [px].
 * @returns {Track[]} All tracks by number; a bubble without a partner is a track of one point.
 */
export function link(frames, maxDistancePx) {
  const tracker = createTracker();
  const tracks = frames.flatMap((found) => tracker.add(found, maxDistancePx));
  return [...tracks, ...tracker.open].sort((a, b) => a.id - b.id);
}

/**
 * Keep tracks of more than `minLength` points: the length itself is not enough.
 * @param {Track[]} tracks
 * @param {number} minLength [frames]
 * @returns {Track[]}
 */
export function dropShort(tracks, minLength) {
  return tracks.filter((track) => track.z.length > minLength);
}
