/** Files that the reader saves: pictures and values. They are made in the browser; nothing is sent anywhere. */

/**
 * Offer a file for saving.
 *
 * @param {string} name
 * @param {Blob} content
 */
export function save(name, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/**
 * Offer rows as a CSV file.
 *
 * @param {string} name
 * @param {string[]} headings
 * @param {(string | number | null | undefined)[][]} rows
 */
export function saveCsv(name, headings, rows) {
  const field = (/** @type {unknown} */ value) => {
    const text = value === null || value === undefined || Number.isNaN(value) ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [headings, ...rows].map((row) => row.map(field).join(","));
  save(`${name}.csv`, new Blob([`${lines.join("\n")}\n`], { type: "text/csv" }));
}

/**
 * Offer a picture as an SVG file.
 *
 * @param {string} name
 * @param {string} source
 */
export function saveSvg(name, source) {
  save(`${name}.svg`, new Blob([source], { type: "image/svg+xml" }));
}

/**
 * Offer a picture as a PNG file, three times as large as on the screen.
 *
 * @param {string} name
 * @param {string} source its SVG
 * @param {number} width
 * @param {number} height
 */
export async function savePng(name, source, width, height) {
  const picture = new Image();
  picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(source)}`;
  await picture.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [3 * width, 3 * height];
  const context = canvas.getContext("2d");
  if (context === null) return;
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((/** @type {(blob: Blob | null) => void} */ done) => canvas.toBlob(done, "image/png"));
  if (blob !== null) save(`${name}.png`, blob);
}

/**
 * Return an SVG element as a text that stands by itself, with a background.
 *
 * @param {SVGElement} svg
 * @param {string} background
 */
export function sourceOf(svg, background) {
  const copy = /** @type {SVGElement} */ (svg.cloneNode(true));
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("style", `background: ${background}; font-family: sans-serif`);
  return new XMLSerializer().serializeToString(copy);
}
