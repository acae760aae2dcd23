/** What went over the wire: curl line, JSON, timings. */

import { element, milliseconds } from "./dom.js";

const LONG_TEXT = 60;
const KEPT_TEXT = 28;
const STAGE_COLOURS = ["#3f8f86", "#d39a2c", "#8a63b8", "#4a86c5", "#c8604f", "#7d9a3c", "#b0588c", "#5f6fb8"];
const REST_COLOUR = "#9aa5a2";

/** The command that sends the same request. */
export function curlLine(url, picture, withKey) {
  const parts = [`curl -sS ${shellWord(url.href)}`];
  if (withKey) parts.push('-H "X-API-Key: $API_KEY"');
  parts.push(`-H ${shellWord(`Content-Type: ${picture.type}`)}`);
  parts.push(`--data-binary ${picture.sampleUrl ? "@-" : shellWord(`@${picture.name}`)}`);
  const command = parts.join(" \\\n  ");
  return picture.sampleUrl ? `curl -sS ${shellWord(picture.sampleUrl)} |\n${command}` : command;
}

function shellWord(text) {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** The answer, indented, with long texts (masks, label maps) cut. */
export function jsonNodes(answer) {
  const text = JSON.stringify(answer, (_, value) =>
    typeof value === "string" && value.length > LONG_TEXT ? `${value.slice(0, KEPT_TEXT)}… ${value.length} characters` : value, 2);
  return text.split(/("(?:[^"\\]|\\.)*"(?=:)|… \d+ characters)/).map((piece, index) => {
    if (index % 2 === 0) return piece;
    return element("span", { class: piece.startsWith("…") ? "cut" : "key", textContent: piece });
  });
}

/**
 * Stacked bar of the stages and a legend.
 *
 * @param {Map<string, number>} stages milliseconds
 * @param {number} total milliseconds from click to answer
 */
export function timingNodes(stages, total) {
  const server = [...stages.values()].reduce((sum, value) => sum + value, 0);
  const rows = [...stages].map(([name, value], index) => ({ name, value, colour: STAGE_COLOURS[index % STAGE_COLOURS.length] }));
  const rest = total - server;
  if (rest > 0) rows.push({ name: "network", value: rest, colour: REST_COLOUR });
  const whole = Math.max(total, server, 0.001);
  const bar = element("div", { class: "stack", "aria-hidden": "true" }, ...rows.map((row) => segment(row, whole)));
  const legend = element("ul", { class: "stages" }, ...rows.map(legendRow));
  const text = `${milliseconds(total)} in all, ${milliseconds(server)} of it in the server.`;
  return [bar, legend, element("p", { class: "total", textContent: text })];
}

function segment({ name, value, colour }, whole) {
  const part = element("span", { title: `${name}: ${milliseconds(value)}` });
  Object.assign(part.style, { width: `${(value / whole) * 100}%`, background: colour });
  return part;
}

function legendRow({ name, value, colour }) {
  const swatch = element("span", { class: "swatch" });
  swatch.style.background = colour;
  return element("li", {}, swatch, element("span", { textContent: name }), element("span", { class: "number", textContent: milliseconds(value) }));
}

/** Put text on the clipboard and say so on the button. */
export async function copyText(button, text) {
  const name = button.dataset.name ?? button.textContent;
  button.dataset.name = name;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    // no clipboard outside HTTPS and localhost, or permission refused
    button.textContent = "Select the text to copy";
  }
  setTimeout(() => { button.textContent = name; }, 1600);
}
