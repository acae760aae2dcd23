/** The strip of sample pictures. */

import { routeUrl, send } from "./api.js";
import { element } from "./dom.js";
import { readPicture } from "./picture.js";

/**
 * Fill the strip; it stays hidden when the server has no samples.
 *
 * @param {HTMLElement} block
 * @param {(load: (signal: AbortSignal) => Promise<import("./picture.js").Picture>) => void} choose
 */
export async function showSamples(block, choose) {
  const samples = await (await send(routeUrl("samples"), {})).json();
  const list = block.querySelector("ul");
  list.replaceChildren(...samples.map((sample) => element("li", {}, sampleButton(sample, list, choose))));
  block.hidden = samples.length === 0;
}

function sampleButton(sample, list, choose) {
  const url = routeUrl(sample.url.replace(/^\//, ""));
  const image = element("img", { src: url.href, alt: sample.title, loading: "lazy", width: 84, height: 62 });
  const button = element("button", { type: "button", title: sample.title, "aria-pressed": "false", "data-sample": sample.name }, image);
  button.addEventListener("click", () => {
    markSample(list, button);
    choose(async (signal) => {
      const response = await send(url, { signal });
      return readPicture(await response.blob(), { name: sample.name, sampleUrl: url.href });
    });
  });
  return button;
}

/** Show which sample is on the stage; null: none. */
export function markSample(list, chosen) {
  for (const button of list.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button === chosen));
}
