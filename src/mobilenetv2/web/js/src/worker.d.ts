import type { LoadOptions, Model } from "./index.js";

/** As `load`, in a worker of its own; without `run`. */
export function loadInWorker(
  source: string | URL | ArrayBuffer | Uint8Array,
  options?: LoadOptions,
): Promise<Omit<Model, "run">>;
