"""XML that is not trusted, such as annotations of Pascal VOC."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ..errors import UserError
from ..paths import obstacle

MOST_BYTES = 1 << 24


def read_xml(path: Path) -> Element:
    """The root element of an XML file.

    Raises:
        UserError: No such file, more than 16 MB, damaged, or with a document type: that may define
            entities, which a small file can blow up.
    """
    if reason := obstacle(path):
        raise UserError(f"{path}: {reason}")
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_xml(content, str(path))


def parse_xml(content: bytes, where: str) -> Element:
    """The same of the content of a file.

    Args:
        content: The bytes of the file.
        where: What messages call it.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    try:
        if len(content) > MOST_BYTES:
            raise UserError("more than 16 MB")
        parser.Parse(content, True)
        root: Element = builder.close()
    # an unknown encoding is a LookupError or a ValueError
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise UserError(f"{where}: not an annotation in XML: {error}") from None
    return root


def _refuse(*_: object) -> None:
    raise UserError("it has a document type (<!DOCTYPE ...>), which is not accepted: remove it")
