"""Recipes and the other records of a run: what they refuse, and files that were written before."""

from __future__ import annotations

import pytest

from mobilenetv2 import UserError

pytest.importorskip("torch")

from mobilenetv2.architecture import Architecture, Stage
from mobilenetv2.heads import Classifier
from mobilenetv2.images import Preprocessing
from mobilenetv2.training import RECIPES, Machine, Recipe, Start
from mobilenetv2.training.augment import Augmentation
from mobilenetv2.training.run_folder import Settings

ARCHITECTURE = (
    '{"width_mult": 1.0, "stages": [{"expansion": 1, "channels": 16, "repeats": 1, "stride": 1}, '
    '{"expansion": 6, "channels": 24, "repeats": 2, "stride": 2}], "in_channels": 3, '
    '"stem_channels": 8, "stem_stride": 2, "last_channels": null, "scale_ends": true, "classes": 2, '
    '"resolution": [32, 48], "output_stride": 32, "padding": "symmetric", "bn_epsilon": 1e-05, '
    '"head": "classifier", "bottleneck": "linear", "shortcut": "bottleneck", "divisor": 8, '
    '"min_channels": 8}'
)
RECIPE_FILE = (  # as version 0.1.0 wrote it
    '{"version": "0.1.0", "data": "flowers", "val": null, "start": {"weights": null, "width": 0.5, '
    f'"resolution": [32, 48], "small_images": false, "architecture": {ARCHITECTURE}}}, '
    '"recipe": {"name": "modern", "optimizer": "sgd", "lr": 0.2, "schedule": "cosine", '
    '"decay": 0.98, "epochs": 3, "batch": 128, "epoch_steps": 0, "warmup_epochs": 5.0, '
    '"momentum": 0.9, "weight_decay": 4e-05, "label_smoothing": 0.1, "clip_norm": 5.0, '
    '"ema_decay": 0.999, "bn_decay": 0.9, "freeze_norms": false, "drop_rate": 0.2, '
    '"drop_path_rate": 0.0, "head_first": false, "head_l2": 0.01, "layer_decay": 1.0, '
    '"patience": 0, "balance": false, "val_share": 0.1, "seed": 0, "augmentation": {"crop": "pad", '
    '"scale": [0.25, 1], "ratio": [0.75, 1.3333333333333333], "pad": 4, "flip": true, '
    '"colour": false, "policy": "trivial", "rand_ops": 2, "rand_magnitude": 9, "erase": 0.0, '
    '"erase_scale": [0.02, 0.3333333333333333], "erase_ratio": [0.3, 3.3], "mixup": 0.0, '
    '"cutmix": 0.0}}, "precision": "bf16", "classes": ["a", "\\u00e9"], '
    f'"pictures": {{"train": 9, "val": 1}}, "architecture": {ARCHITECTURE}, '
    '"preprocessing": {"size": [32, 48], "resize": "short_side", "crop_fraction": 1, '
    '"interpolation": "bilinear", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}, '
    '"weights": {"source": {"x": [1, 2]}}, "processes": 1}'
)


def test_a_recipe_file_of_an_earlier_version_loads() -> None:
    stages = (Stage(1, 16, 1, 1), Stage(6, 24, 2, 2))
    network = Architecture(
        stages=stages, stem_channels=8, last_channels=None, head=Classifier(2), resolution=(32, 48)
    )
    settings = Settings.from_json(RECIPE_FILE)
    assert settings == Settings(
        version="0.1.0",
        data="flowers",
        val=None,
        start=Start(width=0.5, resolution=(32, 48), architecture=network),
        recipe=RECIPES["modern"].changed({"augmentation.crop": "pad", "epochs": 3}),
        precision="bf16",
        classes=("a", "é"),
        images={"train": 9, "val": 1},
        architecture=network,
        preprocessing=Preprocessing(size=(32, 48), crop_fraction=1),
        weights={"source": {"x": [1, 2]}},
    )
    assert Settings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"lr"', '"rate"', "the recipe has unknown fields: rate"),
        ('"policy"', '"polycy"', "the augmentation has unknown fields: polycy"),
        ('"small_images"', '"small"', "the start has unknown fields: small"),
        ('"crop_fraction"', '"crop"', "the preprocessing has unknown fields: crop"),
        ('"optimizer": "sgd", ', "", "the recipe lacks fields: optimizer"),
        ('"bf16"', '"16"', "run record precision must be one of '32', 'bf16', not '16'"),
        ('"momentum": 0.9', '"momentum": 1', "recipe momentum must be a number from 0 to 0.9999"),
        ("{", "", "the run record is not JSON"),
    ],
)
def test_a_damaged_recipe_file_is_refused(before: str, after: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Settings.from_json(RECIPE_FILE.replace(before, after, 1))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recipes_to_json_and_back(recipe: Recipe) -> None:
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_changed_fields() -> None:
    changed = RECIPES["modern"].changed({"lr": 1, "augmentation.scale": [0.5, 1]})
    assert (changed.lr, changed.augmentation.scale) == (1.0, (0.5, 1.0))
    assert changed.changed({"lr": 0.2, "augmentation.scale": (0.25, 1.0)}) == RECIPES["modern"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed": 3}, "a recipe has no field 'speed'; there are name, optimizer"),
        ({"augmentation.twist": 3}, "no field 'augmentation.twist'; there are crop, scale"),
        ({"augmentation": {}}, "no field 'augmentation'"),
        ({"optimizer": "adam"}, "must be one of 'rmsprop', 'sgd', 'adamw', 'muon', not 'adam'"),
        ({"epochs": 1.0}, "epochs must be a whole number from 0 to 1000000, not 1.0"),
        ({"balance": 1}, "balance must be true or false, not 1"),
        ({"lr": True}, "lr must be a number from 1e-12 to 1000.0, not True"),
        ({"seed": -1}, "seed must be a whole number from 0 to"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"epochs": 3, "minutes": 5}, "epochs=3 and minutes=5 contradict each other"),
        ({"minutes": -1}, "minutes must be a number from 0 to"),
        ({"warmup_epochs": 1, "warmup_share": 0.1}, "warmup_epochs=1 and warmup_share=0.1 contra"),
        ({"minutes": 5, "warmup_epochs": 1}, "warmup_epochs=1 and minutes=5 contradict"),
        ({"sizes": [[0.5, 0.5]]}, "sizes must be pairs whose first numbers rise to 1"),
        ({"sizes": [[0.5, 0.5], [0.5, 0.7], [1, 1]]}, "sizes must be pairs whose first numbers"),
        ({"sizes": [[1, 2]]}, "sizes must be pairs of a share of the run and a share of the side"),
        ({"muon_lr": 0.1}, "muon_lr=0.1 needs optimizer='muon'"),
        ({"augmentation.policy_until": 0.5}, "policy_until=0.5 needs policy"),
        ({"augmentation.cutmix_share": 0.5}, "cutmix_share=0.5 needs cutmix"),
        ({"augmentation.mix_from": 0.5}, "mix_from=0.5 needs mixup or cutmix"),
        (
            {"augmentation.mixup": 1, "augmentation.mix_from": 0.5, "augmentation.mix_until": 0.5},
            "mix_from must be below mix_until, 0.5",
        ),
    ],
)
def test_changes_that_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RECIPES["paper"].changed(changes)


def test_minutes_and_epochs_take_each_others_place() -> None:
    timed = RECIPES["modern"].changed({"minutes": 5})
    assert (timed.epochs, timed.minutes) == (0, 5.0)
    assert (timed.warmup_epochs, timed.warmup_share) == (0.0, 0.05)  # 5 of 100 epochs
    assert timed.changed({"minutes": 5}) == timed
    counted = RECIPES["small"].changed({"epochs": 7})
    assert (counted.epochs, counted.minutes, counted.warmup_share) == (7, 0.0, 0.03)
    warm = counted.changed({"warmup_epochs": 2})
    assert (warm.warmup_epochs, warm.warmup_share) == (2.0, 0.0)


def test_fields_that_mean_nothing_any_more_take_their_defaults() -> None:
    changes = {"optimizer": "sgd", "augmentation.policy": "none", "augmentation.cutmix": 0}
    muon = RECIPES["small"].changed({"muon_lr": 0.01, "muon_momentum": 0.5})
    changed = muon.changed(changes)
    assert (changed.muon_lr, changed.muon_momentum) == (Recipe.muon_lr, Recipe.muon_momentum)
    kept = {"crop": "pad", "flip": "alternate", "cutout": 8}
    assert changed.augmentation == Augmentation(**kept)
    assert Recipe.from_json(changed.to_json()) == changed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Start(width="wide"),
            "start width must be a number from 0.001 to 16 or None, not 'wide'",
        ),
        (lambda: Start(resolution=(0, 8)), "start resolution must be .height, width"),
        (lambda: Start(weights="a", small_images=True), "small_images is for new networks"),
        (lambda: Start(weights="a", architecture=Architecture()), "give one of"),
        (lambda: Machine(workers=-1), "machine workers must be a whole number of at least 0"),
        (lambda: Machine(precision="16"), "machine precision must be one of 'auto', '32', 'bf16'"),
        (lambda: Augmentation(scale=(0.5, 0.2)), "augmentation scale must be two rising numbers"),
    ],
)
def test_other_records_of_a_run_refuse_by_name(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]
