// The runtime: the .wasm file that suits this browser and this page, and the workers that share its memory.

import { moduleAt } from "./files.js";
import { importsOf, underNode } from "./system.js";

const USUAL_THREADS = 4; // at most, if nothing is said
const PAGE_BYTES = 65536;
const INITIAL_BYTES = 4194304, MOST_BYTES = 1073741824; // as tools/build_wasm.py links them
const STACK_BYTES = 262144; // of a worker
// (module (func (export "e") (result i32))): whether i32x4.relaxed_dot_i8x16_i7x16_add_s of -128, -1, 1 and 127 by 127,
// 128 and 255 gives exact sums. What it does with the eighth bit of its second operand is left to the processor.
const RELAXED = Uint8Array.from(
  atob(
    "AGFzbQEAAAABBQFgAAF/AwIBAAcFAQFlAAAKVAFSAP0Mf39/f4CAgIB/gH+AAf9/f/0M//////////+AgP+A/4D/f/0MBwAAAAcAAAAH" +
      "AAAABwAAAP2TAv0MC/oBAAcC/v8IPgAACL4AAP03/aMBCw==",
  ),
  (letter) => letter.charCodeAt(0),
);
const NOT_ISOLATED =
  "one thread: the page is not cross-origin isolated, which takes the headers Cross-Origin-Opener-Policy: same-origin " +
  "and Cross-Origin-Embedder-Policy: require-corp";

const modules = new Map(); // compiled, by address

function compiled(address) {
  if (!modules.has(address)) {
    const module = moduleAt(address);
    module.catch(() => modules.delete(address));
    modules.set(address, module);
  }
  return modules.get(address);
}

/** With relaxed SIMD where it is there and, of an int8 model, where its dot product takes eight bits. */
async function instructionsFor(relaxed, int8) {
  if (!relaxed || !WebAssembly.validate(RELAXED)) return "simd128";
  const exact = new WebAssembly.Instance(new WebAssembly.Module(RELAXED)).exports.e() === 1;
  return exact || !(await int8) ? "relaxed" : "simd128";
}

/** Memory that threads can share, or what stands in the way. */
function sharedMemory() {
  if (typeof SharedArrayBuffer === "undefined" || globalThis.crossOriginIsolated === false) return { note: NOT_ISOLATED };
  try {
    const [initial, maximum] = [INITIAL_BYTES / PAGE_BYTES, MOST_BYTES / PAGE_BYTES];
    return { memory: new WebAssembly.Memory({ initial, maximum, shared: true }) };
  } catch (error) {
    return { note: `one thread: memory cannot be shared: ${error.message}` };
  }
}

async function processors() {
  if (underNode) return (await import("node:os")).availableParallelism();
  return navigator.hardwareConcurrency ?? 1;
}

async function newWorker() {
  const address = new URL("./thread.js", import.meta.url);
  if (!underNode) return new Worker(address, { type: "module" });
  const worker = new (await import("node:worker_threads")).Worker(address);
  worker.unref();
  worker.on("error", (error) => worker.onerror(error));
  return worker;
}

/**
 * The .wasm file for a model, compiled, and what it runs in.
 *
 * @param {URL} folder Of the .wasm files.
 * @param {boolean} relaxed Whether relaxed SIMD may be used.
 * @param {number | undefined} threads With the calling one; by default as many as there are processors, at most four.
 * @param {Promise<boolean>} int8 Whether the model is an int8 one.
 */
export async function chosen(folder, relaxed, threads, int8) {
  threads ??= Math.min(USUAL_THREADS, await processors());
  const { memory, note } = threads > 1 ? sharedMemory() : {};
  const instructions = await instructionsFor(relaxed, int8);
  const file = new URL(`${instructions}${memory ? "-threads" : ""}.wasm`, folder);
  const module = await compiled(String(file)).catch((error) => {
    if (!(error instanceof WebAssembly.CompileError)) throw error;
    throw new Error("this browser has no WebAssembly SIMD: a newer one has");
  });
  return { module, memory, facts: { instructions, threads: memory ? threads : 1, ...(note && { note }) } };
}

/** A .wasm file in memory of its own, and its threads. */
export class Runtime {
  #workers = [];

  constructor(exports, memory, facts) {
    this.exports = exports;
    this.memory = memory;
    /** {instructions, threads, note}: what is in use; the note says why there are not as many threads as usual. */
    this.facts = facts;
  }

  static async start({ module, memory, facts }) {
    const { exports } = await WebAssembly.instantiate(module, importsOf(memory));
    exports._initialize();
    exports.mnv2_may_sleep?.(typeof document === "undefined" ? 1 : 0);
    const runtime = new Runtime(exports, memory ?? exports.memory, facts);
    for (let slot = 1; slot < facts.threads; slot++) await runtime.#add(module, slot);
    return runtime;
  }

  // Tasks are claimed: a thread that comes late, or never, is not waited for.
  async #add(module, slot) {
    const place = this.reserve(STACK_BYTES);
    const worker = await newWorker();
    worker.onerror = (error) => {
      this.facts.threads--;
      this.facts.note = `a thread could not be started: ${error.message}`;
    };
    const stack = place + STACK_BYTES - (place % 16);
    worker.postMessage({ module, memory: this.memory, slot, stack });
    this.#workers.push(worker);
  }

  reserve(bytes) {
    const place = this.exports.malloc(bytes);
    if (!place) throw new Error("not enough memory");
    return place >>> 0;
  }

  /** The numbers at a place, as an array of that kind. */
  view(kind, place, length) {
    return new kind(this.memory.buffer, place, length);
  }

  /** The text that ends with a zero. */
  text(place) {
    const bytes = new Uint8Array(this.memory.buffer, place);
    return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
  }

  /** Ends the threads. */
  close() {
    for (const worker of this.#workers) worker.terminate();
  }
}
