"""Recipes, how to train as data: the paper's, modern ones, and those for fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from ..architecture import Architecture, Stage
from ..arguments import check_kind
from ..errors import UserError
from ..records import Meta, Record
from .augment import NEEDS as AUGMENTATION_NEEDS
from .augment import Augmentation, Needs, UpTo1, unused

PAPER_EPOCHS = 300  # the exponential schedule decays this often in a run of any length
Decay = Annotated[float, Meta(ge=0, le=1 - 1e-9)]
Rate = Annotated[float, Meta(ge=0, le=0.99)]
Count = Annotated[int, Meta(ge=0, le=10**6)]
Sizes = Annotated[
    tuple[tuple[UpTo1, UpTo1], ...],
    Meta(description="pairs of a share of the run and a share of the side, the former rising to 1"),
]
Mixtures = Annotated[
    tuple[Annotated[float, Meta(gt=0, lt=1)], ...],
    Meta(description="numbers above 0 and below 1"),
]
WARMUPS = ("warmup_epochs", "warmup_share")
NEEDS: Needs = {
    "muon_lr": ("optimizer='muon'", lambda recipe: recipe["optimizer"] == "muon"),
    "muon_momentum": ("optimizer='muon'", lambda recipe: recipe["optimizer"] == "muon"),
    "start_shares": ("head_first=true", lambda recipe: recipe["head_first"]),
}


@dataclass(frozen=True, kw_only=True)
class Recipe(Record):
    """Everything that decides how a network is trained.

    Attributes:
        name: Name of the recipe.
        optimizer: "rmsprop" (TF-slim's: epsilon 1 inside the root, decay 0.9), "sgd" (Nesterov),
            "adamw", or "muon": orthogonal steps (Jordan et al. 2024) for the kernels of 1x1
            convolutions with a batch norm behind them, and SGD for everything else.
        lr: Highest learning rate.
        muon_lr: That of the kernels of Muon: the share of its norm by which a step turns a kernel.
        muon_momentum: Momentum of these steps.
        schedule: "cosine": down to 0 at the last step; "linear": the same along a line; "poly": the
            same as (1 - share done)^0.9, as in DeepLab; or "exponential": multiplied by `decay` 300
            times over the run, which is once per epoch in 300 epochs.
        decay: Factor of the exponential schedule.
        epochs: Passes over the training images; 0 with `minutes`, and where the head is trained alone
            (`head_first`).
        minutes: In place of epochs, the time of the run, validation included; 0: there are epochs. All
            that changes during the run then follows the share of this time. A run that goes on after
            a stop has what was left.
        batch: Images per step, over all processes.
        epoch_steps: Steps per epoch for shards, which have no end.
        warmup_epochs: Epochs in which the learning rate rises from 0.
        warmup_share: The same as a share of the run.
        sizes: Smaller images at first: pairs (until this share of the run, the sides as a share of
            the resolution), such as ((0.5, 0.75), (1, 1)). (): full size throughout.
        momentum: Momentum of RMSProp and SGD; AdamW's first beta.
        weight_decay: Weight decay of the kernels of convolutions and of the classifier; those of
            Muon, batch norms and biases have none.
        depthwise_decay: Weight decay of depthwise kernels.
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
        start_shares: After the last epoch the weights between those before the first epoch, with the
            fitted head, and the moving average are validated as well, where the average has these
            shares (Wortsman et al. 2022).
        layer_decay: Learning rate of each block over that of the next block.
        patience: Stop after this many epochs without a better result; 0: never.
        balance: Draw images so that every class is shown equally often.
        val_share: Share of the images held out if the data have no validation part.
        seed: Seed of everything random.
        stretch: Decode images of more than 8 bits with `stretch`, as `images.decode`.
        crop_fraction: Of the preprocessing, for validation and in the model file: 1 shows the network
            the largest square. None: that of the weights.
        int8: Compute in training as the int8 model will, and write that model: its weights with one
            scale per "channel" or per "layer". "off": train and write a float32 model. A float32
            model is fine-tuned so, with `freeze_norms`; there is then no dropout.
        augmentation: Random changes of the training images.
        architecture: A new network, its classes aside, where the start says nothing of one.

    Raises:
        UserError: A value is of another type or out of range, or two contradict each other; the
            message names them.
    """

    noun: ClassVar[str] = "recipe"

    name: str
    optimizer: Literal["rmsprop", "sgd", "adamw", "muon"]
    lr: Annotated[float, Meta(ge=1e-12, le=1e3)]
    muon_lr: Annotated[float, Meta(ge=1e-12, le=1)] = 0.025
    muon_momentum: Annotated[float, Meta(ge=0, le=0.9999)] = 0.85
    schedule: Literal["exponential", "cosine", "linear", "poly"]
    decay: Annotated[float, Meta(ge=1e-6, le=1)] = 0.98
    epochs: Count
    minutes: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    batch: Annotated[int, Meta(ge=1, le=10**6)]
    epoch_steps: Annotated[int, Meta(ge=0, le=10**9)] = 0
    warmup_epochs: Annotated[float, Meta(ge=0, le=10**6)] = 0.0
    warmup_share: Annotated[float, Meta(ge=0, le=0.5)] = 0.0
    sizes: Sizes = ()
    momentum: Annotated[float, Meta(ge=0, le=0.9999)] = 0.9
    weight_decay: Annotated[float, Meta(ge=0, le=1)] = 4e-5
    depthwise_decay: Annotated[float, Meta(ge=0, le=1)] = 0.0
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
    start_shares: Mixtures = ()
    layer_decay: Annotated[float, Meta(ge=1e-3, le=1)] = 1.0
    patience: Count = 0
    balance: bool = False
    val_share: Annotated[float, Meta(ge=1e-6, le=0.999)] = 0.1
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    stretch: bool = False
    crop_fraction: Annotated[float, Meta(ge=0.1, le=1)] | None = None
    int8: Literal["off", "channel", "layer"] = "off"
    augmentation: Augmentation = field(default_factory=Augmentation)
    architecture: Architecture | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs and self.minutes:
            raise UserError(
                f"recipe epochs={self.epochs} and minutes={self.minutes:g} contradict each other: "
                "one of them is 0"
            )
        if not (self.epochs or self.minutes or self.head_first):
            raise UserError("epochs must be at least 1 where the head is not fitted first")
        if self.int8 != "off" and (self.head_first or self.head_epochs or not self.freeze_norms):
            raise UserError(
                "int8 goes on from a trained model: it needs freeze_norms=true, head_first=false and "
                "head_epochs=0"
            )
        if self.warmup_epochs and (self.warmup_share or self.minutes):
            other = "warmup_share" if self.warmup_share else "minutes"
            raise UserError(
                f"recipe warmup_epochs={self.warmup_epochs:g} and {other}={getattr(self, other):g} "
                "contradict each other: give warmup_share alone"
            )
        untils = [until for until, _ in self.sizes]
        if self.sizes and (untils != sorted({*untils}) or untils[-1] != 1):
            raise self.refusal("sizes", "pairs whose first numbers rise to 1")
        for name, other in unused(self.to_dict(), NEEDS).items():
            if getattr(self, name) != getattr(Recipe, name):
                raise UserError(f"recipe {name}={getattr(self, name)!r} needs {other}")

    def for_int8(self) -> Recipe:
        """The recipe for fine-tuning a trained float32 model into an int8 model: with the rounding of
        int8, at a third of the rate.
        """
        return replace(
            self,
            name=f"{self.name}-int8",
            int8="channel",
            lr=self.lr / 3,
            freeze_norms=True,
            head_first=False,
            head_epochs=0,
            start_shares=(),
            crop_fraction=None,
        )

    def side(self, share: float) -> float:
        """Sides of the images as a share of the resolution, when this share of the run is done."""
        return next((side for until, side in self.sizes if share < until), 1.0)

    def changed(self, changes: Mapping[str, Any]) -> Recipe:
        """The recipe with other values of some fields.

        Minutes take the place of epochs, and epochs that of minutes; a warm-up in epochs becomes the
        share of the run that it was. Fields that mean nothing beside the new values of others take
        their defaults.

        Args:
            changes: Values by the name of the field; `augmentation.NAME` is a field of the
                augmentation.

        Raises:
            UserError: There is no such field, or it cannot have the value, or not beside the others.
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
        if changes.get("minutes") and "epochs" not in changes:
            if self.epochs and not {"warmup_epochs", "warmup_share"} & changes.keys():
                share = self.warmup_share + self.warmup_epochs / self.epochs
                values |= {"warmup_epochs": 0.0, "warmup_share": min(0.5, share)}
            values["epochs"] = 0
        elif changes.get("epochs") and "minutes" not in changes:
            values["minutes"] = 0.0
        for name, other in (WARMUPS, WARMUPS[::-1]):
            if changes.get(name) and other not in changes:
                values[other] = 0.0
        places = (
            ("", values, NEEDS),
            ("augmentation.", values["augmentation"], AUGMENTATION_NEEDS),
        )
        for place, record, needs in places:
            for name in unused(record, needs):
                if place + name not in changes:
                    del record[name]
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
SMALL = Recipe(  # the model that ships, see docs/notes/training.md
    name="small",
    optimizer="muon",
    lr=0.12,
    schedule="linear",
    epochs=0,
    minutes=118.0,
    batch=256,
    warmup_share=0.03,
    sizes=((0.25, 0.75), (0.5, 0.875), (1.0, 1.0)),
    weight_decay=5e-4,
    depthwise_decay=5e-4,
    clip_norm=0.0,
    ema_decay=0.999,
    bn_decay=0.9,
    drop_rate=0.0,
    val_share=0.04,
    augmentation=Augmentation(
        crop="pad",
        flip="alternate",
        policy="trivial",
        policy_until=0.96,
        cutout=8,
        cutmix=1.0,
        cutmix_share=0.3,
        mix_from=0.25,
        mix_until=0.96,
    ),
    # Table 2 with less stride in front, and channels where they are cheap: 32, 16, 8 and 4 pixels
    architecture=Architecture(
        stages=(
            Stage(expansion=1, channels=16, repeats=1, stride=1),
            Stage(expansion=3, channels=16, repeats=1, stride=1),
            Stage(expansion=4, channels=32, repeats=3, stride=2),
            Stage(expansion=4, channels=64, repeats=8, stride=2),
            Stage(expansion=6, channels=96, repeats=3, stride=2),
            Stage(expansion=4, channels=128, repeats=1, stride=1),
        ),
        stem_channels=16,
        stem_stride=1,
        last_channels=256,
        resolution=(32, 32),
    ),
)
FINETUNE = Recipe(  # chosen on small sets of different kind, see docs/notes/training.md
    name="finetune",
    optimizer="sgd",
    lr=0.015,
    schedule="cosine",
    epochs=20,
    batch=32,
    warmup_epochs=0.5,
    label_smoothing=0.0,
    ema_decay=0.99,
    freeze_norms=True,
    head_first=True,
    start_shares=(0.5, 0.75),
    layer_decay=0.8,
    crop_fraction=1.0,
    augmentation=Augmentation(scale=(0.7, 1.0), policy="trivial", mixup=0.2),
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
    for recipe in (
        *(PAPER, MODERN, SMALL, FINETUNE),
        *(SSDLITE, SSDLITE_FINETUNE, DEEPLAB, DEEPLAB_FINETUNE),
    )
}
