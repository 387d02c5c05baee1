"""What this package says of a model in or beside a file of another library, read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..architecture import Architecture
from ..checkpoint import Checkpoint
from ..errors import UserError
from ..images import Preprocessing
from ..paths import obstacle
from .assemble import ASSUMED

MOST_BYTES = 16 << 20
ENTRY = "mobilenetv2"  # of metadata with other entries
FIELDS = {"task", "labels", "preprocessing", "results"}  # some of `description.describe`


def with_own_facts(path: Path, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint of a file with the labels and the preprocessing that stand beside it, in the
    `.json` file that the writers of this package make; in a folder of timm it is `config.json`.
    """
    files = [path.with_suffix(".json")]
    if path.name == "model.safetensors":
        files.append(path.with_name("config.json"))
    for file in files:
        content = {} if obstacle(file) else _object(file)
        facts = content.get(ENTRY, content)
        if not isinstance(facts, dict) or not facts.keys() >= FIELDS:
            continue
        preprocessing = own_preprocessing(facts, checkpoint.architecture)
        if preprocessing is None or facts["task"] != checkpoint.architecture.head.task:
            note = f"{file}: of another model, so that it is not read"
            return replace(checkpoint, notes=(*checkpoint.notes, note))
        arguments = content.get("model_args")
        same = isinstance(arguments, dict) and arguments.get("pad_type") == "same"
        architecture = replace(
            checkpoint.architecture,
            resolution=preprocessing.size,
            padding="same" if same else checkpoint.architecture.padding,
        )
        return replace(
            checkpoint,
            architecture=architecture,
            preprocessing=preprocessing,
            labels=own_labels(facts, architecture),
            notes=tuple(note for note in checkpoint.notes if not note.startswith(ASSUMED)),
        )
    return checkpoint


def own_preprocessing(facts: dict[str, Any], architecture: Architecture) -> Preprocessing | None:
    """The preprocessing in a description; None if there is none that fits the network."""
    try:
        preprocessing = Preprocessing.from_dict(facts["preprocessing"])
    except (KeyError, UserError):
        return None
    labels = facts.get("labels")
    fits = not labels or len(own_labels(facts, architecture)) == architecture.classes
    return preprocessing if fits and preprocessing.channels == architecture.in_channels else None


def own_labels(facts: dict[str, Any], architecture: Architecture) -> tuple[str, ...]:
    """The labels in a description; () if they do not fit the network."""
    labels = facts.get("labels")
    if not isinstance(labels, list) or len(labels) != architecture.classes:
        return ()
    return tuple(labels) if all(isinstance(label, str) for label in labels) else ()


def _object(file: Path) -> dict[str, Any]:
    """The object in a JSON file; {} if it is none."""
    try:
        if file.stat().st_size > MOST_BYTES:
            return {}
        content = json.loads(file.read_bytes().decode(errors="surrogateescape"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
