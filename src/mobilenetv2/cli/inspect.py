"""`mobilenetv2 inspect`: what is in a model file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .output import format_option, write_json, write_rows

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint


@click.command()
@click.argument("file", metavar="MODEL")
@click.option("--arrays", is_flag=True, help="List every array with its shape and range instead.")
@format_option
def inspect(file: str, arrays: bool, format_: str) -> None:
    """Show what MODEL (a file of any known kind, or a name) is: network, classes, preprocessing,
    provenance.
    """
    from ..formats import open_checkpoint

    checkpoint = open_checkpoint(file)
    if arrays:
        columns = ("name", "shape", "type", "minimum", "maximum")
        write_rows(_arrays(checkpoint), columns, format_)
        return
    facts = _facts(file, checkpoint)
    if format_ == "json":
        write_json([facts])
    else:
        write_rows(
            ({"property": name, "value": value} for name, value in _flat(facts)),
            ("property", "value"),
            format_,
        )


def _facts(file: str, checkpoint: Checkpoint) -> dict[str, Any]:
    import json
    from pathlib import Path

    from ..cost import network_cost
    from ..formats import recognise

    a = checkpoint.architecture
    sums = network_cost(a)
    labels = checkpoint.labels
    return {
        "file": file,
        "kind": recognise(Path(file)) if Path(file).exists() else "published model",
        "macs": sums.macs,
        "parameters": sums.parameters,
        "parameters_without_batch_norm": sums.parameters_without_batch_norm,
        "arrays": len(checkpoint.arrays),
        "labels": f"{len(labels)}: {labels[0]}, ..., {labels[-1]}" if labels else "none",
        "architecture": json.loads(a.to_json()),
        "preprocessing": json.loads(checkpoint.preprocessing.to_json()),
        "provenance": checkpoint.provenance,
    }


def _flat(facts: dict[str, Any]) -> list[tuple[str, Any]]:
    """Nested facts as `outer.inner`; the stages as a row each."""
    rows: list[tuple[str, Any]] = []
    for name, value in facts.items():
        inner = value if isinstance(value, dict) else None
        rows += (
            [(f"{name}.{key}", v) for key, v in inner.items() if key != "stages"]
            if inner is not None
            else [(name, value)]
        )
        if inner and "stages" in inner:
            rows += [
                (f"{name}.stages[{i}]", ", ".join(f"{k} {v}" for k, v in s.items()))
                for i, s in enumerate(inner["stages"])
            ]
    return rows


def _arrays(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Every array in the order of the network."""
    from ..architecture import array_shapes

    in_order = [(name, checkpoint.arrays[name]) for name in array_shapes(checkpoint.architecture)]
    return [
        {
            "name": name,
            "shape": "x".join(map(str, array.shape)),
            "type": str(array.dtype),
            "minimum": float(array.min()),
            "maximum": float(array.max()),
        }
        for name, array in in_order
    ]
