"""The means of drawing: SVG as text on a canvas as wide as a phone's screen, axes on it, and pixels
as images inside a page.

Colours of an SVG are classes that the page's style sheet defines, for light and for dark screens.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH = 360  # units of a canvas: CSS pixels of a phone's screen, so that text keeps its size there
Points = NDArray[np.float64] | Sequence[tuple[float, float]]
# Dark to bright in equal steps of lightness: five colours of viridis.
COLOUR_STOPS = np.array(
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float64
)


class Canvas:
    """Collects shapes; `str` of it is an `<svg>` element of 360 x `height` units.

    Args:
        height: In units.
        title: What a screen reader says instead of the drawing.
    """

    def __init__(self, height: float, title: str) -> None:
        self.height = height
        self._parts: list[str] = []
        self._title = title

    def __str__(self) -> str:
        inner = "\n".join(self._parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height:g}" role="img">'
            f"<title>{escape(self._title)}</title>\n{inner}\n</svg>"
        )

    def __html__(self) -> str:
        """The same; tells a template that it is markup, with all text in it escaped."""
        return str(self)

    def rect(
        self, x: float, y: float, width: float, height: float, class_: str, tip: str = ""
    ) -> None:
        """A rectangle; `tip` is shown under the pointer."""
        inner = f"<title>{escape(tip)}</title>" if tip else ""
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" '
            f'class="{class_}">{inner}</rect>'
        )

    def line(self, points: Points, class_: str, closed: bool = False) -> None:
        """A line through points (P, 2)."""
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self._parts.append(f'<path d="M{path}{"Z" * closed}" class="{class_}"/>')

    def curve(self, path: str, class_: str) -> None:
        """Any path, in SVG's own notation."""
        self._parts.append(f'<path d="{path}" class="{class_}"/>')

    def dots(self, points: Points, class_: str) -> None:
        """Dots at points (P, 2); the class gives their size as the width of a stroke."""
        path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
        self._parts.append(f'<path d="{path}" class="dot {class_}"/>')

    def text(
        self, x: float, y: float, text: object, class_: str = "", anchor: str = "start"
    ) -> None:
        """Text on a base line; `anchor` is "start", "middle" or "end"."""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{class_}">'
            f"{escape(str(text))}</text>"
        )

    def legend(self, entries: Iterable[tuple[str, str]], y: float, x: float = 36) -> None:
        """Coloured squares with a label each, (class, label), in a row that wraps."""
        left = x
        for class_, label in entries:
            entry_width = 16 + sum(9.5 if ord(letter) > 0x1100 else 5.2 for letter in label) + 8
            if left > x and left + entry_width > WIDTH:
                left, y = x, y + 14
            self.rect(left, y - 8, 9, 9, class_)
            self.text(left + 13, y, label, "small")
            left += entry_width


@dataclass(frozen=True)
class Axes:
    """Where values lie on a canvas: x counts columns, y runs from 0 to `top`.

    Attributes:
        canvas: What is drawn on.
        columns: How many there are.
        top: The value at the upper edge.
        x: Left edge of the first column.
        y: Upper edge.
        width: Of all columns together.
        height: From 0 to `top`.
    """

    canvas: Canvas
    columns: int
    top: float
    x: float = 36
    y: float = 12
    width: float = WIDTH - 44
    height: float = 150

    @property
    def step(self) -> float:
        """Width of a column."""
        return self.width / self.columns

    def at(self, value: float) -> float:
        """The y of a value."""
        return self.y + self.height * (1 - value / self.top)

    def left(self, column: float) -> float:
        """The x of a column's left edge."""
        return self.x + column * self.step

    def bar(
        self, column: int, low: float, high: float, class_: str, tip: str = "",
        part: tuple[float, float] = (0.14, 0.86),
    ) -> None:  # fmt: skip
        """A bar from one value to another, over a part of the column."""
        begin, end = self.left(column + part[0]), self.left(column + part[1])
        self.canvas.rect(
            begin, self.at(high), end - begin, self.at(low) - self.at(high), class_, tip
        )

    def mark(
        self, column: int, value: float, class_: str, part: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        """A short horizontal line at a value."""
        y = self.at(value)
        self.canvas.line(
            [(self.left(column + part[0]), y), (self.left(column + part[1]), y)], class_
        )

    def scale(self, ticks: Sequence[float], labels: Sequence[Any], name: str = "") -> None:
        """Horizontal grid lines with a label each, and above them the name of the quantity."""
        for value, label in zip(ticks, labels):
            y = self.at(value)
            self.canvas.line([(self.x, y), (self.x + self.width, y)], "grid")
            self.canvas.text(self.x - 4, y + 3, label, "small dim", "end")
        if name:
            self.canvas.text(2, 9, name, "small dim")

    def names(self, labels: Sequence[Any]) -> None:
        """Labels under the columns; one that is not a number stands lower, unless the one before it
        does, so that long ones do not overlap.
        """
        lowered = False
        for column, label in enumerate(labels):
            lowered = not (lowered or str(label)[-1].isdecimal())
            y = self.y + self.height + (23 if lowered else 12)
            self.canvas.text(self.left(column + 0.5), y, label, "small dim", "middle")


def ticks(top: float, count: int = 4) -> list[float]:
    """Round values from 0 up to `top`, about `count` of them."""
    rough = top / count
    power = 10 ** np.floor(np.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [float(i * step) for i in range(int(top / step + 1e-9) + 1)]


def colour_map(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """One channel (H, W) in colours from its least to its largest value, (H, W, 3)."""
    low, high = float(values.min()), float(values.max())
    shares = (values.astype(np.float64) - low) / (high - low if high > low else 1.0)
    stops = np.linspace(0, 1, len(COLOUR_STOPS))
    channels = [np.interp(shares, stops, COLOUR_STOPS[:, i]) for i in range(3)]
    return np.stack(channels, axis=2).round().astype(np.uint8)


def png_url(pixels: NDArray[np.uint8]) -> str:
    """Pixels (H, W, 1 or 3) as a data URL that holds a PNG file."""
    return _data_url(pixels, "PNG", optimize=True)


def jpeg_url(pixels: NDArray[np.uint8]) -> str:
    """Pixels (H, W, 1 or 3) as a data URL that holds a JPEG file."""
    return _data_url(pixels, "JPEG", quality=88)


def _data_url(pixels: NDArray[np.uint8], file_format: str, **options: Any) -> str:
    file = io.BytesIO()
    image = Image.fromarray(pixels.squeeze(axis=2) if pixels.shape[2] == 1 else pixels)
    image.save(file, file_format, **options)
    return f"data:image/{file_format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
