/** The playground: choose a task, a model and a picture; see the answer of the server. */

import { Problem, post, routeUrl, send, stageTimes } from "./playground/api.js";
import * as classify from "./playground/classify.js";
import * as detect from "./playground/detect.js";
import { element } from "./playground/dom.js";
import { readPicture, transferredFile } from "./playground/picture.js";
import { needsKey, problemNodes } from "./playground/problem.js";
import { markSample, showSamples } from "./playground/samples.js";
import * as segment from "./playground/segment.js";
import { Stage } from "./playground/stage.js";
import { copyText, curlLine, jsonNodes, timingNodes } from "./playground/transcript.js";

const KEY_STORE = "smserve-api-key";
const BUSY_AFTER_MS = 120;

const part = (id) => document.getElementById(id);
const stage = new Stage(part("stage"));
const detectionView = new detect.DetectionView();
const segmentationView = new segment.SegmentationView();

const TASKS = {
  classify: { parameters: classify.parameters, show: classify.showClassification },
  detect: { parameters: detect.parameters, show: (...args) => detectionView.show(...args) },
  segment: { parameters: segment.parameters, show: (...args) => segmentationView.show(...args) },
};

const state = {
  models: [],
  chosenModels: new Map(), // task -> name
  picture: null,
  finished: new Map(), // task and model -> exchange, for the present picture
  current: null, // the exchange on show
  running: null, // AbortController of the request in flight
  key: sessionStorage.getItem(KEY_STORE) ?? "",
};

function currentTask() {
  return document.querySelector('input[name="task"]:checked').value;
}

function modelsOf(task) {
  return state.models.filter((model) => model.task === task);
}

function currentModel() {
  return modelsOf(currentTask()).length > 1 ? (state.chosenModels.get(currentTask()) ?? null) : null;
}

/** Address of the present choice; the default model needs no parameter. */
function requestUrl(overrides = {}) {
  const model = currentModel();
  return routeUrl(currentTask(), { ...TASKS[currentTask()].parameters, ...(model ? { model } : {}), ...overrides });
}

function announce(text) {
  part("summary").textContent = text;
}

// Running

/** Begin something that replaces whatever is in flight. */
function begin() {
  state.running?.abort();
  const controller = new AbortController();
  state.running = controller;
  const isCurrent = () => state.running === controller;
  setTimeout(() => {
    if (isCurrent()) showBusy(true);
  }, BUSY_AFTER_MS);
  return { signal: controller.signal, isCurrent };
}

function showBusy(isBusy) {
  for (const id of ["progress", "cancel"]) part(id).hidden = !isBusy;
  part("stage-card").setAttribute("aria-busy", String(isBusy));
}

function end() {
  state.running = null;
  showBusy(false);
}

/** Do `work` unless something newer replaces it; its problems are shown. */
async function attempt(work, retry) {
  const { signal, isCurrent } = begin();
  clearProblem();
  try {
    await work(signal, isCurrent);
  } catch (error) {
    if (!isCurrent() || error.name === "AbortError") return;
    showProblem(error instanceof Problem ? error : unreadable(error), retry);
  } finally {
    if (isCurrent()) end();
  }
}

function unreadable(error) {
  return new Problem({ title: "The answer cannot be shown", detail: error.message, code: "answer" });
}

/** Load a picture, then run the chosen task on it. */
function choosePicture(load) {
  return attempt(async (signal, isCurrent) => {
    const picture = await load(signal);
    if (!isCurrent()) return;
    state.picture = picture;
    state.finished.clear();
    showPicture();
    await runTask(signal, isCurrent);
  }, () => choosePicture(load));
}

function run({ anew = true } = {}) {
  if (!state.picture) return undefined;
  return attempt((signal, isCurrent) => {
    if (anew) state.finished.delete(requestUrl().href);
    return runTask(signal, isCurrent);
  }, run);
}

async function runTask(signal, isCurrent) {
  const url = requestUrl();
  resetResult();
  showCurl(url);
  let exchange = state.finished.get(url.href);
  if (!exchange) {
    announce("Running …");
    exchange = await ask(url, signal);
    if (!isCurrent()) return;
    state.finished.set(url.href, exchange);
  }
  await showExchange(exchange, isCurrent);
}

async function ask(url, signal) {
  const task = currentTask();
  const start = performance.now();
  const response = await post(url, state.picture, { accept: "application/json", key: state.key, signal });
  const answer = await response.json();
  const total = performance.now() - start;
  return { task, answer, stages: stageTimes(response, answer), total };
}

function cancel() {
  if (!state.running) return;
  state.running.abort();
  end();
  announce("Cancelled.");
}

// Showing

function showPicture() {
  const { bitmap, name } = state.picture;
  part("empty").hidden = true;
  part("caption").textContent = name;
  if (bitmap) {
    part("caption").textContent += ` · ${bitmap.width} × ${bitmap.height}`;
    stage.show(bitmap, bitmap, `The picture ${name}`);
    bitmap.close(); // the stage holds a smaller copy
  } else stage.root.hidden = true;
  part("run").disabled = false;
}

/** Take away what belongs to an earlier request. */
function resetResult() {
  state.current = null;
  stage.clear();
  part("view").replaceChildren();
  part("download").disabled = true;
  for (const id of ["json-card", "timings-card"]) part(id).hidden = true;
}

async function showExchange(exchange, isCurrent) {
  const { task, answer, stages, total } = exchange;
  if (!state.picture.bitmap) {
    stage.show(null, answer.image, "A blank sheet: this browser cannot show the format of the picture");
    part("caption").textContent = `${state.picture.name} · this browser cannot show the format`;
  }
  const { summary, content } = await TASKS[task].show(answer, stage, announce);
  if (!isCurrent()) return;
  state.current = exchange;
  announce(summary);
  part("view").replaceChildren(...content);
  part("demo-banner").hidden = !answer.model.demo;
  part("download").disabled = false;
  part("json").replaceChildren(...jsonNodes(answer));
  part("timings").replaceChildren(...timingNodes(stages, total));
  for (const id of ["json-card", "timings-card"]) part(id).hidden = false;
}

function showCurl(url) {
  part("curl").textContent = curlLine(url, state.picture, Boolean(state.key));
  part("curl-card").hidden = false;
}

function showProblem(problem, retry) {
  if (state.picture && !state.picture.bitmap) {
    stage.root.hidden = true;
    part("empty").hidden = false;
  }
  announce("");
  part("problem").replaceChildren(...problemNodes(problem, retry));
  part("problem").hidden = false;
  part("key-form").hidden = !needsKey(problem);
}

function clearProblem() {
  part("problem").hidden = true;
  part("key-form").hidden = true;
}

/** The picture as the server draws it, at the threshold of the slider. */
function download() {
  const task = currentTask();
  const url = requestUrl(task === "detect" ? { threshold: detectionView.threshold } : {});
  return attempt(async (signal, isCurrent) => {
    const response = await post(url, state.picture, { accept: "image/png", key: state.key, signal });
    const blob = await response.blob();
    if (!isCurrent()) return;
    const link = element("a", { href: URL.createObjectURL(blob), download: `${state.picture.name.replace(/\.\w+$/, "")}-${task}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }, download);
}

// Models

async function loadModels() {
  const headers = state.key ? { "X-API-Key": state.key } : {};
  const listed = await (await send(routeUrl("models"), { headers })).json();
  state.models = Array.isArray(listed) ? listed : listed.models;
  for (const input of document.querySelectorAll('input[name="task"]')) input.disabled = modelsOf(input.value).length === 0;
  const chosen = document.querySelector('input[name="task"]:checked');
  if (chosen.disabled) document.querySelector('input[name="task"]:enabled')?.click();
  showModels();
}

function showModels() {
  const models = modelsOf(currentTask());
  part("model-field").hidden = models.length < 2;
  part("model").replaceChildren(...models.map(({ name }) => element("option", { value: name, textContent: name })));
  const standard = models.find((model) => model.default) ?? models[0];
  part("model").value = state.chosenModels.get(currentTask()) ?? standard?.name ?? "";
  part("demo-banner").hidden = !models.find(({ name }) => name === part("model").value)?.demo;
}

// Events

function useFile(file) {
  if (!file) return;
  markSample(part("samples"), null);
  choosePicture(() => readPicture(file));
}

function listenToFiles() {
  part("file").addEventListener("change", ({ target }) => {
    useFile(target.files[0]);
    target.value = ""; // the same file can be chosen again
  });
  let depth = 0;
  const show = (change) => {
    depth = Math.max(0, depth + change);
    document.body.classList.toggle("dragging", depth > 0);
  };
  document.addEventListener("dragenter", () => show(1));
  document.addEventListener("dragleave", () => show(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    show(-Infinity);
    useFile(transferredFile(event.dataTransfer));
  });
  document.addEventListener("paste", (event) => useFile(transferredFile(event.clipboardData)));
}

function listenToControls() {
  part("tasks").addEventListener("change", () => {
    showModels();
    run({ anew: false });
  });
  part("model").addEventListener("change", ({ target }) => {
    state.chosenModels.set(currentTask(), target.value);
    showModels();
    run({ anew: false });
  });
  part("run").addEventListener("click", () => run());
  part("cancel").addEventListener("click", cancel);
  part("download").addEventListener("click", download);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") cancel();
  });
  part("copy-curl").addEventListener("click", ({ target }) => copyText(target, part("curl").textContent));
  part("copy-json").addEventListener("click", ({ target }) => copyText(target, JSON.stringify(state.current.answer, null, 2)));
  part("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    state.key = part("key").value.trim();
    sessionStorage.setItem(KEY_STORE, state.key);
    start().then(() => run());
  });
}

async function start() {
  clearProblem();
  try {
    await Promise.all([loadModels(), showSamples(part("samples-block"), choosePicture)]);
  } catch (error) {
    showProblem(error instanceof Problem ? error : unreadable(error), start);
  }
}

listenToFiles();
listenToControls();
start();
