// Runs what make_web.py wrote in onnxruntime-web (WebAssembly) and in transformers.js, and
// compares the results with our engine's.
//
//     npm install --ignore-scripts onnxruntime-web @huggingface/transformers
//     python tests/peers/make_web.py FOLDER [MODEL...]
//     node tests/peers/web_onnx.mjs FOLDER [PACKAGES]
//
// PACKAGES is the folder with node_modules; default: the working directory. Nothing is downloaded.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const folder = resolve(process.argv[2]);
const packages = createRequire(resolve(process.argv[3] ?? ".", "package.json"));
const load = (name) => import(pathToFileURL(packages.resolve(name)).href);
const version = (name) => {
  const path = packages.resolve(name).split(name)[0] + name + "/package.json";
  return JSON.parse(readFileSync(path, "utf8")).version;
};

const ort = await load("onnxruntime-web");
const { pipeline, env } = await load("@huggingface/transformers");
env.allowRemoteModels = false;
env.localModelPath = folder;
ort.env.logLevel = "error";
ort.env.wasm.numThreads = 1;

const rows = [];
const note = (title, runtime, what, difference, allowed) =>
  rows.push([title, runtime, what, difference, allowed, difference <= allowed]);
const argmax = (values) => values.indexOf(Math.max(...values));
const share = (ours, theirs) =>
  ours.filter((value, at) => value !== theirs[at]).length / ours.length;

function softmax(values) {
  const top = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - top));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

async function inWebAssembly(test) {
  const bytes = readFileSync(`${folder}/${test.title}.onnx`);
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  const pixels = Uint8Array.from(Buffer.from(test.pixels, "base64"));
  const outputs = await session.run({ image: new ort.Tensor("uint8", pixels, test.shape) });
  const int8 = test.title.endsWith("int8");
  if (test.mask) {
    const classes = test.labels.length;
    const scores = outputs.scores.data;
    const mask = test.mask.map((_, at) => argmax([...scores.slice(at * classes, (at + 1) * classes)]));
    note(test.title, "onnxruntime-web", "pixels of another class", share(test.mask, mask), int8 ? 0.05 : 1e-3);
    return;
  }
  const logits = [...outputs.logits.data];
  const range = Math.max(...test.logits) - Math.min(...test.logits);
  const worst = Math.max(...logits.map((value, at) => Math.abs(value - test.logits[at]))) / range;
  note(test.title, "onnxruntime-web", "logits, in parts of their range", worst, test.tolerance);
}

async function inTransformers(test) {
  const image = `${folder}/${test.title}.png`;
  const int8 = test.title.endsWith("int8");
  if (test.mask) {
    const segment = await pipeline("image-segmentation", test.title);
    const mask = new Array(test.mask.length).fill(-1);
    for (const { label, mask: { data } } of await segment(image)) {
      data.forEach((value, at) => (mask[at] = value ? test.labels.indexOf(label) : mask[at]));
    }
    note(test.title, "transformers.js", "pixels of another class", share(test.mask, mask), int8 ? 0.05 : 1e-3);
    return;
  }
  const classify = await pipeline("image-classification", test.title);
  const answer = await classify(image, { top_k: 5 });
  const ours = softmax(test.logits);
  const same = answer[0].label === test.labels[argmax(ours)];
  const worst = Math.max(
    ...answer.map(({ label, score }) => Math.abs(score - ours[test.labels.indexOf(label)])),
  );
  note(test.title, "transformers.js", "probabilities of the best five", same ? worst : 1, test.tolerance);
}

for (const test of JSON.parse(readFileSync(`${folder}/cases.json`, "utf8"))) {
  await inWebAssembly(test);
  await inTransformers(test);
}
console.log(
  `Node ${process.versions.node}, onnxruntime-web ${version("onnxruntime-web")}, ` +
    `transformers.js ${version("@huggingface/transformers")}\n`,
);
console.log("| model | runtime | what differs | largest | allowed | |\n| --- | --- | --- | --- | --- | --- |");
for (const [title, runtime, what, difference, allowed, passed] of rows) {
  const cells = [title, runtime, what, difference.toPrecision(2), allowed, passed ? "same" : "DIFFERS"];
  console.log(`| ${cells.join(" | ")} |`);
}
process.exitCode = rows.every((row) => row.at(-1)) ? 0 : 1;
