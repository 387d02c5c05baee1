// Pixels as the model reads them, from an image of any size: Pillow's resize, number by number, and the crop.

const PRECISION_BITS = 32 - 8 - 2;

const FILTERS = {
  bilinear: { support: 1, weight: (x) => (x = Math.abs(x)) < 1 ? 1 - x : 0 },
  bicubic: {
    support: 2,
    weight: (x) => {
      const a = -0.5;
      x = Math.abs(x);
      if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
    },
  },
  lanczos: { support: 3, weight: (x) => (-3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

function sinc(x) {
  if (x === 0) return 1;
  x *= Math.PI;
  return Math.sin(x) / x;
}

/** Half a number away from an even one goes to the even one, as in Python. */
function roundHalfEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

// Of the outputs from `begin` to `end`: the first input of each, how many it takes, and their whole-number weights.
function coefficients(size, outSize, { support, weight }, begin, end) {
  const scale = size / outSize;
  const spread = Math.max(scale, 1);
  const reach = support * spread;
  const most = Math.ceil(reach) * 2 + 1;
  const first = new Int32Array(end - begin);
  const count = new Int32Array(end - begin);
  const weights = new Int32Array((end - begin) * most);
  const row = new Float64Array(most);
  for (let out = begin; out < end; out++) {
    const center = (out + 0.5) * scale;
    const low = Math.max(0, Math.trunc(center - reach + 0.5));
    const high = Math.min(size, Math.trunc(center + reach + 0.5));
    let sum = 0;
    for (let i = low; i < high; i++) {
      row[i - low] = weight((i - center + 0.5) * (1 / spread));
      sum += row[i - low];
    }
    const at = (out - begin) * most;
    for (let i = 0; i < high - low; i++) {
      const share = (sum !== 0 ? row[i] / sum : row[i]) * (1 << PRECISION_BITS);
      weights[at + i] = Math.trunc(share < 0 ? share - 0.5 : share + 0.5);
    }
    first[out - begin] = low;
    count[out - begin] = high - low;
  }
  return { first, count, weights, most };
}

const clamp = (sum) => {
  const value = sum >> PRECISION_BITS;
  return value < 0 ? 0 : value > 255 ? 255 : value;
};

/**
 * A window of a resized image.
 *
 * @param {{data: Uint8Array | Uint8ClampedArray, width: number, height: number, channels: number}} image
 * @param {number} width Columns of the whole resized image.
 * @param {number} height Its rows.
 * @param {"nearest" | "bilinear" | "bicubic" | "lanczos"} interpolation
 * @param {{left: number, top: number, width: number, height: number}} window What of it is computed.
 * @returns {Uint8Array} Rows (height, width, 3), of a grey image (height, width, 1); black outside of the resized image.
 */
export function resize(image, width, height, interpolation, window) {
  const left = Math.max(0, window.left), top = Math.max(0, window.top);
  const right = Math.min(width, window.left + window.width), bottom = Math.min(height, window.top + window.height);
  const planes = planesOf(image);
  const out = new Uint8Array(window.width * window.height * planes);
  if (right <= left || bottom <= top) return out;
  const put = interpolation === "nearest" ? nearest : averaged;
  const rows = put(image, width, height, interpolation, left, top, right, bottom);
  const length = (right - left) * planes;
  for (let y = top; y < bottom; y++) {
    const to = ((y - window.top) * window.width + left - window.left) * planes;
    out.set(rows.subarray((y - top) * length, (y - top + 1) * length), to);
  }
  return out;
}

function nearest(image, width, height, _, left, top, right, bottom) {
  const columns = nearestPlaces(image.width, width), lines = nearestPlaces(image.height, height);
  const planes = planesOf(image);
  const out = new Uint8Array((right - left) * (bottom - top) * planes);
  let to = 0;
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++, to += planes) {
      const from = (lines[y] * image.width + columns[x]) * image.channels;
      for (let c = 0; c < planes; c++) out[to + c] = image.data[from + c];
    }
  }
  return out;
}

function nearestPlaces(size, outSize) {
  const scale = size / outSize;
  const places = new Int32Array(outSize);
  let at = scale * 0.5;
  for (let i = 0; i < outSize; i++, at += scale) places[i] = Math.min(size - 1, Math.floor(at));
  return places;
}

function averaged(image, width, height, interpolation, left, top, right, bottom) {
  const filter = FILTERS[interpolation];
  const across = width === image.width ? null : coefficients(image.width, width, filter, left, right);
  const down = height === image.height ? null : coefficients(image.height, height, filter, top, bottom);
  const columns = right - left, planes = planesOf(image);
  // the rows of the image that the window needs
  const firstRow = down ? down.first[0] : top;
  const last = bottom - top - 1;
  const lastRow = down ? down.first[last] + down.count[last] : bottom;
  const narrow = new Uint8Array((lastRow - firstRow) * columns * planes);
  for (let y = firstRow; y < lastRow; y++) {
    const from = y * image.width * image.channels, to = (y - firstRow) * columns * planes;
    for (let x = 0; x < columns; x++) {
      for (let c = 0; c < planes; c++) {
        if (!across) {
          narrow[to + x * planes + c] = image.data[from + (left + x) * image.channels + c];
          continue;
        }
        let sum = 1 << (PRECISION_BITS - 1);
        let at = from + across.first[x] * image.channels + c;
        const weights = x * across.most;
        for (let i = 0; i < across.count[x]; i++, at += image.channels) {
          sum += Math.imul(image.data[at], across.weights[weights + i]);
        }
        narrow[to + x * planes + c] = clamp(sum);
      }
    }
  }
  if (!down) return narrow;
  const out = new Uint8Array(columns * (bottom - top) * planes);
  const stride = columns * planes;
  for (let y = 0; y < bottom - top; y++) {
    const weights = y * down.most, from = (down.first[y] - firstRow) * stride;
    for (let x = 0; x < stride; x++) {
      let sum = 1 << (PRECISION_BITS - 1);
      for (let i = 0, at = from + x; i < down.count[y]; i++, at += stride) {
        sum += Math.imul(narrow[at], down.weights[weights + i]);
      }
      out[y * stride + x] = clamp(sum);
    }
  }
  return out;
}

/** Where an image lies in the pixels: {top, left, rows, columns}; see `Preprocessing.place`. */
export function place(preprocessing, height, width) {
  const [rows, columns] = resized(preprocessing, height, width);
  if (preprocessing.resize !== "short_side") return { top: 0, left: 0, rows, columns };
  const [outRows, outColumns] = preprocessing.size;
  return { top: -cropOffset(rows, outRows), left: -cropOffset(columns, outColumns), rows, columns };
}

function resized({ resize: how, size, crop_fraction: fraction }, height, width) {
  if (how === "stretch") return size;
  if (how === "fit") {
    const scale = Math.min(size[0] / height, size[1] / width);
    return [Math.max(1, roundHalfEven(height * scale)), Math.max(1, roundHalfEven(width * scale))];
  }
  const [rows, columns] = size.map((side) => roundHalfEven(side / fraction));
  if (rows / height >= columns / width) return [rows, Math.trunc((rows * width) / height)];
  return [Math.trunc((columns * height) / width), columns];
}

function cropOffset(size, crop) {
  return crop <= size ? roundHalfEven((size - crop) / 2) : -Math.floor((crop - size) / 2);
}

/**
 * An image as the pixels (height, width, channels) that a model reads.
 *
 * @param {object} preprocessing Of the model's description.
 * @param {{data: Uint8Array | Uint8ClampedArray, width: number, height: number, channels: number}} image Upright, RGB
 *   or RGB with a fourth number that is not read.
 */
export function toPixels(preprocessing, image) {
  const [height, width] = preprocessing.size;
  const { top, left, rows, columns } = place(preprocessing, image.height, image.width);
  const window = { left: -left, top: -top, width, height };
  const read = preprocessing.mean.length === 1 ? grey(image) : image;
  const pixels = resize(read, columns, rows, preprocessing.interpolation, window);
  if (preprocessing.resize === "fit") fill(preprocessing, pixels, rows, columns);
  return pixels;
}

function fill(preprocessing, pixels, rows, columns) {
  const [height, width] = preprocessing.size;
  const mean = preprocessing.mean.map((value) => Math.min(255, Math.max(0, roundHalfEven(255 * value))));
  for (let y = 0; y < height; y++) {
    for (let x = y < rows ? columns : 0; x < width; x++) {
      pixels.set(mean, (y * width + x) * mean.length);
    }
  }
}

function grey({ data, width, height, channels }) {
  const out = new Uint8Array(width * height);
  for (let i = 0, at = 0; i < out.length; i++, at += channels) {
    out[i] = (data[at] * 19595 + data[at + 1] * 38470 + data[at + 2] * 7471 + 0x8000) >> 16;
  }
  return { data: out, width, height, channels: 1 };
}

const planesOf = (image) => (image.channels === 1 ? 1 : 3);
