const at = (id) => document.getElementById(id);
const element = (name, text = "") => Object.assign(document.createElement(name), { textContent: text });
const percent = (share) => (100 * share).toFixed(1) + " %";
// the colours of the mask's palette, of Pascal VOC
function colour(index) {
  const rgb = [0, 0, 0];
  for (let bit = 0; bit < 8; bit++)
    for (let channel = 0; channel < 3; channel++) rgb[channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit);
  return `rgb(${rgb.join(" ")})`;
}
const hue = (index) => `hsl(${(index * 222.5) % 360} 85% 45%)`;
let latest = 0;

function say(text, bad = false) {
  at("message").textContent = text;
  at("message").classList.toggle("bad", bad);
}

function addRow(label, value, share = 0, swatch = "") {
  const row = element("li"), bar = element("i"), name = element("b", label);
  bar.style.width = 100 * share + "%";
  if (swatch) {
    const square = element("em");
    square.style.background = swatch;
    name.prepend(square);
  }
  row.append(bar, name, element("span", value));
  at("answers").append(row);
}

function addBox({ box, label, index, score }, width) {
  const part = (name, attributes, text = "") => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    node.textContent = text;
    at("boxes").append(node);
  };
  const [x0, y0, x1, y1] = box, size = width / 34;
  part("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, fill: "none", stroke: hue(index), "stroke-width": width / 200 });
  part("text", { x: x0 + size / 4, y: y0 + size * 1.1, "font-size": size, fill: "#fff", stroke: hue(index), "stroke-width": size / 4, "paint-order": "stroke" }, `${label} ${percent(score)}`);
}

function show(answer) {
  for (const { label, probability } of answer.predictions ?? []) addRow(label, percent(probability), probability);
  if (answer.detections) {
    at("boxes").setAttribute("viewBox", `0 0 ${answer.width} ${answer.height}`);
    for (const each of [...answer.detections].reverse()) addBox(each, answer.width);
    for (const { label, index, score } of answer.detections) addRow(label, percent(score), score, hue(index));
  }
  if (answer.shares) {
    at("mask").src = "data:image/png;base64," + answer.mask;
    at("mask").hidden = false;
    for (const label in answer.shares) addRow(label, percent(answer.shares[label]), answer.shares[label], colour(answer.indices[label]));
  }
  if (answer.features) {
    say(words.numbers.replace("{count}", answer.features.length));
    answer.features.slice(0, 8).forEach((value, i) => addRow(i, value.toFixed(4)));
  }
  if (!at("answers").childElementCount) say(words.none);
}

async function send(file) {
  if (!file) return;
  const number = ++latest, begin = performance.now();
  at("answers").replaceChildren();
  at("boxes").replaceChildren();
  at("took").textContent = "";
  at("mask").hidden = true;
  URL.revokeObjectURL(at("photo").src);
  at("photo").src = URL.createObjectURL(file);
  document.querySelector("figure").hidden = false;
  say(words.working);
  try {
    const response = await fetch("predict" + (MASK ? "?mask=true" : ""), { method: "POST", body: file, headers: { "content-type": "application/octet-stream" } });
    const message = await response.json();
    if (number !== latest) return;
    if (!response.ok) {
      document.querySelector("figure").hidden = response.status === 422;
      return say(message.error, true);
    }
    say("");
    show(message.images[0]);
    at("took").textContent = words.took.replace("{ms}", Math.round(performance.now() - begin));
  } catch {
    if (number === latest) say(words.failed, true);
  }
}

at("address").textContent = location.origin + "/";
const MASK = document.body.dataset.task === "segmentation";
const input = document.querySelector("input"), drop = at("drop");
input.addEventListener("change", () => send(input.files[0]));
addEventListener("paste", (event) => send(event.clipboardData.files[0]));
for (const name of ["dragover", "drop", "dragleave"])
  addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop") send(event.dataTransfer.files[0]);
  });
