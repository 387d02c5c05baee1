"""The figures of a run, and tables about its classes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingExtraError, install_hint
from ..files import write_atomically
from ..printable import printable
from .fonts import families_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..evaluation.detection import Curves

MAX_NAMED = 50  # with more classes than this, their names do not fit
MAX_NUMBERED = 20  # likewise the numbers of images
MAX_NAME_LENGTH = 24
MAX_CONFUSED = 20  # pairs of classes


def draw_curves(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], best_epoch: int, path: Path
) -> None:
    """Draws loss, the scores in these columns, and learning rate over the epochs of a log, with a
    line at the best epoch.
    """
    figure = _figure(11, 3.4)
    panels = (
        ("loss", ("train_loss", "val_loss")),
        ("validation", tuple(columns)),
        ("learning rate", ("lr",)),
    )
    epochs = [row["epoch"] for row in rows]
    for axes, (title, names) in zip(figure.subplots(1, 3), panels):
        for name in names:
            values = [np.nan if row[name] == "" else row[name] for row in rows]
            axes.plot(epochs, values, label=name, marker="." if len(rows) < 40 else "")
        axes.axvline(best_epoch, color="grey", ls="--", label=f"best: epoch {best_epoch}", zorder=0)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(epochs) == 1:  # else the numbers on the axis are fractions
            axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)


def draw_confusion(confusion: NDArray[np.int64], labels: Sequence[str], path: Path) -> None:
    """Draws the confusion matrix: rows are true classes, columns predicted ones, colours shares of
    the row.
    """
    count = len(labels)
    side = min(14.0, 3.0 + 0.3 * count)
    figure = _figure(side + 1, side)
    axes = figure.subplots()
    shares = 100 * confusion / np.maximum(1, confusion.sum(1, keepdims=True))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, label="% of the row")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= MAX_NAMED:
        short = [
            name if len(name) <= MAX_NAME_LENGTH else name[: MAX_NAME_LENGTH - 1] + "…"
            for name in map(printable, labels)
        ]
        names: dict[str, Any] = {"family": families_for(short)}
        axes.set_xticks(range(count), short, rotation=90, parse_math=False, **names)
        axes.set_yticks(range(count), short, parse_math=False, **names)
    if count <= MAX_NUMBERED:
        for (row, column), number in np.ndenumerate(confusion):
            colour = "white" if shares[row, column] > 50 else "black"
            if number:
                axes.text(column, row, str(number), ha="center", va="center", color=colour)
    _save(figure, path)


def share(part: int, whole: int) -> float | None:
    """The share, from 0 to 1; None of nothing."""
    return part / whole if whole else None


def confused(
    confusion: NDArray[np.int64], labels: Sequence[str], counted: str
) -> list[dict[str, Any]]:
    """The greatest numbers beside the diagonal of a confusion matrix.

    Args:
        confusion: Rows are true classes, columns predicted ones.
        labels: Names of the classes.
        counted: What the numbers count.
    """
    rows, columns = np.nonzero(confusion)  # few, even of many classes
    rows, columns = rows[rows != columns], columns[rows != columns]
    order = np.argsort(-confusion[rows, columns], kind="stable")[:MAX_CONFUSED]
    return [
        {
            "true": labels[row],
            "predicted": labels[column],
            counted: int(confusion[row, column]),
            "share of the class": float(confusion[row, column] / confusion[row].sum()),
        }
        for row, column in zip(rows[order].tolist(), columns[order].tolist())
    ]


def draw_precision(curves: Curves, path: Path) -> None:
    """Draws a detector's precision over its recall, the mean over the classes, for each overlap."""
    figure = _figure(6, 5)
    axes = figure.subplots()
    scored = ~np.isnan(curves.precisions).all((0, 1))
    for place, overlap in enumerate(curves.overlaps):
        if scored.any():
            mean = np.nanmean(curves.precisions[place][:, scored], 1)
            axes.plot(curves.recalls, mean, label=f"{overlap:.2f}")
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    if scored.any():
        axes.legend(title="overlap")
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError(
            f"figures of a run need matplotlib; {install_hint('train')}"
        ) from None
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    content = io.BytesIO()
    with warnings.catch_warnings():
        # a letter that no font of this machine has is drawn as a box
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(content, format="png", dpi=110)
    write_atomically(path, content.getvalue())
