/** Problems, and what to do about them. */

import { element } from "./dom.js";

const READABLE = "Send a JPEG, PNG, WebP, BMP, TIFF or GIF picture.";
const ADVICE = new Map([
  ["network", "Check that the server is running and that you are connected, then try again."],
  ["answer", "The page and the server may be of different versions: reload the page."],
  [401, "This server asks for an API key: enter it below."],
  [403, "The server does not accept this API key: enter another one below."],
  [404, "Reload the page: the list of models may have changed."],
  [408, "The upload took too long: use a smaller picture or a faster connection."],
  [413, "Use a smaller picture."],
  [415, READABLE],
  [422, READABLE],
  [429, "The server is busy. Wait a moment and try again."],
  [500, "This is a fault of the server. Tell its operator the request id below."],
  [503, "The server is starting, stopping or recovering. Wait a moment and try again."],
  [504, "The answer took too long. Try again, or use a smaller picture."],
]);

/** Nodes that say what happened, what to do, and which request it was. */
export function problemNodes(problem, retry) {
  const nodes = [element("h3", { textContent: problem.title })];
  if (problem.detail && problem.detail !== problem.title) nodes.push(element("p", { textContent: problem.detail }));
  const advice = ADVICE.get(problem.code) ?? ADVICE.get(problem.status);
  if (advice) nodes.push(element("p", {}, element("strong", { textContent: advice })));
  const facts = [
    ["status", problem.status], ["code", problem.code], ["request", problem.requestId],
  ].filter(([, value]) => value !== undefined);
  nodes.push(element("p", { class: "facts", textContent: facts.map(([name, value]) => `${name} ${value}`).join(" · ") }));
  nodes.push(retryButton(problem.retryAfter ?? 0, retry));
  return nodes;
}

export function needsKey({ status }) {
  return status === 401 || status === 403;
}

/** The server said how long to wait; the button counts down, but does not forbid. */
function retryButton(seconds, retry) {
  const button = element("button", { type: "button", class: "button" });
  button.addEventListener("click", retry);
  countDown(button, Math.ceil(seconds));
  return button;
}

function countDown(button, left) {
  button.textContent = left > 0 ? `Try again (in ${left} s)` : "Try again";
  if (left <= 0) return;
  setTimeout(() => {
    if (button.isConnected) countDown(button, left - 1);
  }, 1000);
}
