// A program, the file .mnv2, in the memory of a WebAssembly module: the C interface of the runtime.

import { chosen, Runtime } from "./runtime.js";

const INPUT_BYTES = 24, OUTPUT_BYTES = 24; // of mnv2_input_info and mnv2_output_info
const INT8_AT = 24; // in the file's header: 1 of an int8 model
const TYPES = [Float32Array, Uint8Array, Uint16Array];

export class Program {
  #runtime;
  #handle;
  #pixels;

  constructor(runtime, handle) {
    const { exports } = runtime;
    this.#runtime = runtime;
    this.#handle = handle;
    const info = runtime.reserve(INPUT_BYTES);
    exports.mnv2_input(handle, info);
    [this.batch, this.height, this.width, this.channels] = runtime.view(Int32Array, info, 4);
    exports.free(info);
    this.#pixels = runtime.reserve(this.height * this.width * this.channels);
    this.info = { ...JSON.parse(runtime.text(exports.mnv2_info(handle))), runtime: runtime.facts };
  }

  /**
   * @param {(begin: (first: Uint8Array) => void) => Promise<Uint8Array>} read Gives the content of the file, and calls
   *   `begin` as soon as the first bytes are there.
   */
  static async open(read, { wasm = new URL("../wasm/", import.meta.url), relaxed = true, threads } = {}) {
    const folder = new URL(wasm, globalThis.location?.href ?? import.meta.url);
    let begin;
    const int8 = new Promise((resolve) => (begin = (first) => resolve(first[INT8_AT] === 1)));
    const [content, choice] = await Promise.all([read(begin), chosen(folder, relaxed, threads, int8)]);
    const runtime = await Runtime.start(choice);
    try {
      return new Program(runtime, handleOf(runtime, content));
    } catch (error) {
      runtime.close();
      throw error;
    }
  }

  /** Outputs by name, of pixels (height, width, channels); the arrays are the caller's. */
  run(pixels) {
    const size = this.height * this.width * this.channels;
    if (pixels.length !== size) {
      throw new Error(`${pixels.length} numbers, not ${this.height} x ${this.width} x ${this.channels}`);
    }
    const runtime = this.#runtime, { exports } = runtime;
    runtime.view(Uint8Array, this.#pixels, size).set(pixels);
    if (exports.mnv2_run(this.#handle, this.#pixels, 1)) throw new Error(runtime.text(exports.mnv2_error()));
    const outputs = {};
    const info = runtime.reserve(OUTPUT_BYTES);
    for (let index = 0; exports.mnv2_output(this.#handle, index, info) === 0; index++) {
      const [name, type, height, width, channels, data] = runtime.view(Int32Array, info, 6);
      outputs[runtime.text(name)] = runtime.view(TYPES[type], data, height * width * channels).slice();
    }
    exports.free(info);
    return outputs;
  }

  close() {
    const { exports } = this.#runtime;
    exports.mnv2_close(this.#handle);
    exports.free(this.#pixels);
    this.#runtime.close();
  }
}

/** Opens the content of a file, which is not needed afterwards. */
function handleOf(runtime, content) {
  const { exports } = runtime;
  const data = exports.malloc(content.length);
  if (!data) throw new Error("not enough memory for the model");
  runtime.view(Uint8Array, data, content.length).set(content);
  const place = runtime.reserve(4);
  const status = exports.mnv2_open(data, content.length, runtime.facts.threads, place);
  const [handle] = runtime.view(Uint32Array, place, 1);
  exports.free(place);
  exports.free(data);
  if (status) throw new Error(runtime.text(exports.mnv2_error()));
  return handle;
}
