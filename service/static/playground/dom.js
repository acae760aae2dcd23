/** Making elements without markup in strings, so that names from answers can never become markup. */

// keeps a number and its unit on one line
const NBSP = "\u00a0";

/**
 * @param {string} tag
 * @param {Object<string, unknown>} properties `class`, `aria-*`, `data-*` become attributes, the rest properties
 * @param {...(Node|string)} children
 */
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") node.className = value;
    else if (name.includes("-")) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

export function percent(fraction) {
  const value = fraction * 100;
  if (value > 0 && value < 0.1) return `<${NBSP}0.1${NBSP}%`;
  return `${value.toFixed(value < 99.95 ? 1 : 0)}${NBSP}%`;
}

export function milliseconds(value) {
  return `${value.toFixed(value < 10 ? 1 : 0)}${NBSP}ms`;
}

export function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
