// Runs what make_web.py wrote in LiteRT.js (WebAssembly), and compares the results with our
// engine's.
//
//     npm install --ignore-scripts @litertjs/core
//     python tests/peers/make_web.py FOLDER [MODEL...]
//     node tests/peers/web_litert.mjs FOLDER [PACKAGES]
//
// PACKAGES is the folder with node_modules; default: the working directory. Nothing is downloaded.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import vm from "node:vm";

const folder = resolve(process.argv[2]);
const packages = resolve(process.argv[3] ?? ".", "node_modules/@litertjs/core");

// What the package expects of a browser's worker.
globalThis.self = globalThis;
globalThis.require = createRequire(import.meta.url);
const path = (url) => (String(url).startsWith("file:") ? fileURLToPath(url) : String(url));
globalThis.fetch = async (url) =>
  new Response(readFileSync(path(url)), { headers: { "Content-Type": "application/wasm" } });
globalThis.importScripts = (url) => {
  globalThis.__filename = path(url);
  globalThis.__dirname = dirname(path(url));
  vm.runInThisContext(readFileSync(path(url), "utf8"), path(url));
};

const { loadLiteRt, loadAndCompile, Tensor } = await import(
  pathToFileURL(resolve(packages, "dist/index.js")).href
);
await loadLiteRt(`${resolve(packages, "wasm")}/`);

const rows = [];
for (const test of JSON.parse(readFileSync(`${folder}/cases.json`, "utf8"))) {
  if (!test.logits) continue; // a segmenter
  const model = await loadAndCompile(readFileSync(`${folder}/${test.title}.tflite`), { accelerator: "wasm" });
  const pixels = Uint8Array.from(Buffer.from(test.pixels, "base64"));
  const [output] = await model.run([new Tensor(pixels, test.shape)]);
  const logits = [...output.toTypedArray()];
  const range = Math.max(...test.logits) - Math.min(...test.logits);
  const worst = Math.max(...logits.map((value, at) => Math.abs(value - test.logits[at]))) / range;
  rows.push([test.title, worst, test.tolerance, logits.length === test.logits.length && worst <= test.tolerance]);
}
const { version } = JSON.parse(readFileSync(resolve(packages, "package.json"), "utf8"));
console.log(`Node ${process.versions.node}, LiteRT.js ${version}\n`);
console.log("| model | logits differ by, in parts of their range | allowed | |\n| --- | --- | --- | --- |");
for (const [title, worst, allowed, passed] of rows) {
  console.log(`| ${[title, worst.toPrecision(2), allowed, passed ? "same" : "DIFFERS"].join(" | ")} |`);
}
process.exit(rows.every((row) => row.at(-1)) ? 0 : 1);
