/** Tables whose rows the reader sorts by a column, with the mouse or the keyboard. */

import { make } from "./dom.js";

// Tables of few rows with much to read: on a phone their cells stand below each other, each with its heading.
const STACKED = ["numbers", "audit_sentences", "planted-", "ways-"];
const LAST = "–"; // an empty cell, which comes last in either direction

/**
 * Return what a cell is sorted by: a number where it has one, else its text.
 *
 * @param {HTMLTableCellElement} cell
 * @returns {number | string}
 */
function keyOf(cell) {
  const text = (cell.dataset.value ?? cell.textContent ?? "").trim();
  // a p value below the least float is written as <1e-300; an interval or a remark may stand behind a number
  const number = Number(text.replace(/^<(?=\d)/, "").replace(/(,| [[(]).*$/, ""));
  return text === "" || Number.isNaN(number) ? text : number;
}

/**
 * Sort the rows of a table by a column.
 *
 * @param {HTMLTableElement} table
 * @param {number} column
 * @param {number} direction 1 or -1
 */
function sortRows(table, column, direction) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, key: keyOf(row.cells[column]) }));
  const missing = (/** @type {number | string} */ key) => key === LAST;
  rows.sort((a, b) => {
    if (missing(a.key) !== missing(b.key)) return missing(a.key) ? 1 : -1;
    if (typeof a.key === "number" && typeof b.key === "number") return direction * (a.key - b.key);
    if (typeof a.key !== typeof b.key) return typeof a.key === "number" ? -1 : 1;
    return direction * String(a.key).localeCompare(String(b.key), "en", { numeric: true });
  });
  body.append(...rows.map(({ row }) => row));
}

/**
 * Give every heading of a table a button that sorts by it.
 *
 * @param {HTMLTableElement} table
 */
function makeSortable(table) {
  const headings = [...(table.tHead?.rows[0].cells ?? [])];
  headings.forEach((heading, column) => {
    const button = make("button", { type: "button", title: "Sort by this column" }, heading.textContent ?? "");
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      sortRows(table, column, up ? 1 : -1);
    });
  });
}

/** Say at every table that is wider than its place that it can be scrolled. */
function watchWidths() {
  const sized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const place = /** @type {HTMLElement} */ (target);
      place.parentElement?.classList.toggle("wide", place.scrollWidth > place.clientWidth + 1);
    }
  });
  for (const place of document.querySelectorAll(".table > .scroll")) sized.observe(place);
}

/**
 * Give each cell its heading, which the style shows where it stacks the cells of a row.
 *
 * @param {HTMLTableElement} table
 */
function makeStacked(table) {
  const headings = [...(table.tHead?.rows[0].cells ?? [])].map((cell) => cell.textContent ?? "");
  table.classList.add("stacked");
  for (const row of table.tBodies[0].rows) {
    [...row.cells].forEach((cell, column) => (cell.dataset.label = headings[column]));
  }
}

/** Make all tables of the page sortable, and those stacked that have much to read in few rows. */
export function startTables() {
  watchWidths();
  for (const table of /** @type {NodeListOf<HTMLTableElement>} */ (document.querySelectorAll("table[data-table]"))) {
    if (STACKED.some((name) => table.dataset.table?.startsWith(name))) makeStacked(table);
    makeSortable(table);
  }
}

/**
 * Return a new sortable table. Numbers are sorted by their value, and shown as `write` says.
 *
 * @param {string} caption
 * @param {{heading: string, write?: (value: number) => string}[]} columns
 * @param {(string | number)[][]} rows
 * @returns {HTMLTableElement}
 */
export function sortableTable(caption, columns, rows) {
  const kinds = columns.map((_, i) => (rows.length && typeof rows[0][i] === "number" ? "number" : "text"));
  const cells = (/** @type {(string | number)[]} */ row) =>
    row.map((value, i) => {
      if (typeof value === "string") return make("td", { class: kinds[i] }, value);
      if (!Number.isFinite(value)) return make("td", { class: kinds[i] }, LAST);
      return make("td", { class: kinds[i], "data-value": value }, columns[i].write?.(value) ?? String(value));
    });
  const headings = columns.map(({ heading }, i) => make("th", { scope: "col", class: kinds[i] }, heading));
  const table = /** @type {HTMLTableElement} */ (
    make(
      "table",
      {},
      make("caption", {}, caption),
      make("thead", {}, make("tr", {}, ...headings)),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...cells(row)))),
    )
  );
  makeSortable(table);
  return table;
}
