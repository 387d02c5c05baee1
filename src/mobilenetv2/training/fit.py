"""`fit`: from labelled images to a model file, in a folder that the run can be resumed from."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from lightning.fabric import Fabric

from ..checkpoint import Checkpoint
from ..datasets import Dataset, read_dataset
from ..errors import ImageError, UserError
from ..evaluation import Evaluation, evaluate, match_classes
from ..model import Model
from ..nn import MobileNetV2
from .augment import evaluation_transform
from .data import (
    Images,
    ShardImages,
    Split,
    check_images,
    loader,
    read_shards,
    read_split,
    without,
)
from .epochs import Materials, Progress, run_epochs
from .features import fit_head
from .machine import Machine, faster_precision, launch, once
from .network import Start, build, last_map, prepare, restore
from .recipes import Recipe, default_recipe
from .report import draw_confusion, draw_curves
from .run_folder import RunFolder
from .settings import Settings
from .trainer import Trainer, balanced

LOG = logging.getLogger(__name__)
LISTED = 50  # classes that a table is shown of
FEATURE_BATCH = 64
REMEMBERED_BYTES = 1 << 28  # decoded images kept in memory


@dataclass(frozen=True)
class Trained:
    """What came of a run.

    Attributes:
        file: The best network's model file.
        epochs: How many were trained.
        best_epoch: After which the network was as in the file; 0: the head alone was fitted.
        evaluation: The file's, on the images held out, by the runtime that will use it.
        broken: The errors of images that were left out, by name.
    """

    file: Path
    epochs: int
    best_epoch: int
    evaluation: Evaluation
    broken: Mapping[str, ImageError]

    @property
    def balanced(self) -> float:
        """Balanced accuracy in percent: the mean over the classes of their percent right."""
        return balanced(self.evaluation.confusion)


class Job(NamedTuple):
    """What was asked for, with the defaults filled in, and where it runs."""

    fabric: Fabric
    machine: Machine
    data: str
    val: str | None
    recipe: Recipe
    start: Start

    @property
    def in_shards(self) -> bool:
        return self.data.lower().endswith(".tar")


def fit(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    recipe: Recipe | None = None,
    start: Start | None = None,
    *,
    val: str | os.PathLike[str] | None = None,
    machine: Machine | None = None,
    resume: bool = False,
) -> Trained:
    """Trains or fine-tunes a classifier.

    What happens is logged to the logger "mobilenetv2". Started by `torchrun`, the processes share
    the work.

    Args:
        data: Labelled images: a folder, .zip or .csv, as for `read_dataset`; or shards, as
            "train-{000000..000123}.tar", with `val` and the recipe's `epoch_steps`.
        out: Folder of the run; it must not have one yet, unless `resume`.
        recipe: How to train; None: the resumed run's, or `default_recipe`: to fine-tune with weights,
            else the modern one.
        start: The network to start from; None: a new one of width 1, or the resumed run's.
        val: Images to validate with; None: those of `data`, or a share of them.
        machine: How to run.
        resume: Go on with the run in `out`, to the same weights as if it had not stopped.

    Raises:
        UserError: No such data, a setting that cannot be, other classes or settings than those of
            the run to resume.
        DivergedError: The loss is no longer finite.
        Stopped: SIGINT or SIGTERM came, and the state was saved.
    """
    folder, machine = RunFolder(out), machine or Machine()
    fabric = launch(folder.path)
    before = once(fabric, folder.read_settings if resume else folder.check_new)
    job = _job(fabric, machine, os.fspath(data), val and os.fspath(val), recipe, start, before)
    split, broken = _images(job)
    state = None
    if before:
        before.check_resumed(_facts(job, split))
        state = folder.read_state()
    if before and state:
        net, settings = prepare(restore(before.architecture, before.recipe)), before
    else:
        net, settings = _begin(job, split, before)
        if fabric.is_global_zero:
            folder.write_settings(settings)
    trainer = Trainer(fabric, net, settings)
    progress = Progress()
    if state:
        progress = Progress(**state.pop("progress"))
        trainer.load_state_dict(state)
    run_epochs(_materials(job, folder, trainer, settings, split), progress)
    found = once(fabric, lambda: _finish(folder, settings, split.val, progress))
    return Trained(folder.model, progress.epoch, int(progress.best["epoch"]), found, broken)


def _job(
    fabric: Fabric,
    machine: Machine,
    data: str,
    val: str | None,
    recipe: Recipe | None,
    start: Start | None,
    before: Settings | None,
) -> Job:
    """What was asked for; what was not is as in the run to resume, if there is one."""
    start = start or (before.start if before else Start())
    if before:
        recipe, val = recipe or before.recipe, val or before.val
    recipe = recipe or default_recipe(start.weights is not None, start.small_images)
    if recipe.head_first and start.weights is None:
        raise UserError(f"recipe {recipe.name!r} fits the head first, and so wants weights")
    return Job(fabric, machine, data, val, recipe, start)


def _facts(job: Job, split: Split) -> dict[str, Any]:
    """The settings that a resumed run must share."""
    return {
        "start": job.start,
        "recipe": job.recipe,
        "classes": split.train.classes,
        "images": {"train": len(split.train.samples), "val": len(split.val.samples)},
        "precision": None if job.machine.precision == "auto" else job.machine.precision,
    }


def _images(job: Job) -> tuple[Split, dict[str, ImageError]]:
    """The images that can be read, and the errors of the others; says what there is."""
    if job.in_shards:
        split = _beside_shards(job)
    else:
        split = read_split(job.data, job.val, val_share=job.recipe.val_share, seed=job.recipe.seed)
    samples = (*split.train.samples, *split.val.samples)
    broken = once(job.fabric, lambda: check_images(samples, job.machine.worker_count))
    split = replace(split, train=without(split.train, broken), val=without(split.val, broken))
    for problem in (*split.problems, *map(str, broken.values())):
        LOG.warning("%s", problem)
    if broken:
        LOG.warning("%d of %d images cannot be read and are left out", len(broken), len(samples))
    for purpose, part in (("train", split.train), ("validate", split.val)):
        if not part.samples and not (part is split.train and job.in_shards):
            first = next(iter(broken.values()))
            raise UserError(f"no image to {purpose} with can be read: {first}")
    used = {sample.target for sample in (split.val if job.in_shards else split.train).samples}
    if len(used) < 2:
        raise UserError(f"{job.data}: images of one class only; a classifier needs two")
    match_classes(_judged(split.val), split.val.classes, len(split.val.classes), used)
    for line in _table(split):
        LOG.info("%s", line)
    return split, broken


def _beside_shards(job: Job) -> Split:
    """Nothing to train with but shards, which are not looked through; their classes are those of
    the images to validate with.
    """
    recipe = job.recipe
    if job.val is None or not recipe.epoch_steps:
        raise UserError(
            f"{job.data}: shards want images to validate with, which also name the classes "
            "(--val), and the steps of an epoch (--set epoch_steps=1000)"
        )
    if recipe.head_first or recipe.balance:
        raise UserError(
            f"{job.data}: shards are not gone through beforehand: --set head_first=false, and no "
            "--balance"
        )
    val = read_dataset(job.val)
    return Split(Dataset(val.classes, (), val.indices), val, val.problems)


def _table(split: Split) -> Iterator[str]:
    """How many images each class has, and all have."""
    rows = split.rows()
    total = {
        "class": f"{len(rows)} classes",
        "train": len(split.train.samples),
        "val": len(split.val.samples),
    }
    shown = [*(rows if len(rows) <= LISTED else ()), total]
    width = max(len(str(row["class"])) for row in shown)
    yield f"{'class':{width}}  {'train':>9}  {'val':>9}"
    for row in shown:
        yield f"{row['class']:{width}}  {row['train']:9,}  {row['val']:9,}"


def _begin(job: Job, split: Split, before: Settings | None) -> tuple[MobileNetV2, Settings]:
    """The network as it is before the first epoch, and the settings of the run."""
    classes = split.train.classes
    seen = split.train.samples or split.val.samples
    net, preprocessing, weights = build(job.start, classes, seen, job.recipe)
    if last_map(net.architecture) == (1, 1):
        LOG.warning(
            "images of %dx%d are a map of 1x1 before pooling, which says little: give a larger "
            "resolution, or train from scratch for small images (--resolution, --small-images)",
            *preprocessing.size,
        )
    net = prepare(net)
    facts = _facts(job, split)
    if before:
        facts["precision"] = before.precision
    if facts["precision"] is None:
        batch = -(-job.recipe.batch // job.fabric.world_size)
        facts["precision"] = once(
            job.fabric, lambda: faster_precision(net, preprocessing, job.fabric.device, batch)
        )
        LOG.info("precision %s: the faster here", facts["precision"])
    settings = Settings(
        version=version("mobilenetv2"),
        data=job.data,
        val=job.val,
        architecture=net.architecture,
        preprocessing=preprocessing,
        weights=weights,
        processes=job.fabric.world_size,
        **facts,
    )
    if job.recipe.head_first:
        once(job.fabric, lambda: _fit_head(job, net, settings, split.train))
    return net, settings


def _fit_head(job: Job, net: MobileNetV2, settings: Settings, train: Dataset) -> None:
    LOG.info("fitting the head to the features of %d images", len(train.samples))
    images = Images(train.samples, evaluation_transform(settings.preprocessing))
    batches = loader(
        images,
        FEATURE_BATCH,
        epoch=0,
        seed=0,
        train=False,
        workers=job.machine.worker_count,
    )
    fit_head(net, settings.preprocessing, batches, job.recipe.head_l2, job.recipe.balance)


def _materials(
    job: Job, folder: RunFolder, trainer: Trainer, settings: Settings, split: Split
) -> Materials:
    preprocessing, recipe = settings.preprocessing, settings.recipe
    augmented = recipe.augmentation.transform(preprocessing.size, preprocessing)

    def keep_best(best: Mapping[str, float]) -> None:
        if job.fabric.is_global_zero:
            _checkpoint(trainer.average.module, settings, best).save(folder.model)

    rank, world = job.fabric.global_rank, job.fabric.world_size
    return Materials(
        job.fabric,
        trainer,
        folder,
        job.machine,
        ShardImages(read_shards(job.data, settings.classes), augmented, recipe.seed, rank, world)
        if job.in_shards
        else Images(split.train.samples, augmented, recipe.seed, REMEMBERED_BYTES),
        Images(split.val.samples, evaluation_transform(preprocessing)),
        keep_best,
    )


def _checkpoint(net: MobileNetV2, settings: Settings, scores: Mapping[str, float]) -> Checkpoint:
    provenance = {
        "source": f"mobilenetv2 train {settings.version}",
        "trained_on": {
            "data": settings.data,
            "val": settings.val,
            "train_images": settings.images["train"],
            "val_images": settings.images["val"],
        },
        "weights": dict(settings.weights),
        "start": asdict(settings.start),
        "recipe": asdict(settings.recipe),
        "validation": dict(scores),
    }
    return net.to_checkpoint(
        labels=settings.classes, preprocessing=settings.preprocessing, provenance=provenance
    )


def _finish(folder: RunFolder, settings: Settings, val: Dataset, progress: Progress) -> Evaluation:
    """Judges the file by the runtime that will use it, writes that into it, and draws."""
    kept = Checkpoint.load(folder.model)
    found = evaluate(Model(kept), _judged(val))
    scores = {
        "epoch": progress.best["epoch"],
        **asdict(found.scores),
        "balanced": balanced(found.confusion),
    }
    replace(kept, provenance=kept.provenance | {"validation": scores}).save(folder.model)
    draw_curves(progress.rows, folder.curves)
    draw_confusion(found.confusion, settings.classes, folder.confusion)
    return found


def _judged(val: Dataset) -> Dataset:
    """The images held out, by the trained model's own classes: a list's indices are kept only
    where they are these.
    """
    own = val.indices == tuple(range(len(val.classes)))
    return val if own else replace(val, indices=())
