// What a .wasm file of the runtime imports.

const NO_SYSTEM = new Proxy({}, { get: () => () => 52 }); // what libc asks of a system that is not there: ENOSYS

/** @param {WebAssembly.Memory | undefined} memory Of a file with threads. */
export const importsOf = (memory) => ({ wasi_snapshot_preview1: NO_SYSTEM, ...(memory && { env: { memory } }) });

export const underNode = typeof WorkerGlobalScope === "undefined" && typeof globalThis.process?.versions?.node === "string";
