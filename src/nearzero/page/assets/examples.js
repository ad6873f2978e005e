/**
 * Examples and their critical levels: where predictions first change as a family's level moves away from its identity.
 *
 * nearzero has computed every interval of levels with one prediction; this only looks them up.
 */

import { array, hasArray } from "./arrays.js";
import { fillStrip, least } from "./controls.js";
import { byId, digits, eachFrame, make, page } from "./dom.js";
import { drawHistogram } from "./histogram.js";
import { onTheme } from "./theme.js";

const STRIP = 12;
const STEPS = 1000;
const SAID = 3; // changes that are written below an example

class Examples {
  constructor() {
    this.update = eachFrame(() => this.show());
    this.values = page.networks[0];
    this.family = "";
    this.side = "";
    this.level = 0;
    byId("example-network").addEventListener("change", () => this.choose());
    byId("example-family").addEventListener("change", () => this.chooseFamily());
    byId("example-side").addEventListener("change", (/** @type {any} */ event) => {
      this.side = event.target.value;
      this.update();
    });
    byId("example-level").addEventListener("input", (/** @type {any} */ event) => {
      this.set(this.scale().from(event.target.valueAsNumber / STEPS), event.target);
    });
    byId("example-level-number").addEventListener("input", (/** @type {any} */ event) => {
      if (Number.isFinite(event.target.valueAsNumber)) this.set(event.target.valueAsNumber, event.target);
    });
    byId("example-identity").addEventListener("click", () => this.set(this.start()));
    addEventListener("resize", this.update);
    onTheme(this.update);
    this.choose();
  }

  /** What nearzero found for the chosen network and family. */
  get found() {
    return this.values.critical[this.family];
  }

  /** The level at which nothing is changed; the end of the levels where that is infinite. */
  start() {
    return this.found.identity ?? this.found.high;
  }

  choose() {
    this.values = page.networks.find((/** @type {any} */ each) => each.key === byId("example-network").value);
    const families = Object.keys(this.values.critical);
    if (!families.includes(this.family)) this.family = families[0];
    options("example-family", families, this.family);
    this.chooseFamily();
  }

  chooseFamily() {
    this.family = byId("example-family").value;
    const { sides, note } = this.found;
    if (!sides.includes(this.side)) this.side = sides[0] ?? "";
    options("example-side", sides.length ? sides : ["none"], this.side);
    byId("example-note").textContent = note;
    byId("example-equation").textContent = `${this.family}: ${this.found.does}`;
    this.set(this.start());
  }

  /** Return functions from levels to places on the slider, from 0 to 1, and back. */
  scale() {
    const { low, high } = this.found;
    const [to, from] = low > 0 ? [Math.log, Math.exp] : [Number, Number];
    const [a, b] = [to(low), to(high)];
    return {
      to: (/** @type {number} */ level) => (to(level) - a) / (b - a),
      from: (/** @type {number} */ place) => from(a + place * (b - a)),
    };
  }

  /**
   * Set the level, within the levels that were measured.
   *
   * @param {number} level
   * @param {HTMLInputElement | null} used
   */
  set(level, used = null) {
    const { low, high } = this.found;
    this.level = Math.min(high, Math.max(low, level));
    const [slider, number] = [byId("example-level"), byId("example-level-number")];
    if (slider !== used) slider.value = Math.round(STEPS * this.scale().to(this.level));
    if (number !== used) number.value = Number(this.level.toPrecision(4));
    slider.setAttribute("aria-valuetext", digits(this.level));
    this.update();
  }

  /** @param {string} name */
  array(name) {
    return array(`${this.values.key}/critical/${this.family}/${name}`);
  }

  /**
   * Return the prediction on an example at a level.
   *
   * @param {number} n
   * @param {number} level
   */
  predicted(n, level) {
    const [first, starts, classes] = ["first", "starts", "classes"].map((name) => this.array(name));
    let place = first[n];
    while (place + 1 < first[n + 1] && starts[place + 1] <= level) place += 1;
    return classes[place];
  }

  show() {
    const { level, values } = this;
    const labels = array("labels");
    const unperturbed = array(`${values.key}/unperturbed`);
    const identity = this.found.identity === null && level === this.start();
    const predictions = labels.map((_, n) => (identity ? unperturbed[n] : this.predicted(n, level)));
    let right = 0;
    let changed = 0;
    for (let n = 0; n < labels.length; n += 1) {
      right += predictions[n] === labels[n] ? 1 : 0;
      changed += predictions[n] === unperturbed[n] ? 0 : 1;
    }
    const never = this.found.never[this.side];
    const outcome = byId("example-outcome");
    Object.assign(outcome.dataset, { right, changed, level });
    outcome.replaceChildren(
      make("strong", {}, `${this.family} at ${digits(level)}: accuracy ${((100 * right) / labels.length).toFixed(2)} %`),
      `; ${changed} of ${labels.length} predictions are others than without perturbation. `,
      never === undefined ? "" : `On the side ${this.side}, ${never} never change.`,
    );
    this.showLevels();
    this.showStrips(predictions);
  }

  /** The critical levels of the side, NaN where a prediction never changes. */
  critical() {
    const name = `${this.values.key}/critical/${this.family}/${this.side}`;
    return hasArray(name) ? array(name) : new Float32Array(0);
  }

  showLevels() {
    const { low, high } = this.found;
    const critical = this.critical();
    const rows = new Uint8Array(critical.length);
    drawHistogram(
      byId("example-plot"),
      {
        values: critical,
        rows,
        rowCount: 1,
        rowLabel: () => "",
        wrong: null,
        domain: [low, high],
        logarithmic: low > 0,
        title: `level of ${this.family} at which the prediction first changes`,
        lines: [
          { x: this.level, dashed: false, label: "level" },
          { x: this.start(), dashed: true, label: "identity" },
        ],
        yTitle: "examples in each bin",
        description: `Critical levels of ${this.family}, ${this.side}`,
      },
      150,
    );
  }

  /** @param {ArrayLike<number>} predictions */
  showStrips(predictions) {
    const critical = this.critical();
    const start = this.start();
    const distances = Float64Array.from(critical, (level) => Math.abs(level - start));
    const item = (/** @type {number} */ n) => ({ n, lines: this.words(n, predictions[n]) });
    fillStrip("example-first", least(distances, STRIP).map(item), "No prediction changes on this side.");
    const last = least(distances.map((distance) => -distance), STRIP);
    fillStrip("example-last", last.map(item), "No prediction changes on this side.");
  }

  /**
   * Return the lines below an example: label, the prediction now, and the levels at which it changes on this side.
   *
   * @param {number} n
   * @param {number} predicted
   */
  words(n, predicted) {
    const [first, starts, classes] = ["first", "starts", "classes"].map((name) => this.array(name));
    const start = this.start();
    const lines = [`label ${array("labels")[n]}, now ${predicted}`];
    const below = this.side === "below";
    const places = [];
    for (let place = first[n] + 1; place < first[n + 1]; place += 1) {
      if (below ? starts[place] <= start : starts[place] >= start) places.push(place);
    }
    if (below) places.reverse();
    for (const place of places.slice(0, SAID)) {
      const [from, to] = below ? [classes[place], classes[place - 1]] : [classes[place - 1], classes[place]];
      lines.push(`${digits(starts[place], 2)}: ${from}→${to}`);
    }
    if (places.length > SAID) lines.push(`and ${places.length - SAID} more`);
    return lines;
  }
}

/**
 * Fill a list of choices.
 *
 * @param {string} id
 * @param {string[]} names
 * @param {string} chosen
 */
function options(id, names, chosen) {
  byId(id).replaceChildren(...names.map((name) => make("option", { value: name }, name)));
  byId(id).value = chosen || names[0];
}

/** Start the examples, if the page has any. */
export function startExamples() {
  if (byId("example-explorer") === null) return;
  new Examples();
  for (const { matched } of page.networks) {
    for (const { id, items } of matched) fillStrip(id, items, "None.");
  }
}
