/**
 * The arrays of the page: base64 of little-endian bytes, decoded when they are first used.
 *
 * @typedef {Uint8Array | Uint16Array | Uint32Array | Float32Array | Float64Array} Numbers
 */

/** @type {Record<string, new (buffer: ArrayBuffer) => Numbers>} */
const TYPES = { Uint8Array, Uint16Array, Uint32Array, Float32Array, Float64Array };
/** @type {Map<string, Numbers>} */
const decoded = new Map();

/**
 * Return an array by its name.
 *
 * @param {string} name
 * @returns {Numbers}
 */
export function array(name) {
  let values = decoded.get(name);
  if (values === undefined) {
    const element = document.querySelector(`script[data-array="${CSS.escape(name)}"]`);
    if (!(element instanceof HTMLScriptElement)) throw new Error(`the page has no array ${name}`);
    const text = atob(element.text);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
    values = new TYPES[element.dataset.type ?? ""](bytes.buffer);
    decoded.set(name, values);
    element.text = ""; // the text isn't needed any more
  }
  return values;
}

/**
 * Return whether the page has an array of this name.
 *
 * @param {string} name
 */
export function hasArray(name) {
  return decoded.has(name) || document.querySelector(`script[data-array="${CSS.escape(name)}"]`) !== null;
}
