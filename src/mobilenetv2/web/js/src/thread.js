// One of the threads of a model, a worker: it enters the runtime in the memory that it is sent, and stays there until it
// is ended.

import { importsOf, underNode } from "./system.js";

async function enter({ module, memory, slot, stack }) {
  const { exports } = await WebAssembly.instantiate(module, importsOf(memory));
  exports.__stack_pointer.value = stack;
  exports.mnv2_work(slot);
}

if (underNode) (await import("node:worker_threads")).parentPort.once("message", enter);
else globalThis.onmessage = ({ data }) => enter(data);
