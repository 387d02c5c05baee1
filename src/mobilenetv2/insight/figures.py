"""The drawings of the page: the paper's argument on random data, and what was measured on a model.

Each function takes measurements and the texts of `[labels]` in the page's language, and returns a
canvas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..cost import Cost, LayerCost
from ..layer import Layer
from .drawing import WIDTH, Axes, Canvas, ticks
from .interventions import Clipping
from .manifold import Positivity, Span
from .memory import Memory, StepMemory
from .theory import Invertibility, LemmaOne, Panel, spiral

Labels = Mapping[str, str]
PANEL_SIDE = WIDTH / 3
HUES = 16  # colours along the spiral
GAP = 1.6  # between the tensors of the drawing to scale
TENSORS_HEIGHT = 640.0  # of all tensors of that drawing together
ROLE_CLASSES = {"expand": "wide", "depthwise": "wide2", "project": "thin"}
PERCENT_TICKS = ([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])


def spiral_panels(panels: Sequence[Panel], labels: Labels) -> Canvas:
    """Figure 1: the spiral, and what comes back from each n; each scaled to its own size."""
    rows = math.ceil((len(panels) + 1) / 3)
    canvas = Canvas(rows * (PANEL_SIDE + 14), labels["spiral_title"])
    curves = [(labels["input"], spiral(len(panels[0].points)))]
    curves += [(f"n = {panel.dimension}", panel.points) for panel in panels]
    for index, (name, points) in enumerate(curves):
        x, y = index % 3 * PANEL_SIDE, index // 3 * (PANEL_SIDE + 14)
        canvas.rect(x + 3, y + 3, PANEL_SIDE - 6, PANEL_SIDE - 6, "frame")
        _draw_spiral(canvas, points[::2], x + PANEL_SIDE / 2, y + PANEL_SIDE / 2)
        canvas.text(x + PANEL_SIDE / 2, y + PANEL_SIDE + 8, name, "small", "middle")
    return canvas


def _draw_spiral(canvas: Canvas, points: NDArray[np.float64], x: float, y: float) -> None:
    """A curve that fills a panel around (x, y); its colour changes along its length."""
    middle = (points.max(axis=0) + points.min(axis=0)) / 2
    reach = max(float(np.abs(points - middle).max()), 1e-9)
    placed = np.array([x, y]) + (points - middle) * [1, -1] * (PANEL_SIDE / 2 - 10) / reach
    cuts = np.linspace(0, len(placed) - 1, HUES + 1).astype(int)
    for hue, (begin, end) in enumerate(zip(cuts, cuts[1:])):
        canvas.line(placed[begin : end + 1], f"spiral h{hue}")


def disc(lemma: LemmaOne, labels: Labels) -> Canvas:
    """Lemma 1: the disc before and after ReLU; points with a coordinate cut in another colour."""
    canvas = Canvas(196, labels["disc_title"])
    untouched = (lemma.outputs > 0).all(axis=1)
    for index, (name, points) in enumerate(
        ((labels["before"], lemma.points), (labels["after"], lemma.outputs))
    ):
        x, y, scale = WIDTH / 4 * (1 + 2 * index), 90.0, 74.0
        canvas.line([(x - 84, y), (x + 84, y)], "axis")
        canvas.line([(x, y - 84), (x, y + 84)], "axis")
        placed = np.array([x, y]) + points * [scale, -scale]
        canvas.dots(placed[~untouched], "fine lost")
        canvas.dots(placed[untouched], "fine kept")
        canvas.text(x, 190, name, "small", "middle")
    return canvas


def invertible_share(rows: Sequence[Invertibility], labels: Labels) -> Canvas:
    """Lemma 2: the share of inputs that the output determines, beside the theorem."""
    canvas = Canvas(206, labels["invertible_title"])
    axes = Axes(canvas, len(rows), 100, y=20)
    axes.scale(*PERCENT_TICKS)
    axes.names([f"t = {row.expansion:g}" for row in rows])
    for column, row in enumerate(rows):
        tip = f"t = {row.expansion:g}: {100 * row.invertible:.2f} %"
        axes.bar(column, 0, 100 * row.invertible, "thin", tip, (0.25, 0.75))
        axes.mark(column, 100 * row.theorem, "theory", (0.12, 0.88))
    canvas.legend([("thin", labels["measured"]), ("theory-key", labels["theorem"])], 200)
    return canvas


def network(layers: Sequence[Layer], labels: Labels) -> Canvas:
    """Every tensor as a bar, to one scale: as wide as it has channels, as tall as it has rows."""
    drawn = [layer for layer in layers if layer.kind != "add"]
    channels, rows, _ = layers[0].in_shape
    shapes = [(channels, rows), *((layer.out_shape[0], layer.out_shape[1]) for layer in drawn)]
    across = 250 / max(shape[0] for shape in shapes)
    down = TENSORS_HEIGHT / sum(shape[1] for shape in shapes)
    height = sum(max(shape[1] * down, 1) + GAP for shape in shapes)
    canvas = Canvas(height + 38, labels["network_title"])
    middle, y, side = 176.0, 4.0, 0
    bars: dict[str, tuple[float, float]] = {}  # of each tensor: y of its middle, half its width
    for shape, layer in zip(shapes, [None, *drawn]):
        wide, tall = shape[0] * across, max(shape[1] * down, 1)
        name = "image" if layer is None else layer.name
        class_ = "image" if layer is None else ROLE_CLASSES.get(layer.role, "other")
        columns = shape[1] if layer is None else layer.out_shape[2]
        tip = f"{name}: {shape[0]} × {shape[1]} × {columns}"
        canvas.rect(middle - wide / 2, y, wide, tall, class_, tip)
        bars[name] = (y + tall / 2, wide / 2)
        if shape[1] != side:
            canvas.text(2, y + min(tall / 2, 8) + 3, f"{shape[1]}²", "small dim")
            side = shape[1]
        if layer is not None and layer.role == "project":
            canvas.text(WIDTH - 2, y + tall / 2 + 3, layer.block, "tiny dim", "end")
        y += tall + GAP
    _draw_shortcuts(canvas, layers, bars, middle)
    entries = [
        ("thin", labels["bottleneck"]),
        ("wide", labels["expanded"]),
        ("wide2", labels["filtered"]),
        ("other", labels["other"]),
    ]
    canvas.legend(entries, height + 18, 2)
    return canvas


def _draw_shortcuts(
    canvas: Canvas, layers: Sequence[Layer], bars: dict[str, tuple[float, float]], middle: float
) -> None:
    """A line on the right for each addition, from the tensor that skips the block."""
    for layer in layers:
        if layer.kind != "add":
            continue
        start, end = (bars[source] for source in layer.sources)
        between = [half for y, half in bars.values() if start[0] < y < end[0]]
        right = middle + max([*between, start[1]]) + 7
        path = f"M{middle + start[1]:.1f} {start[0]:.1f}H{right:.1f}V{end[0]:.1f}H{middle + end[1]:.1f}"
        canvas.curve(path, "shortcut")
        bars[layer.name] = end


def block(rows: Sequence[LayerCost], labels: Labels) -> Canvas:
    """One inverted residual: tensors as tall as they have channels, operators between them."""
    steps = [row for row in rows if row.layer.kind != "add"]
    shapes = [steps[0].layer.in_shape, *(row.layer.out_shape for row in steps)]
    most = max(shape[0] for shape in shapes)
    canvas = Canvas(238, labels["block_title"])
    spread, wide, middle = WIDTH / len(shapes), 34.0, 112.0
    classes = ["thin", *(ROLE_CLASSES.get(row.layer.role, "other") for row in steps)]
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
        canvas.text(x, middle + 14, labels[row.layer.activation], "small dim", "middle")
        canvas.text(x, 214, labels[row.layer.role], "small", "middle")
        canvas.text(x, 230, f"{row.macs / 1e6:.2f} M", "small dim", "middle")
    if len(steps) < len(rows):
        begin, end = spread / 2, WIDTH - spread / 2
        y = middle - 136 * shapes[0][0] / most / 2 - 18
        canvas.curve(
            f"M{begin} {y}V24Q{begin} 16 {begin + 8} 16H{end - 8}Q{end} 16 {end} 24V{y}m-4 -6l4 6l4 -6",
            "shortcut",
        )
        canvas.text(WIDTH / 2, 11, labels["shortcut"], "small", "middle")
    return canvas


def ranks(
    spans: Sequence[Span], source_channels: Mapping[int, int], labels: Labels, title: str
) -> Canvas:
    """Channels, directions for 99 % of the variance, and effective rank of one tensor per block.

    Args:
        spans: The tensors.
        source_channels: For expansions: channels of the bottleneck that each is made from, by
            block. Empty for bottlenecks.
        labels: As for all figures.
        title: Of the drawing.
    """
    canvas = Canvas(218, title)
    top = 1.08 * max(span.channels for span in spans)
    axes = Axes(canvas, len(spans), top, y=24)
    axes.scale(ticks(top), [f"{tick:g}" for tick in ticks(top)], labels["channels"])
    axes.names([span.block for span in spans])
    rank_class = "wide" if source_channels else "thin"
    for column, span in enumerate(spans):
        tip = f"{labels['block']} {span.block}: {span.effective_rank:.1f} / {span.channels_99} / {span.channels}"
        axes.bar(column, 0, span.channels, "outline", tip)
        axes.bar(column, 0, span.channels_99, "soft", tip)
        axes.bar(column, 0, span.effective_rank, rank_class, tip)
        if span.block in source_channels:
            axes.mark(column, source_channels[span.block], "theory")
    entries = [
        (rank_class, labels["effective_rank"]),
        ("soft", labels["directions_99"]),
        ("outline", labels["channels"]),
    ]
    if source_channels:
        entries.append(("theory-key", labels["read_channels"]))
    canvas.legend(entries, 200)
    return canvas


def positivity(
    initial: Sequence[Positivity], trained: Sequence[Positivity], labels: Labels
) -> Canvas:
    """The paper's Figure 7: least, mean and most, and one standard deviation around the mean."""
    canvas = Canvas(218, labels["positivity_title"])
    axes = Axes(canvas, len(trained), 100, y=24)
    axes.scale(*PERCENT_TICKS, labels["positive_channels"])
    axes.names([row.block for row in trained])
    for rows, class_, place in ((initial, "start", 0.3), (trained, "end", 0.7)):
        for column, row in enumerate(rows):
            x = axes.left(column + place)
            tip = f"{labels['block']} {row.block}: {100 * row.least:.0f} / {100 * row.mean:.0f} / {100 * row.most:.0f} %"
            canvas.line(
                [(x, axes.at(100 * row.least)), (x, axes.at(100 * row.most))],
                f"range {class_}-line",
            )
            low, high = (100 * (row.mean + sign * row.deviation) for sign in (-1, 1))
            axes.bar(column, max(low, 0), min(high, 100), class_, tip, (place - 0.16, place + 0.16))
            axes.mark(column, 100 * row.mean, "mean", (place - 0.2, place + 0.2))
    for column, row in enumerate(trained):
        axes.mark(column, 100 * row.threshold, "theory")
    entries = [
        ("start", labels["initial"]),
        ("end", labels["trained"]),
        ("theory-key", labels["threshold"]),
    ]
    canvas.legend(entries, 204)
    return canvas


def clipped(
    clippings: Sequence[Clipping], shortcut_blocks: set[int], unchanged: float, labels: Labels
) -> Canvas:
    """The percentage that remains with a ReLU6 on each bottleneck; blocks with a shortcut in
    another colour, the unchanged model's percentage as a line.
    """
    canvas = Canvas(220, labels["clipped_title"])
    labelled = clippings[0].effect.accuracy is not None
    axes = Axes(canvas, len(clippings), 100, y=24)
    axes.scale(*PERCENT_TICKS, labels["accuracy" if labelled else "agreement"])
    axes.names([labels["all"] if row.block is None else row.block for row in clippings])
    for column, row in enumerate(clippings):
        class_ = "thin"
        if row.block is None:
            class_ = "other"
        elif row.block in shortcut_blocks:
            class_ = "kept-bar"
        tip = f"{labels['block']} {row.block or labels['all']}: {row.effect.score:.0f} %"
        axes.bar(column, 0, row.effect.score, class_, tip)
    canvas.line([(axes.x, axes.at(unchanged)), (axes.x + axes.width, axes.at(unchanged))], "theory")
    entries = [
        ("kept-bar", labels["with_shortcut"]),
        ("thin", labels["without_shortcut"]),
        ("theory-key", labels["unchanged"]),
    ]
    canvas.legend(entries, 212)
    return canvas


def cost_bars(
    cost: Cost, value: Callable[[LayerCost], float], title: str, name: str, labels: Labels
) -> Canvas:
    """A column for each block and each layer outside of them, its operators stacked.

    Args:
        cost: Of the network.
        value: What of a layer is drawn.
        title: Of the drawing.
        name: Of the quantity.
        labels: As for all figures.
    """
    columns: dict[str, list[LayerCost]] = {}
    for row in cost.layers:
        if value(row):
            layer = row.layer
            role = "head" if layer.name.startswith("head.") else layer.role
            columns.setdefault(str(layer.block or labels[role]), []).append(row)
    canvas = Canvas(220, title)
    top = 1.05 * max(sum(map(value, rows)) for rows in columns.values())
    axes = Axes(canvas, len(columns), top, y=24)
    unit, suffix = (1e6, "M") if top >= 1e6 else (1e3, "k")
    axes.scale(
        ticks(top), [f"{tick / unit:g} {suffix}" if tick else "0" for tick in ticks(top)], name
    )
    axes.names(list(columns))
    for column, (place, rows) in enumerate(columns.items()):
        low = 0.0
        for row in rows:
            high = low + value(row)
            tip = f"{place}, {row.layer.name}: {value(row):,.0f}"
            axes.bar(column, low, high, ROLE_CLASSES.get(row.layer.role, "other"), tip)
            low = high
    entries = [
        ("wide", labels["expand"]),
        ("wide2", labels["depthwise"]),
        ("thin", labels["project"]),
        ("other", labels["other"]),
    ]
    canvas.legend(entries, 212)
    return canvas


def memory(measured: Memory, labels: Labels) -> Canvas:
    """The bytes held while each layer runs, for the three ways of running a network."""
    canvas = Canvas(222, labels["memory_title"])
    curves: list[tuple[Sequence[StepMemory], str, str]] = [
        (measured.operators, "wide", "one_after_another"),
        (measured.bottlenecks, "thin", "block_as_one"),
        (measured.runtime, "kept-bar", "as_it_runs"),
    ]
    most = max(step.held_bytes for held, _, _ in curves for step in held)
    unit, suffix = (1e6, "MB") if most >= 2e6 else (1e3, "KB")
    top = 1.05 * most / unit
    axes = Axes(canvas, len(measured.layers), top, y=24)
    axes.scale(ticks(top), [f"{tick:g}" for tick in ticks(top)], suffix)
    for held, class_, _ in curves:
        outline: list[tuple[float, float]] = []
        for step in held:
            x, end = axes.left(step.first), axes.left(step.last + 1)
            y = axes.at(step.held_bytes / unit)
            tip = f"{measured.layers[step.last]}: {step.held_bytes / unit:.3g} {suffix}"
            canvas.rect(x, y, end - x, axes.at(0) - y, f"{class_} sheer", tip)
            outline += [(x, y), (end, y)]
        canvas.line(outline, f"{class_}-line")
    canvas.text(axes.x, axes.at(0) + 13, labels["first_layer"], "small dim")
    canvas.text(axes.x + axes.width, axes.at(0) + 13, labels["last_layer"], "small dim", "end")
    canvas.legend([(class_, labels[key]) for _, class_, key in curves], 204)
    return canvas
