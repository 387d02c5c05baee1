"""How names from outside are shown: safe for a terminal, and never two alike."""

from __future__ import annotations

import os
import re

import pytest

from mobilenetv2.printable import printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("고양이 café \u3000\u200d.jpg", "고양이 café \u3000\u200d.jpg"),
        (r"C:\users\xavier\new", r"C:\users\xavier\new"),
        ("\x1b]0;x\x07", r"\x1b]0;x\x07"),
        ("two\nlines\t\r", r"two\x0alines\x09\x0d"),
        ("\x7f\x9b1m", r"\x7f\u009b1m"),
        ("a\u202egnp.exe\u2066\u2028", r"a\u202egnp.exe\u2066\u2028"),
        (os.fsdecode(b"b\xe9d.jpg"), r"b\xe9d.jpg"),
        (r"b\xe9d.jpg", r"b\x5cxe9d.jpg"),
        (r"\u202e \\x41", r"\x5cu202e \\x5cx41"),
        ("\ud800", r"\ud800"),
        ("\ufeffa.jpg", r"\ufeffa.jpg"),
    ],
)
def test_names_are_shown_and_can_be_turned_back(name: str, shown: str) -> None:
    assert printable(name) == shown
    shown.encode("utf-8")
    assert turned_back(shown) == name


def turned_back(shown: str) -> str:
    """The name, by the rule that the docstring states."""

    def character(match: re.Match[str]) -> str:
        byte, code = match.groups()
        return os.fsdecode(bytes([int(byte, 16)])) if byte else chr(int(code, 16))

    return re.sub(r"\\x([0-9a-f]{2})|\\u([0-9a-f]{4})", character, shown)
