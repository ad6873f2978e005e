/** Light and dark: as the system has it, or as the reader chooses. Colours are read from the style sheet. */

import { byId } from "./dom.js";

const CHOICES = ["system", "light", "dark"];
const NAMES = { system: "Theme: auto", light: "Theme: light", dark: "Theme: dark" };
/** @type {(() => void)[]} */
const followers = [];

/**
 * Return a colour of the style sheet by the name of its variable.
 *
 * @param {string} name
 */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/**
 * Run a function whenever the colours change.
 *
 * @param {() => void} follower
 */
export function onTheme(follower) {
  followers.push(follower);
}

/** Make the button that changes the theme work. */
export function startTheme() {
  const button = byId("theme");
  const changed = () => followers.forEach((follower) => follower());
  button.addEventListener("click", () => {
    const now = document.documentElement.dataset.theme ?? "system";
    const next = CHOICES[(CHOICES.indexOf(now) + 1) % CHOICES.length];
    document.documentElement.dataset.theme = next;
    button.textContent = NAMES[/** @type {keyof typeof NAMES} */ (next)];
    changed();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
}
