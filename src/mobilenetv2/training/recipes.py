"""Recipes, how to train as data: the paper's, a modern one, and one for fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from ..arguments import check_kind
from ..errors import UserError
from ..records import Meta, Record
from .augment import Augmentation

PAPER_EPOCHS = 300  # the exponential schedule decays this often in a run of any length
Decay = Annotated[float, Meta(ge=0, le=1 - 1e-9)]
Rate = Annotated[float, Meta(ge=0, le=0.99)]
Count = Annotated[int, Meta(ge=0, le=10**6)]


@dataclass(frozen=True, kw_only=True)
class Recipe(Record):
    """Everything that decides how a network is trained.

    Attributes:
        name: Name of the recipe.
        optimizer: "rmsprop" (TF-slim's: epsilon 1 inside the root, decay 0.9), "sgd" (Nesterov) or
            "adamw".
        lr: Highest learning rate.
        schedule: "cosine": down to 0 at the last step; "poly": the same as (1 - share done)^0.9, as
            in DeepLab; or "exponential": multiplied by `decay` 300 times over the run, which is
            once per epoch in 300 epochs.
        decay: Factor of the exponential schedule.
        epochs: Passes over the training images; 0 trains the head alone (`head_first`).
        batch: Images per step, over all processes.
        epoch_steps: Steps per epoch for shards, which have no end.
        warmup_epochs: Epochs in which the learning rate rises from 0.
        momentum: Momentum of RMSProp and SGD; AdamW's first beta.
        weight_decay: Weight decay of the kernels of convolutions and of the classifier; depthwise
            kernels, batch norms and biases have none.
        label_smoothing: Share of the target that is spread evenly over all classes.
        clip_norm: Limit of the norm of the whole gradient; 0: no limit.
        ema_decay: Share that the moving average of the weights keeps at each step; less at first:
            at most (1 + n) / (10 + n) at step n, as in TensorFlow.
        bn_decay: Share that the running statistics of batch norm keep at each step; less at first
            in the same way, if training starts from scratch.
        freeze_norms: Normalise by the running statistics, which do not change, in training too;
            not in layers that the weights did not bring.
        drop_rate: Share of the inputs dropped of a classifier's last layer, or a segmenter's.
        drop_path_rate: Stochastic depth of the last block.
        head_first: Fit the head to the features of the frozen backbone before the first epoch.
        head_l2: L2 penalty on the head's weights in that fit.
        head_epochs: Epochs in which only the arrays learn that the weights did not bring.
        layer_decay: Learning rate of each block over that of the next block.
        patience: Stop after this many epochs without a better result; 0: never.
        balance: Draw images so that every class is shown equally often.
        val_share: Share of the images held out if the data have no validation part.
        seed: Seed of everything random.
        stretch: Decode images of more than 8 bits with `stretch`, as `images.decode`.
        int8: Compute in training as the int8 model will, and write that model: its weights with one
            scale per "channel" or per "layer". "off": train and write a float32 model. A float32
            model is fine-tuned so, with `freeze_norms`; there is then no dropout.
        augmentation: Random changes of the training images.

    Raises:
        UserError: A value is of another type or out of range; the message names it.
    """

    noun: ClassVar[str] = "recipe"

    name: str
    optimizer: Literal["rmsprop", "sgd", "adamw"]
    lr: Annotated[float, Meta(ge=1e-12, le=1e3)]
    schedule: Literal["exponential", "cosine", "poly"]
    decay: Annotated[float, Meta(ge=1e-6, le=1)] = 0.98
    epochs: Count
    batch: Annotated[int, Meta(ge=1, le=10**6)]
    epoch_steps: Annotated[int, Meta(ge=0, le=10**9)] = 0
    warmup_epochs: Annotated[float, Meta(ge=0, le=10**6)] = 0.0
    momentum: Annotated[float, Meta(ge=0, le=0.9999)] = 0.9
    weight_decay: Annotated[float, Meta(ge=0, le=1)] = 4e-5
    label_smoothing: Rate = 0.1
    clip_norm: Annotated[float, Meta(ge=0, le=1e9)] = 5.0
    ema_decay: Decay = 0.9999
    bn_decay: Decay = 0.99
    freeze_norms: bool = False
    drop_rate: Rate = 0.2
    drop_path_rate: Rate = 0.0
    head_first: bool = False
    head_l2: Annotated[float, Meta(ge=0, le=1e6)] = 0.01
    head_epochs: Count = 0
    layer_decay: Annotated[float, Meta(ge=1e-3, le=1)] = 1.0
    patience: Count = 0
    balance: bool = False
    val_share: Annotated[float, Meta(ge=1e-6, le=0.999)] = 0.1
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    stretch: bool = False
    int8: Literal["off", "channel", "layer"] = "off"
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs == 0 and not self.head_first:
            raise UserError("epochs must be at least 1 where the head is not fitted first")
        if self.int8 != "off" and (self.head_first or self.head_epochs or not self.freeze_norms):
            raise UserError(
                "int8 goes on from a trained model: it needs freeze_norms=true, head_first=false and "
                "head_epochs=0"
            )

    def for_int8(self) -> Recipe:
        """The recipe for fine-tuning a trained float32 model into an int8 model: with the rounding of
        int8, at a fifth of the rate.
        """
        return replace(
            self,
            name=f"{self.name}-int8",
            int8="channel",
            lr=self.lr / 5,
            freeze_norms=True,
            head_first=False,
            head_epochs=0,
        )

    def changed(self, changes: Mapping[str, Any]) -> Recipe:
        """The recipe with other values of some fields.

        Args:
            changes: Values by the name of the field; `augmentation.NAME` is a field of the
                augmentation.

        Raises:
            UserError: There is no such field, or it cannot have the value.
        """
        check_kind("changes", changes, Mapping)
        values = self.to_dict()
        for name, value in changes.items():
            first, _, rest = name.partition(".")
            nested = first == "augmentation" and rest
            record, key = (values["augmentation"], rest) if nested else (values, name)
            if key not in record or key == "augmentation":
                listed = ", ".join(each for each in record if each != "augmentation")
                raise UserError(f"a recipe has no field {name!r}; there are {listed}")
            record[key] = value
        return Recipe.from_dict(values)


PAPER = Recipe(  # Section 6.1; what it leaves open is as in TF-slim, see docs/notes/training.md
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
# ssdlite_mobilenet_v2_coco.config: 200,000 steps of 24 are 40 epochs of COCO
SSDLITE = Recipe(
    name="ssdlite",
    optimizer="rmsprop",
    lr=0.004,
    schedule="exponential",
    decay=1.0,
    epochs=40,
    batch=24,
    label_smoothing=0.0,
    clip_norm=0.0,
    bn_decay=0.9997,
    drop_rate=0.0,
    augmentation=Augmentation(crop="ssd"),
)
SSDLITE_FINETUNE = Recipe(
    name="ssdlite-finetune",
    optimizer="sgd",
    lr=0.01,
    schedule="cosine",
    epochs=30,
    batch=16,
    warmup_epochs=1.0,
    label_smoothing=0.0,
    clip_norm=10.0,
    ema_decay=0.99,
    bn_decay=0.97,
    freeze_norms=True,
    drop_rate=0.0,
    head_epochs=2,
    layer_decay=0.9,
    augmentation=Augmentation(crop="ssd", expand=2.0, colour=True),
)
# research/deeplab/train.py: 30,000 steps of 16 are 45 epochs of VOC's train_aug
DEEPLAB = Recipe(
    name="deeplab",
    optimizer="sgd",
    lr=0.007,
    schedule="poly",
    epochs=45,
    batch=16,
    label_smoothing=0.0,
    clip_norm=0.0,
    ema_decay=0.999,
    bn_decay=0.997,
    drop_rate=0.1,
    augmentation=Augmentation(crop="zoomed"),
)
DEEPLAB_FINETUNE = DEEPLAB.changed(
    {
        "name": "deeplab-finetune",
        "lr": 0.001,
        "epochs": 10,
        "batch": 8,
        "clip_norm": 10.0,
        "ema_decay": 0.99,
        "bn_decay": 0.97,
        "freeze_norms": True,
        "head_epochs": 1,
        "layer_decay": 0.9,
    }
)
RECIPES = {
    recipe.name: recipe
    for recipe in (PAPER, MODERN, FINETUNE, SSDLITE, SSDLITE_FINETUNE, DEEPLAB, DEEPLAB_FINETUNE)
}
