// Anything that a page can show as upright rows of red, green and blue.

import { checkBytes } from "./arguments.js";

/**
 * @param {any} source A Blob or File, an image, canvas, video, bitmap or video frame, ImageData, or
 *   {data, width, height} with three or four numbers per pixel.
 * @returns {Promise<{data: Uint8Array | Uint8ClampedArray, width: number, height: number, channels: number}>} Upright;
 *   what is transparent lies on white.
 */
export async function toImage(source) {
  if (source?.data !== undefined && source.width > 0 && source.height > 0) return fromNumbers(source);
  if (typeof Blob !== "undefined" && source instanceof Blob) {
    // without the browser's colour conversion, as Pillow reads the numbers
    const bitmap = await createImageBitmap(source, { imageOrientation: "from-image", colorSpaceConversion: "none" }).catch(
      () => {
        throw new Error(`${source.name ?? "the file"} is not an image that this browser reads`);
      },
    );
    try {
      return drawn(bitmap, bitmap.width, bitmap.height);
    } finally {
      bitmap.close();
    }
  }
  const width = source?.videoWidth ?? source?.naturalWidth ?? source?.displayWidth ?? source?.width;
  const height = source?.videoHeight ?? source?.naturalHeight ?? source?.displayHeight ?? source?.height;
  if (!(width > 0 && height > 0)) throw new Error("not an image, or one that has not loaded yet");
  return drawn(source, width, height);
}

function fromNumbers({ data, width, height }) {
  checkBytes("the image's data", data);
  const channels = data.length / (width * height);
  if (channels !== 3 && channels !== 4) {
    throw new Error(`an image of ${width} x ${height} has ${width * height * 3} or ${width * height * 4} numbers, not ${data.length}`);
  }
  return channels === 3 ? { data, width, height, channels } : onWhite(data, width, height);
}

function drawn(source, width, height) {
  const canvas = typeof OffscreenCanvas === "undefined" ? document.createElement("canvas") : new OffscreenCanvas(width, height);
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(source, 0, 0, width, height);
  return { data: context.getImageData(0, 0, width, height).data, width, height, channels: 4 };
}

function onWhite(data, width, height) {
  let opaque = true;
  for (let i = 3; i < data.length && opaque; i += 4) opaque = data[i] === 255;
  if (opaque) return { data, width, height, channels: 4 };
  const out = new Uint8Array(width * height * 3);
  for (let i = 0, to = 0; i < data.length; i += 4) {
    for (let c = 0; c < 3; c++) out[to++] = Math.round((data[i + c] * data[i + 3] + 255 * (255 - data[i + 3])) / 255);
  }
  return { data: out, width, height, channels: 3 };
}
