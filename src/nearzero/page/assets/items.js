/** The embedded examples of a probe at the chosen cell: tokens as a text, pictures, and a table of the items. */

import { array, hasArray } from "./arrays.js";
import { least } from "./controls.js";
import { byId, make, page } from "./dom.js";
import { sortableTable } from "./tables.js";

const STRIP = 16;
const MOST_ROWS = 500;

/**
 * @typedef {{name: string, label: string, share: boolean, loss: boolean, unit: string, base: number | null,
 *   interval: [number, number] | null, scale: [number, number]}} Metric
 */

/**
 * Return a token's text with its line breaks made visible.
 *
 * @param {string} text
 */
function visible(text) {
  return text.replaceAll("\n", "⏎");
}

/** The values of a metric at one cell, item by item, with 255 of an integer array as NaN. */
class Column {
  /**
   * @param {Metric} metric
   * @param {number} cell
   */
  constructor(metric, cell) {
    this.metric = metric;
    const all = array(`item/${metric.name}`);
    this.plain = array(`item-plain/${metric.name}`);
    const count = this.plain.length;
    this.now = Float64Array.from(all.subarray(cell * count, (cell + 1) * count), (value) =>
      all instanceof Uint8Array && value === 255 ? NaN : value,
    );
  }

  /** @param {number} i */
  change(i) {
    return this.now[i] - this.plain[i];
  }

  /** How much worse an item is; greater is worse for losses, less for all other metrics. @param {number} i */
  worse(i) {
    return this.metric.loss ? this.change(i) : -this.change(i);
  }
}

/** The items of the page. */
export class Items {
  /**
   * @param {(metric: Metric, value: number) => string} write
   * @param {(metric: Metric, change: number) => string} writeChange
   */
  constructor(write, writeChange) {
    this.writeChange = writeChange;
    this.values = page.probe.items;
    this.write = write;
    this.owners = array("item/example");
    this.places = array("item/token");
    /** @type {Column | null} */
    this.column = null;
    this.where = "";
    if (this.values.tokens) {
      const options = this.values.examples.map((/** @type {number} */ number, /** @type {number} */ i) =>
        make("option", { value: i }, `example ${number}`),
      );
      byId("item-example").replaceChildren(...options);
      byId("item-example").addEventListener("change", () => this.show());
      byId("item-most").addEventListener("click", () => this.chooseMost());
    }
  }

  /**
   * Show the items at a cell.
   *
   * @param {Metric} metric
   * @param {number} cell
   * @param {string} where the cell in words
   */
  at(metric, cell, where) {
    this.column = new Column(metric, cell);
    this.where = where;
    this.show();
  }

  /** Return the indices of the items that are shown: of the chosen example, or all. */
  items() {
    const all = Array.from(this.owners, (_, i) => i);
    if (!this.values.tokens) return all;
    const example = Number(byId("item-example").value);
    return all.filter((i) => this.owners[i] === example);
  }

  /** Choose the example whose items got worse the most, on average. */
  chooseMost() {
    const { column } = this;
    if (column === null) return;
    const count = this.values.examples.length;
    const [sums, counts] = [new Float64Array(count), new Float64Array(count)];
    for (let i = 0; i < this.owners.length; i += 1) {
      const worse = column.worse(i);
      if (Number.isNaN(worse)) continue;
      sums[this.owners[i]] += worse;
      counts[this.owners[i]] += 1;
    }
    byId("item-example").value = least(sums.map((sum, i) => -sum / counts[i]), 1)[0] ?? 0;
    this.show();
  }

  show() {
    const { column } = this;
    if (column === null) return;
    const items = this.items();
    const [worse, better] = [1, -1].map((sign) => items.filter((i) => sign * column.worse(i) > 0).length);
    const mean = items.reduce((sum, i) => sum + column.now[i], 0) / items.length;
    const plain = items.reduce((sum, i) => sum + column.plain[i], 0) / items.length;
    const outcome = byId("item-outcome");
    Object.assign(outcome.dataset, { worse, better, mean, plain });
    const noun = this.values.tokens ? "tokens of this example" : "examples of the page";
    outcome.replaceChildren(
      make("strong", {}, `${this.where}: ${this.write(column.metric, mean)} on the ${items.length} ${noun}`),
      `, unperturbed ${this.write(column.metric, plain)}; ${worse} are worse and ${better} better.`,
    );
    if (this.values.tokens) this.showTokens(items);
    if (this.values.image !== null) this.showPictures();
    this.showTable(items);
  }

  /**
   * Return the text of the token that an item is about: of the predicted one where a token predicts the next.
   *
   * @param {number} i
   */
  text(i) {
    const { texts, targets, causal } = this.values;
    const place = this.places[i] + (causal ? 1 : 0);
    const text = texts?.[this.owners[i]]?.[place] ?? (causal ? targets?.[i] : undefined) ?? `#${place}`;
    return visible(text);
  }

  /** @param {number[]} items */
  showTokens(items) {
    const { texts, causal } = this.values;
    const column = /** @type {Column} */ (this.column);
    const sizes = items.map((i) => Math.abs(column.change(i))).filter((size) => Number.isFinite(size));
    const greatest = Math.max(1e-12, ...sizes);
    const byPlace = new Map(items.map((i) => [this.places[i] + (causal ? 1 : 0), i]));
    const example = Number(byId("item-example").value);
    const own = texts?.[example];
    const places = own ? own.map((/** @type {string} */ _, /** @type {number} */ place) => place) : [...byPlace.keys()];
    const parts = places.map((/** @type {number} */ place) => {
      const i = byPlace.get(place);
      const text = i === undefined ? visible(own[place]) : this.text(i);
      const spaced = own && /^\S+$/.test(own[0] ?? "") && !own.some((/** @type {string} */ each) => /\s/.test(each));
      const words = own && !spaced ? text : `${text} `;
      if (i === undefined) return make("span", { class: "outside", title: "no item: it isn't counted" }, words);
      const worse = column.worse(i);
      const share = Number.isNaN(worse) ? 0 : Math.round((70 * Math.abs(worse)) / greatest);
      const kind = worse > 0 ? "worse" : worse < 0 ? "better" : "same";
      const now = this.write(column.metric, column.now[i]);
      const title = `${column.metric.label} ${now}, unperturbed ${this.write(column.metric, column.plain[i])}`;
      return make("span", { class: kind, style: `--share: ${share}%`, title, "data-item": i }, words);
    });
    byId("item-text").replaceChildren(...parts);
  }

  showPictures() {
    const column = /** @type {Column} */ (this.column);
    for (const [id, sign] of /** @type {[string, number][]} */ ([["item-worse", 1], ["item-better", -1]])) {
      const distances = Float64Array.from(this.owners, (_, i) => {
        const worse = sign * column.worse(i);
        return worse > 0 ? -worse : NaN;
      });
      const pictures = least(distances, STRIP).map((i) => this.thumbnail(i));
      byId(id).replaceChildren(...(pictures.length ? pictures : [make("p", {}, "None on the page.")]));
    }
  }

  /** @param {number} i */
  thumbnail(i) {
    const [height, width, channels] = this.values.image;
    const column = /** @type {Column} */ (this.column);
    const size = height * width * channels;
    const values = array("images").subarray(this.owners[i] * size, (this.owners[i] + 1) * size);
    const label = `Example ${this.values.examples[this.owners[i]]}${this.target(i)}`;
    const canvas = /** @type {HTMLCanvasElement} */ (make("canvas", { width, height, role: "img", "aria-label": label }));
    const context = canvas.getContext("2d");
    if (context !== null) {
      const image = context.createImageData(width, height);
      for (let place = 0; place < width * height; place += 1) {
        const pixel = [0, 1, 2].map((channel) => values[place * channels + Math.min(channel, channels - 1)]);
        image.data.set([...pixel, 255], 4 * place);
      }
      context.putImageData(image, 0, 0);
    }
    const { metric } = column;
    const words = [label, `${this.write(metric, column.plain[i])} → ${this.write(metric, column.now[i])}`];
    return make("figure", { class: "thumbnail" }, canvas, make("figcaption", {}, ...words.map((word) => make("span", {}, word))));
  }

  /** @param {number} i */
  target(i) {
    if (!hasArray("item/target")) return "";
    const number = array("item/target")[i];
    return `, class ${this.values.names[number] ?? number}`;
  }

  /** @param {number[]} items */
  showTable(items) {
    const column = /** @type {Column} */ (this.column);
    const { metric } = column;
    const write = (/** @type {number} */ value) => this.write(metric, value);
    const { tokens, examples } = this.values;
    const columns = [
      { heading: tokens ? "token" : "example" },
      { heading: tokens ? "text" : "class" },
      { heading: "unperturbed", write },
      { heading: "at this level", write },
      {
        heading: metric.share ? "change, points" : "change",
        write: (/** @type {number} */ value) => this.writeChange(metric, value),
      },
    ];
    const shown = items.slice(0, MOST_ROWS);
    const rows = shown.map((i) => {
      const name = tokens ? this.places[i] + (this.values.causal ? 1 : 0) : examples[this.owners[i]];
      const text = tokens ? this.text(i) : this.target(i).replace(", class ", "") || "–";
      return [name, text, column.plain[i], column.now[i], column.change(i)];
    });
    const place = byId("item-table");
    place.replaceChildren(sortableTable(`${metric.label}, ${this.where}`, columns, rows));
  }
}
