// A model file in the browser, or under Node: loaded, and run on images.

import { checkBytes, checkOptions, LOAD_OPTIONS, share, whole } from "./arguments.js";
import { bytesAt, bytesOf } from "./files.js";
import { toImage } from "./images.js";
import { Program } from "./program.js";
import { toPixels } from "./resize.js";
import { classes, detections, rows, segmentation } from "./results.js";

const DETECT_OPTIONS = { threshold: share, iouThreshold: share, limit: whole };

/**
 * Loads a model file that `mobilenetv2 convert MODEL model.mnv2` wrote.
 *
 * @param {string | URL | ArrayBuffer | Uint8Array | Response} source Its address, or its content.
 * @param {{wasm?: string | URL, relaxed?: boolean, threads?: number}} options wasm: the folder of the .wasm files;
 *   relaxed: false leaves relaxed SIMD unused; threads: how many run the model, the calling one included.
 */
export async function load(source, options = {}) {
  checkOptions(options, LOAD_OPTIONS);
  return new Model(await Program.open(readerOf(source), options));
}

/** A model, ready to run; `close` gives its memory back. */
export class Model {
  #program;

  constructor(program) {
    this.#program = program;
    /** What the file says of itself: task, labels, preprocessing, outputs, provenance; and `runtime`, what runs it. */
    this.info = program.info;
    /** "classification", "detection", "segmentation" or "features". */
    this.task = program.info.task;
    /** The labels of the classes. */
    this.labels = program.info.labels;
    /** Instructions in use: "simd128" or "relaxed". */
    this.instructions = program.info.runtime.instructions;
    /** Milliseconds that the network took in the last call, without reading and resizing the image. */
    this.milliseconds = 0;
  }

  /** Outputs by name, of pixels (height, width, channels) of the model's size. */
  run(pixels) {
    this.#mustBeOpen();
    checkBytes("pixels", pixels);
    const begin = performance.now();
    const outputs = this.#program.run(pixels);
    this.milliseconds = performance.now() - begin;
    return outputs;
  }

  /** The best classes of an image: [{label, index, probability}], the best first. */
  async classify(image, options = {}) {
    this.#mustBe("classification");
    checkOptions(options, { top: whole });
    const { top = 5 } = options;
    const [logits] = this.#results(await toImage(image));
    return classes(this.info, logits, top);
  }

  /**
   * The objects in an image, best first: [{label, index, score, box}]; a box is [left, top, right, bottom] in pixels of
   * the image.
   */
  async detect(image, options = {}) {
    this.#mustBe("detection");
    checkOptions(options, DETECT_OPTIONS);
    const read = await toImage(image);
    const [codes, scores] = rows(this.info, this.#results(read));
    return detections(this.info, codes, scores, read, options);
  }

  /** The class of each pixel of an image: {mask, width, height, classes: [{label, index, share}]}. */
  async segment(image) {
    this.#mustBe("segmentation");
    const read = await toImage(image);
    const { mask } = this.run(toPixels(this.info.preprocessing, read));
    if (mask === undefined) throw new Error("the file gives scores: write it with --results final");
    return segmentation(this.info, mask, read);
  }

  /** Gives the memory back. The model cannot be used afterwards. */
  close() {
    this.#program?.close();
    this.#program = null;
  }

  #results(image) {
    return Object.values(this.run(toPixels(this.info.preprocessing, image)));
  }

  #mustBeOpen() {
    if (!this.#program) throw new Error("the model is closed: load it again");
  }

  #mustBe(task) {
    this.#mustBeOpen();
    if (this.task !== task) throw new Error(`the model is for ${this.task}, not ${task}`);
  }
}

// A function that reads the whole content, and calls another one as soon as the first bytes are there.
function readerOf(source) {
  if (source instanceof Uint8Array || source instanceof ArrayBuffer) {
    const bytes = new Uint8Array(source.buffer ?? source, source.byteOffset ?? 0, source.byteLength);
    return async (begin) => {
      begin(bytes);
      return bytes;
    };
  }
  if (typeof Response !== "undefined" && source instanceof Response) return (begin) => bytesOf(source, begin);
  if (typeof source === "string" || source instanceof URL) return (begin) => bytesAt(source, begin);
  throw new TypeError(`a model is an address, bytes or a response, not ${source === null ? "null" : typeof source}`);
}
