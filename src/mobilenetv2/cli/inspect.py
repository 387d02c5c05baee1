"""`mobilenetv2 inspect`: what is in a model file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .output import format_option, write_json, write_rows

if TYPE_CHECKING:
    from ..int8 import AnyCheckpoint, Int8Checkpoint


@click.command()
@click.argument("file", metavar="MODEL")
@click.option("--arrays", is_flag=True, help="List every array, or integer layer, instead.")
@format_option
def inspect(file: str, arrays: bool, format_: str) -> None:
    """Show what MODEL (a file of any known kind, or a name) is: network, classes, preprocessing,
    provenance.
    """
    from ..formats import open_checkpoint

    checkpoint = open_checkpoint(file)
    if arrays:
        rows = _arrays(checkpoint)
        write_rows(rows, tuple(rows[0]), format_)
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


def _facts(file: str, checkpoint: AnyCheckpoint) -> dict[str, Any]:
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
        **_numbers(checkpoint),
        "labels": f"{len(labels)}: {labels[0]}, ..., {labels[-1]}" if labels else "none",
        "architecture": json.loads(a.to_json()),
        "preprocessing": json.loads(checkpoint.preprocessing.to_json()),
        "provenance": checkpoint.provenance,
    }


def _numbers(checkpoint: AnyCheckpoint) -> dict[str, Any]:
    """What the weights are stored as, and how many bytes they take."""
    from ..checkpoint import Checkpoint

    if isinstance(checkpoint, Checkpoint):
        return {
            "precision": "float32",
            "arrays": len(checkpoint.arrays),
            "weight_bytes": sum(array.nbytes for array in checkpoint.arrays.values()),
        }
    found = checkpoint.layers.values()
    types = sorted({str(layer.weight.dtype) for layer in found})
    return {
        "precision": f"{', '.join(types)} weights, uint8 activations",
        "arrays": 3 * len(checkpoint.layers),
        "weight_bytes": sum(a.nbytes for one in found for a in (one.weight, one.scale, one.bias)),
        "quantization": {
            "rounding": checkpoint.rounding,
            "image_scale": checkpoint.image_scale,
            "image_zero_points": list(checkpoint.image_zero_points),
        },
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


def _arrays(checkpoint: AnyCheckpoint) -> list[dict[str, Any]]:
    """Every array in the order of the network; of integers, every layer."""
    from ..checkpoint import Checkpoint
    from ..graph import array_shapes

    if not isinstance(checkpoint, Checkpoint):
        return _int8_layers(checkpoint)
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


def _int8_layers(checkpoint: Int8Checkpoint) -> list[dict[str, Any]]:
    """Each layer's weights, and how its output is stored; empty where it has none or is not."""
    from ..graph import layers

    rows = []
    for step in layers(checkpoint.architecture):
        layer, out = checkpoint.layers.get(step.name), checkpoint.activations.get(step.name)
        rows.append(
            {
                "name": step.name,
                "shape": "x".join(map(str, layer.weight.shape)) if layer else "",
                "type": str(layer.weight.dtype) if layer else "",
                "zero_point": layer.zero_point if layer else "",
                "scale_minimum": float(layer.scale.min()) if layer else "",
                "scale_maximum": float(layer.scale.max()) if layer else "",
                "output_scale": out.scale if out else "",
                "output_zero_point": out.zero_point if out else "",
            }
        )
    return rows
