import { loadInWorker } from "./mobilenetv2/src/worker.js";
import { TEXTS } from "./texts.js";

const at = (id) => document.getElementById(id);
const MOST_PIXELS = 1600; // of a side of a photo that is shown
const OVERLAY = 0.55;

let language = (localStorage.getItem("language") ?? navigator.language).startsWith("ko") ? "ko" : "en";
let models = [];
let model = null;
let loading = null;
let stream = null;
const shown = []; // photos with their cards, to be answered again by another model

const words = () => TEXTS[language];

/** Shows a line of TEXTS, and what went wrong. */
function say(key, error) {
  at("status").dataset.text = key;
  at("status").textContent = words()[key] + (error ? `: ${error.message}` : "");
  at("status").className = error ? "error" : "";
}

function translate() {
  document.documentElement.lang = language;
  const { other } = words();
  at("language").textContent = other;
  at("language").lang = language === "ko" ? "en" : "ko";
  for (const element of document.querySelectorAll("[data-text]")) {
    const text = words()[element.dataset.text];
    element.textContent = typeof text === "string" ? text : text[model?.task ?? "classification"];
  }
  at("camera").textContent = stream ? words().stop : words().camera;
  if (model) {
    const { size, classes, runtime } = model.info;
    const facts = { size: size.join(" × "), classes, ...runtime };
    at("facts").textContent = words().facts(facts);
  }
}

/** @param {string | Promise<string>} file */
async function choose(file) {
  say("loading");
  const before = model;
  loading = loadInWorker(file, { wasm: "mobilenetv2/wasm/" });
  try {
    model = await loading;
  } catch (error) {
    say("failed", error);
    return;
  }
  before?.close();
  at("threshold-choice").hidden = model.task !== "detection";
  say("ready");
  translate();
  for (const photo of shown) await answer(photo);
}

/** The answer of the model for an image, and how long the network took. */
async function ask(image) {
  await loading;
  const threshold = Number(at("threshold").value);
  if (model.task === "detection") return { objects: await model.detect(image, { threshold }), ms: model.milliseconds };
  if (model.task === "segmentation") return { mask: await model.segment(image), ms: model.milliseconds };
  return { classes: await model.classify(image, { top: 5 }), ms: model.milliseconds };
}

const hue = (index) => (index * 0.618034 * 360) % 360;

function drawObjects(context, objects, scale) {
  const letters = Math.max(14, Math.round(context.canvas.width / 24));
  context.lineWidth = Math.max(2, Math.round(letters / 6));
  context.font = `${letters}px system-ui, sans-serif`;
  context.textBaseline = "top";
  for (const { box, label, score, index } of [...objects].reverse()) {
    const [left, top, right, bottom] = box.map((value) => value * scale);
    context.strokeStyle = context.fillStyle = `hsl(${hue(index)} 80% 45%)`;
    context.strokeRect(left, top, right - left, bottom - top);
    const text = `${label} ${score.toFixed(2)}`;
    const width = context.measureText(text).width + 8, height = letters + 6;
    const x = Math.max(0, Math.min(left, context.canvas.width - width)), y = Math.max(0, top - height);
    context.fillRect(x, y, width, height);
    context.fillStyle = "white";
    context.fillText(text, x + 4, y + 3);
  }
}

function drawMask(context, { mask, width, height }, alpha) {
  const layer = new OffscreenCanvas(width, height);
  const pixels = new ImageData(width, height);
  const colours = new Map();
  for (let i = 0; i < mask.length; i++) {
    if (mask[i] === 0) continue;
    if (!colours.has(mask[i])) colours.set(mask[i], paletteColour(mask[i]));
    pixels.data.set(colours.get(mask[i]), 4 * i);
    pixels.data[4 * i + 3] = Math.round(255 * alpha);
  }
  layer.getContext("2d").putImageData(pixels, 0, 0);
  context.drawImage(layer, 0, 0, context.canvas.width, context.canvas.height);
}

function paletteColour(index) {
  const colour = [0, 0, 0];
  for (let bit = 0; bit < 8; bit++) {
    for (let c = 0; c < 3; c++) colour[c] |= ((index >> (3 * bit + c)) & 1) << (7 - bit);
  }
  return colour;
}

function list(result) {
  const rows = result.classes
    ? result.classes.map(({ label, probability }) => [label, probability])
    : result.objects
      ? result.objects.map(({ label, score }) => [label, score])
      : result.mask.classes.map(({ label, share }) => [label, share]);
  const holder = document.createElement(rows.length ? "ol" : "p");
  if (!rows.length) holder.textContent = words().nothing;
  for (const [label, share] of rows.slice(0, 12)) {
    const row = document.createElement("li");
    const name = document.createElement("b"), number = document.createElement("span"), bar = document.createElement("i");
    name.textContent = label;
    number.textContent = `${(100 * share).toFixed(1)} %`;
    bar.style.width = `${100 * share}%`;
    row.append(name, number, bar);
    holder.append(row);
  }
  return holder;
}

async function answer(photo) {
  const { card, file } = photo;
  const box = card.querySelector(".words");
  try {
    // what the page shows is read beside the worker, which says what is wrong with a file that is no image
    const read = createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => null);
    const [result, bitmap] = await Promise.all([ask(file), read]);
    const { width, height } = bitmap;
    const scale = Math.min(1, MOST_PIXELS / Math.max(width, height));
    const canvas = card.querySelector("canvas");
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    const context = canvas.getContext("2d");
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    if (result.objects) drawObjects(context, result.objects, scale);
    if (result.mask) drawMask(context, result.mask, OVERLAY);
    const name = document.createElement("p");
    name.className = "name";
    name.textContent = `${file.name ?? ""} · ${words().time(result.ms.toFixed(1))}`;
    box.replaceChildren(name, list(result));
    card.dataset.done = "1";
  } catch (error) {
    const line = document.createElement("p");
    line.className = "error";
    line.textContent = error.message;
    box.replaceChildren(line);
    card.dataset.done = "1";
  }
}

async function add(files) {
  for (const file of files) {
    const card = document.createElement("article");
    const box = document.createElement("div");
    box.className = "words";
    box.textContent = file.name;
    card.append(document.createElement("canvas"), box);
    at("results").prepend(card);
    const photo = { card, file };
    shown.unshift(photo);
    await answer(photo);
  }
}

async function startCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    say("no_camera", error);
    return;
  }
  const video = at("video");
  video.srcObject = stream;
  at("live").hidden = false;
  translate();
  await video.play();
  while (stream) {
    const frame = await createImageBitmap(video).catch(() => null);
    if (!frame) break;
    const result = await ask(frame);
    const overlay = at("overlay");
    overlay.width = frame.width;
    overlay.height = frame.height;
    frame.close();
    const context = overlay.getContext("2d");
    if (result.objects) drawObjects(context, result.objects, 1);
    if (result.mask) drawMask(context, result.mask, OVERLAY);
    const time = document.createElement("p");
    time.className = "name";
    time.textContent = words().time(result.ms.toFixed(1));
    at("live-result").replaceChildren(time, list(result));
    at("live").dataset.frames = Number(at("live").dataset.frames ?? 0) + 1;
    await new Promise(requestAnimationFrame);
  }
}

function stopCamera() {
  for (const track of stream.getTracks()) track.stop();
  stream = null;
  at("live").hidden = true;
  translate();
}

at("language").onclick = () => {
  language = language === "ko" ? "en" : "ko";
  localStorage.setItem("language", language);
  translate();
  for (const photo of shown) answer(photo);
};
at("camera").onclick = () => (stream ? stopCamera() : startCamera());
at("file").onchange = ({ target }) => {
  const files = [...target.files];
  target.value = "";
  add(files);
};
at("threshold").oninput = ({ target }) => (at("threshold-value").textContent = Number(target.value).toFixed(2));
at("threshold").onchange = () => shown.forEach(answer);
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") add(event.dataTransfer.files);
  });
}
document.addEventListener("paste", ({ clipboardData }) => add(clipboardData.files));

translate();
// the worker starts while the list is fetched
const listed = fetch("models.json").then((response) => response.json());
const chosen = choose(listed.then(({ models: [first] }) => first.file));
const site = await listed;
models = site.models;
document.title = at("title").textContent = site.title;
for (const [i, { name }] of models.entries()) at("models").add(new Option(name, i));
at("model-choice").hidden = models.length < 2;
at("models").onchange = ({ target }) => choose(models[target.value].file);
await chosen;
document.body.dataset.ready = "1";
// later than the first answer, which the files would keep waiting
if ("serviceWorker" in navigator) setTimeout(() => navigator.serviceWorker.register("offline.js").catch(() => {}), 1000);
