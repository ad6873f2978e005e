/** Pictures of examples, and pairs of a slider and a number. */

import { array } from "./arrays.js";
import { byId, make, page } from "./dom.js";

/**
 * Return grey values as a picture.
 *
 * @param {ArrayLike<number>} values
 * @param {number} white
 * @param {string} description
 */
export function picture(values, white, description) {
  const { height, width } = page.examples;
  const canvas = /** @type {HTMLCanvasElement} */ (make("canvas", { width, height, role: "img", "aria-label": description }));
  const context = canvas.getContext("2d");
  if (context === null) return canvas;
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i += 1) {
    const grey = (255 * values[i]) / white;
    image.data.set([grey, grey, grey, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/**
 * Return the picture of an example with words below it.
 *
 * @param {number} n
 * @param {string[]} lines
 */
export function thumbnail(n, lines) {
  const { height, width, white } = page.examples;
  const pixels = array("images").subarray(n * height * width, (n + 1) * height * width);
  const label = `Example ${array("indices")[n]} of the test set, label ${array("labels")[n]}`;
  const words = lines.map((line) => make("span", {}, line));
  return make("figure", { class: "thumbnail" }, picture(pixels, white, label), make("figcaption", { title: label }, ...words));
}

/**
 * Fill a strip with thumbnails, unless it shows the same already.
 *
 * @param {string} id
 * @param {{n: number, lines: string[]}[]} items
 * @param {string} none what is written if there are none
 */
export function fillStrip(id, items, none) {
  const strip = byId(id);
  const key = JSON.stringify(items);
  if (strip.dataset.key === key) return;
  strip.dataset.key = key;
  const pictures = items.map(({ n, lines }) => thumbnail(n, lines));
  strip.replaceChildren(...(pictures.length ? pictures : [make("p", {}, none)]));
}

/**
 * Return the places of the least of some values, least first.
 *
 * @param {ArrayLike<number>} values
 * @param {number} count
 */
export function least(values, count) {
  /** @type {number[]} */
  const found = [];
  for (let n = 0; n < values.length; n += 1) {
    if (Number.isNaN(values[n])) continue;
    if (found.length === count && values[n] >= values[found[count - 1]]) continue;
    let place = found.length;
    while (place > 0 && values[found[place - 1]] > values[n]) place -= 1;
    found.splice(place, 0, n);
    if (found.length > count) found.pop();
  }
  return found;
}
