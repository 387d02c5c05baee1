// A program, the file .mnv2, in the memory of a WebAssembly module: the C interface of the runtime.

import { bytesAt } from "./files.js";

const INPUT_BYTES = 24, OUTPUT_BYTES = 24; // of mnv2_input_info and mnv2_output_info
const INT8_AT = 24; // in the file's header: 1 of an int8 model
const TYPES = [Float32Array, Uint8Array, Uint16Array];
// (module (func (result v128) ... i32x4.relaxed_dot_i8x16_i7x16_add_s))
const USES_RELAXED = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 19, 1, 17, 0, 65, 0, 253, 15, 65, 0, 253, 15, 65, 0,
  253, 15, 253, 147, 2, 11,
]);
const NO_SYSTEM = new Proxy({}, { get: () => () => 52 }); // what libc asks of a system that is not there: ENOSYS

const modules = new Map(); // compiled, by address

async function compiled(folder, name) {
  const address = String(new URL(`${name}.wasm`, folder));
  if (!modules.has(address)) modules.set(address, bytesAt(address).then((bytes) => WebAssembly.compile(bytes)));
  try {
    return await modules.get(address);
  } catch (error) {
    modules.delete(address);
    throw error;
  }
}

async function started(module) {
  const instance = await WebAssembly.instantiate(module, { wasi_snapshot_preview1: NO_SYSTEM });
  instance.exports._initialize?.();
  return instance.exports;
}

/**
 * The runtime, and which of the two it is: with relaxed SIMD where it is there and, of an int8 model, where its dot
 * product takes eight bits.
 */
async function runtime(folder, relaxed, int8) {
  if (relaxed && WebAssembly.validate(USES_RELAXED)) {
    const exports = await started(await compiled(folder, "relaxed"));
    if (!int8 || exports.mnv2_exact_products()) return { exports, instructions: "relaxed" };
  }
  try {
    return { exports: await started(await compiled(folder, "simd128")), instructions: "simd128" };
  } catch (error) {
    if (error instanceof WebAssembly.CompileError) throw new Error("this browser has no WebAssembly SIMD: a newer one has");
    throw error;
  }
}

export class Program {
  #exports;
  #handle;
  #pixels;

  constructor(exports, handle, instructions) {
    this.#exports = exports;
    this.#handle = handle;
    this.instructions = instructions;
    const info = this.#reserve(INPUT_BYTES);
    exports.mnv2_input(handle, info);
    [this.batch, this.height, this.width, this.channels] = new Int32Array(exports.memory.buffer, info, 4);
    exports.free(info);
    this.#pixels = this.#reserve(this.height * this.width * this.channels);
    this.info = JSON.parse(this.#text(exports.mnv2_info(handle)));
  }

  /** @param {Uint8Array} content Of the file. */
  static async open(content, { wasm = new URL("../wasm/", import.meta.url), relaxed = true } = {}) {
    const base = new URL(wasm, globalThis.location?.href ?? import.meta.url);
    const int8 = content[INT8_AT] === 1;
    const { exports, instructions } = await runtime(base, relaxed, int8);
    const data = exports.malloc(content.length);
    if (!data) throw new Error("not enough memory for the model");
    new Uint8Array(exports.memory.buffer).set(content, data);
    const place = exports.malloc(4);
    const status = exports.mnv2_open(data, content.length, 1, place);
    const handle = new Uint32Array(exports.memory.buffer, place, 1)[0];
    exports.free(place);
    exports.free(data);
    if (status) throw new Error(text(exports, exports.mnv2_error()));
    return new Program(exports, handle, instructions);
  }

  /** Outputs by name, of pixels (height, width, channels); the arrays are the caller's. */
  run(pixels) {
    const size = this.height * this.width * this.channels;
    if (pixels.length !== size) {
      throw new Error(`${pixels.length} numbers, not ${this.height} x ${this.width} x ${this.channels}`);
    }
    const exports = this.#exports;
    new Uint8Array(exports.memory.buffer).set(pixels, this.#pixels);
    if (exports.mnv2_run(this.#handle, this.#pixels, 1)) throw new Error(this.#text(exports.mnv2_error()));
    const outputs = {};
    const info = this.#reserve(OUTPUT_BYTES);
    for (let index = 0; exports.mnv2_output(this.#handle, index, info) === 0; index++) {
      const [name, type, height, width, channels, data] = new Int32Array(exports.memory.buffer, info, 6);
      const values = new TYPES[type](exports.memory.buffer, data, height * width * channels);
      outputs[this.#text(name)] = values.slice();
    }
    exports.free(info);
    return outputs;
  }

  close() {
    this.#exports.mnv2_close(this.#handle);
    this.#exports.free(this.#pixels);
    this.#handle = 0;
  }

  #reserve(bytes) {
    const place = this.#exports.malloc(bytes);
    if (!place) throw new Error("not enough memory");
    return place;
  }

  #text(place) {
    return text(this.#exports, place);
  }
}

function text(exports, place) {
  const bytes = new Uint8Array(exports.memory.buffer, place);
  return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
}
