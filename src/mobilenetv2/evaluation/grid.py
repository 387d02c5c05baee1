"""Where the images of a sheet are."""

from __future__ import annotations

from typing import NamedTuple


class Grid(NamedTuple):
    """Tiles of one size in rows, each with a caption below.

    Attributes:
        columns: Tiles per row.
        width: Width of a tile in pixels.
        height: Height of a tile, without its caption.
        caption: Height of the caption.
    """

    columns: int
    width: int
    height: int
    caption: int

    def size(self, tiles: int) -> tuple[int, int]:
        """(width, height) of a sheet of so many tiles; one row at least."""
        rows = max(1, -(-tiles // self.columns))
        return self.columns * self.width, rows * (self.height + self.caption)

    def place(self, tile: int) -> tuple[int, int]:
        """(x, y) of a tile's top left corner."""
        row, column = divmod(tile, self.columns)
        return column * self.width, row * (self.height + self.caption)
