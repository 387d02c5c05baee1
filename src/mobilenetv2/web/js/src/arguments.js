// Checks of what callers give, each of which names the argument that is wrong.

const shown = (value) => (typeof value === "string" ? JSON.stringify(value) : String(value));

const MOST_THREADS = 64;

/** Checks of one value each: they throw what is wrong with it. */
export const whole = (name, value, least = 1, most = Infinity) => {
  if (Number.isInteger(value) && value >= least && value <= most) return;
  const allowed = most === Infinity ? `of at least ${least}` : `from ${least} to ${most}`;
  const Kind = typeof value === "number" ? RangeError : TypeError;
  throw new Kind(`${name} must be a whole number ${allowed}, not ${shown(value)}`);
};
export const share = (name, value) => {
  if (typeof value !== "number") throw new TypeError(`${name} must be a number from 0 to 1, not ${shown(value)}`);
  if (!(value >= 0 && value <= 1)) throw new RangeError(`${name} must be a number from 0 to 1, not ${value}`);
};
export const flag = (name, value) => {
  if (typeof value !== "boolean") throw new TypeError(`${name} must be true or false, not ${shown(value)}`);
};
export const address = (name, value) => {
  if (typeof value !== "string" && !(value instanceof URL)) throw new TypeError(`${name} must be an address, not ${shown(value)}`);
};

/** The options of `load`. */
export const LOAD_OPTIONS = { wasm: address, relaxed: flag, threads: (name, value) => whole(name, value, 1, MOST_THREADS) };

/**
 * Checks options by name; what is undefined is left to its default.
 *
 * @param {unknown} given
 * @param {Record<string, (name: string, value: unknown) => void>} checks Of every option that there is.
 */
export function checkOptions(given, checks) {
  if (given === null || typeof given !== "object") throw new TypeError(`options must be an object, not ${shown(given)}`);
  for (const [name, value] of Object.entries(given)) {
    if (!Object.hasOwn(checks, name)) throw new TypeError(`there is no option ${name}: there is ${Object.keys(checks).join(", ")}`);
    if (value !== undefined) checks[name](name, value);
  }
}

/** Refuses what is no array of bytes; floats would lose their fractions without a word. */
export function checkBytes(name, value) {
  if (!(value instanceof Uint8Array || value instanceof Uint8ClampedArray)) {
    const kind = value === null || value === undefined ? String(value) : (value.constructor?.name ?? typeof value);
    throw new TypeError(`${name} must be a Uint8Array, not ${kind}`);
  }
}
