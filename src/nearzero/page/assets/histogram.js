/**
 * Histograms with a row for each class, drawn as SVG: fast enough to follow a slider.
 *
 * @typedef {{x: number, dashed: boolean, label: string}} Line
 * @typedef {{values: ArrayLike<number>, rows: ArrayLike<number>, rowCount: number, rowLabel: (row: number) => string,
 *   wrong: ArrayLike<number> | null, domain: [number, number], logarithmic?: boolean, title: string, lines: Line[],
 *   description: string, yTitle?: string}} HistogramValues
 */

import { digits, drawn } from "./dom.js";
import { saveCsv, savePng, saveSvg, sourceOf } from "./downloads.js";
import { colour } from "./theme.js";

const BINS = 48;
const LEFT = 34;
const BOTTOM = 36;
/** @type {Map<string, {svg: SVGElement, values: HistogramValues, counts: Float64Array}>} */
const shown = new Map();

/**
 * Draw a histogram into an element.
 *
 * @param {HTMLElement} element
 * @param {HistogramValues} values
 * @param {number} rowHeight
 */
export function drawHistogram(element, values, rowHeight) {
  const width = Math.max(260, element.clientWidth);
  const height = values.rowCount * rowHeight + BOTTOM + 6;
  const to = values.logarithmic ? Math.log : Number;
  const [low, high] = values.domain.map(to);
  const place = (/** @type {number} */ x) => LEFT + ((to(x) - low) / (high - low)) * (width - LEFT - 10);
  const counts = count(values, to, low, high);
  const unit = (rowHeight - 3) / scaleOf(counts, values.rowCount);
  const ink = colour("ink");
  const step = (width - LEFT - 10) / BINS;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "font-size": 11 });
  svg.setAttribute("aria-label", values.description);
  for (let row = 0; row < values.rowCount; row += 1) {
    const base = 4 + (row + 1) * rowHeight;
    svg.append(drawn("path", { d: bars(counts, row, 0, base, step, unit, rowHeight), fill: colour("bar") }));
    if (values.wrong !== null) {
      svg.append(drawn("path", { d: bars(counts, row, 1, base, step, unit, rowHeight), fill: colour("wrong") }));
    }
    svg.append(drawn("line", { x1: LEFT, x2: width - 10, y1: base, y2: base, stroke: colour("line") }));
    for (let bin = 0; bin < BINS; bin += 1) {
      const size = counts[row * 2 * BINS + bin];
      if (size * unit <= rowHeight - 2) continue; // cut bars say how tall they are
      const end = bin > BINS / 2;
      const x = LEFT + (end ? bin * step - 3 : (bin + 1) * step + 3);
      const at = { x, y: base - rowHeight + 11, fill: ink, "text-anchor": end ? "end" : "start", "font-size": 9 };
      svg.append(drawn("text", at, String(size)));
    }
    const label = values.rowLabel(row);
    svg.append(drawn("text", { x: LEFT - 6, y: base - 2, fill: ink, "text-anchor": "end" }, label));
  }
  const floor = 4 + values.rowCount * rowHeight;
  if (values.yTitle !== undefined) svg.append(...yAxis(values.yTitle, Math.round((rowHeight - 3) / unit), floor, ink));
  for (const tick of ticks(values.domain, values.logarithmic === true)) {
    const x = place(tick);
    svg.append(drawn("line", { x1: x, x2: x, y1: floor, y2: floor + 4, stroke: ink }));
    svg.append(drawn("text", { x, y: floor + 15, fill: ink, "text-anchor": "middle" }, digits(tick)));
  }
  const title = { x: (LEFT + width) / 2, y: height - 4, fill: ink, "text-anchor": "middle" };
  svg.append(drawn("text", title, values.title));
  for (const { x, dashed, label } of values.lines) {
    if (!(x >= values.domain[0] && x <= values.domain[1])) continue;
    const at = place(x);
    const line = drawn("line", { x1: at, x2: at, y1: 0, y2: floor, stroke: ink, "stroke-width": 1.6 });
    if (dashed) line.setAttribute("stroke-dasharray", "5 3");
    line.append(drawn("title", {}, `${label}: ${digits(x)}`));
    svg.append(line);
  }
  element.replaceChildren(svg);
  shown.set(element.id, { svg, values, counts });
}

/**
 * Return the y axis of a histogram with one row: the count that is as tall as the row, 0, and a title between them.
 *
 * @param {string} title
 * @param {number} most
 * @param {number} floor
 * @param {string} ink
 */
function yAxis(title, most, floor, ink) {
  const middle = floor / 2 + 4;
  const turned = { x: 10, y: middle, fill: ink, "text-anchor": "middle", transform: `rotate(-90 10 ${middle})` };
  const top = { x: LEFT - 6, y: 15, fill: ink, "text-anchor": "end" };
  const zero = { x: LEFT - 6, y: floor - 2, fill: ink, "text-anchor": "end" };
  return [drawn("text", turned, title), drawn("text", top, String(most)), drawn("text", zero, "0")];
}

/**
 * Count the values in each bin: by row, then right and wrong, then bin. Values beyond the domain go to the last bins.
 *
 * @param {HistogramValues} values
 * @param {(x: number) => number} to
 * @param {number} low
 * @param {number} high
 */
function count(values, to, low, high) {
  const counts = new Float64Array(values.rowCount * 2 * BINS);
  for (let n = 0; n < values.values.length; n += 1) {
    const x = values.values[n];
    if (Number.isNaN(x)) continue;
    const bin = Math.max(0, Math.min(BINS - 1, Math.floor(((to(x) - low) / (high - low)) * BINS)));
    counts[(values.rows[n] * 2 + (values.wrong !== null && values.wrong[n] ? 1 : 0)) * BINS + bin] += 1;
  }
  for (let row = 0; row < values.rowCount; row += 1) {
    // the first half is drawn behind the second, so it has the whole height
    for (let bin = 0; bin < BINS; bin += 1) counts[row * 2 * BINS + bin] += counts[(row * 2 + 1) * BINS + bin];
  }
  return counts;
}

/**
 * Return the count that is as tall as a row: the greatest one, but for the tallest bar of each row, which a clip makes.
 *
 * @param {Float64Array} counts
 * @param {number} rowCount
 */
function scaleOf(counts, rowCount) {
  let most = 1;
  for (let row = 0; row < rowCount; row += 1) {
    const sizes = counts.slice(row * 2 * BINS, (row * 2 + 1) * BINS).sort();
    const [second, first] = [sizes[BINS - 2], sizes[BINS - 1]];
    most = Math.max(most, first > 3 * second ? second : first);
  }
  return most;
}

/**
 * Return the path of the bars of a row; a bar that would leave the row is made as tall as the row, all of its parts.
 *
 * @param {Float64Array} counts
 * @param {number} row
 * @param {number} half
 * @param {number} base
 * @param {number} step
 * @param {number} unit
 * @param {number} rowHeight
 */
function bars(counts, row, half, base, step, unit, rowHeight) {
  let path = "";
  for (let bin = 0; bin < BINS; bin += 1) {
    const size = counts[(row * 2 + half) * BINS + bin];
    if (!size) continue;
    // a cut bar keeps the share of wrong predictions
    const fitting = Math.min(unit, (rowHeight - 2) / counts[row * 2 * BINS + bin]);
    const height = Math.max(1, size * fitting);
    path += `M${(LEFT + bin * step).toFixed(1)} ${base}v${(-height).toFixed(1)}h${(step * 0.92).toFixed(1)}v${height.toFixed(1)}z`;
  }
  return path;
}

/**
 * Return round numbers in a domain.
 *
 * @param {[number, number]} domain
 * @param {boolean} logarithmic
 */
function ticks([low, high], logarithmic) {
  if (logarithmic) {
    const first = Math.ceil(Math.log10(low) - 1e-9);
    const last = Math.floor(Math.log10(high) + 1e-9);
    return Array.from({ length: last - first + 1 }, (_, i) => 10 ** (first + i));
  }
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10) * power;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => (first + i) * step);
}

/** Make the buttons that save histograms work. */
export function startHistograms() {
  for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-save]"))) {
    button.addEventListener("click", () => {
      const name = button.dataset.of ?? "";
      const held = shown.get(name);
      if (held === undefined) return;
      const source = sourceOf(held.svg, colour("paper"));
      if (button.dataset.save === "svg") saveSvg(name, source);
      else if (button.dataset.save === "png") {
        savePng(name, source, Number(held.svg.getAttribute("width")), Number(held.svg.getAttribute("height")));
      } else saveCounts(name, held);
    });
  }
}

/**
 * Offer the counts of a histogram as CSV.
 *
 * @param {string} name
 * @param {{values: HistogramValues, counts: Float64Array}} held
 */
function saveCounts(name, { values, counts }) {
  const [to, from] = values.logarithmic ? [Math.log, Math.exp] : [Number, Number];
  const [low, high] = values.domain.map(to);
  const rows = [];
  for (let row = 0; row < values.rowCount; row += 1) {
    for (let bin = 0; bin < BINS; bin += 1) {
      const edges = [bin, bin + 1].map((edge) => from(low + (edge / BINS) * (high - low)));
      const whole = counts[row * 2 * BINS + bin];
      rows.push([values.rowLabel(row), ...edges, whole, counts[(row * 2 + 1) * BINS + bin]]);
    }
  }
  saveCsv(name, ["row", "from", "to", "examples", "predicted_wrong"], rows);
}
