import { underNode } from "./system.js";

/**
 * The bytes at an address; under Node also of a file on disk.
 *
 * @param {(first: Uint8Array) => void} begin Called as soon as the first bytes are there.
 */
export async function bytesAt(address, begin) {
  const url = absolute(address);
  if (!onDisk(url)) return bytesOf(await fetch(url), begin);
  const { readFile } = await import("node:fs/promises");
  const bytes = new Uint8Array(await readFile(url));
  begin(bytes);
  return bytes;
}

/** The bytes of a response, or an error that names what was asked for. */
export async function bytesOf(response, begin) {
  const parts = [];
  let length = 0;
  for (const reader = checked(response).body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (length === 0) begin(value);
    parts.push(value);
    length += value.length;
  }
  const bytes = new Uint8Array(length);
  for (let i = 0, at = 0; i < parts.length; at += parts[i++].length) bytes.set(parts[i], at);
  return bytes;
}

/** The WebAssembly module at an address, compiled while it arrives. */
export async function moduleAt(address) {
  const url = absolute(address);
  if (onDisk(url)) return WebAssembly.compile(await bytesAt(url, () => {}));
  const response = checked(await fetch(url));
  // servers that do not know the type of the file
  if (response.headers.get("Content-Type") !== "application/wasm") return WebAssembly.compile(await response.arrayBuffer());
  return WebAssembly.compileStreaming(response);
}

function checked(response) {
  if (!response.ok) throw new Error(`${response.url}: ${response.status} ${response.statusText}`);
  return response;
}

const onDisk = (url) => underNode && url.protocol === "file:";

function absolute(address) {
  const page = globalThis.location?.href;
  if (page === undefined && !/^[a-z]+:/i.test(address)) {
    return new URL(address, `file://${globalThis.process.cwd()}/`);
  }
  return new URL(address, page);
}
