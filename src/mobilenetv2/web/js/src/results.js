// From what the network gives to labels, boxes and masks in the image's own coordinates.

import { place } from "./resize.js";

const MAX_LOG_SIZE = 20;

/** The best classes of logits, with their probabilities. */
export function classes(description, logits, top) {
  const greatest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Array.from(logits, (value) => Math.exp(value - greatest));
  const sum = powers.reduce((a, b) => a + b, 0);
  const order = powers.map((_, i) => i).sort((a, b) => powers[b] - powers[a] || a - b);
  return order.slice(0, top).map((index) => ({ label: name(description, index), index, probability: powers[index] / sum }));
}

const name = (description, index) => description.labels[index] ?? String(index);

/**
 * A detector's maps as one row per anchor: codes (n, 4), and probabilities (n, classes) without the background.
 *
 * @param {object} description Of the model.
 * @param {Float32Array[]} maps Codes and scores of each map, in the network's order.
 */
export function rows(description, maps) {
  const count = description.anchors.length;
  const codes = joined(maps.filter((_, i) => i % 2 === 0)), scores = joined(maps.filter((_, i) => i % 2 === 1));
  const all = scores.length / count;
  const probabilities = new Float32Array(count * (all - 1));
  for (let n = 0; n < count; n++) {
    const row = scores.subarray(n * all, (n + 1) * all);
    const values = description.score === "softmax" ? softmax(row) : row.map((value) => 1 / (1 + Math.exp(-value)));
    probabilities.set(values.subarray(1), n * (all - 1));
  }
  return [codes, probabilities];
}

function joined(arrays) {
  const out = new Float32Array(arrays.reduce((sum, array) => sum + array.length, 0));
  let at = 0;
  for (const array of arrays) {
    out.set(array, at);
    at += array.length;
  }
  return out;
}

function softmax(values) {
  const greatest = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = values.map((value) => Math.exp(value - greatest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / sum);
}

/**
 * The objects in an image, best first: suppression within each class, then the best of all.
 *
 * @param {object} description Of the model.
 * @param {Float32Array} codes (n, 4): y, x, height, width of each anchor's box.
 * @param {Float32Array} scores (n, classes): probabilities, without the background.
 * @param {{height: number, width: number}} image Its size.
 */
export function detections(description, codes, scores, image, options = {}) {
  const { threshold = 0.5, iouThreshold = 0.6, limit = 100 } = options;
  const anchors = description.anchors, count = anchors.length, classCount = scores.length / count;
  const at = place(description.preprocessing, image.height, image.width);
  const [height, width] = description.preprocessing.size;
  const box = (n) => {
    const [y, x, h, w] = anchors[n];
    const [s0, s1, s2, s3] = description.code_scales;
    const cy = (codes[4 * n] / s0) * h + y, cx = (codes[4 * n + 1] / s1) * w + x;
    const bh = (Math.exp(Math.min(codes[4 * n + 2] / s2, MAX_LOG_SIZE)) * h) / 2;
    const bw = (Math.exp(Math.min(codes[4 * n + 3] / s3, MAX_LOG_SIZE)) * w) / 2;
    const inside = (value, side, first, length) => Math.min(1, Math.max(0, (value * side - first) / length));
    return [
      inside(cx - bw, width, at.left, at.columns), inside(cy - bh, height, at.top, at.rows),
      inside(cx + bw, width, at.left, at.columns), inside(cy + bh, height, at.top, at.rows),
    ];
  };
  const candidates = [];
  for (let n = 0; n < count; n++) {
    for (let c = 0; c < classCount; c++) {
      if (scores[n * classCount + c] > threshold) candidates.push([scores[n * classCount + c], c, n]);
    }
  }
  candidates.sort((a, b) => b[0] - a[0] || a[1] - b[1] || a[2] - b[2]);
  const kept = [], ofClass = new Map();
  for (const [score, index, n] of candidates) {
    const corners = box(n);
    if (corners[2] <= corners[0] || corners[3] <= corners[1]) continue;
    const better = ofClass.get(index) ?? [];
    if (better.some((other) => overlap(corners, other) > iouThreshold)) continue;
    ofClass.set(index, [...better, corners]);
    const sides = [image.width, image.height, image.width, image.height];
    kept.push({ label: name(description, index), index, score, box: corners.map((value, i) => value * sides[i]) });
    if (kept.length === limit) break;
  }
  return kept;
}

function overlap(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = (c) => (c[2] - c[0]) * (c[3] - c[1]);
  return (width * height) / (area(a) + area(b) - width * height);
}

/**
 * The mask of the pixels as that of the image: {mask, width, height, shares}. Every pixel takes the class of the
 * nearest one; what preprocessing cut off is class 0.
 */
export function segmentation(description, mask, image) {
  const [rows, columns] = description.preprocessing.size;
  const at = place(description.preprocessing, image.height, image.width);
  const xs = nearest(image.width, at.columns, at.left), ys = nearest(image.height, at.rows, at.top);
  const out = new mask.constructor(image.width * image.height);
  const counts = new Map();
  for (let y = 0, to = 0; y < image.height; y++) {
    for (let x = 0; x < image.width; x++, to++) {
      const inside = ys[y] >= 0 && ys[y] < rows && xs[x] >= 0 && xs[x] < columns;
      out[to] = inside ? mask[ys[y] * columns + xs[x]] : 0;
      counts.set(out[to], (counts.get(out[to]) ?? 0) + 1);
    }
  }
  const shares = [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  return {
    mask: out,
    width: image.width,
    height: image.height,
    classes: shares.map(([index, n]) => ({ label: name(description, index), index, share: n / out.length })),
  };
}

function nearest(side, resized, first) {
  return Int32Array.from({ length: side }, (_, i) => Math.floor((i + 0.5) * (resized / side)) + first);
}
