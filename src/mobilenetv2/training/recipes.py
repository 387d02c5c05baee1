"""How to train, as data: the paper's recipe, a modern one, and one for fine-tuning."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ..errors import UserError
from .augment import Augmentation

PAPER_EPOCHS = 300  # decays of the paper's exponential schedule, spread over the epochs there are
CHOICES = {"optimizer": ("rmsprop", "sgd", "adamw"), "schedule": ("exponential", "cosine")}
RANGES = {
    "lr": (1e-12, 1e3),
    "decay": (1e-6, 1),
    "epochs": (0, 10**6),
    "batch": (1, 10**6),
    "epoch_steps": (0, 10**9),
    "warmup_epochs": (0, 10**6),
    "momentum": (0, 0.9999),
    "weight_decay": (0, 1),
    "label_smoothing": (0, 0.99),
    "clip_norm": (0, 1e9),
    "ema_decay": (0, 1 - 1e-9),
    "bn_decay": (0, 1 - 1e-9),
    "drop_rate": (0, 0.99),
    "drop_path_rate": (0, 0.99),
    "head_l2": (0, 1e6),
    "layer_decay": (1e-3, 1),
    "patience": (0, 10**6),
    "val_share": (1e-6, 0.999),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides how a network is trained. Frozen, and to and from JSON.

    Attributes:
        name: What to call it.
        optimizer: "rmsprop" (TF-slim's: epsilon 1 inside the root, decay 0.9), "sgd" (Nesterov) or
            "adamw".
        lr: Learning rate at its highest.
        schedule: "cosine" to 0 at the last step, or "exponential": times `decay` 300 times in the
            course of the run, which is once an epoch in 300 epochs.
        decay: Of the exponential schedule.
        epochs: Passes over the training images; 0 trains the head alone (`head_first`).
        batch: Images a step, all processes together.
        epoch_steps: Steps an epoch of shards, which have no end.
        warmup_epochs: In which the learning rate rises from 0.
        momentum: Of RMSProp and SGD; AdamW's first beta.
        weight_decay: Of the kernels of convolutions and of the classifier's; depthwise kernels,
            batch norms and biases have none.
        label_smoothing: Share of the target that all classes get alike.
        clip_norm: Most that the norm of the whole gradient may be; 0: no limit.
        ema_decay: Share kept by the moving average of the weights at each step; less at first:
            (1 + n) / (10 + n) at step n, as TensorFlow does.
        bn_decay: Share kept by the running statistics of batch norm at each step; less at first,
            likewise, where training starts from scratch.
        freeze_norms: Normalise by the running statistics, which stay as they are, in training too.
        drop_rate: Share of the pooled features dropped.
        drop_path_rate: Stochastic depth of the last block.
        head_first: Fit the head to the frozen backbone's features first.
        head_l2: Penalty on the head's weights then.
        layer_decay: Learning rate of each block over that of the one behind it.
        patience: Stop after so many epochs without a better result; 0: never.
        balance: Draw images so that every class is seen alike often.
        val_share: Share of the images held out where the data have no split of their own.
        seed: Of everything random.
        augmentation: What happens to training images.

    Raises:
        UserError: A value is of another type or out of range; the message names it.
    """

    name: str
    optimizer: str
    lr: float
    schedule: str
    decay: float = 0.98
    epochs: int
    batch: int
    epoch_steps: int = 0
    warmup_epochs: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 4e-5
    label_smoothing: float = 0.1
    clip_norm: float = 5.0
    ema_decay: float = 0.9999
    bn_decay: float = 0.99
    freeze_norms: bool = False
    drop_rate: float = 0.2
    drop_path_rate: float = 0.0
    head_first: bool = False
    head_l2: float = 0.01
    layer_decay: float = 1.0
    patience: int = 0
    balance: bool = False
    val_share: float = 0.1
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = _typed(each.name, each.type, getattr(self, each.name))
            object.__setattr__(self, each.name, value)
            low, high = RANGES.get(each.name, (-math.inf, math.inf))
            if each.name in RANGES and not low <= value <= high:
                raise UserError(f"{each.name} must be from {low:g} to {high:g}, not {value!r}")
            if value not in CHOICES.get(each.name, (value,)):
                listed = ", ".join(map(repr, CHOICES[each.name]))
                raise UserError(f"{each.name} must be one of {listed}, not {value!r}")
        if self.epochs == 0 and not self.head_first:
            raise UserError("epochs must be at least 1 where the head is not fitted first")

    def changed(self, changes: Mapping[str, Any]) -> Recipe:
        """The same recipe but for some fields; `augmentation.NAME` is a field of its augmentation.

        Raises:
            UserError: No such field, or a value that it cannot have.
        """
        own: dict[str, Any] = {}
        augmentation: dict[str, Any] = {}
        for name, value in changes.items():
            first, _, rest = name.partition(".")
            nested = first == "augmentation" and rest
            target, key = (augmentation, rest) if nested else (own, name)
            known = fields(self.augmentation if nested else self)
            if key not in {each.name for each in known} or key == "augmentation":
                listed = ", ".join(each.name for each in known if each.name != "augmentation")
                raise UserError(f"a recipe has no field {name!r}; there are {listed}")
            target[key] = tuple(value) if isinstance(value, list) else value
        if augmentation:
            own["augmentation"] = _augmentation(self.augmentation, augmentation)
        return replace(self, **own)

    def to_json(self) -> str:
        """As JSON text; `from_json` gives an equal Recipe back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Reads what `to_json` wrote.

        Raises:
            UserError: Not JSON, an unknown or missing field, or a value out of range.
        """
        try:
            values = dict(json.loads(text))
            augmentation = _augmentation(Augmentation(), values.pop("augmentation", {}))
            return cls(**values, augmentation=augmentation)
        except (ValueError, TypeError) as error:
            raise UserError(f"not a recipe: {error}") from None


def _augmentation(base: Augmentation, values: Mapping[str, Any]) -> Augmentation:
    try:
        tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return replace(base, **tuples)
    except TypeError as error:
        raise UserError(f"augmentation: {error}") from None


def _typed(name: str, kind: Any, value: Any) -> Any:
    """`value` as what the annotation says, whole numbers being good for fractions."""
    wanted = {"int": int, "float": (int, float), "str": str, "bool": bool}.get(kind)
    if wanted is None:
        return value
    if not isinstance(value, wanted) or (kind != "bool" and isinstance(value, bool)):
        raise UserError(f"{name} must be of type {kind}, not {value!r}")
    return float(value) if kind == "float" else value


PAPER = Recipe(  # Section 6.1; what it leaves open is TF-slim's, see docs/training.md
    name="paper",
    optimizer="rmsprop",
    lr=0.045,
    schedule="exponential",
    epochs=PAPER_EPOCHS,
    batch=96,
    clip_norm=0.0,
    bn_decay=0.997,
    augmentation=Augmentation(colour=True),
)
MODERN = Recipe(
    name="modern",
    optimizer="sgd",
    lr=0.2,
    schedule="cosine",
    epochs=100,
    batch=128,
    warmup_epochs=5.0,
    ema_decay=0.999,
    bn_decay=0.9,
    augmentation=Augmentation(scale=(0.25, 1.0), policy="trivial"),
)
FINETUNE = Recipe(
    name="finetune",
    optimizer="sgd",
    lr=0.005,
    schedule="cosine",
    epochs=5,
    batch=32,
    warmup_epochs=0.5,
    label_smoothing=0.0,
    ema_decay=0.99,
    freeze_norms=True,
    head_first=True,
    layer_decay=0.8,
    augmentation=Augmentation(scale=(0.35, 1.0)),
)
RECIPES = {recipe.name: recipe for recipe in (PAPER, MODERN, FINETUNE)}


def default_recipe(weights: bool, small_images: bool) -> Recipe:
    """What is done where no recipe is asked for."""
    if weights:
        return FINETUNE
    return MODERN.changed({"augmentation.crop": "pad"}) if small_images else MODERN
