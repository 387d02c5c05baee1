"""Records: every field checked at construction, and to JSON and back."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pytest

from mobilenetv2.errors import ArchitectureError, UserError
from mobilenetv2.records import Meta, Record, Size


@dataclass(frozen=True)
class Row(Record):
    noun: ClassVar[str] = "row"
    error: ClassVar[type[UserError]] = ArchitectureError

    expansion: Annotated[float, Meta(ge=0.1, le=64)]
    stride: Annotated[int, Meta(ge=1, le=2)]


@dataclass(frozen=True)
class Labels(Record):
    noun: ClassVar[str] = "head"
    kind: ClassVar[str] = "labels"

    classes: int = 1000


@dataclass(frozen=True)
class Mask(Record):
    noun: ClassVar[str] = "head"
    kind: ClassVar[str] = "mask"

    rates: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Network(Record):
    noun: ClassVar[str] = "network"

    rows: Annotated[tuple[Row, ...], Meta(min_length=1, max_length=3)] = (Row(6, 2),)
    head: Labels | Mask = Labels()
    size: Size = (224, 224)
    padding: Literal["same", "symmetric"] = "same"
    last: Annotated[int, Meta(ge=1, le=9)] | None = None
    scale: float = 1.0
    bias: bool = True
    seed: Annotated[int, Meta(ge=0)] = 0
    source: str | os.PathLike[str] | None = None


def test_values_become_plain() -> None:
    network = Network(
        rows=[Row(np.float32(0.5), np.int64(1))],  # type: ignore[arg-type]
        size=[np.int32(8), 9],  # type: ignore[arg-type]
        scale=2,
        seed=np.uint8(3),  # type: ignore[arg-type]
        source=Path("a") / "b",
    )
    assert network == Network(rows=(Row(0.5, 1),), size=(8, 9), scale=2.0, seed=3, source="a/b")
    assert [type(x) for x in (network.rows[0].stride, network.size[0], network.scale)] == [
        int,
        int,
        float,
    ]
    assert hash(network) == hash(replace(network))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("size", (0, 4), "(height, width), each from 1 to 65536, not (0, 4)"),
        ("size", (4, 4, 4), "(height, width), each from 1 to 65536, not (4, 4, 4)"),
        ("size", 4, "(height, width), each from 1 to 65536, not 4"),
        ("size", (True, 4), "(height, width), each from 1 to 65536, not (True, 4)"),
        ("padding", "valid", "one of 'same', 'symmetric', not 'valid'"),
        ("padding", ["same"], "one of 'same', 'symmetric', not ['same']"),
        ("last", 10, "a whole number from 1 to 9 or None, not 10"),
        ("last", 1.0, "a whole number from 1 to 9 or None, not 1.0"),
        ("scale", "1", "a number, not '1'"),
        ("scale", True, "a number, not True"),
        ("bias", 1, "true or false, not 1"),
        ("seed", -1, "a whole number of at least 0, not -1"),
        ("source", 3, "text or None, not 3"),
        ("rows", (), "a list, each item Row, of 1 to 3 items, not ()"),
        ("rows", 3, "a list, each item Row, of 1 to 3 items, not 3"),
        ("head", "mask", "Labels or Mask, not 'mask'"),
        ("head", Row(1, 1), "Labels or Mask, not Row(expansion=1.0, stride=1)"),
        ("head", {"kind": "boxes"}, "Labels or Mask, not {'kind': 'boxes'}"),
    ],
)
def test_a_refusal_names_field_choices_and_value(field: str, value: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Network(**{field: value})  # type: ignore[arg-type]
    assert str(caught.value) == f"network {field} must be {message}"


def test_each_record_has_its_own_error() -> None:
    with pytest.raises(ArchitectureError, match=r"row stride must be a whole number from 1 to 2"):
        Network(rows=({"expansion": 1, "stride": 3},))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "network",
    [
        Network(),
        Network(rows=(Row(1, 1), Row(0.5, 2)), head=Labels(5), size=(96, 128), last=3, source="é"),
        Network(head=Mask((6, 12)), scale=0.1, bias=False, padding="symmetric"),
    ],
)
def test_to_json_and_back(network: Network) -> None:
    assert Network.from_json(network.to_json()) == network
    assert Network.from_dict(json.loads(json.dumps(network.to_dict()))) == network


def test_json_is_plain_and_names_the_kind_in_a_union() -> None:
    values = json.loads(Network(head=Mask((6,))).to_json())
    assert values["rows"] == [{"expansion": 6.0, "stride": 2}]
    assert values["head"] == {"kind": "mask", "rates": [6]}
    assert "kind" not in values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the network is not JSON"),
        ("[" * 100_000, "the network is not JSON"),
        ("[1]", "the network must be a JSON object, not list"),
        ('{"width": 1, "alpha": 2}', "the network has unknown fields: alpha, width"),
        ('{"rows": [{"expansion": 1}]}', "the row lacks fields: stride"),
        ('{"rows": [{"expansion": 1, "stride": 1, "t": 2}]}', "the row has unknown fields: t"),
        ('{"rows": [[1, 2]]}', "network rows must be a list, each item Row"),
        ('{"head": {"kind": "labels", "rates": [1]}}', "the head has unknown fields: rates"),
        ('{"scale": "wide"}', "network scale must be a number, not 'wide'"),
    ],
)
def test_json_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Network.from_json(text)


def test_a_record_of_another_kind_is_refused() -> None:
    with pytest.raises(UserError, match="the head must be of the kind 'mask'"):
        Mask.from_dict(Labels().to_dict())


def test_a_subclass_reads_what_an_older_version_wrote() -> None:
    @dataclass(frozen=True)
    class Upgraded(Record):
        width: float

        @classmethod
        def from_dict(cls, values: Any) -> Upgraded:
            return super().from_dict({"width": values["w"]} if "w" in values else values)

    assert Upgraded.from_json('{"w": 0.5}') == Upgraded.from_json('{"width": 0.5}')
