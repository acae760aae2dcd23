/** Talking to the server: requests, answers, problems. */

/** A problem the server described (RFC 9457), or one that kept the request from being answered. */
export class Problem extends Error {
  /** @param {{title: string, detail: string, code: string, status?: number, requestId?: string, retryAfter?: number}} facts */
  constructor(facts) {
    super(facts.detail);
    Object.assign(this, facts);
  }
}

/** Address of a route, also when the service lives below a path of another server. */
export function routeUrl(route, parameters = {}) {
  const url = new URL(route, document.baseURI);
  for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);
  return url;
}

/**
 * Send one request.
 *
 * @param {URL} url
 * @param {RequestInit} options
 * @returns {Promise<Response>} a successful response
 * @throws {Problem} no connection, or an answer outside 200..299
 * @throws {DOMException} AbortError, when `options.signal` fired
 */
export async function send(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({
      title: "The server cannot be reached",
      detail: `No answer from ${url.host}.`,
      code: "network",
    });
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

async function problemOf(response) {
  const body = await response.json().catch(() => ({}));
  const retryAfter = Number(response.headers.get("Retry-After") ?? body.retry_after_s);
  return new Problem({
    status: response.status,
    title: body.title ?? `The server answered ${response.status}`,
    detail: typeof body.detail === "string" ? body.detail : response.statusText,
    code: body.code ?? String(response.status),
    requestId: body.request_id ?? response.headers.get("X-Request-ID") ?? undefined,
    retryAfter: retryAfter > 0 ? retryAfter : undefined,
  });
}

/**
 * Run a model on a picture.
 *
 * @param {URL} url route with parameters
 * @param {{blob: Blob, type: string}} picture
 * @param {{accept: string, key: string, signal: AbortSignal}} options
 */
export function post(url, picture, { accept, key, signal }) {
  const headers = { "Content-Type": picture.type, Accept: accept };
  if (key) headers["X-API-Key"] = key;
  return send(url, { method: "POST", body: picture.blob, headers, signal });
}

/**
 * Stage times of an answer. The header knows stages that end after the body was written.
 *
 * @param {Response} response
 * @param {{timings?: Object<string, number>}} answer
 * @returns {Map<string, number>} stage -> milliseconds, in order, without the total
 */
export function stageTimes(response, answer) {
  const stages = new Map();
  for (const part of (response.headers.get("Server-Timing") ?? "").split(",")) {
    const [name, ...attributes] = part.split(";").map((text) => text.trim());
    const duration = attributes.find((text) => text.startsWith("dur="));
    if (name && duration) stages.set(name, Number(duration.slice(4)));
  }
  for (const [name, duration] of Object.entries(answer.timings ?? {})) {
    if (!stages.has(name)) stages.set(name, duration);
  }
  stages.delete("total");
  return stages;
}
