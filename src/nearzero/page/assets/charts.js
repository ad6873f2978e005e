/**
 * Charts: Vega-Lite specifications from the page, shown by Vega without code made from text.
 *
 * @typedef {{title: string, spec: any, columns: Record<string, any[]>, marks: Record<string, any[]>,
 *   marked: string, headings: Record<string, string>, logarithmic: boolean, group: string, labels: Record<string, string>,
 *   series: Record<string, string>, names: Record<string, string>}} ChartValues
 */

import { byId, digits, make, page } from "./dom.js";
import { save, saveCsv, saveSvg } from "./downloads.js";
import { colour, onTheme } from "./theme.js";

const KEYS = ["series", "x", "y", "low", "high", "n"];

/**
 * Return columns as rows.
 *
 * @param {Record<string, any[]>} columns
 */
function rowsOf(columns) {
  const names = Object.keys(columns);
  const count = names.length ? columns[names[0]].length : 0;
  return Array.from({ length: count }, (_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]])));
}

/**
 * Return a specification with the colours of the theme in the place of the variables that name them.
 *
 * @param {any} spec
 */
function coloured(spec) {
  return JSON.parse(JSON.stringify(spec), (_, value) => {
    const name = typeof value === "string" ? /^var\(--(\w+)\)$/.exec(value)?.[1] : undefined;
    return name === undefined ? value : colour(name);
  });
}

/** One chart on the page. */
export class Chart {
  /**
   * @param {HTMLElement} element
   * @param {string} name
   * @param {ChartValues} values
   */
  constructor(element, name, values) {
    this.element = element;
    this.plot = /** @type {HTMLElement} */ (element.querySelector(".plot"));
    this.name = name;
    this.values = values;
    this.shown = Object.keys(values.series);
    this.marked = true;
    /** @type {any} */
    this.view = null;
    const positions = values.columns.x;
    this.whole = [Math.min(...positions), Math.max(...positions)];
    this.domain = [...this.whole];
    for (const button of /** @type {NodeListOf<HTMLElement>} */ (element.querySelectorAll("[data-do]"))) {
      button.addEventListener("click", () => this.act(button.dataset.do ?? ""));
    }
    const listed = /** @type {HTMLDetailsElement} */ (element.querySelector("details.values"));
    listed.addEventListener("toggle", () => listed.open && this.listValues(listed));
    this.followPointer();
  }

  /**
   * Fill the table of values, for readers who use no pointer.
   *
   * @param {HTMLElement} listed
   */
  listValues(listed) {
    const { columns, headings, title } = this.values;
    const keys = KEYS.filter((key) => key in headings);
    const head = make("tr", {}, ...keys.map((key) => make("th", { scope: "col" }, headings[key].replaceAll("_", " "))));
    const rows = columns.x.map((_, i) => {
      const cells = keys.map((key) => {
        const value = columns[key][i];
        return make("td", {}, typeof value === "number" ? digits(value, 5) : (value ?? "–"));
      });
      return make("tr", {}, ...cells);
    });
    const table = make("table", {}, make("caption", {}, title), make("thead", {}, head), make("tbody", {}, ...rows));
    listed.querySelector(".scroll")?.replaceChildren(table);
  }

  get visible() {
    return this.element.offsetParent !== null;
  }

  /** Draw the chart, in the colours of the theme. */
  draw() {
    if (!this.visible) return;
    this.view?.finalize();
    const ink = colour("ink");
    const axis = { labelColor: ink, titleColor: ink, domainColor: colour("line"), tickColor: colour("line") };
    const config = {
      background: "transparent",
      font: "system-ui, sans-serif",
      axis: { ...axis, gridColor: colour("line"), titleFontWeight: "normal", labelFontSize: 12, titleFontSize: 12 },
      view: { stroke: null },
    };
    const series = this.values.series;
    const names = this.values.names;
    const rows = rowsOf(this.values.columns).map((row) => ({ ...row, reading: series[row.series], name: names[row.series] }));
    const compiled = vegaLite.compile(coloured({ ...this.values.spec, config })).spec;
    const view = new vega.View(vega.parse(compiled, undefined, { ast: true }), {
      expr: vegaInterpreter.expressionInterpreter,
      renderer: "svg",
      container: this.plot,
      hover: true,
    });
    view.tooltip((/** @type {any} */ _, /** @type {any} */ event, /** @type {any} */ __, /** @type {any} */ value) =>
      showTooltip(event, value),
    );
    view.data("rows", rows);
    if (this.values.spec.layer.some((/** @type {any} */ layer) => layer.data?.name === "marks")) {
      view.data("marks", rowsOf(this.values.marks));
    }
    this.view = view;
    this.settle();
    view.run();
  }

  /** Make the chart as wide as its place. */
  fit() {
    if (this.view === null || !this.visible || this.view.width() === this.plot.clientWidth) return;
    this.view.width(this.plot.clientWidth).runAsync();
  }

  /** Hand domain and choices to the view. */
  settle() {
    if (this.view === null) return;
    this.view.signal("x0", this.domain[0]).signal("x1", this.domain[1]);
    this.view.signal("shown", this.shown).signal("marked", this.marked);
    for (const key of /** @type {NodeListOf<HTMLElement>} */ (this.element.querySelectorAll("[data-series]"))) {
      key.hidden = !this.shown.includes(key.dataset.series ?? "");
    }
  }

  /**
   * Choose what is shown.
   *
   * @param {string[]} series
   * @param {boolean} marked
   */
  choose(series, marked) {
    this.shown = series;
    this.marked = marked;
    this.settle();
    this.view?.runAsync();
  }

  /**
   * Set the part of the x axis that is shown: moved by a share of its width, and made narrower or wider by a factor.
   *
   * @param {number} factor
   * @param {number} move
   * @param {number} centre the place that stays, from 0 to 1
   */
  zoom(factor, move = 0, centre = 0.5) {
    const [to, from] = this.values.logarithmic ? [Math.log, Math.exp] : [Number, Number];
    let [low, high] = this.domain.map(to);
    const [least, greatest] = this.whole.map(to);
    const width = Math.min((high - low) * factor, greatest - least);
    const kept = low + centre * (high - low) + move * (high - low);
    low = Math.max(least, Math.min(kept - centre * width, greatest - width));
    this.domain = [low, low + width].map(from);
    this.settle();
    this.view?.runAsync();
  }

  /**
   * Do what a button says.
   *
   * @param {string} what
   */
  async act(what) {
    if (what === "in") this.zoom(0.6);
    else if (what === "out") this.zoom(1 / 0.6);
    else if (what === "left") this.zoom(1, -0.25);
    else if (what === "right") this.zoom(1, 0.25);
    else if (what === "all") {
      this.domain = [...this.whole];
      this.settle();
      this.view?.runAsync();
    } else if (what === "csv") this.saveValues();
    else if (what === "svg") saveSvg(this.name, await this.view.toSVG());
    else if (what === "png") save(`${this.name}.png`, await this.picture());
  }

  /**
   * Show other values, with the same series.
   *
   * @param {string} title
   * @param {string} y title of the axis
   * @param {Record<string, any[]>} columns
   */
  replace(title, y, columns) {
    Object.assign(this.values, { title, columns });
    for (const layer of this.values.spec.layer) layer.encoding.y.title = y;
    this.whole = [Math.min(...columns.x), Math.max(...columns.x)];
    this.domain = [...this.whole];
    const caption = this.element.querySelector("figcaption");
    if (caption !== null) caption.textContent = title;
    this.plot.setAttribute("aria-label", title);
    const listed = /** @type {HTMLDetailsElement} */ (this.element.querySelector("details.values"));
    if (listed.open) this.listValues(listed);
    this.draw();
  }

  /**
   * Show other marks.
   *
   * @param {Record<string, any[]>} marks
   */
  mark(marks) {
    this.values.marks = marks;
    this.view?.data("marks", rowsOf(marks)).runAsync();
  }

  saveValues() {
    const { columns, headings, marks } = this.values;
    const rows = columns.x.map((_, i) => [...KEYS.map((key) => columns[key]?.[i]), "measured"]);
    const marked = (marks.x ?? []).map((_, i) => [...KEYS.map((key) => marks[key]?.[i]), this.values.marked]);
    saveCsv(this.name, [...KEYS.map((key) => headings[key] ?? key), "source"], [...rows, ...marked]);
  }

  /** Return the chart as PNG, on the background of the theme. */
  async picture() {
    const canvas = await this.view.background(colour("paper")).toCanvas(3);
    this.view.background("transparent");
    return new Promise((/** @type {(blob: Blob) => void} */ done) => canvas.toBlob(done, "image/png"));
  }

  followPointer() {
    const { plot } = this;
    plot.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.shiftKey) return;
        event.preventDefault();
        const box = plot.getBoundingClientRect();
        const turned = event.deltaY || event.deltaX;
        this.zoom(turned > 0 ? 1.25 : 0.8, 0, (event.clientX - box.left) / box.width);
      },
      { passive: false },
    );
    /** @type {number | null} */
    let from = null;
    plot.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "mouse" && event.button === 0) from = event.clientX;
    });
    addEventListener("pointermove", (event) => {
      if (from === null) return;
      this.zoom(1, (from - event.clientX) / plot.clientWidth);
      from = event.clientX;
    });
    addEventListener("pointerup", () => {
      from = null;
    });
  }
}

/**
 * Show values beside the pointer, or hide them.
 *
 * @param {PointerEvent} event
 * @param {any} value
 */
function showTooltip(event, value) {
  const tip = byId("tooltip");
  tip.hidden = value === null || value === undefined || value === "";
  if (tip.hidden) return;
  const words = (/** @type {any} */ text) => (Number.isFinite(Number(text)) ? digits(Number(text), 4) : text);
  const lines = Object.entries(value).map(([key, text]) => `${key}: ${words(text)}`);
  tip.textContent = lines.join("\n");
  // above the plot, so that it covers no line
  const plot = event.target instanceof Element ? event.target.closest(".plot") : null;
  const top = plot === null ? event.clientY - 10 : plot.getBoundingClientRect().top;
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top - tip.offsetHeight)}px`;
}

/**
 * Make the switches of the response curves work.
 *
 * @param {HTMLFormElement} form
 * @param {Chart[]} charts
 */
function startSwitches(form, charts) {
  const chosen = (/** @type {string} */ name) => {
    const boxes = /** @type {HTMLInputElement[]} */ ([...form.querySelectorAll(`[name="${name}"]`)]);
    return boxes.length ? boxes.filter((box) => box.checked).map((box) => box.value) : null;
  };
  const apply = () => {
    const [networks, axes, splits] = ["network", "axis", "split"].map(chosen);
    const families = chosen("family") ?? [];
    for (const label of /** @type {NodeListOf<HTMLElement>} */ (form.querySelectorAll("[data-axes]"))) {
      const drawn = (label.dataset.axes ?? "").split(" ");
      label.hidden = !(axes ?? ["level"]).some((axis) => drawn.includes(axis));
    }
    const shown = charts.map((chart) => {
      const { network, axis, split } = chart.values.labels;
      const series = Object.keys(chart.values.series).filter((name) => families.includes(name.split(" ")[0]));
      const fits = networks?.includes(network) && (axes ?? ["level"]).includes(axis);
      const hidden = !fits || (splits !== null && axis === "level" && !splits.includes(split)) || !series.length;
      chart.element.hidden = hidden;
      return { chart, series };
    });
    // the places are known once all charts are hidden or shown
    const marked = (chosen("published") ?? []).length > 0;
    for (const { chart, series } of shown) if (!chart.element.hidden) chart.choose(series, marked);
  };
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
}

/** @type {Chart[]} */
const charts = [];

/**
 * Return the charts of a group.
 *
 * @param {string} group
 */
export function chartsOf(group) {
  return charts.filter((chart) => chart.values.group === group);
}

/** Show all charts of the page. */
export function startCharts() {
  for (const element of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-chart]"))) {
    const name = element.dataset.chart ?? "";
    charts.push(new Chart(element, name, page.charts[name]));
  }
  const form = byId("curve-controls");
  if (form !== null) startSwitches(form, chartsOf("curves"));
  // those further down are drawn when they come near the screen
  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        const chart = charts.find((each) => each.element === entry.target);
        if (entry.isIntersecting && chart?.view === null) chart.draw();
      }
    },
    { rootMargin: "600px" },
  );
  const sized = new ResizeObserver((entries) => {
    for (const entry of entries) charts.find((each) => each.plot === entry.target)?.fit();
  });
  for (const chart of charts) {
    near.observe(chart.element);
    sized.observe(chart.plot);
  }
  addEventListener("beforeprint", () => charts.forEach((chart) => chart.view === null && chart.draw()));
  onTheme(() => charts.forEach((chart) => chart.view !== null && chart.draw()));
}
