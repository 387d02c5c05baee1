"""Which weights of a PyTorch file are read: a file may hold several sets of them.

Training saves averages (EMA, SWA) beside the raw weights, in a dictionary or under a prefix, and
Lightning puts losses and metrics beside the network. A network is recognised by its first kernel,
whatever stands in front of its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ModelFileError, shortened

STEM = re.compile(
    r"(?P<prefix>(?:.+?\.)??)(?:"
    r"(?:mobilenet_v2\.)?(?:features\.0\.0|conv_stem|conv_stem\.first_conv\.convolution)"
    r"|backbone\.(?:features\.0\.0\.0|conv1\.conv)"  # of detectors
    r")\.weight"
)
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "model.", "_orig_mod.")
AVERAGES = {"ema", "swa", "avg", "average", "averaged", "averages", "shadow", "polyak"}
MAX_DEPTH = 4  # of dictionaries inside of each other
AVERAGE_COUNT = "n_averaged"  # torch.optim.swa_utils.AveragedModel has it beside "module."


@dataclass(frozen=True)
class StoredNetwork:
    """One set of weights in a file.

    Attributes:
        name: Where it stands: keys and prefix, joined by dots; "" for a bare state dict.
        arrays: By name, without the prefix.
        averaged: Whether they are averages over the training.
        left_out: Names of the arrays beside it, under other prefixes.
        notes: What was chosen and left out, one sentence each.
    """

    name: str
    arrays: Mapping[str, Any]
    averaged: bool = False
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def choose_network(path: Path, content: Any, weights_of: str | None) -> StoredNetwork:
    """The weights to read.

    Args:
        path: The file, for messages.
        content: Dictionaries inside of each other, with arrays at their ends.
        weights_of: "ema": the averages; "raw": the weights that they are averages of; any other
            text: the name of a network. None: the averages if there are any.

    Raises:
        ModelFileError: No dictionary, no such network, or several; the message names them.
    """
    networks = list(_networks(content))
    if not networks:
        if weights_of not in (None, "raw"):
            raise ModelFileError(f"{path}: holds no network named {weights_of!r:.80}")
        return StoredNetwork("", _sole_dictionary(path, content))
    averaged = [network for network in networks if network.averaged]
    raw = [network for network in networks if not network.averaged]
    kinds = {None: averaged or raw, "ema": averaged, "raw": raw}
    candidates = kinds.get(weights_of, [net for net in networks if net.name == weights_of])
    names = shortened([network.name or "the state dict itself" for network in networks])
    if not candidates:
        raise ModelFileError(f"{path}: holds no weights of {weights_of!r:.80}; it holds {names}")
    if len(candidates) > 1:
        raise ModelFileError(
            f"{path}: holds several networks: {names}; choose one by name with --weights-of "
            "(weights_of)"
        )
    chosen = candidates[0]
    notes = []
    if chosen.averaged:
        notes.append(f"the averages {chosen.name} are read{_instead(raw)}")
    elif averaged:
        notes.append(f"the raw weights {chosen.name} are read, not the averages {averaged[0].name}")
    if chosen.left_out:
        notes.append(f"left out, beside {chosen.name}*: {shortened(chosen.left_out)}")
    return StoredNetwork(chosen.name, chosen.arrays, chosen.averaged, chosen.left_out, tuple(notes))


def _instead(raw: list[StoredNetwork]) -> str:
    if not raw:
        return ""
    return f", not the raw weights {raw[0].name} (choose those with --weights-of raw)"


def _networks(content: Any) -> Iterator[StoredNetwork]:
    """Every set of weights whose first kernel is there."""
    lightning = isinstance(content, Mapping) and "averaging_state" in content
    for keys, names in _dictionaries(content, (), {id(content)}):
        inside: dict[str, dict[str, Any]] = {
            match["prefix"]: {} for match in map(STEM.fullmatch, names) if match
        }
        beside = []
        for name, value in names.items():
            prefix = _longest_prefix(name, inside)
            if prefix is not None:
                inside[prefix][name[len(prefix) :]] = value
            elif name != AVERAGE_COUNT:
                beside.append(name)
        left_out = tuple(sorted(beside))
        for prefix, arrays in inside.items():
            averaged = (
                bool(AVERAGES & set(re.split(r"[._]", ".".join((*keys, prefix)).lower())))
                or (prefix.startswith("module.") and AVERAGE_COUNT in names)
                or (lightning and keys == ("state_dict",))
            )
            name = ".".join((*keys, prefix)).removesuffix(".")
            yield StoredNetwork(name, arrays, averaged, left_out)


def _longest_prefix(name: str, prefixes: Mapping[str, Any]) -> str | None:
    """The longest of the prefixes, each "" or with a dot at its end, that a name begins with."""
    end = name.rfind(".")
    while end >= 0:
        if name[: end + 1] in prefixes:
            return name[: end + 1]
        end = name.rfind(".", 0, end)
    return "" if "" in prefixes else None


def _dictionaries(
    content: Any, keys: tuple[str, ...], visited: set[int]
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every dictionary by the keys that lead to it, with its entries that are no dictionaries."""
    if not isinstance(content, Mapping):
        return
    texts = {name: value for name, value in content.items() if isinstance(name, str)}
    yield keys, {name: v for name, v in texts.items() if not isinstance(v, Mapping)}
    for name, value in texts.items():
        if isinstance(value, Mapping) and id(value) not in visited and len(keys) < MAX_DEPTH:
            visited.add(id(value))
            yield from _dictionaries(value, (*keys, name), visited)


def _sole_dictionary(path: Path, content: Any) -> Mapping[str, Any]:
    """The dictionary in which a network may stand whose first kernel is missing."""
    for _ in WRAPPERS:  # a limit, since a dictionary may contain itself
        inner = [
            content[name]
            for name in WRAPPERS
            if isinstance(content, Mapping) and isinstance(content.get(name), Mapping)
        ]
        content = inner[0] if inner else content
    if not isinstance(content, Mapping):
        raise ModelFileError(f"{path}: holds a {type(content).__name__}, not a state dict")
    if not content:
        raise ModelFileError(f"{path}: not a state dict, not a MobileNetV2: it holds no arrays")
    for name in content:
        if not isinstance(name, str):
            raise ModelFileError(f"{path}: not a state dict: its names are not texts")
    arrays: Mapping[str, Any] = content
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in arrays)), None):
        arrays = {name[len(prefix) :]: array for name, array in arrays.items()}
    return arrays
