/** An image: what a page can show, a file, or numbers in rows of red, green, blue (and alpha). */
export type ImageSource =
  | Blob
  | ImageData
  | ImageBitmap
  | HTMLImageElement
  | HTMLCanvasElement
  | OffscreenCanvas
  | HTMLVideoElement
  | VideoFrame
  | { data: Uint8Array | Uint8ClampedArray; width: number; height: number };

export interface Prediction {
  label: string;
  index: number;
  probability: number;
}

export interface Detection {
  label: string;
  index: number;
  score: number;
  /** Left, top, right, bottom in pixels of the upright image. */
  box: [number, number, number, number];
}

export interface Segmentation {
  /** The class of each pixel, row after row. */
  mask: Uint8Array | Uint16Array;
  width: number;
  height: number;
  classes: { label: string; index: number; share: number }[];
}

export interface Preprocessing {
  size: [number, number];
  resize: "short_side" | "stretch" | "fit";
  crop_fraction: number;
  interpolation: "nearest" | "bilinear" | "bicubic" | "lanczos";
  mean: number[];
  std: number[];
}

/** What a model file says of itself. */
export interface Info {
  task: "classification" | "detection" | "segmentation" | "features";
  labels: string[];
  preprocessing: Preprocessing;
  size: [number, number];
  numbers: "float32" | "int8";
  outputs: { name: string; type: string; shape: number[] }[];
  provenance: Record<string, unknown>;
  /** What runs it: the note says why there are not as many threads as usual. */
  runtime: { instructions: "simd128" | "relaxed"; threads: number; note?: string };
}

export interface LoadOptions {
  /** The folder of the .wasm files; by default that of the package. */
  wasm?: string | URL;
  /** false leaves relaxed SIMD unused. */
  relaxed?: boolean;
  /**
   * How many threads run the model, the calling one included; by default as many as there are processors, at most four.
   * Only where the page is cross-origin isolated, and under Node; elsewhere one.
   */
  threads?: number;
}

export interface DetectOptions {
  threshold?: number;
  iouThreshold?: number;
  limit?: number;
}

export interface Model {
  readonly info: Info;
  readonly task: Info["task"];
  readonly labels: string[];
  /** Instructions in use. */
  readonly instructions: "simd128" | "relaxed";
  /** Milliseconds that the network took in the last call. */
  readonly milliseconds: number;
  /** Outputs by name, of pixels (height, width, channels) of the model's size. */
  run(pixels: Uint8Array): Record<string, Float32Array | Uint8Array | Uint16Array>;
  classify(image: ImageSource, options?: { top?: number }): Promise<Prediction[]>;
  detect(image: ImageSource, options?: DetectOptions): Promise<Detection[]>;
  segment(image: ImageSource): Promise<Segmentation>;
  close(): void;
}

/** Loads a model file from an address, its content or a response. */
export function load(source: string | URL | ArrayBuffer | Uint8Array | Response, options?: LoadOptions): Promise<Model>;
