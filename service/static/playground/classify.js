/** Result of a classification: bars of the best labels. */

import { element, percent } from "./dom.js";

export const parameters = { top_k: 8 };

/** @returns {{summary: string, content: Node[]}} */
export function showClassification(answer, stage) {
  const items = answer.predictions;
  if (items.length === 0) return { summary: "No label.", content: [] };
  const [best] = items;
  const tag = element("span", { class: "tag verdict", textContent: `${best.label} · ${percent(best.score)}` });
  stage.tags.append(tag);
  const bars = element("ol", { class: "bars", "aria-label": "Best labels" }, ...items.map(bar));
  return { summary: `Best label: ${best.label}, ${percent(best.score)}.`, content: [bars] };
}

function bar({ label, score }) {
  const filled = element("span");
  filled.style.width = `${score * 100}%`;
  return element(
    "li",
    {},
    element("div", { class: "line" }, element("span", { textContent: label }), element("span", { class: "number", textContent: percent(score) })),
    element("div", { class: "meter", "aria-hidden": "true" }, filled),
  );
}
