"""How a name that came from outside (of a file, label, array or class) is shown.

File names may be any bytes, and labels any characters: an ESC in one would be obeyed by a terminal,
a newline would forge a line, and a byte that is not UTF-8 cannot be printed at all.
"""

from __future__ import annotations

import re

# C0, DEL and C1; marks that change the direction of text; separators of lines and paragraphs;
# surrogates, which stand for the bytes of a file name that are not UTF-8; the invisible mark of
# byte order; and a backslash that would be read as the start of one of our own escapes.
_ESCAPED = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
    r"|\\(?=x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4})"
)


def printable(text: str) -> str:
    r"""A text in which everything that a terminal might obey, or could not show, is escaped.

    `\xNN` is a byte: of a control character below 128, or one that is not UTF-8. `\uNNNN` is any
    other character. A backslash that is followed by what looks like such an escape is itself `\x5c`;
    all other backslashes stay. Two names are therefore never shown alike, and replacing every
    escape by what it stands for gives the name again.

    Args:
        text: As Python has it: bytes of a file name that are not UTF-8 are surrogates.
    """
    return _ESCAPED.sub(lambda match: _escape(ord(match[0])), text)


def _escape(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"
