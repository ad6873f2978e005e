/** The map of a probe: for each family a row for each layer, a column for each measured level, the metric as colour. */

import { digits, drawn, make } from "./dom.js";
import { colour } from "./theme.js";

// viridis, from low to high: readable without telling colours apart, and in grey
const STOPS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const [LEFT, RIGHT, BOTTOM] = [150, 8, 34];
const NONE = [150, 150, 150];
const LETTER = 5.6; // pixels of a letter at the size of the names

const CHANNELS = STOPS.map((stop) => [1, 3, 5].map((at) => Number.parseInt(stop.slice(at, at + 2), 16)));

/**
 * Return the colour of a value as red, green and blue.
 *
 * @param {number} value
 * @param {[number, number]} scale
 * @param {boolean} reversed so that dark is always worse
 */
function shade(value, [low, high], reversed) {
  if (!Number.isFinite(value)) return NONE;
  const share = Math.min(1, Math.max(0, (value - low) / (high - low)));
  const place = (reversed ? 1 - share : share) * (CHANNELS.length - 1);
  const first = Math.min(CHANNELS.length - 2, Math.floor(place));
  return CHANNELS[first].map((from, i) => Math.round(from + (place - first) * (CHANNELS[first + 1][i] - from)));
}

/**
 * Return pixels as a picture that needs no file.
 *
 * @param {number} width
 * @param {number} height
 * @param {(x: number, y: number) => number[]} pixel
 */
function pixels(width, height, pixel) {
  const canvas = /** @type {HTMLCanvasElement} */ (make("canvas", { width, height }));
  const context = canvas.getContext("2d");
  if (context === null) return "";
  const image = context.createImageData(width, height);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) image.data.set([...pixel(x, y), 255], 4 * (y * width + x));
  }
  context.putImageData(image, 0, 0);
  return canvas.toDataURL();
}

/**
 * Return values as a picture with a pixel for each cell of a map, which `drawMap` stretches.
 *
 * @param {number} layers
 * @param {number} columns
 * @param {(layer: number, column: number) => number} value
 * @param {[number, number]} scale
 * @param {boolean} reversed
 */
export function mapPicture(layers, columns, value, scale, reversed) {
  return pixels(columns, layers, (x, y) => shade(value(y, x), scale, reversed));
}

/**
 * Return the map of one family.
 *
 * @param {{names: string[], levels: number[], href: string, identity: number, axis: string, description: string,
 *   width: number, chosen: {layer: number, column: number} | null}} map
 */
export function drawMap({ names, levels, href, identity, axis, description, width, chosen }) {
  const longest = Math.max(...names.map((name) => name.length));
  const left = Math.min(LEFT, 12 + LETTER * longest, width / 3);
  const row = Math.max(2, Math.min(22, Math.max(64, Math.min(560, 16 * names.length)) / names.length));
  const [inner, height] = [width - left - RIGHT, row * names.length];
  const step = inner / levels.length;
  const size = { width, height: height + BOTTOM };
  const svg = drawn("svg", { ...size, viewBox: `0 0 ${width} ${size.height}`, role: "img", "aria-label": description });
  const look = { preserveAspectRatio: "none", style: "image-rendering: pixelated" };
  svg.append(drawn("image", { href, x: left, y: 0, width: inner, height, ...look }));
  const text = { fill: colour("ink"), "font-size": 10.5, "font-family": "system-ui, sans-serif" };
  const every = Math.ceil(12 / row);
  const most = Math.floor((left - 8) / LETTER);
  names.forEach((name, i) => {
    if (i % every) return;
    const short = name.length > most ? `…${name.slice(1 - most)}` : name;
    svg.append(drawn("text", { x: left - 5, y: (i + 0.5) * row + 3.5, "text-anchor": "end", ...text }, short));
  });
  const labelled = Math.max(1, Math.ceil(levels.length / Math.max(2, Math.floor(inner / 62))));
  levels.forEach((level, i) => {
    if (i % labelled) return;
    const x = left + (i + 0.5) * step;
    svg.append(drawn("line", { x1: x, x2: x, y1: height, y2: height + 4, stroke: colour("muted") }));
    svg.append(drawn("text", { x, y: height + 15, "text-anchor": "middle", ...text }, digits(level)));
  });
  svg.append(drawn("text", { x: left + inner / 2, y: height + 30, "text-anchor": "middle", ...text }, axis));
  if (identity >= 0) {
    const x = left + (identity + 0.5) * step;
    const line = { x1: x, x2: x, y1: 0, y2: height, "stroke-width": 1.2 };
    svg.append(drawn("line", { ...line, stroke: "#ffffff" }));
    svg.append(drawn("line", { ...line, stroke: "#000000", "stroke-dasharray": "3 3" }));
  }
  if (chosen !== null) {
    const box = { x: left + chosen.column * step, y: chosen.layer * row, width: Math.max(step, 3), height: Math.max(row, 3) };
    svg.append(drawn("rect", { ...box, fill: "none", stroke: "#ffffff", "stroke-width": 4 }));
    svg.append(drawn("rect", { ...box, fill: "none", stroke: "#000000", "stroke-width": 2 }));
  }
  /** @type {(event: MouseEvent) => {layer: number, column: number} | null} */
  const find = (event) => {
    const outer = svg.getBoundingClientRect();
    const [x, y] = [((event.clientX - outer.left) * width) / outer.width, ((event.clientY - outer.top) * width) / outer.width];
    const place = { layer: Math.floor(y / row), column: Math.floor((x - left) / step) };
    const inside = place.layer >= 0 && place.layer < names.length && place.column >= 0 && place.column < levels.length;
    return inside ? place : null;
  };
  return { svg, find };
}

/**
 * Return the scale of colours, with an arrow at the unperturbed value.
 *
 * @param {[number, number]} scale
 * @param {boolean} reversed
 * @param {number | null} base
 * @param {(value: number) => string} write
 * @param {string} title
 */
export function drawScale(scale, reversed, base, write, title) {
  const [width, left] = [320, 40];
  const svg = drawn("svg", { width, height: 52, viewBox: `0 0 ${width} 52`, role: "img", "aria-label": `Colours of ${title}` });
  const inner = width - 2 * left;
  const [low, high] = scale;
  const href = pixels(256, 1, (x) => shade(low + (x / 255) * (high - low), scale, reversed));
  svg.append(drawn("image", { href, x: left, y: 16, width: inner, height: 12, preserveAspectRatio: "none" }));
  const text = { fill: colour("ink"), "font-size": 11, "font-family": "system-ui, sans-serif", "text-anchor": "middle" };
  svg.append(drawn("text", { x: left, y: 42, ...text }, write(low)));
  svg.append(drawn("text", { x: left + inner, y: 42, ...text }, write(high)));
  svg.append(drawn("text", { x: left + inner / 2, y: 42, ...text }, title));
  if (base !== null) {
    const x = left + inner * Math.min(1, Math.max(0, (base - low) / (high - low)));
    svg.append(drawn("path", { d: `M${x - 5} 6h10l-5 9z`, fill: colour("ink") }));
  }
  return svg;
}
