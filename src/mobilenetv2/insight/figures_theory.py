"""The figures of the paper's argument: the spiral, the disc, and what can be undone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .linear import Invertibility, LemmaOne
from .spiral import Panel, spiral
from .svg import WIDTH, Axes, Canvas

SIDE = WIDTH / 3
HUES = 16  # colours along the spiral
Words = Mapping[str, str]


def spiral_panels(panels: Sequence[Panel], words: Words) -> Canvas:
    """Figure 1: the spiral, and what comes back from each n; each scaled to its own size."""
    rows = math.ceil((len(panels) + 1) / 3)
    canvas = Canvas(rows * (SIDE + 14), words["spiral_title"])
    shown = [(words["input"], spiral(len(panels[0].points)))]
    shown += [(f"n = {panel.dimension}", panel.points) for panel in panels]
    for index, (name, points) in enumerate(shown):
        x, y = index % 3 * SIDE, index // 3 * (SIDE + 14)
        canvas.rect(x + 3, y + 3, SIDE - 6, SIDE - 6, "frame")
        _coloured(canvas, points[::2], x + SIDE / 2, y + SIDE / 2)
        canvas.text(x + SIDE / 2, y + SIDE + 8, name, "small", "middle")
    return canvas


def _coloured(canvas: Canvas, points: NDArray[np.float64], x: float, y: float) -> None:
    """A curve that fills a panel around (x, y), its colour running along it."""
    middle = (points.max(axis=0) + points.min(axis=0)) / 2
    reach = max(float(np.abs(points - middle).max()), 1e-9)
    placed = np.array([x, y]) + (points - middle) * [1, -1] * (SIDE / 2 - 10) / reach
    cuts = np.linspace(0, len(placed) - 1, HUES + 1).astype(int)
    for hue, (begin, end) in enumerate(zip(cuts, cuts[1:])):
        canvas.line(placed[begin : end + 1], f"spiral h{hue}")


def disc(lemma: LemmaOne, words: Words) -> Canvas:
    """Lemma 1: the disc before and after ReLU, points that were cut in another colour."""
    canvas = Canvas(196, words["disc_title"])
    untouched = (lemma.images > 0).all(axis=1)
    for index, (name, points) in enumerate(
        ((words["before"], lemma.points), (words["after"], lemma.images))
    ):
        x, y, scale = WIDTH / 4 * (1 + 2 * index), 90.0, 74.0
        canvas.line([(x - 84, y), (x + 84, y)], "axis")
        canvas.line([(x, y - 84), (x, y + 84)], "axis")
        placed = np.array([x, y]) + points * [scale, -scale]
        canvas.dots(placed[~untouched], "fine lost")
        canvas.dots(placed[untouched], "fine kept")
        canvas.text(x, 190, name, "small", "middle")
    return canvas


def invertible_share(found: Sequence[Invertibility], words: Words) -> Canvas:
    """Lemma 2: the share of inputs that can be told from the output, beside the theorem."""
    canvas = Canvas(206, words["invertible_title"])
    axes = Axes(canvas, len(found), 100, y=20)
    axes.scale([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.names([f"t = {row.expansion:g}" for row in found])
    for column, row in enumerate(found):
        tip = f"t = {row.expansion:g}: {100 * row.invertible:.2f} %"
        axes.bar(column, 0, 100 * row.invertible, "thin", tip, (0.25, 0.75))
        axes.mark(column, 100 * row.theorem, "theory", (0.12, 0.88))
    canvas.legend([("thin", words["measured"]), ("theory-key", words["theorem"])], 200)
    return canvas
