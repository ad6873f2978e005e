/** The unit explorer: one network, its units, and what scale, offset and clip do to them. */

import { byId, digits, eachFrame, make, page } from "./dom.js";
import { array } from "./arrays.js";
import { fillStrip, least, picture } from "./controls.js";
import { drawHistogram } from "./histogram.js";
import { Network, NONE } from "./network.js";
import { onTheme } from "./theme.js";

const STRIP = 12;
const CHANGED = 24;
const PARAMETERS = ["scale", "offset", "clip"];
const IDENTITY = { scale: 1, offset: 0, clip: Infinity };

/** The explorer and its state. */
class Explorer {
  constructor() {
    /** @type {Map<string, Network>} */
    this.networks = new Map();
    this.unit = 0;
    this.levels = { ...IDENTITY };
    this.all = false;
    this.sloped = false;
    this.update = eachFrame(() => this.show());
    this.network = this.open(byId("unit-network").value);
    this.listen();
    this.choose(this.network.values.key);
  }

  /**
   * Return a network; its arrays are decoded when it is first chosen.
   *
   * @param {string} key
   */
  open(key) {
    let network = this.networks.get(key);
    if (network === undefined) {
      network = new Network(page.networks.find((/** @type {any} */ values) => values.key === key));
      this.networks.set(key, network);
    }
    return network;
  }

  listen() {
    byId("unit-network").addEventListener("change", (/** @type {any} */ event) => this.choose(event.target.value));
    byId("unit-number").addEventListener("change", (/** @type {any} */ event) => this.select(Number(event.target.value)));
    byId("unit-before").addEventListener("click", () => this.select(this.unit - 1));
    byId("unit-after").addEventListener("click", () => this.select(this.unit + 1));
    byId("unit-reset").addEventListener("click", () => {
      this.actAs("shift");
      this.set({ ...IDENTITY });
    });
    for (const radio of this.offsetChoices()) radio.addEventListener("change", () => this.actAs(radio.value));
    for (const radio of /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("[name=scope]"))) {
      radio.addEventListener("change", () => {
        this.all = radio.value === "all";
        this.update();
      });
    }
    byId("unit-clipped").addEventListener("change", (/** @type {any} */ event) => {
      this.set({ ...this.levels, clip: event.target.checked ? Number(byId("unit-clip").value) : Infinity });
    });
    for (const input of /** @type {NodeListOf<HTMLInputElement>} */ (
      document.querySelectorAll("#unit-explorer [data-parameter]")
    )) {
      input.addEventListener("input", () => {
        if (input.value === "" || !Number.isFinite(input.valueAsNumber)) return;
        this.set({ ...this.levels, [input.dataset.parameter ?? ""]: input.valueAsNumber }, input);
      });
    }
    for (const table of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(".units"))) this.addButtons(table);
    addEventListener("resize", this.update);
    onTheme(this.update);
  }

  offsetChoices() {
    return /** @type {HTMLInputElement[]} */ ([...document.querySelectorAll("#unit-explorer [name=offset-as]")]);
  }

  /**
   * Choose what the offset slider does: a shift, or the study's own family of that name.
   *
   * @param {string} family
   */
  actAs(family) {
    this.sloped = family === "offset";
    for (const radio of this.offsetChoices()) radio.checked = radio.value === family;
    byId("unit-equation").textContent = this.network.values.offsets[family];
    this.update();
  }

  /**
   * Turn the first cell of every row of a table of units into a button that selects the unit.
   *
   * @param {HTMLElement} table
   */
  addButtons(table) {
    for (const row of table.querySelectorAll("tbody tr")) {
      const cell = /** @type {HTMLElement} */ (row.firstElementChild);
      const unit = Number(cell.dataset.value);
      const button = make("button", { type: "button", title: `Show unit ${unit}` }, String(unit));
      cell.replaceChildren(button);
      button.addEventListener("click", () => {
        this.select(unit);
        byId("unit-explorer").scrollIntoView();
      });
    }
  }

  /**
   * Show another network.
   *
   * @param {string} key
   */
  choose(key) {
    this.network = this.open(key);
    byId("unit-number").max = this.network.units - 1;
    for (const table of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(".units"))) {
      table.hidden = table.dataset.network !== key;
    }
    const { first, removed } = this.network.values;
    byId("unit-why").textContent =
      `The explorer opens on unit ${first}: setting its activation to 0 changes ${(100 * removed).toFixed(2)} % of the ` +
      "predictions, the most of all units of this network. Move a slider: the unit changes, and what follows from it. " +
      "The table of units, below, sorts them by this and other measures.";
    this.select(first);
  }

  /**
   * Show another unit.
   *
   * @param {number} unit
   */
  select(unit) {
    this.unit = Math.max(0, Math.min(this.network.units - 1, Math.round(unit) || 0));
    byId("unit-number").value = this.unit;
    for (const row of document.querySelectorAll(".units tbody tr")) {
      const cell = /** @type {HTMLElement} */ (row.firstElementChild);
      row.classList.toggle("chosen", Number(cell.dataset.value) === this.unit);
    }
    this.showWeights();
    this.update();
  }

  /**
   * Set the levels, and write them into all inputs but the one that the reader uses.
   *
   * @param {{scale: number, offset: number, clip: number}} levels
   * @param {HTMLInputElement | null} used
   */
  set(levels, used = null) {
    this.levels = levels;
    for (const name of PARAMETERS) {
      const value = levels[/** @type {keyof typeof levels} */ (name)];
      for (const id of [`unit-${name}`, `unit-${name}-number`]) {
        if (byId(id) !== used && Number.isFinite(value)) byId(id).value = value;
      }
    }
    if (!Number.isFinite(levels.clip) && used === null) byId("unit-clip").value = byId("unit-clip-number").value = 1;
    byId("unit-clipped").checked = Number.isFinite(levels.clip);
    this.update();
  }

  showWeights() {
    const { height, width } = page.examples;
    const pixels = height * width;
    const weights = array(`${this.network.values.key}/weights`).subarray(this.unit * pixels, (this.unit + 1) * pixels);
    byId("unit-weights").replaceChildren(picture(weights, 255, `Weights of unit ${this.unit}`));
  }

  /** Compute and show everything that follows the sliders. */
  show() {
    const { network, unit, levels } = this;
    const parameters = network.parameters(levels, this.all ? null : unit, this.sloped);
    const response = network.respond(parameters);
    const z = network.column(unit);
    const after = this.activations(z, parameters);
    const { predictions } = response;
    const wrong = predictions.map((predicted, n) => (predicted === network.labels[n] ? 0 : 1));
    this.showOutcome(response);
    this.showDetails(parameters);
    this.showHistograms(z, after, parameters, wrong);
    showConfusion(network, predictions);
    this.showStrips(z, after, parameters, predictions);
  }

  /**
   * Return the perturbed activations of the chosen unit.
   *
   * @param {Float32Array} z
   * @param {import("./network.js").Parameters} parameters
   */
  activations(z, { scale, offset, clip, cap }) {
    const [s, o, c, top] = [scale, offset, clip, cap].map((values) => values[this.unit]);
    return z.map((x) => Math.min(this.network.act(Math.min(Math.fround(s * x + o), c)), top));
  }

  /** @param {import("./network.js").Response} response */
  showOutcome({ right, changed, ties, lost }) {
    const { network } = this;
    let before = 0;
    for (let n = 0; n < network.count; n += 1) before += network.unperturbed[n] === network.labels[n] ? 1 : 0;
    const percent = (/** @type {number} */ n) => `${((100 * n) / network.count).toFixed(2)} %`;
    const outcome = byId("unit-outcome");
    Object.assign(outcome.dataset, { right, changed, ties, lost, revision: Number(outcome.dataset.revision ?? 0) + 1 });
    outcome.replaceChildren(
      make("strong", {}, `Accuracy ${percent(right)}`),
      ` (unperturbed ${percent(before)}); ${changed} of ${network.count} predictions changed`,
      ties ? `; near ties: ${ties}` : "",
      lost ? `; ${lost} have logits that are NaN or infinite, and count as wrong` : "",
      ".",
    );
  }

  /** @param {import("./network.js").Parameters} parameters */
  showDetails({ scale, offset, clip, cap }) {
    const u = this.unit;
    const which = this.all ? `of unit ${u}` : "of this unit";
    byId("unit-scale-detail").textContent = this.network.ranges.live[u] ? "" : "a dead unit isn't changed";
    byId("unit-offset-detail").textContent = `${which}: ${digits(offset[u])}; boundary at z = ${digits(-offset[u] / scale[u])}`;
    const bound = Math.min(clip[u], cap[u]);
    byId("unit-clip-detail").textContent = bound < Infinity ? `${which}: ${digits(bound)}` : "none";
  }

  /**
   * @param {Float32Array} z
   * @param {Float32Array} after
   * @param {import("./network.js").Parameters} parameters
   * @param {Uint16Array} wrong
   */
  showHistograms(z, after, { scale, offset, clip }, wrong) {
    const { network, unit } = this;
    const rows = network.labels;
    const rowHeight = network.classes > 20 ? 12 : 22;
    const shared = { rows, rowCount: network.classes, rowLabel: String, wrong };
    const boundary = -offset[unit] / scale[unit];
    const bend = (clip[unit] - offset[unit]) / scale[unit];
    drawHistogram(
      byId("unit-before-plot"),
      {
        ...shared,
        values: z,
        domain: span(z, [0]),
        title: `z of unit ${unit}`,
        lines: [
          { x: boundary, dashed: false, label: "boundary" },
          { x: bend, dashed: true, label: "clip" },
        ],
        description: `Pre-activations of unit ${unit} by class; the boundary is at ${digits(boundary)}`,
      },
      rowHeight,
    );
    drawHistogram(
      byId("unit-after-plot"),
      {
        ...shared,
        values: after,
        domain: span(after, [0]),
        title: `activation of unit ${unit}`,
        lines: [{ x: 0, dashed: false, label: "zero" }],
        description: `Activations of unit ${unit} by class, perturbed`,
      },
      rowHeight,
    );
  }

  /**
   * @param {Float32Array} z
   * @param {Float32Array} after
   * @param {import("./network.js").Parameters} parameters
   * @param {Uint16Array} predictions
   */
  showStrips(z, after, { scale, offset }, predictions) {
    const { network, unit } = this;
    const { labels, unperturbed } = network;
    const near = z.map((x) => Math.abs(scale[unit] * x + offset[unit]));
    const words = (/** @type {number} */ n) => [`label ${labels[n]}`, `z ${digits(z[n])}`];
    fillStrip("unit-nearest", least(near, STRIP).map((n) => ({ n, lines: words(n) })), "None.");
    const greatest = least(after.map((a) => -a), STRIP);
    fillStrip("unit-greatest", greatest.map((n) => ({ n, lines: [`label ${labels[n]}`, `a ${digits(after[n])}`] })), "None.");
    const changed = [];
    for (let n = 0; n < network.count && changed.length < CHANGED; n += 1) {
      if (predictions[n] !== unperturbed[n]) {
        const now = predictions[n] === NONE ? "none" : predictions[n];
        changed.push({ n, lines: [`label ${labels[n]}`, `${unperturbed[n]} → ${now}`] });
      }
    }
    fillStrip("unit-changed", changed, "None: all predictions are the unperturbed ones.");
  }
}

/**
 * Return the least and the greatest of some values, a few given ones included.
 *
 * @param {ArrayLike<number>} values
 * @param {number[]} included
 * @returns {[number, number]}
 */
function span(values, included) {
  let [low, high] = [Math.min(...included), Math.max(...included)];
  for (let n = 0; n < values.length; n += 1) {
    if (values[n] < low) low = values[n];
    if (values[n] > high) high = values[n];
  }
  return low < high ? [low, high] : [low - 1, high + 1];
}

/**
 * Show how often each label gets each prediction.
 *
 * @param {Network} network
 * @param {Uint16Array} predictions
 */
function showConfusion({ classes, labels, count }, predictions) {
  const counts = new Uint32Array(classes * classes);
  for (let n = 0; n < count; n += 1) if (predictions[n] !== NONE) counts[labels[n] * classes + predictions[n]] += 1;
  const place = byId("unit-confusion");
  const held = place.querySelectorAll("td");
  if (held.length !== counts.length) {
    const numbers = Array.from({ length: classes }, (_, k) => make("th", { scope: "col" }, String(k)));
    const head = make("tr", {}, make("th", { scope: "col" }, "label"), ...numbers);
    const rows = Array.from({ length: classes }, (_, label) =>
      make("tr", {}, make("th", { scope: "row" }, String(label)), ...Array.from({ length: classes }, () => make("td"))),
    );
    place.replaceChildren(make("table", { class: "confusion" }, make("thead", {}, head), make("tbody", {}, ...rows)));
  }
  place.querySelectorAll("td").forEach((/** @type {HTMLElement} */ cell, /** @type {number} */ i) => {
    const text = String(counts[i]);
    if (cell.textContent === text) return;
    cell.textContent = text;
    cell.className = Math.floor(i / classes) === i % classes ? "right" : counts[i] ? "wrong" : "zero";
  });
}

/** Start the unit explorer, if the page has one. */
export function startExplorer() {
  if (byId("unit-explorer") !== null) new Explorer();
}
