/** The bytes at an address; under Node also of a file on disk. */
export async function bytesAt(address) {
  const url = absolute(address);
  if (url.protocol === "file:" && typeof globalThis.process !== "undefined") {
    const { readFile } = await import("node:fs/promises");
    return new Uint8Array(await readFile(url));
  }
  return bytesOf(await fetch(url));
}

/** The bytes of a response, or an error that names what was asked for. */
export async function bytesOf(response) {
  if (!response.ok) throw new Error(`${response.url}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}

function absolute(address) {
  const page = globalThis.location?.href;
  if (page === undefined && !/^[a-z]+:/i.test(address)) {
    return new URL(address, `file://${globalThis.process.cwd()}/`);
  }
  return new URL(address, page);
}
