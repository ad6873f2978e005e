/**
 * The page of a probe: the map, and what belongs to the chosen cell. Nothing is computed anew: the slider steps over
 * the levels that were measured.
 */

import { array, hasArray } from "./arrays.js";
import { chartsOf } from "./charts.js";
import { byId, digits, drawn, eachFrame, make, page } from "./dom.js";
import { saveCsv, savePng, saveSvg, sourceOf } from "./downloads.js";
import { Items } from "./items.js";
import { drawMap, drawScale, mapPicture } from "./layer_map.js";
import { sortableTable } from "./tables.js";
import { colour, onTheme } from "./theme.js";

/** @typedef {import("./items.js").Metric} Metric */

const MOST_UNITS = 2000; // rows of the table

/**
 * Write a value of a metric: shares in percent.
 *
 * @param {Metric} metric
 * @param {number} value
 */
function write(metric, value) {
  if (!Number.isFinite(value)) return "not finite";
  return metric.share ? `${(100 * value).toFixed(2).replace("-", "−")}\u00a0%` : digits(value, 4);
}

/**
 * Write a change of a metric, of shares in points.
 *
 * @param {Metric} metric
 * @param {number} change
 */
function writeChange(metric, change) {
  if (!Number.isFinite(change)) return "–";
  return metric.share ? (100 * change).toFixed(2).replace("-", "−") : digits(change, 4);
}

/**
 * Return a table as rows of texts, for a file: numbers in full.
 *
 * @param {Element} place
 */
function saveTable(place) {
  const table = place.querySelector("table");
  if (table === null) return;
  const rows = [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.dataset.value ?? cell.textContent));
  saveCsv(place.id, [...(table.tHead?.rows[0].cells ?? [])].map((cell) => cell.textContent ?? ""), rows);
}

/**
 * Return all controls of one kind: metric, layer, family or level; or the outputs of a level.
 *
 * @param {string} kind
 * @returns {HTMLInputElement[]}
 */
function controls(kind) {
  return [.../** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll(`[data-cell="${kind}"]`))];
}

class Probe {
  constructor() {
    this.values = page.probe;
    this.levels = array("cell/level");
    this.starts = array("cell/start");
    this.families = this.values.families.length;
    this.layer = 0;
    this.family = 0;
    /** @type {Metric} */
    this.metric = this.values.metrics[0];
    this.cell = this.starts[0];
    this.charts = chartsOf("cell");
    /** @type {Map<string, string>} */
    this.pictures = new Map();
    this.items = this.values.items === undefined ? null : new Items(write, writeChange);
    this.update = eachFrame(() => this.show());
    this.columns = this.values.families.map((/** @type {any} */ _, /** @type {number} */ family) => this.familyLevels(family));
    this.fill("layer", this.values.layers);
    this.fill("family", this.values.families.map((/** @type {any} */ each) => each.name));
    this.follow("metric", "change", (value) => {
      this.metric = this.values.metrics.find((/** @type {Metric} */ each) => each.name === value);
      this.choose(this.layer, this.family, this.cell);
    });
    this.follow("layer", "change", (value) => this.nearest(Number(value), this.family));
    this.follow("family", "change", (value) => this.nearest(this.layer, Number(value)));
    this.follow("level", "input", (value) => {
      this.cell = this.start() + Number(value);
      this.update();
    });
    for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-probe-save]"))) {
      button.addEventListener("click", () => this.save(button.dataset.of ?? "", button.dataset.probeSave ?? ""));
    }
    this.makeMaps();
    onTheme(() => this.showAll());
    let width = innerWidth;
    addEventListener("resize", () => {
      if (innerWidth !== width) this.showAll();
      width = innerWidth;
    });
    this.choose(...this.worst());
  }

  /**
   * Fill the lists of choices of one kind.
   *
   * @param {string} kind
   * @param {string[]} names
   */
  fill(kind, names) {
    for (const list of controls(kind)) list.replaceChildren(...names.map((name, i) => make("option", { value: i }, name)));
  }

  /**
   * Run a function with the value of any control of one kind that the reader changes.
   *
   * @param {string} kind
   * @param {string} event
   * @param {(value: string) => void} work
   */
  follow(kind, event, work) {
    for (const control of controls(kind)) control.addEventListener(event, () => work(control.value));
  }

  /** Return all levels of a family, ascending. @param {number} family */
  familyLevels(family) {
    /** @type {Set<number>} */
    const levels = new Set();
    for (let layer = 0; layer < this.values.layers.length; layer += 1) {
      const place = layer * this.families + family;
      for (let cell = this.starts[place]; cell < this.starts[place + 1]; cell += 1) levels.add(this.levels[cell]);
    }
    return [...levels].sort((a, b) => a - b);
  }

  start(layer = this.layer, family = this.family) {
    return this.starts[layer * this.families + family];
  }

  end(layer = this.layer, family = this.family) {
    return this.starts[layer * this.families + family + 1];
  }

  /** Return the cell of a level; -1 if it wasn't measured. @param {number} layer @param {number} family @param {number} level */
  find(layer, family, level) {
    let [low, high] = [this.start(layer, family), this.end(layer, family) - 1];
    while (low <= high) {
      const middle = (low + high) >> 1;
      if (this.levels[middle] === level) return middle;
      if (this.levels[middle] < level) low = middle + 1;
      else high = middle - 1;
    }
    return -1;
  }

  /** Return layer, family and cell of the value that differs most from the unperturbed one. @returns {[number, number, number]} */
  worst() {
    const means = array(`mean/${this.metric.name}`);
    const base = this.metric.base ?? 0;
    let found = this.starts[0];
    let greatest = -1;
    means.forEach((mean, cell) => {
      if (Math.abs(mean - base) > greatest) [greatest, found] = [Math.abs(mean - base), cell];
    });
    let place = 0;
    while (this.starts[place + 1] <= found) place += 1;
    return [Math.floor(place / this.families), place % this.families, found];
  }

  /** Choose the measured level that is nearest to the present one. @param {number} layer @param {number} family */
  nearest(layer, family) {
    const same = family === this.family;
    const level = this.levels[this.cell];
    const share = (this.cell - this.start()) / Math.max(1, this.end() - 1 - this.start());
    const [start, end] = [this.start(layer, family), this.end(layer, family)];
    let cell = start + Math.round(share * Math.max(0, end - 1 - start));
    if (same) {
      for (let each = start; each < end; each += 1) {
        if (Math.abs(this.levels[each] - level) < Math.abs(this.levels[cell] - level)) cell = each;
      }
    }
    this.choose(layer, family, cell);
  }

  /** @param {number} layer @param {number} family @param {number} cell */
  choose(layer, family, cell) {
    Object.assign(this, { layer, family, cell });
    for (const [kind, value] of Object.entries({ layer, family, metric: this.metric.name })) {
      for (const control of controls(kind)) control.value = String(value);
    }
    this.showAll();
  }

  /** Show what depends on layer, family and metric, and then what depends on the level too. */
  showAll() {
    this.showCurve();
    this.showUnits();
    this.show();
  }

  /** The chosen cell in words. */
  get where() {
    const { name } = this.values.families[this.family];
    return `${name} at ${digits(this.levels[this.cell], 4)} in layer ${this.values.layers[this.layer]}`;
  }

  get measured() {
    return this.cell < this.end() && this.cell >= this.start();
  }

  show() {
    const place = this.cell - this.start();
    const level = this.measured ? digits(this.levels[this.cell], 4) : "–";
    for (const slider of controls("level")) {
      slider.max = String(Math.max(0, this.end() - 1 - this.start()));
      slider.value = String(place);
      slider.disabled = !this.measured;
      slider.setAttribute("aria-valuetext", level);
    }
    for (const output of controls("value")) output.textContent = level;
    const words = `${place + 1} of ${this.end() - this.start()} measured levels`;
    for (const output of controls("place")) output.textContent = this.measured ? words : "";
    this.showMaps();
    const outcome = byId("cell-outcome");
    if (!this.measured) {
      outcome.textContent = "This family wasn't measured in this layer.";
      byId("cell-words").textContent = outcome.textContent;
      return;
    }
    const { metric } = this;
    const value = array(`mean/${metric.name}`)[this.cell];
    const parts = [`${metric.label} ${write(metric, value)}${this.interval(metric)}`];
    if (metric.base !== null) {
      const change = `${writeChange(metric, value - metric.base)} ${metric.share ? "points" : metric.unit}`.trim();
      parts.push(`unperturbed ${write(metric, metric.base)}, change ${change}`);
    }
    const lost = hasArray("cell/not-finite") ? array("cell/not-finite")[this.cell] : 0;
    if (lost) parts.push(`${lost} items have logits that are NaN or infinite`);
    const others = this.values.metrics.filter((/** @type {Metric} */ each) => each !== metric);
    for (const each of others) parts.push(`${each.label} ${write(each, array(`mean/${each.name}`)[this.cell])}`);
    Object.assign(outcome.dataset, { value, level: this.levels[this.cell], cell: this.cell });
    for (const id of ["cell-outcome", "cell-words"]) {
      byId(id).replaceChildren(make("strong", {}, `${this.where}: ${parts[0]}`), `; ${parts.slice(1).join("; ")}.`);
    }
    this.markCurve();
    this.showClasses();
    this.items?.at(metric, this.cell, this.where);
  }

  /** Return the ends of the interval in brackets. @param {Metric} metric */
  interval(metric) {
    if (!hasArray(`low/${metric.name}`)) return "";
    const [low, high] = ["low", "high"].map((end) => array(`${end}/${metric.name}`)[this.cell]);
    if (!Number.isFinite(low)) return "";
    return ` (95 % interval ${write(metric, low).replace("\u00a0%", "")} to ${write(metric, high)})`;
  }

  // --- the map ---

  makeMaps() {
    const place = byId("layer-maps");
    const figures = this.values.families.map((/** @type {any} */ each, /** @type {number} */ family) => {
      const buttons = ["PNG", "SVG", "CSV"].map((label) => {
        const button = make("button", { type: "button", title: `Save as ${label}` }, label);
        button.addEventListener("click", () => this.saveMap(family, label.toLowerCase()));
        return button;
      });
      const reading = each.reading === "neither" ? "" : ` (${each.reading})`;
      return make(
        "figure",
        { "data-map": family },
        make("figcaption", {}, `${each.name.replaceAll("_", " ")}${reading}`),
        make("div", { class: "map" }),
        make("div", { class: "tools", role: "group", "aria-label": `Tools: map of ${each.name}` }, ...buttons),
      );
    });
    place.replaceChildren(...figures);
    this.maps = figures.map((/** @type {HTMLElement} */ figure) => /** @type {HTMLElement} */ (figure.querySelector(".map")));
    this.maps.forEach((/** @type {HTMLElement} */ map, /** @type {number} */ family) => {
      const at = (/** @type {MouseEvent} */ event) => {
        const found = this.drawn[family].find(event);
        return found === null ? null : { ...found, cell: this.find(found.layer, family, this.columns[family][found.column]) };
      };
      map.addEventListener("click", (event) => {
        const found = at(event);
        if (found !== null && found.cell >= 0) this.choose(found.layer, family, found.cell);
      });
      map.addEventListener("pointermove", (event) => this.showTip(event, family, at(event)));
      map.addEventListener("pointerleave", () => {
        byId("tooltip").hidden = true;
      });
    });
    /** @type {{svg: SVGElement, find: (event: MouseEvent) => {layer: number, column: number} | null}[]} */
    this.drawn = [];
  }

  /** @param {MouseEvent} event @param {number} family @param {{layer: number, column: number, cell: number} | null} found */
  showTip(event, family, found) {
    const tip = byId("tooltip");
    tip.hidden = found === null;
    if (found === null) return;
    const value = found.cell < 0 ? "not measured" : write(this.metric, array(`mean/${this.metric.name}`)[found.cell]);
    const level = digits(this.columns[family][found.column], 4);
    tip.textContent = `${this.values.layers[found.layer]}\n${this.values.families[family].name}: ${level}\n${this.metric.label}: ${value}`;
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(4, event.clientY - tip.offsetHeight - 10)}px`;
  }

  showMaps() {
    const { metric } = this;
    this.drawn = this.maps.map((/** @type {HTMLElement} */ map, /** @type {number} */ family) => {
      const levels = this.columns[family];
      const each = this.values.families[family];
      const here = family === this.family && this.measured;
      const made = drawMap({
        names: this.values.short,
        levels,
        href: this.picture(family),
        identity: each.identity === null ? -1 : levels.indexOf(each.identity),
        axis: each.axis,
        description: `Map of ${metric.label} under ${each.name}: a row for each layer, a column for each level`,
        width: Math.max(280, map.clientWidth),
        chosen: here ? { layer: this.layer, column: levels.indexOf(this.levels[this.cell]) } : null,
      });
      map.replaceChildren(made.svg);
      return made;
    });
    const ends = (/** @type {number} */ value) => (metric.share ? `${100 * value} %` : digits(value));
    byId("map-scale").replaceChildren(drawScale(metric.scale, metric.loss, metric.base, ends, metric.label));
  }

  /** Return the picture of a family's cells; each is made once. @param {number} family */
  picture(family) {
    const { metric } = this;
    const key = `${metric.name}/${family}`;
    const known = this.pictures.get(key);
    if (known !== undefined) return known;
    const means = array(`mean/${metric.name}`);
    const levels = this.columns[family];
    const value = (/** @type {number} */ layer, /** @type {number} */ column) => {
      const cell = this.find(layer, family, levels[column]);
      return cell < 0 ? NaN : means[cell];
    };
    const made = mapPicture(this.values.layers.length, levels.length, value, metric.scale, metric.loss);
    this.pictures.set(key, made);
    return made;
  }

  /** @param {number} family @param {string} kind */
  saveMap(family, kind) {
    const { name } = this.values.families[family];
    const file = `map-${name}-${this.metric.name}`;
    if (kind !== "csv") {
      this.savePicture(file, kind, this.drawn[family].svg);
      return;
    }
    const means = array(`mean/${this.metric.name}`);
    const rows = this.values.layers.flatMap((/** @type {string} */ layer, /** @type {number} */ i) => {
      const cells = Array.from({ length: this.end(i, family) - this.start(i, family) }, (_, k) => this.start(i, family) + k);
      return cells.map((cell) => [layer, name, this.levels[cell], means[cell]]);
    });
    saveCsv(file, ["layer", "family", "level", this.metric.name], rows);
  }

  /** @param {string} file @param {string} kind @param {SVGElement} svg */
  savePicture(file, kind, svg) {
    const source = sourceOf(svg, colour("paper"));
    if (kind === "svg") saveSvg(file, source);
    else savePng(file, source, Number(svg.getAttribute("width")), Number(svg.getAttribute("height")));
  }

  // --- the curve ---

  showCurve() {
    const { metric } = this;
    const { name } = this.values.families[this.family];
    const factor = metric.share ? 100 : 1;
    const number = (/** @type {number} */ value) => (Number.isFinite(value) ? factor * value : null);
    for (const chart of this.charts) chart.element.hidden = chart.name !== `cell-${this.family}`;
    const chart = this.charts.find((each) => each.name === `cell-${this.family}`);
    /** @type {number[]} */
    const cells = [];
    for (let cell = this.start(); cell < this.end(); cell += 1) if (Number.isFinite(this.levels[cell])) cells.push(cell);
    if (chart === undefined || !cells.length) return;
    const column = (/** @type {string} */ kind) =>
      cells.map((cell) => (hasArray(`${kind}/${metric.name}`) ? number(array(`${kind}/${metric.name}`)[cell]) : null));
    const x = cells.map((cell) => this.levels[cell]);
    const base = metric.base === null ? null : factor * metric.base;
    chart.replace(
      `${metric.label} under ${name} in layer ${this.values.layers[this.layer]}`,
      metric.unit ? `${metric.label}, ${metric.unit}` : metric.label,
      {
        series: [...x.map(() => name), "unperturbed", "unperturbed"],
        x: [...x, x[0], x[x.length - 1]],
        y: [...column("mean"), base, base],
        low: [...column("low"), null, null],
        high: [...column("high"), null, null],
      },
    );
  }

  markCurve() {
    const { name } = this.values.families[this.family];
    const level = this.levels[this.cell];
    const value = array(`mean/${this.metric.name}`)[this.cell];
    const drawable = Number.isFinite(level) && Number.isFinite(value);
    const y = (this.metric.share ? 100 : 1) * value;
    const marks = drawable ? { series: [name], x: [level], y: [y] } : { series: [], x: [], y: [] };
    this.charts.find((each) => each.name === `cell-${this.family}`)?.mark(marks);
  }

  // --- classes and units ---

  showClasses() {
    const place = byId("cell-classes");
    const { metric } = this;
    if (place === null || !hasArray(`class/${metric.name}`)) return;
    const { names, counts } = this.values.classes;
    const values = array(`class/${metric.name}`).subarray(this.cell * names.length, (this.cell + 1) * names.length);
    const plain = hasArray(`class-plain/${metric.name}`) ? array(`class-plain/${metric.name}`) : null;
    const shown = (/** @type {number} */ value) => write(metric, value);
    const columns = [
      { heading: "class" },
      { heading: "items" },
      { heading: "unperturbed", write: shown },
      { heading: metric.label, write: shown },
      { heading: metric.share ? "change, points" : "change", write: (/** @type {number} */ value) => writeChange(metric, value) },
    ];
    const rows = names.map((/** @type {string} */ name, /** @type {number} */ i) => {
      const before = plain === null ? NaN : plain[i];
      return [name, counts[i], before, values[i], values[i] - before];
    });
    place.replaceChildren(sortableTable(`Each class: ${this.where}`, columns, rows));
  }

  showUnits() {
    const plot = byId("layer-units-plot");
    if (plot === null) return;
    const starts = array("unit/start");
    const [from, to] = [starts[this.layer], starts[this.layer + 1]];
    const [minimum, maximum] = ["minimum", "maximum"].map((end) => array(`unit/${end}`).subarray(from, to));
    const count = to - from;
    const dead = this.values.dead[this.layer];
    const words = byId("layer-units-words");
    Object.assign(words.dataset, { units: count, dead });
    words.textContent =
      `Layer ${this.values.layers[this.layer]}: ${count} units or coordinates, ${dead} of them dead (their activation is the ` +
      `same on all examples, and they are left alone). Ranges of the ${this.values.sides[this.layer]}, over the data that the probe took them from.`;
    plot.replaceChildren(rangePicture(minimum, maximum, Math.max(280, plot.clientWidth)));
    const number = (/** @type {number} */ value) => digits(value, 4);
    const columns = [
      { heading: "unit" },
      { heading: "value" },
      { heading: "minimum", write: number },
      { heading: "maximum", write: number },
      { heading: "range", write: number },
    ];
    const rows = Array.from({ length: Math.min(count, MOST_UNITS) }, (_, i) => [
      i,
      maximum[i] > minimum[i] ? "varies" : "constant",
      minimum[i],
      maximum[i],
      maximum[i] - minimum[i],
    ]);
    const cut = count > MOST_UNITS ? `, the first ${MOST_UNITS} of ${count}` : "";
    byId("layer-units").replaceChildren(sortableTable(`Units of layer ${this.values.layers[this.layer]}${cut}`, columns, rows));
  }

  /** @param {string} id @param {string} kind */
  save(id, kind) {
    const place = byId(id);
    if (id === "layer-units-plot" && kind === "csv") saveTable(byId("layer-units"));
    else if (kind === "csv") saveTable(place);
    else this.savePicture(id, kind, place.querySelector("svg"));
  }
}

/**
 * Return the ranges of units as bars, the greatest minimum first, and a line at zero.
 *
 * @param {ArrayLike<number>} minimum
 * @param {ArrayLike<number>} maximum
 * @param {number} width
 */
function rangePicture(minimum, maximum, width) {
  const [left, height, bottom] = [54, 180, 22];
  const low = Array.from(minimum).reduce((a, b) => Math.min(a, b), 0);
  const high = Array.from(maximum).reduce((a, b) => Math.max(a, b), 0);
  const y = (/** @type {number} */ value) => 6 + ((high - value) / (high - low || 1)) * (height - 12);
  const size = { width, height: height + bottom, viewBox: `0 0 ${width} ${height + bottom}` };
  const svg = drawn("svg", { ...size, role: "img", "aria-label": "Minimum and maximum of each unit" });
  const step = (width - left - 4) / minimum.length;
  const order = Array.from(minimum, (_, i) => i).sort((a, b) => minimum[b] - minimum[a]);
  const bars = order.map((unit, i) => {
    const top = y(maximum[unit]);
    const tall = Math.max(1, y(minimum[unit]) - top);
    return `M${(left + i * step).toFixed(2)} ${top.toFixed(1)}h${Math.max(0.6, 0.75 * step).toFixed(2)}v${tall.toFixed(1)}h${(-Math.max(0.6, 0.75 * step)).toFixed(2)}z`;
  });
  svg.append(drawn("path", { d: bars.join(""), fill: colour("bar") }));
  svg.append(drawn("line", { x1: left, x2: width, y1: y(0), y2: y(0), stroke: colour("ink") }));
  const text = { fill: colour("ink"), "font-size": 11, "font-family": "system-ui, sans-serif" };
  const labelled = [...new Set([low, 0, high])];
  for (const value of labelled) {
    svg.append(drawn("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end", ...text }, digits(value)));
  }
  const words = "units, the greatest minimum first";
  svg.append(drawn("text", { x: left + (width - left) / 2, y: height + 14, "text-anchor": "middle", ...text }, words));
  return svg;
}

/** Start the page of a probe, if it is one. */
export function startProbe() {
  if (byId("probe") !== null) new Probe();
}
