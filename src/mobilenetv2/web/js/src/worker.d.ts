import type { LoadOptions, Model } from "./index.js";

type Source = string | URL | ArrayBuffer | Uint8Array;

/** As `load`, in a worker of its own; without `run`. */
export function loadInWorker(
  source: Source | Promise<Source>,
  options?: LoadOptions,
): Promise<Omit<Model, "run">>;
