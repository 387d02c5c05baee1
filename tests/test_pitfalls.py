"""docs/pitfalls.md: the tests that it names exist, and each known pitfall has one row."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "pitfalls.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("| ").split(" | ")]
    for line in PAGE.splitlines()
    if re.match(r"\| [A-Z]{1,2}-\d\d \|", line)
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_says_what_goes_wrong_what_happens_and_where_it_is_tested(row: list[str]) -> None:
    assert len(row) == 4
    assert all(row)


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"(tests/\w+\.py)::(\w+)", PAGE))
    assert len(named) > 100
    defined = {
        (file, node.name)
        for file, _ in named
        for node in ast.parse((REPOSITORY / file).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    assert named - defined == set()
    assert all(name.startswith("test_") for _, name in named)


def test_every_file_that_the_page_names_exists() -> None:
    files = re.findall(r"`((?:benchmarks|src|tests|tools)/[\w./]+)", PAGE)
    files += [f"docs/{target}" for target in re.findall(r"\]\(([\w/]+\.md)", PAGE)]
    assert [file for file in files if not (REPOSITORY / file).exists()] == []


def test_each_known_pitfall_has_one_row(shared: Callable[[str], Path]) -> None:
    sheet = shared("facts/pitfalls.md").read_text(encoding="utf-8")
    known = re.findall(r"^### ([A-Z]{2}-\d\d) ", sheet, re.MULTILINE)
    assert len(known) > 80
    assert Counter(row[0] for row in ROWS if not row[0].startswith("W-")) == Counter(known)


def test_each_pitfall_from_the_field_has_one_row(shared: Callable[[str], Path]) -> None:
    sheet = shared("facts/field2.md").read_text(encoding="utf-8")
    known = re.findall(r"^\| (W-\d\d) \|", sheet, re.MULTILINE)
    assert len(known) == 51
    assert Counter(row[0] for row in ROWS if row[0].startswith("W-")) == Counter(known)
