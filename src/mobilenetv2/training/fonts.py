"""Fonts for the names of classes: one that has their letters, if the machine has any."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from PIL import ImageFont

DEFAULT = "DejaVu Sans"  # comes with Matplotlib


class Font(NamedTuple):
    """A font file.

    Attributes:
        path: The file.
        family: Name of the font.
        letters: All that it has.
    """

    path: str
    family: str
    letters: frozenset[str]


def families_for(texts: Iterable[str]) -> list[str]:
    """The names for Matplotlib of its own font, and of others until all letters are covered that the
    machine has fonts for.
    """
    from matplotlib.font_manager import fontManager

    families, lacking = [DEFAULT], {letter for text in texts for letter in text} - _own().letters
    for font in _installed() if lacking else ():
        if lacking & font.letters:
            fontManager.addfont(font.path)  # its list may be older than the font
            families.append(font.family)
            lacking -= font.letters
    return families


def pillow_font(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font of Pillow for one text: the usual one, or of those that have all its letters the first."""
    if text.isascii():
        return ImageFont.load_default(size)
    letters = {*text}
    if letters <= _own().letters:
        return ImageFont.truetype(_own().path, size)
    font = next((font for font in _installed() if letters <= font.letters), _own())
    return ImageFont.truetype(font.path, size)


@cache
def _own() -> Font:
    from matplotlib.font_manager import findfont

    font = _read(findfont(DEFAULT))
    assert font is not None
    return font


@cache
def _installed() -> tuple[Font, ...]:
    """The fonts of the machine, in the order of their files."""
    from matplotlib.font_manager import findSystemFonts

    fonts = map(_read, sorted(findSystemFonts()))
    return tuple(font for font in fonts if font)


def _read(path: str) -> Font | None:
    """A font file; None if it is none of usual weight that can be read."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):  # FreeType cannot read it
        return None
    if font.style_name not in ("Regular", "Book", "Roman", "Normal"):
        return None
    return Font(path, font.family_name, frozenset(map(chr, font.get_charmap())))
