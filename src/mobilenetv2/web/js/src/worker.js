// A model in a worker, so that the page stays responsive: `loadInWorker` has the methods of `load`, and this file is the
// worker itself.

import { checkOptions, LOAD_OPTIONS } from "./arguments.js";
import { toImage } from "./images.js";
import { load } from "./index.js";

const CLOSED = "the model is closed: load it again";
const ERRORS = { TypeError, RangeError };

const inWorker = typeof WorkerGlobalScope !== "undefined" && globalThis instanceof WorkerGlobalScope;

/**
 * As `load`, in a worker of its own.
 *
 * @param {string | URL | ArrayBuffer | Uint8Array | Promise<string | URL | ArrayBuffer | Uint8Array>} source Of a promise,
 *   the worker starts meanwhile.
 * @param {{wasm?: string | URL, relaxed?: boolean, threads?: number}} options
 */
export async function loadInWorker(source, options = {}) {
  checkOptions(options, LOAD_OPTIONS);
  const absolute = (address) => (typeof address === "string" ? new URL(address, location.href).href : address);
  const wasm = options.wasm === undefined ? {} : { wasm: absolute(String(options.wasm)) };
  const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  const waiting = new Map();
  let last = 0;
  let closed = false;
  const ask = (method, ...values) =>
    new Promise((resolve, reject) => {
      if (closed) throw new Error(CLOSED);
      waiting.set(++last, { resolve, reject });
      worker.postMessage({ id: last, method, values });
    });
  worker.onmessage = ({ data: { id, value, error, kind } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) resolve(value);
    else reject(new (ERRORS[kind] ?? Error)(error));
  };
  const end = (message) => {
    for (const { reject } of waiting.values()) reject(new Error(message));
    waiting.clear();
  };
  worker.onerror = (event) => end(event.message || "the worker could not be started");
  let facts;
  try {
    const given = await source;
    facts = await ask("load", given instanceof URL ? given.href : absolute(given), { ...options, ...wasm });
  } catch (error) {
    worker.terminate();
    throw error;
  }
  const run = async (method, image, more) => {
    const { result, milliseconds } = await ask(method, await sendable(image), more);
    model.milliseconds = milliseconds;
    return result;
  };
  const model = {
    ...facts,
    milliseconds: 0,
    classify: (image, more) => run("classify", image, more),
    detect: (image, more) => run("detect", image, more),
    segment: (image) => run("segment", image),
    close: () => {
      closed = true;
      worker.terminate();
      end(CLOSED);
    },
  };
  return model;
}

// Files and bitmaps travel as they are; what belongs to the page is read here.
async function sendable(image) {
  const travels = [globalThis.Blob, globalThis.ImageBitmap, globalThis.ImageData];
  return travels.some((kind) => kind && image instanceof kind) ? image : toImage(image);
}

if (inWorker) {
  let model;
  globalThis.onmessage = async ({ data: { id, method, values } }) => {
    try {
      let value;
      if (method === "load") {
        model = await load(...values);
        const { info, task, labels, instructions } = model;
        value = { info, task, labels, instructions };
      } else {
        const result = await model[method](...values);
        value = { result, milliseconds: model.milliseconds };
      }
      postMessage({ id, value });
    } catch (error) {
      postMessage({ id, error: error.message ?? String(error), kind: error.name });
    }
  };
}
