/** Small helpers for elements. Text always goes in as text, never as HTML. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Return the element with an id.
 *
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * Return a new HTML element.
 *
 * @param {string} name
 * @param {Record<string, string | number | boolean>} attributes
 * @param {...(Node | string)} children
 * @returns {HTMLElement}
 */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  element.append(...children);
  return element;
}

/**
 * Return a new SVG element.
 *
 * @param {string} name
 * @param {Record<string, string | number>} attributes
 * @param {...(Node | string)} children
 * @returns {SVGElement}
 */
export function drawn(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  element.append(...children);
  return element;
}

/**
 * Format a number with a few significant digits and a true minus sign.
 *
 * @param {number} value
 * @param {number} digits
 */
export function digits(value, digits = 3) {
  if (!Number.isFinite(value)) return value > 0 ? "∞" : value < 0 ? "−∞" : "–";
  return String(Number(value.toPrecision(digits))).replace("-", "−");
}

/**
 * Return a function that runs another one at once, but at most once a frame: further calls are answered in the next.
 *
 * @param {() => void} work
 */
export function eachFrame(work) {
  let waiting = false;
  let asked = false;
  const run = () => {
    if (waiting) {
      asked = true;
      return;
    }
    waiting = true;
    asked = false;
    requestAnimationFrame(() => {
      waiting = false;
      if (asked) run();
    });
    work();
  };
  return run;
}

/** The data of the page that aren't arrays. */
export const page = JSON.parse(byId("page-data").textContent);
