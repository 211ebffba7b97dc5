// The page: controls, pictures, numbers. All that is computed lies in the other files.

import { addToChain, brightCount, createChain, spotOf } from "./chain.js";
import { createFilm, makeRandom, vesselMask } from "./flow.js";
import { addNoise, drawSpots } from "./image.js";
import { readRecording } from "./read.js";
import { countColour, hotColour } from "./render.js";
import { detectionScores, rmsError } from "./score.js";
import { PRESETS, SLIDERS, USUAL } from "./settings.js";

/** @typedef {import("./chain.js").Chain} Chain */
/** @typedef {import("./chain.js").Settings} Settings */
/** @typedef {import("./flow.js").Shape} Shape */
/** @typedef {import("./flow.js").Truth} Truth */
/** @typedef {import("./locate.js").Method} Method */
/** @typedef {import("./read.js").Recording} Recording */
/** @typedef {import("./settings.js").Slider} Slider */
/**
 * @typedef {object} Source Where frames come from.
 * @property {Shape} shape
 * @property {number} upsample
 * @property {Uint8Array | null} mask Map pixels inside vessels, where they are known.
 * @property {() => boolean} next Put the next frame into `frame`; false where there is none.
 * @property {Float32Array} frame
 * @property {Truth | null} truth
 */
/**
 * @typedef {{canvas: HTMLCanvasElement, image: ImageData, words: Uint32Array}} Picture Words are
 *   pixels of four bytes.
 */

/** @type {Shape} */
const FILM_SHAPE = { nZ: 84, nX: 143 };
const UPSAMPLE = 10;
// A larger map takes too long to show.
const MOST_MAP_PIXELS = 6e6;
/** Screen pixels of a frame's pixel, for sharp marks. */
const ZOOM = 6;
const TAIL_FRAMES = 25;

const settings = { ...USUAL };
const page = {
  play: byId("play", HTMLButtonElement),
  pace: byId("pace", HTMLSelectElement),
  seed: byId("seed", HTMLInputElement),
  method: byId("method", HTMLSelectElement),
  status: byId("status", HTMLElement),
  frame: byId("frame", HTMLCanvasElement),
  showFound: byId("show-found", HTMLInputElement),
  showTrue: byId("show-true", HTMLInputElement),
  showTracks: byId("show-tracks", HTMLInputElement),
  ceiling: byId("ceiling", HTMLElement),
};
let isPlaying = false;
let source = filmSource();
let chain = createChain(source.shape, source.upsample, source.mask);
let mapPicture = pictureOf("map", chain);
let truthPicture = pictureOf("truth", chain);
let ceiling = 0;
let lastTime = 0;
let lastNumbers = 0;
/** Frames of a map after which to stop; 0 for none. */
let stopAt = 0;
/** @type {number[]} Times of the frames of the last second [ms]. */
let frameTimes = [];

/**
 * The element of an id.
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
function byId(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`the page lacks ${id}`);
  return found;
}

// --- sources -------------------------------------------------------------------------------------

/** @returns {Source} The simulation of the seed that is set. */
function filmSource() {
  const seed = Math.max(1, Math.floor(Number(page.seed.value)) || 1);
  const film = createFilm(FILM_SHAPE, seed);
  const random = makeRandom(seed + 1e6);
  const frame = new Float32Array(FILM_SHAPE.nZ * FILM_SHAPE.nX);
  return {
    shape: FILM_SHAPE,
    upsample: UPSAMPLE,
    mask: vesselMask(film.routes, FILM_SHAPE, UPSAMPLE),
    frame,
    truth: film.truth,
    next() {
      film.next(settings.nBubbles, settings.speed);
      drawSpots(film.truth, FILM_SHAPE, spotOf(settings), frame);
      addNoise(frame, settings.noise, random);
      return true;
    },
  };
}

/**
 * Frames of the reader's own.
 * @param {Recording} recording
 * @returns {Source}
 */
function recordingSource({ nT, nZ, nX, values }) {
  let t = 0;
  const n = nZ * nX;
  const frame = new Float32Array(n);
  return {
    shape: { nZ, nX },
    upsample: Math.max(1, Math.min(UPSAMPLE, Math.floor(Math.sqrt(MOST_MAP_PIXELS / n)))),
    mask: null,
    frame,
    truth: null,
    next() {
      if (t >= nT) return false;
      frame.set(values.subarray(t * n, (t + 1) * n));
      t++;
      return true;
    },
  };
}

/** @type {Recording | null} */
let recording = null;

/** Begin the simulation or the recording anew. */
function restart() {
  source = recording ? recordingSource(recording) : filmSource();
  beginMap();
  goOn();
  showAll();
}

/** Begin a new map; the frames go on. */
function beginMap() {
  chain = createChain(source.shape, source.upsample, source.mask);
  mapPicture = pictureOf("map", chain);
  truthPicture = pictureOf("truth", chain);
  ceiling = 0;
  recolour();
}

// --- one frame -----------------------------------------------------------------------------------

/** Take the next frame through the chain. */
function goOn() {
  if (!source.next()) {
    setPlaying(false);
    say("The recording is over. Restart plays it again.");
    return;
  }
  addToChain(chain, source.frame, source.truth, settings);
  colourTouched();
  frameTimes.push(performance.now());
  if (chain.nFrames === stopAt) setPlaying(false);
}

/**
 * Play: called by the browser before each refresh of the screen.
 * @param {number} now [ms]
 */
function play(now) {
  if (!isPlaying) return;
  requestAnimationFrame(play);
  if (page.pace.value === "slow" && !stopAt && now - lastTime < 195) return;
  lastTime = now;
  const begun = performance.now();
  const isFast = page.pace.value === "fast" || stopAt > 0;
  do goOn();
  while (isPlaying && isFast && performance.now() - begun < 12);
  showPictures();
  if (now - lastNumbers > 200) {
    lastNumbers = now;
    showNumbers();
  }
}

/** @param {boolean} value */
function setPlaying(value) {
  if (value && !isPlaying) requestAnimationFrame(play);
  isPlaying = value;
  stopAt = 0;
  page.play.textContent = value ? "Pause" : "Play";
  frameTimes = [];
  if (!value) showAll();
}

// --- pictures ------------------------------------------------------------------------------------

/**
 * The picture of a canvas, black, in the size of the map.
 * @param {string} id
 * @param {Chain} of
 * @returns {Picture}
 */
function pictureOf(id, { map }) {
  const canvas = byId(id, HTMLCanvasElement);
  setSize(canvas, map.nX, map.nZ);
  const image = new ImageData(map.nX, map.nZ);
  return { canvas, image, words: new Uint32Array(image.data.buffer) };
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {number} width
 * @param {number} height
 */
function setSize(canvas, width, height) {
  // Setting it wipes the canvas, even if nothing changes.
  if (canvas.width === width && canvas.height === height) return;
  [canvas.width, canvas.height] = [width, height];
  canvas.style.aspectRatio = `${width} / ${height}`;
}

/** Rows of the map whose colours have changed since they were shown. */
const changedRows = { from: Infinity, to: -1 };

/** Colour the map pixels that the last frame has changed. */
function colourTouched() {
  const bright = brightCount(chain);
  if (bright > ceiling) {
    // In leaps, for a new ceiling changes all colours.
    ceiling = Math.max(4, Math.ceil(1.25 * bright));
    recolour();
    return;
  }
  for (const pixel of chain.touched) {
    mapPicture.words[pixel] = countColour(chain.map.count[pixel], ceiling);
    if (chain.mask) truthPicture.words[pixel] = truthColour(pixel);
    const row = Math.floor(pixel / chain.map.nX);
    if (row < changedRows.from) changedRows.from = row;
    if (row > changedRows.to) changedRows.to = row;
  }
}

/** Colour both maps anew. */
function recolour() {
  const { count, nZ } = chain.map;
  page.ceiling.textContent = String(Math.max(4, ceiling));
  for (let k = 0; k < count.length; k++)
    mapPicture.words[k] = countColour(count[k], Math.max(4, ceiling));
  if (chain.mask) for (let k = 0; k < count.length; k++) truthPicture.words[k] = truthColour(k);
  [changedRows.from, changedRows.to] = [0, nZ - 1];
}

/**
 * Colour of a pixel of the truth: bytes alpha, blue, green, red.
 * @param {number} pixel
 * @returns {number}
 */
function truthColour(pixel) {
  const isDrawn = chain.map.count[pixel] > 0;
  if (chain.mask?.[pixel]) return isDrawn ? 0xfff8f6f2 : 0xff6b5f4d;
  return isDrawn ? 0xff1c9fff : 0xff0a0808;
}

/** Show frame and maps. */
function showPictures() {
  showFrame();
  if (changedRows.to < 0) return;
  const { from, to } = changedRows;
  for (const { canvas, image } of chain.mask ? [mapPicture, truthPicture] : [mapPicture]) {
    canvas.getContext("2d")?.putImageData(image, 0, 0, 0, from, image.width, to - from + 1);
  }
  [changedRows.from, changedRows.to] = [Infinity, -1];
}

const small = document.createElement("canvas");

/** Show the frame, and marks on it. */
function showFrame() {
  const { nZ, nX } = source.shape;
  setSize(small, nX, nZ);
  const zoom = Math.max(1, Math.min(ZOOM, Math.floor(1800 / nX)));
  const canvas = page.frame;
  setSize(canvas, nX * zoom, nZ * zoom);
  const [smallContext, context] = [small.getContext("2d"), canvas.getContext("2d")];
  if (!smallContext || !context) return;
  const image = smallContext.createImageData(nX, nZ);
  const words = new Uint32Array(image.data.buffer);
  for (let k = 0; k < words.length; k++) {
    const grey = Math.min(255, Math.round(255 * source.frame[k]));
    words[k] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
  }
  smallContext.putImageData(image, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, nX * zoom, nZ * zoom);
  // From here on in pixels of the frame, whose origin is the centre of the first.
  context.setTransform(zoom, 0, 0, zoom, zoom / 2, zoom / 2);
  if (page.showTracks.checked) markTracks(context);
  if (page.showTrue.checked && source.truth) markTrue(context, source.truth);
  if (page.showFound.checked) markFound(context);
  context.setTransform(1, 0, 0, 1, 0, 0);
}

/**
 * A cross at each found bubble.
 * @param {CanvasRenderingContext2D} context In pixels of the frame.
 */
function markFound(context) {
  const { n, z, x } = chain.found;
  context.beginPath();
  for (let k = 0; k < n; k++) {
    context.moveTo(x[k] - 0.9, z[k]);
    context.lineTo(x[k] + 0.9, z[k]);
    context.moveTo(x[k], z[k] - 0.9);
    context.lineTo(x[k], z[k] + 0.9);
  }
  stroke(context, "--found", 0.33);
}

/**
 * A circle round each true bubble.
 * @param {CanvasRenderingContext2D} context In pixels of the frame.
 * @param {Truth} truth
 */
function markTrue(context, { n, z, x }) {
  context.beginPath();
  for (let k = 0; k < n; k++) {
    context.moveTo(x[k] + 2.4, z[k]);
    context.arc(x[k], z[k], 2.4, 0, 2 * Math.PI);
  }
  stroke(context, "--true", 0.3);
}

/**
 * The last steps of each track that still runs and is long enough to be drawn.
 * @param {CanvasRenderingContext2D} context In pixels of the frame.
 */
function markTracks(context) {
  context.beginPath();
  for (const { z, x } of chain.tracker.open) {
    if (z.length <= settings.minLength) continue;
    const from = Math.max(0, z.length - TAIL_FRAMES);
    context.moveTo(x[from], z[from]);
    for (let k = from + 1; k < z.length; k++) context.lineTo(x[k], z[k]);
  }
  stroke(context, "--track", 0.3);
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {string} colour Name of a colour of the style sheet.
 * @param {number} width [px]
 */
function stroke(context, colour, width) {
  context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue(colour);
  context.lineWidth = width;
  context.stroke();
}

// --- numbers -------------------------------------------------------------------------------------

/**
 * @param {string} id
 * @param {string} text
 */
function write(id, text) {
  byId(id, HTMLElement).textContent = text;
}

/**
 * A number in words; a dash where it is none.
 * @param {number} value
 * @param {number} digits
 * @param {string} unit
 */
function inWords(value, digits, unit = "") {
  return Number.isFinite(value) ? `${value.toFixed(digits)}${unit}` : "-";
}

/** Show all numbers. */
function showNumbers() {
  const { tally, nFrames, nTracks } = chain;
  const now = performance.now();
  frameTimes = frameTimes.filter((time) => now - time < 1000);
  const elapsed = now - (frameTimes[0] ?? now);
  write(
    "rate",
    isPlaying && elapsed > 300 ? inWords((1000 * (frameTimes.length - 1)) / elapsed, 0) : "-",
  );
  write("frame-count", String(nFrames));
  write("track-count", String(nTracks));
  write("found-count", source.truth ? inWords(tally.nFound / nFrames, 1) : String(chain.found.n));
  if (!source.truth) return;
  const [far, near] = [tally.nFar, tally.nNear].map((n) =>
    detectionScores(n, tally.nFound, tally.nTrue),
  );
  for (const name of /** @type {const} */ (["precision", "recall", "jaccard"])) {
    write(`${name}-far`, inWords(100 * far[name], 0, " %"));
    write(`${name}-near`, inWords(100 * near[name], 0, " %"));
  }
  const [error, bound] = [rmsError(tally), Math.sqrt(chain.boundSquares / tally.nFar)];
  write("error", inWords(error, 3, " px"));
  write("excess", inWords(error / bound, 1, " ×"));
  write("bound", inWords(bound, 3, " px"));
  write("filled", inWords((100 * chain.nInside) / chain.nVessel, 1, " %"));
  write("outside", inWords((100 * chain.nOutside) / (chain.nInside + chain.nOutside), 1, " %"));
}

/** Show pictures and numbers. */
function showAll() {
  showPictures();
  showNumbers();
}

/**
 * Say something below the buttons.
 * @param {string} text
 * @param {boolean} isWrong
 */
function say(text, isWrong = false) {
  page.status.textContent = text;
  page.status.classList.toggle("wrong", isWrong);
}

// --- controls ------------------------------------------------------------------------------------

/**
 * Make a slider with its label, value and help.
 * @param {Slider} slider
 */
function addSlider({ name, group, label, help, min, max, step, unit }) {
  const control = document.createElement("div");
  control.className = "control";
  const title = Object.assign(document.createElement("label"), {
    htmlFor: name,
    textContent: label,
  });
  const value = Object.assign(document.createElement("output"), { id: `${name}-value` });
  value.setAttribute("for", name);
  const input = Object.assign(document.createElement("input"), { type: "range", id: name });
  [input.min, input.max, input.step] = [min, max, step].map(String);
  input.setAttribute("aria-describedby", `${name}-help`);
  const line = Object.assign(document.createElement("small"), {
    id: `${name}-help`,
    textContent: help,
  });
  control.append(title, value, input, line);
  byId(`${group}-controls`, HTMLFieldSetElement).append(control);
  input.dataset.unit = unit;
  input.addEventListener("input", () => {
    settings[name] = Number(input.value);
    changed();
  });
}

/** Colour the scale below the map, whose colours follow the square root of the count. */
function colourScale() {
  const colours = Array.from(
    { length: 17 },
    (_, k) => `rgb(${hotColour(Math.sqrt(k / 16)).join(" ")})`,
  );
  byId("scale", HTMLElement).style.background = `linear-gradient(90deg, ${colours.join(", ")})`;
}

/** Bring the sliders to the settings. */
function showSettings() {
  for (const { name, unit } of SLIDERS) {
    const input = byId(name, HTMLInputElement);
    input.value = String(settings[name]);
    const words = unit === "×" ? `${settings[name]} ×` : `${settings[name]} ${unit}`.trim();
    byId(`${name}-value`, HTMLOutputElement).value = words;
    input.setAttribute("aria-valuetext", words);
  }
  page.method.value = settings.method;
  for (const [k, { settings: changes }] of PRESETS.entries()) {
    const preset = { ...USUAL, ...changes };
    const names = /** @type {(keyof Settings)[]} */ (Object.keys(preset));
    const isSet = names.every((name) => preset[name] === settings[name]);
    byId(`preset-${k}`, HTMLButtonElement).setAttribute("aria-pressed", String(isSet));
  }
}

let isChangePending = false;

/** A setting has changed: begin a new map, and show what the next frame makes of it. */
function changed() {
  say("A setting has changed, so a new map begins.");
  showSettings();
  // A moving slider changes more often than the screen is refreshed.
  if (isChangePending) return;
  isChangePending = true;
  requestAnimationFrame(() => {
    isChangePending = false;
    beginMap();
    if (!isPlaying) goOn();
    showAll();
  });
}

/** Make the buttons of all presets. */
function addPresets() {
  const row = document.querySelector(".presets");
  PRESETS.forEach(({ name, says, settings: changes }, k) => {
    const button = Object.assign(document.createElement("button"), {
      type: "button",
      id: `preset-${k}`,
      textContent: name,
    });
    button.addEventListener("click", () => {
      Object.assign(settings, USUAL, changes);
      changed();
      say(says);
    });
    row?.append(button);
  });
}

/**
 * Read the reader's recording.
 * @param {File | undefined} file
 */
async function openFile(file) {
  if (!file) return;
  say(`Reading ${file.name}.`);
  try {
    recording = readRecording(await file.arrayBuffer());
  } catch (error) {
    say(`${file.name}: ${error instanceof Error ? error.message : error}`, true);
    return;
  }
  const { nT, nZ, nX } = recording;
  showSourceKind();
  restart();
  const finer =
    source.upsample < UPSAMPLE
      ? ` Its map is only ${source.upsample} times finer, for it is large.`
      : "";
  say(
    `${file.name}: ${nT} frames of ${nZ} × ${nX} px, scaled to a highest amplitude of 1. ` +
      `Its truth is not known, so there are no scores. It stays on this machine.${finer}`,
  );
}

/** Show or hide what only a simulation has. */
function showSourceKind() {
  for (const part of document.querySelectorAll(".truth-only"))
    part.toggleAttribute("hidden", recording !== null);
  byId("film", HTMLButtonElement).hidden = recording === null;
  byId("seed-field", HTMLElement).hidden = recording !== null;
  byId("film-controls", HTMLFieldSetElement).hidden = recording !== null;
}

/** Save the map as a picture. */
function saveMap() {
  mapPicture.canvas.toBlob((blob) => {
    if (!blob) return;
    const link = Object.assign(document.createElement("a"), {
      href: URL.createObjectURL(blob),
      download: "ulm-map.png",
    });
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

/**
 * Space, left and right, unless the element in focus wants them itself.
 * @param {KeyboardEvent} event
 */
function onKey(event) {
  const { target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || !(target instanceof HTMLElement)) return;
  const isSlider = target instanceof HTMLInputElement && target.type === "range";
  const wantsAll = target.matches("select, input") && !isSlider;
  if (
    wantsAll ||
    (event.key === " " && target.matches("button")) ||
    (event.key !== " " && isSlider)
  )
    return;
  if (event.key === " ") setPlaying(!isPlaying);
  else if (event.key === "ArrowRight") oneFrame();
  else if (event.key === "ArrowLeft") restart();
  else return;
  event.preventDefault();
}

/** Begin a new map, as fast as it goes, and stop after 1000 frames. */
function runThousand() {
  beginMap();
  setPlaying(true);
  stopAt = 1000;
}

/** Stop, and go on by one frame. */
function oneFrame() {
  if (isPlaying) setPlaying(false);
  goOn();
  showAll();
}

/** Connect buttons, fields, keys and files. */
function connect() {
  page.play.addEventListener("click", () => setPlaying(!isPlaying));
  byId("step", HTMLButtonElement).addEventListener("click", oneFrame);
  byId("restart", HTMLButtonElement).addEventListener("click", restart);
  byId("thousand", HTMLButtonElement).addEventListener("click", runThousand);
  byId("save", HTMLButtonElement).addEventListener("click", saveMap);
  byId("film", HTMLButtonElement).addEventListener("click", () => {
    recording = null;
    say("");
    showSourceKind();
    restart();
  });
  page.seed.addEventListener("change", restart);
  page.method.addEventListener("change", () => {
    settings.method = /** @type {Method} */ (page.method.value);
    changed();
  });
  for (const box of [page.showFound, page.showTrue, page.showTracks])
    box.addEventListener("change", showFrame);
  document.addEventListener("keydown", onKey);
  const file = byId("file", HTMLInputElement);
  file.addEventListener("change", () => {
    openFile(file.files?.[0]);
    file.value = ""; // so that the same file can be chosen again
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.toggle("dropping", kind === "dragover");
      if (event instanceof DragEvent && kind === "drop") openFile(event.dataTransfer?.files[0]);
    });
  }
}

/** Inside the book: follow its colours, and tell it how high the page is. */
function followBook() {
  if (window.parent === window) return;
  document.documentElement.classList.add("embedded");
  const tellHeight = () =>
    window.parent.postMessage({ ulmLabHeight: document.documentElement.offsetHeight }, "*");
  new ResizeObserver(tellHeight).observe(document.body);
  window.addEventListener("message", ({ source: from, data }) => {
    const theme = data?.ulmTheme;
    if (from !== window.parent || (theme !== "light" && theme !== "dark")) return;
    document.documentElement.dataset.theme = theme;
    tellHeight(); // the book may not have listened before
  });
}

SLIDERS.forEach(addSlider);
addPresets();
colourScale();
showSettings();
connect();
followBook();
say(PRESETS[0].says);
restart();
// Who asks for little motion begins with a still frame.
if (!window.matchMedia("(prefers-reduced-motion: reduce)").matches) setPlaying(true);
