"use strict";
// Figure 1 by hand: T x, ReLU, and back with (T'T)^-1 T'.
(() => {
  const box = document.getElementById("play");
  if (!box) return;
  const POINTS = 480, TURNS = 3, HUES = 16;
  const slider = box.querySelector("input"), count = box.querySelector("output"), kept = box.querySelector("p b");
  const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  const draw = (rows) => Array.from({ length: rows }, () => [normal(), normal()]);
  let matrix = draw(30);

  const back = (T, x, y) => {
    let a = 0, b = 0, c = 0, u = 0, v = 0;
    for (const [p, q] of T) {
      const cut = Math.max(p * x + q * y, 0);
      a += p * p; b += p * q; c += q * q; u += p * cut; v += q * cut;
    }
    const d = a * c - b * b;
    return [(c * u - b * v) / d, (a * v - b * u) / d];
  };
  const surviving = (T) => {
    let alive = 0;
    for (let i = 0; i < 3600; i++) {
      const angle = i * Math.PI / 1800, x = Math.cos(angle), y = Math.sin(angle);
      if (T.filter(([p, q]) => p * x + q * y > 0).length >= 2) alive++;
    }
    return alive / 3600;
  };
  const show = () => {
    const n = Number(slider.value), T = matrix.slice(0, n);
    const points = Array.from({ length: POINTS }, (_, i) => {
      const r = i / (POINTS - 1), angle = 2 * Math.PI * TURNS * r;
      return back(T, r * Math.cos(angle), r * Math.sin(angle));
    });
    const range = (k) => [Math.min(...points.map((p) => p[k])), Math.max(...points.map((p) => p[k]))];
    const [left, right] = range(0), [low, high] = range(1);
    const scale = 2 / Math.max(right - left, high - low, 1e-9);
    const placed = points.map(([x, y]) => [(x - (left + right) / 2) * scale, ((low + high) / 2 - y) * scale]);
    const paths = [];
    for (let hue = 0; hue < HUES; hue++) {
      const part = placed.slice(Math.floor(hue * POINTS / HUES), Math.floor((hue + 1) * POINTS / HUES) + 1);
      paths.push(`<path class="spiral h${hue}" d="M${part.map((p) => p.map((z) => z.toFixed(3)).join(" ")).join("L")}"/>`);
    }
    box.querySelector("g").innerHTML = paths.join("");
    count.textContent = n;
    kept.textContent = (100 * surviving(T)).toFixed(1) + (document.documentElement.lang === "ko" ? "%" : " %");
  };
  slider.addEventListener("input", show);
  box.querySelector("button").addEventListener("click", () => { matrix = draw(30); show(); });
  box.hidden = false;
  show();
})();
