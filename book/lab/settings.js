// The settings of the page: what the sliders and the buttons beside "Try" offer.

/** @typedef {import("./chain.js").Settings} Settings */
/** @typedef {Exclude<keyof Settings, "method">} SliderName */
/**
 * @typedef {object} Slider
 * @property {SliderName} name
 * @property {"film" | "locate" | "link"} group
 * @property {string} label
 * @property {string} help
 * @property {number} min
 * @property {number} max
 * @property {number} step
 * @property {string} unit
 */

/** @type {Settings} */
export const USUAL = {
  nBubbles: 20,
  noise: 0.04,
  spotPx: 1.2,
  speed: 1,
  method: "radial",
  nPeaks: 25,
  threshold: 0.2,
  maxDistancePx: 2,
  minLength: 8,
};

/** @type {Slider[]} */
export const SLIDERS = [
  {
    name: "nBubbles",
    group: "film",
    label: "Bubbles a frame",
    min: 1,
    max: 200,
    step: 1,
    unit: "",
    help: "More fill the map sooner, until spots merge.",
  },
  {
    name: "noise",
    group: "film",
    label: "Noise",
    min: 0,
    max: 0.3,
    step: 0.01,
    unit: "",
    help: "Standard deviation; bubbles reach 0.6 to 1.",
  },
  {
    name: "spotPx",
    group: "film",
    label: "Spot width",
    min: 0.6,
    max: 3,
    step: 0.1,
    unit: "px",
    help: "Standard deviation across; 15 % less in depth.",
  },
  {
    name: "speed",
    group: "film",
    label: "Speed",
    min: 0.1,
    max: 6,
    step: 0.1,
    unit: "×",
    help: "At 1, bubbles move 0.05 to 1 px a frame.",
  },
  {
    name: "nPeaks",
    group: "locate",
    label: "Peaks a frame",
    min: 1,
    max: 250,
    step: 1,
    unit: "",
    help: "At most so many; more bring in noise.",
  },
  {
    name: "threshold",
    group: "locate",
    label: "Threshold",
    min: 0,
    max: 1,
    step: 0.01,
    unit: "",
    help: "Peaks must be higher than this.",
  },
  {
    name: "maxDistancePx",
    group: "link",
    label: "Linking distance",
    min: 0.2,
    max: 8,
    step: 0.1,
    unit: "px",
    help: "Longest step; a longer one links strangers.",
  },
  {
    name: "minLength",
    group: "link",
    label: "Drop tracks up to",
    min: 0,
    max: 60,
    step: 1,
    unit: "frames",
    help: "Longer ones are drawn; few are chance.",
  },
];

/** @type {{name: string, says: string, settings: Partial<Settings>}[]} */
export const PRESETS = [
  {
    name: "usual",
    says: "The usual settings: most bubbles are found, and the map stays clean.",
    settings: {},
  },
  {
    name: "false tracks",
    says: "Too many peaks, linked too far: noise becomes tracks, and the map shows false vessels.",
    settings: { nPeaks: 150, threshold: 0.05, maxDistancePx: 5, minLength: 3 },
  },
  {
    name: "more noise",
    says: "Three times the noise: the error rises, and the bound with it.",
    settings: { noise: 0.12, threshold: 0.35 },
  },
  {
    name: "crowd",
    says: "Too many bubbles: spots merge, and most bubbles are lost.",
    settings: { nBubbles: 120, nPeaks: 200 },
  },
  {
    name: "fast flow",
    says: "Bubbles outrun the linking distance; smoothing over 19 frames cuts the bends.",
    settings: { speed: 5 },
  },
  {
    name: "no sub-pixel places",
    says: "Bubbles sit in the middle of pixels: tracks climb in stairs, which smoothing hides.",
    settings: { method: "none" },
  },
];
