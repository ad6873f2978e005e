/**
 * A two-layer network on the page's examples: z is given, everything after it is computed here.
 *
 * All numbers are float32, and rounded where nearzero rounds: y = fma(scale, z, offset), and logits are summed over
 * units in ascending order by fused multiply-adds, the bias last. A product of two float32 is exact in float64, so
 * rounding the float64 sum to float32 is that operation, except where the sum lies almost midway between two float32.
 *
 * @typedef {{scale: Float32Array, offset: Float32Array, clip: Float32Array, cap: Float32Array}} Parameters
 *   one number for each unit: y = min(scale z + offset, clip), a = min(act(y), cap)
 * @typedef {{predictions: Uint16Array, right: number, changed: number, ties: number, lost: number}} Response
 *   lost: examples with logits that are NaN or infinite; they have no prediction, and count as wrong
 */

import { array } from "./arrays.js";

const round = Math.fround;
const LEAK = round(0.01);
export const NONE = 65535; // no prediction
const TIE = 1e-5; // of the greatest logit: closer ones are counted as near ties

/** @type {Record<string, (y: number) => number>} */
export const ACTIVATIONS = {
  relu: (y) => (y > 0 ? y : 0),
  abs: (y) => (y < 0 ? -y : y),
  leaky_relu: (y) => (y > 0 ? y : round(LEAK * y)),
  gelu: (y) => round(y * normal(y)),
  silu: (y) => round(y / (1 + Math.exp(-y))),
  tanh: (y) => round(Math.tanh(y)),
  sigmoid: (y) => round(1 / (1 + Math.exp(-y))),
  softplus: (y) => round(Math.max(y, 0) + Math.log1p(Math.exp(-Math.abs(y)))),
  elu: (y) => (y > 0 ? y : round(Math.expm1(y))),
};

/**
 * Return the standard normal distribution function, by its series near zero and its continued fraction beyond.
 *
 * @param {number} x
 */
export function normal(x) {
  const size = Math.abs(x);
  const density = Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
  if (size < 3) {
    let term = size;
    let sum = size;
    for (let k = 3; term > sum * 1e-16; k += 2) {
      term *= (size * size) / k;
      sum += term;
    }
    const upper = 0.5 + density * sum;
    return x < 0 ? 1 - upper : upper;
  }
  let fraction = size;
  for (let k = 60; k > 0; k -= 1) fraction = size + k / fraction;
  const tail = density / fraction;
  return x < 0 ? tail : 1 - tail;
}

/** A network and the page's examples. */
export class Network {
  /** @param {any} values the network's entry in the page's data */
  constructor(values) {
    const { key, units, classes } = values;
    this.values = values;
    this.units = units;
    this.classes = classes;
    this.act = ACTIVATIONS[values.activation];
    this.z = /** @type {Float32Array} */ (array(`${key}/z`));
    this.count = this.z.length / units;
    this.labels = array("labels");
    this.unperturbed = array(`${key}/unperturbed`); // as Python computed them
    this.b2 = array(`${key}/b2`);
    const w2 = array(`${key}/w2`);
    this.columns = new Float32Array(units * classes); // W2, unit by unit
    for (let k = 0; k < classes; k += 1) {
      for (let u = 0; u < units; u += 1) this.columns[u * classes + k] = w2[k * units + u];
    }
    const range = (/** @type {string} */ name) => array(`${key}/unit/${name}`);
    this.ranges = {
      offset: range("offset"),
      clip: range("clip"),
      reach: range("reach"),
      live: range("live"),
      minimum: range("minimum"),
      maximum: range("maximum"),
    };
    /** @type {{slope: any, steepening: any} | null} of the study's offset, if it isn't a shift */
    this.slopes = "offset" in values.offsets ? { slope: range("slope"), steepening: range("steepening") } : null;
    this.response = {
      predictions: new Uint16Array(this.count),
      right: 0,
      changed: 0,
      ties: 0,
      lost: 0,
    };
  }

  /**
   * Return the parameters that three levels give one unit, or all of them. Dead units are left as they are.
   *
   * @param {{scale: number, offset: number, clip: number}} levels in unit ranges, except the scale
   * @param {number | null} unit null for all
   * @param {boolean} sloped whether the offset is the study's, which has a slope too, and not a shift
   * @returns {Parameters}
   */
  parameters(levels, unit, sloped = false) {
    const { units, ranges } = this;
    const slopes = sloped ? this.slopes : null;
    const scale = new Float32Array(units).fill(1);
    const offset = new Float32Array(units);
    const clip = new Float32Array(units).fill(Infinity);
    const cap = new Float32Array(units).fill(Infinity);
    const bound = this.values.clipSide === "post" ? cap : clip;
    for (let u = unit ?? 0; u < (unit === null ? units : unit + 1); u += 1) {
      if (!ranges.live[u]) continue;
      scale[u] = levels.scale * (slopes === null ? 1 : slopes.slope[u] + levels.offset * slopes.steepening[u]);
      offset[u] = levels.offset * ranges.offset[u];
      if (levels.clip < Infinity) bound[u] = ranges.clip[u] + levels.clip * ranges.reach[u];
    }
    return { scale, offset, clip, cap };
  }

  /**
   * Return predictions and counts under a perturbation. The result is written over by the next call.
   *
   * Everything is computed anew, so that no rounding errors add up from one move of a slider to the next.
   *
   * @param {Parameters} parameters
   * @returns {Response}
   */
  respond({ scale, offset, clip, cap }) {
    const { z, units, classes, columns, b2, act, count, labels, unperturbed, response } = this;
    const logits = new Float32Array(classes);
    response.right = response.changed = response.ties = response.lost = 0;
    for (let n = 0; n < count; n += 1) {
      logits.fill(0);
      for (let u = 0; u < units; u += 1) {
        const y = Math.min(round(scale[u] * z[n * units + u] + offset[u]), clip[u]);
        const a = Math.min(act(y), cap[u]);
        if (a === 0) continue;
        for (let k = 0, w = u * classes; k < classes; k += 1, w += 1) logits[k] += columns[w] * a;
      }
      let best = -Infinity;
      let second = -Infinity;
      let winner = 0;
      let size = 0;
      for (let k = 0; k < classes; k += 1) {
        const logit = round(logits[k] + b2[k]);
        size = Math.max(size, Math.abs(logit)); // NaN if any logit is
        if (logit > best) {
          second = best;
          best = logit;
          winner = k;
        }
        else if (logit > second) second = logit;
      }
      if (!(size < Infinity)) {
        winner = NONE;
        response.lost += 1;
      }
      response.predictions[n] = winner;
      if (winner === labels[n]) response.right += 1;
      if (winner !== unperturbed[n]) response.changed += 1;
      if (winner !== NONE && best - second < TIE * size) response.ties += 1;
    }
    return response;
  }

  /**
   * Return z of one unit on all examples.
   *
   * @param {number} unit
   */
  column(unit) {
    return Float32Array.from({ length: this.count }, (_, n) => this.z[n * this.units + unit]);
  }
}
