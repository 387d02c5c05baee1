"""`mobilenetv2 inspect`: what is in a model file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import model_argument
from .output import result_options, write_json, write_properties, write_rows

if TYPE_CHECKING:
    from ..int8 import AnyCheckpoint, Int8Checkpoint


@click.command()
@model_argument()
@click.option(
    "--arrays", is_flag=True, help="List every array instead, or every layer of an int8 model."
)
@result_options
def inspect(model: str, arrays: bool, format_: str) -> None:
    """Show what is in MODEL, a file of any known kind or a name: network, classes, preprocessing,
    provenance."""
    from ..formats import open_checkpoint

    checkpoint = open_checkpoint(model)
    if arrays:
        rows = _arrays(checkpoint)
        write_rows(rows, tuple(rows[0]), format_)
        return
    properties = _properties(model, checkpoint)
    if format_ == "json":
        write_json([properties])
    else:
        head = {"architecture.head": str(checkpoint.architecture.head)}
        write_properties({**_flat(properties), **head}, format_)


def _properties(file: str, checkpoint: AnyCheckpoint) -> dict[str, Any]:
    import json
    from pathlib import Path

    from ..checkpoint import background_note
    from ..cost import network_cost
    from ..formats import recognise

    a = checkpoint.architecture
    cost = network_cost(a)
    return {
        "file": file,
        "kind": recognise(Path(file)) if Path(file).exists() else "published model",
        "macs": cost.macs,
        "parameters": cost.parameters,
        "parameters_without_batch_norm": cost.parameters_without_batch_norm,
        **_storage(checkpoint),
        "labels": list(checkpoint.labels),
        "architecture": json.loads(a.to_json()),
        "preprocessing": json.loads(checkpoint.preprocessing.to_json()),
        "provenance": checkpoint.provenance,
        "notes": [note for note in (*checkpoint.notes, background_note(checkpoint)) if note],
    }


def _storage(checkpoint: AnyCheckpoint) -> dict[str, Any]:
    """The types of the weights, and their size in bytes."""
    from ..checkpoint import Checkpoint

    if isinstance(checkpoint, Checkpoint):
        return {
            "precision": "float32",
            "arrays": len(checkpoint.arrays),
            "weight_bytes": sum(array.nbytes for array in checkpoint.arrays.values()),
        }
    layers = checkpoint.layers.values()
    types = sorted({str(layer.weight.dtype) for layer in layers})
    return {
        "precision": f"{', '.join(types)} weights, uint8 activations",
        "arrays": 3 * len(checkpoint.layers),
        "weight_bytes": sum(
            layer.weight.nbytes + layer.scale.nbytes + layer.bias.nbytes for layer in layers
        ),
        "quantization": {
            "rounding": checkpoint.rounding,
            "image_scale": checkpoint.image_scale,
            "image_zero_points": list(checkpoint.image_zero_points),
        },
    }


def _flat(properties: dict[str, Any]) -> dict[str, Any]:
    """Nested properties as `outer.inner`, with one row per stage."""
    rows: dict[str, Any] = {}
    for name, value in properties.items():
        if name == "notes":
            rows |= {f"note {i}": note for i, note in enumerate(value, 1)}
            continue
        if name == "labels":
            rows[name] = f"{len(value)}: {value[0]}, ..., {value[-1]}" if value else "none"
            continue
        if not isinstance(value, dict):
            rows[name] = value
            continue
        rows |= {f"{name}.{key}": inner for key, inner in value.items() if key != "stages"}
        for i, stage in enumerate(value.get("stages", ())):
            rows[f"{name}.stages[{i}]"] = ", ".join(f"{k} {v}" for k, v in stage.items())
    return rows


def _arrays(checkpoint: AnyCheckpoint) -> list[dict[str, Any]]:
    """One row per array in the order of the network, or per layer of an int8 model."""
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
    """One row per layer: its weights, if it has any, and how its output is stored, if it is."""
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
