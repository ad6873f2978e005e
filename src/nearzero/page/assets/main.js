/** Start all parts of the page. */

import { startCharts } from "./charts.js";
import { byId } from "./dom.js";
import { startExamples } from "./examples.js";
import { startExplorer } from "./explorer.js";
import { startHistograms } from "./histogram.js";
import { startProbe } from "./probe.js";
import { startTables } from "./tables.js";
import { startTheme } from "./theme.js";

/** Make the buttons that copy a text work; without access to the clipboard they select it. */
function startCopies() {
  for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-copy]"))) {
    button.addEventListener("click", async () => {
      const text = byId(button.dataset.copy ?? "");
      getSelection()?.selectAllChildren(text);
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Selected: copy it with the keyboard";
      }
    });
  }
}

startTheme();
startTables();
startCopies();
startHistograms();
// the first screen is painted before the charts and the networks take their time
requestAnimationFrame(() =>
  setTimeout(() => {
    startCharts();
    startExplorer();
    startExamples();
    startProbe();
    document.documentElement.dataset.ready = "true";
  }),
);
