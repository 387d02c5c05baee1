"""The drawings of the page: of the paper's ideas, and of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..cost import Cost, LayerCost
from ..layer import Layer
from .interventions import Clipping
from .manifold import Positivity, Span
from .memory import Held, Memory
from .svg import WIDTH, Axes, Canvas, ticks
from .theory import Invertibility, LemmaOne, Panel, spiral

Words = Mapping[str, str]
GAP = 1.6
TALL = 640.0  # of all tensors together in the drawing to scale
KINDS = {"expand": "wide", "depthwise": "wide2", "project": "thin"}


def network(layers: Sequence[Layer], words: Words) -> Canvas:
    """Every tensor as a bar: as wide as it has channels, as tall as it has rows."""
    drawn = [layer for layer in layers if layer.kind != "add"]
    channels, rows, _ = layers[0].in_shape
    shapes = [(channels, rows), *((layer.out_shape[0], layer.out_shape[1]) for layer in drawn)]
    across = 250 / max(shape[0] for shape in shapes)
    down = TALL / sum(shape[1] for shape in shapes)
    height = sum(max(shape[1] * down, 1) + GAP for shape in shapes)
    canvas = Canvas(height + 38, words["network_title"])
    middle, y, side = 176.0, 4.0, 0
    ends: dict[str, tuple[float, float, float]] = {}  # middle of each tensor: y, and half its width
    for shape, layer in zip(shapes, [None, *drawn]):
        wide, tall = shape[0] * across, max(shape[1] * down, 1)
        name = "image" if layer is None else layer.name
        class_ = "image" if layer is None else KINDS.get(layer.role, "other")
        tip = (
            f"{name}: {shape[0]} × {shape[1]} × {shape[1] if layer is None else layer.out_shape[2]}"
        )
        canvas.rect(middle - wide / 2, y, wide, tall, class_, tip)
        ends[name] = (y + tall / 2, wide / 2, tall)
        if shape[1] != side:
            canvas.text(2, y + min(tall / 2, 8) + 3, f"{shape[1]}²", "small dim")
            side = shape[1]
        if layer is not None and layer.role == "project":
            canvas.text(WIDTH - 2, y + tall / 2 + 3, layer.block, "tiny dim", "end")
        y += tall + GAP
    _shortcuts(canvas, layers, ends, middle)
    entries = [
        ("thin", words["bottleneck"]),
        ("wide", words["expanded"]),
        ("wide2", words["filtered"]),
        ("other", words["other"]),
    ]
    canvas.legend(entries, height + 18, 2)
    return canvas


def _shortcuts(
    canvas: Canvas,
    layers: Sequence[Layer],
    ends: dict[str, tuple[float, float, float]],
    middle: float,
) -> None:
    """A line on the right for each addition, from the tensor that skips the block."""
    for layer in layers:
        if layer.kind != "add":
            continue
        start, end = (ends[source] for source in layer.sources)
        between = [ends[name][1] for name in ends if start[0] < ends[name][0] < end[0]]
        right = middle + max([*between, start[1]]) + 7
        path = f"M{middle + start[1]:.1f} {start[0]:.1f}H{right:.1f}V{end[0]:.1f}H{middle + end[1]:.1f}"
        canvas.curve(path, "shortcut")
        ends[layer.name] = end


def block(rows: Sequence[LayerCost], words: Words) -> Canvas:
    """One inverted residual: tensors as tall as they have channels, operators between them."""
    steps = [row for row in rows if row.layer.kind != "add"]
    first = steps[0].layer
    shapes = [first.in_shape, *(row.layer.out_shape for row in steps)]
    most = max(shape[0] for shape in shapes)
    canvas = Canvas(238, words["block_title"])
    spread, wide, middle = WIDTH / len(shapes), 34.0, 112.0
    classes = ["thin", *(KINDS.get(row.layer.role, "other") for row in steps)]
    for index, (shape, class_) in enumerate(zip(shapes, classes)):
        x, tall = (index + 0.5) * spread, 136 * shape[0] / most
        canvas.rect(x - wide / 2, middle - tall / 2, wide, tall, class_)
        canvas.text(x, middle - tall / 2 - 5, shape[0], "", "middle")
        canvas.text(x, 196, f"{shape[1]} × {shape[2]}", "small dim", "middle")
    for index, row in enumerate(steps):
        x = (index + 1) * spread
        canvas.text(x, middle - 6, f"{row.layer.kernel} × {row.layer.kernel}", "small", "middle")
        canvas.curve(
            f"M{x - spread / 2 + wide / 2 + 4:.1f} {middle}h{spread - wide - 8:.1f}m-5 -4l5 4l-5 4",
            "arrow",
        )
        canvas.text(x, middle + 14, words[row.layer.activation], "small dim", "middle")
        canvas.text(x, 214, words[row.layer.role], "small", "middle")
        canvas.text(x, 230, f"{row.macs / 1e6:.2f} M", "small dim", "middle")
    if len(steps) < len(rows):
        begin, end = spread / 2, WIDTH - spread / 2
        y = middle - 136 * shapes[0][0] / most / 2 - 18
        canvas.curve(
            f"M{begin} {y}V24Q{begin} 16 {begin + 8} 16H{end - 8}Q{end} 16 {end} 24V{y}m-4 -6l4 6l4 -6",
            "shortcut",
        )
        canvas.text(WIDTH / 2, 11, words["shortcut"], "small", "middle")
    return canvas


def ranks(spans: Sequence[Span], thin: Mapping[int, int], words: Words, title: str) -> Canvas:
    """Channels there are, directions for 99 % of the variance, and the effective rank; `thin` has
    the channels that each block reads, where the wide tensor is meant.
    """
    canvas = Canvas(218, title)
    top = 1.08 * max(span.channels for span in spans)
    axes = Axes(canvas, len(spans), top, y=24)
    axes.scale(ticks(top), [f"{tick:g}" for tick in ticks(top)], words["channels"])
    axes.names([span.block for span in spans])
    for column, span in enumerate(spans):
        tip = f"{words['block']} {span.block}: {span.effective_rank:.1f} / {span.channels_99} / {span.channels}"
        axes.bar(column, 0, span.channels, "outline", tip)
        axes.bar(column, 0, span.channels_99, "soft", tip)
        axes.bar(column, 0, span.effective_rank, "wide" if thin else "thin", tip)
        if span.block in thin:
            axes.mark(column, thin[span.block], "theory")
    entries = [
        ("wide" if thin else "thin", words["effective_rank"]),
        ("soft", words["directions_99"]),
        ("outline", words["channels"]),
    ]
    canvas.legend([*entries, *([("theory-key", words["read_channels"])] if thin else [])], 200)
    return canvas


def positivity(
    initial: Sequence[Positivity], trained: Sequence[Positivity], words: Words
) -> Canvas:
    """The paper's Figure 7: least, mean and most, and one deviation around the mean."""
    canvas = Canvas(218, words["positivity_title"])
    axes = Axes(canvas, len(trained), 100, y=24)
    axes.scale([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"], words["positive_channels"])
    axes.names([row.block for row in trained])
    for rows, class_, place in ((initial, "start", 0.3), (trained, "end", 0.7)):
        for column, row in enumerate(rows):
            x = axes.left(column + place)
            tip = f"{words['block']} {row.block}: {100 * row.least:.0f} / {100 * row.mean:.0f} / {100 * row.most:.0f} %"
            canvas.line(
                [(x, axes.at(100 * row.least)), (x, axes.at(100 * row.most))],
                f"range {class_}-line",
            )
            low, high = (100 * (row.mean + sign * row.deviation) for sign in (-1, 1))
            axes.bar(column, max(low, 0), min(high, 100), class_, tip, (place - 0.16, place + 0.16))
            axes.mark(column, 100 * row.mean, "mean", (place - 0.2, place + 0.2))
    for column, row in enumerate(trained):
        axes.mark(column, 100 * row.threshold, "theory")
    canvas.legend(
        [
            ("start", words["initial"]),
            ("end", words["trained"]),
            ("theory-key", words["threshold"]),
        ],
        204,
    )
    return canvas


def clipped(
    clippings: Sequence[Clipping], adding: set[int], unchanged: float, words: Words
) -> Canvas:
    """What a ReLU6 on each bottleneck leaves of the answers; blocks with a shortcut apart."""
    canvas = Canvas(220, words["clipped_title"])
    known = clippings[0].effect.accuracy is not None
    axes = Axes(canvas, len(clippings), 100, y=24)
    name = words["accuracy" if known else "agreement"]
    axes.scale([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"], name)
    axes.names([words["all"] if row.block is None else row.block for row in clippings])
    for column, row in enumerate(clippings):
        value = row.effect.accuracy if row.effect.accuracy is not None else row.effect.agreement
        class_ = "other" if row.block is None else "kept-bar" if row.block in adding else "thin"
        axes.bar(
            column, 0, value, class_, f"{words['block']} {row.block or words['all']}: {value:.0f} %"
        )
    canvas.line([(axes.x, axes.at(unchanged)), (axes.x + axes.width, axes.at(unchanged))], "theory")
    entries = [
        ("kept-bar", words["with_shortcut"]),
        ("thin", words["without_shortcut"]),
        ("theory-key", words["unchanged"]),
    ]
    canvas.legend(entries, 212)
    return canvas


def cost_bars(
    cost: Cost, value: Callable[[LayerCost], float], title: str, name: str, words: Words
) -> Canvas:
    """A column for each block and each layer outside of them, its operators stacked."""
    columns: dict[str, list[LayerCost]] = {}
    for row in cost.layers:
        if value(row):
            layer = row.layer
            role = "head" if layer.name.startswith("head.") else layer.role
            columns.setdefault(str(layer.block or words[role]), []).append(row)
    canvas = Canvas(220, title)
    top = 1.05 * max(sum(map(value, rows)) for rows in columns.values())
    axes = Axes(canvas, len(columns), top, y=24)
    unit, word = (1e6, "M") if top >= 1e6 else (1e3, "k")
    axes.scale(
        ticks(top), [f"{tick / unit:g} {word}" if tick else "0" for tick in ticks(top)], name
    )
    axes.names(list(columns))
    for column, (place, rows) in enumerate(columns.items()):
        low = 0.0
        for row in rows:
            high = low + value(row)
            axes.bar(
                column,
                low,
                high,
                KINDS.get(row.layer.role, "other"),
                f"{place}, {row.layer.name}: {value(row):,.0f}",
            )
            low = high
    entries = [
        ("wide", words["expand"]),
        ("wide2", words["depthwise"]),
        ("thin", words["project"]),
        ("other", words["other"]),
    ]
    canvas.legend(entries, 212)
    return canvas


def memory(measured: Memory, words: Words) -> Canvas:
    """What is held while each layer runs, in the three ways of running."""
    canvas = Canvas(222, words["memory_title"])
    most = max(
        step.held_bytes
        for held in (measured.operators, measured.bottlenecks, measured.runtime)
        for step in held
    )
    unit, word = (1e6, "MB") if most >= 2e6 else (1e3, "KB")
    top = 1.05 * most / unit
    axes = Axes(canvas, len(measured.layers), top, y=24)
    axes.scale(ticks(top), [f"{tick:g}" for tick in ticks(top)], word)
    drawn: list[tuple[Sequence[Held], str, str]] = [
        (measured.operators, "wide", "one_after_another"),
        (measured.bottlenecks, "thin", "block_as_one"),
        (measured.runtime, "kept-bar", "as_it_runs"),
    ]
    for held, class_, _ in drawn:
        outline: list[tuple[float, float]] = []
        for step in held:
            x, end = axes.left(step.first), axes.left(step.last + 1)
            y = axes.at(step.held_bytes / unit)
            tip = f"{measured.layers[step.last]}: {step.held_bytes / unit:.3g} {word}"
            canvas.rect(x, y, end - x, axes.at(0) - y, f"{class_} sheer", tip)
            outline += [(x, y), (end, y)]
        canvas.line(outline, f"{class_}-line")
    canvas.text(axes.x, axes.at(0) + 13, words["first_layer"], "small dim")
    canvas.text(axes.x + axes.width, axes.at(0) + 13, words["last_layer"], "small dim", "end")
    canvas.legend([(class_, words[key]) for _, class_, key in drawn], 204)
    return canvas


SIDE = WIDTH / 3
HUES = 16  # colours along the spiral


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


def invertible_share(rows: Sequence[Invertibility], words: Words) -> Canvas:
    """Lemma 2: the share of inputs that can be told from the output, beside the theorem."""
    canvas = Canvas(206, words["invertible_title"])
    axes = Axes(canvas, len(rows), 100, y=20)
    axes.scale([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.names([f"t = {row.expansion:g}" for row in rows])
    for column, row in enumerate(rows):
        tip = f"t = {row.expansion:g}: {100 * row.invertible:.2f} %"
        axes.bar(column, 0, 100 * row.invertible, "thin", tip, (0.25, 0.75))
        axes.mark(column, 100 * row.theorem, "theory", (0.12, 0.88))
    canvas.legend([("thin", words["measured"]), ("theory-key", words["theorem"])], 200)
    return canvas
