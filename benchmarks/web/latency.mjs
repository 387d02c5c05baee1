// Milliseconds per image in WebAssembly: ours, LiteRT.js, onnxruntime-web and tfjs (float32) on the files of make.py, in
// turns, one thread.
//
//     npm install --ignore-scripts --prefix PACKAGES @litertjs/core onnxruntime-web \
//         @tensorflow/tfjs-core @tensorflow/tfjs-backend-wasm
//     python benchmarks/web/make.py FOLDER
//     node benchmarks/web/latency.mjs FOLDER PACKAGES [--rounds 15] [--calls 5]
//     node benchmarks/web/latency.mjs FOLDER --threads 2       ours alone, on so many threads and on one
//
// In every round each runtime is called once untimed and then `calls` times; the median is its time in that round. A
// ratio is the other's time over ours in the same round: above 1 we are faster. Before anything is timed the logits
// must be our engine's: float32 within 1e-3, int8 of the others the same best class.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { cpus } from "node:os";
import { dirname, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import vm from "node:vm";

import { load } from "../../src/mobilenetv2/web/js/src/index.js";

const option = (name, value) => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? value : Number(process.argv[at + 1]);
};
const folder = resolve(process.argv[2]), packages = resolve(process.argv[3] ?? "", "node_modules");
const rounds = option("rounds", 15), calls = option("calls", 5), threads = option("threads", 1);
const read = (name) => new Uint8Array(readFileSync(resolve(folder, name)));
const pixels = read("image.rgb");
const values = new Float32Array(read("image.f32").buffer.slice(0));
const expected = JSON.parse(readFileSync(resolve(folder, "logits.json"), "utf8"));
const version = (name) => JSON.parse(readFileSync(resolve(packages, name, "package.json"), "utf8")).version;

async function ours(numbers, relaxed, threads = 1) {
  const model = await load(read(`${numbers}.mnv2`), { relaxed, threads });
  const name = `ours, ${model.instructions}${threads > 1 ? `, ${threads} threads` : ""}`;
  return { name, call: async () => Object.values(model.run(pixels))[0] };
}

async function compared(numbers) {
  if (threads > 1) return [await ours(numbers, true, threads), await ours(numbers, true)];
  const runtimes = [await ours(numbers, false)];
  const relaxed = await ours(numbers, true);
  if (relaxed.name !== runtimes[0].name) runtimes.unshift(relaxed);
  runtimes.push(await liteRT(numbers), await onnx(numbers));
  if (numbers === "float32") runtimes.push(await tfjs());
  return runtimes;
}

async function liteRT(numbers) {
  // what the package expects of a browser's worker
  globalThis.self = globalThis;
  globalThis.require = createRequire(import.meta.url);
  const path = (url) => (String(url).startsWith("file:") ? fileURLToPath(url) : String(url));
  const before = globalThis.fetch;
  globalThis.fetch = async (url) =>
    new Response(readFileSync(path(url)), { headers: { "Content-Type": "application/wasm" } });
  globalThis.importScripts = (url) => {
    globalThis.__filename = path(url);
    globalThis.__dirname = dirname(path(url));
    vm.runInThisContext(readFileSync(path(url), "utf8"), path(url));
  };
  const home = resolve(packages, "@litertjs/core");
  const { loadLiteRt, loadAndCompile, Tensor } = await import(pathToFileURL(resolve(home, "dist/index.js")).href);
  if (!globalThis.liteRtIsLoaded) await loadLiteRt(`${resolve(home, "wasm")}/`);
  globalThis.liteRtIsLoaded = true;
  const model = await loadAndCompile(read(`${numbers}.tflite`), { accelerator: "wasm" });
  globalThis.fetch = before;
  const image = numbers === "int8" ? pixels : values;
  const call = async () => {
    const given = new Tensor(image, [1, 224, 224, 3]);
    const [output] = await model.run([given]);
    const logits = output.toTypedArray().slice();
    output.delete();
    given.delete();
    return logits;
  };
  return { name: `LiteRT.js ${version("@litertjs/core")}`, call };
}

async function onnx(numbers) {
  const resolved = createRequire(resolve(packages, "x.js")).resolve("onnxruntime-web/wasm");
  const module = await import(pathToFileURL(resolved).href);
  const ort = module.InferenceSession ? module : module.default;
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "error";
  const session = await ort.InferenceSession.create(read(`${numbers}.onnx`), { executionProviders: ["wasm"] });
  const planes = new (numbers === "int8" ? Uint8Array : Float32Array)(3 * 224 * 224);
  const from = numbers === "int8" ? pixels : values;
  for (let i = 0; i < 224 * 224; i++) for (let c = 0; c < 3; c++) planes[c * 224 * 224 + i] = from[3 * i + c];
  const given = new ort.Tensor(numbers === "int8" ? "uint8" : "float32", planes, [1, 3, 224, 224]);
  const call = async () => (await session.run({ image: given })).logits.data.slice();
  return { name: `onnxruntime-web ${version("onnxruntime-web")}`, call };
}

// The fused operators that its converter makes of such a graph.
async function tfjs() {
  const from = createRequire(resolve(packages, "x.js"));
  const tf = from("@tensorflow/tfjs-core"), wasm = from("@tensorflow/tfjs-backend-wasm");
  wasm.setWasmPaths(`${resolve(packages, "@tensorflow/tfjs-backend-wasm/dist")}/`);
  tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false);
  await tf.setBackend("wasm");
  const numbers = new Float32Array(read("tfjs.bin").buffer.slice(0));
  const tensor = ({ shape, begin }) => tf.tensor(numbers.slice(begin, begin + shape.reduce((a, b) => a * b, 1)), shape);
  const steps = JSON.parse(readFileSync(resolve(folder, "tfjs.json"), "utf8"));
  for (const step of steps) if (step.kernel) Object.assign(step, { filter: tensor(step.kernel), bias: tensor(step.bias) });
  const run = ({ kind, filter, bias, stride: strides, relu6 }, x, other) => {
    const activation = relu6 ? "relu6" : "linear";
    if (kind === "conv") return tf.fused.conv2d({ x, filter, strides, pad: "same", bias, activation });
    if (kind === "depthwise") return tf.fused.depthwiseConv2d({ x, filter, strides, pad: "same", bias, activation });
    if (kind === "add") return tf.add(x, other);
    if (kind === "pool") return tf.mean(x, [1, 2]);
    return tf.fused.matMul({ a: tf.reshape(x, [1, -1]), b: filter, bias, activation: "linear" });
  };
  const call = async () => {
    const logits = tf.tidy(() => {
      const made = { image: tf.tensor(values, [1, 224, 224, 3]) };
      for (const step of steps) made[step.name] = run(step, ...step.sources.map((source) => made[source]));
      return made[steps.at(-1).name];
    });
    const numbers = logits.dataSync().slice();
    logits.dispose();
    return numbers;
  };
  return { name: `tfjs-backend-wasm ${version("@tensorflow/tfjs-backend-wasm")}`, call };
}

const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];
const percentile = (list, share) => [...list].sort((a, b) => a - b)[Math.round(share * (list.length - 1))];
const best = (list) => list.indexOf(Math.max(...list));

console.log(`Node ${process.versions.node}, ${cpus()[0].model}, ${threads > 1 ? `of ${cpus().length} processors` : "one thread"}\n`);
console.log("| numbers | runtime | ms | its time over that of the first (10th to 90th percentile) |\n| --- | --- | --- | --- |");
for (const numbers of ["float32", "int8"]) {
  const runtimes = await compared(numbers);
  for (const { name, call } of runtimes) {
    const logits = [...(await call())];
    const worst = Math.max(...logits.map((value, i) => Math.abs(value - expected[numbers][i])));
    const same = best(logits) === best(expected[numbers]);
    if (numbers === "float32" ? !(worst < 1e-3 * Math.max(1, ...expected[numbers].map(Math.abs))) : !same) {
      throw new Error(`${name}, ${numbers}: logits differ by ${worst}`);
    }
  }
  const times = runtimes.map(() => []);
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < runtimes.length; turn++) {
      const at = (turn + round) % runtimes.length;
      await runtimes[at].call();
      const measured = [];
      for (let i = 0; i < calls; i++) {
        const begin = performance.now();
        await runtimes[at].call();
        measured.push(performance.now() - begin);
      }
      times[at].push(median(measured));
    }
  }
  runtimes.forEach(({ name }, at) => {
    const ratios = times[at].map((time, round) => time / times[0][round]);
    const spread = `${median(ratios).toFixed(2)} (${percentile(ratios, 0.1).toFixed(2)} to ${percentile(ratios, 0.9).toFixed(2)})`;
    console.log(`| ${numbers} | ${name} | ${median(times[at]).toFixed(1)} | ${at === 0 ? "" : spread} |`);
  });
}
process.exit(0);
