"""The words of the report in each language: `page/<language>.ini`, sections of keys and texts."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from pathlib import Path

LANGUAGES = ("en", "ko")
FOLDER = Path(__file__).with_name("page")
Words = Mapping[str, str]


def read_words(language: str) -> dict[str, dict[str, str]]:
    """All texts of a language: section, then key."""
    parser = configparser.ConfigParser(
        interpolation=None, delimiters=("=",), comment_prefixes=("#",), default_section="\0"
    )
    parser.read(FOLDER / f"{language}.ini", encoding="utf-8")
    return {name: dict(parser[name]) for name in parser.sections()}
