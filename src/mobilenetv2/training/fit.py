"""`fit`: labelled images in, a model file out, in a folder from which the run can be resumed."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from lightning.fabric import Fabric

from ..arguments import check_kind, check_path
from ..checkpoint import Checkpoint
from ..datasets import Dataset, read_dataset
from ..decoding import NarrowRangeWarning
from ..errors import ImageError, UserError
from ..evaluation import Evaluation, evaluate, match_classes
from ..model import Model
from ..nn import MobileNetV2
from .augment import evaluation_transform
from .data import (
    Images,
    ShardImages,
    Split,
    check_split,
    loader,
    read_shards,
    read_split,
    without,
)
from .epochs import Progress, RunContext, run_epochs
from .events import Events
from .machine import Machine, automatic_precision, explained_memory_errors, launch, once
from .network import Start, build, fit_head, last_map, prepare, restore
from .recipes import Recipe, default_recipe
from .report import draw_confusion, draw_curves
from .run_folder import RunFolder, Settings, is_same_file
from .trainer import Trainer, balanced
from .workers import explained_worker_errors

LOG = logging.getLogger(__name__)
MAX_LISTED = 50  # with more classes, only the totals are logged
FEATURE_BATCH = 64
CACHE_BYTES = 1 << 28  # of decoded images


@dataclass(frozen=True)
class Trained:
    """The result of a run.

    Attributes:
        file: Model file of the best network.
        epochs: Number of epochs trained.
        best_epoch: The epoch after which the network was the best; 0: before the first epoch, with
            the fitted head alone.
        evaluation: Evaluation of the file on the images held out, by the CPU runtime.
        broken: The errors of images that were left out, by name.
    """

    file: Path
    epochs: int
    best_epoch: int
    evaluation: Evaluation
    broken: Mapping[str, ImageError]

    @property
    def balanced(self) -> float:
        """Balanced accuracy in percent: the mean recall of the classes."""
        return balanced(self.evaluation.confusion)


class Job(NamedTuple):
    """The arguments of `fit` with the defaults filled in, and the device and processes."""

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

    Progress is logged to the logger "mobilenetv2". Processes started by `torchrun` share the work.

    Args:
        data: Labelled images: a folder, .zip or .csv, as for `read_dataset`; or shards, such as
            "train-{000000..000123}.tar", together with `val` and the recipe's `epoch_steps`.
        out: Folder of the run; it must not contain a run yet, unless `resume`, and not lie among
            the images.
        recipe: How to train. None: that of the run to resume, or else "finetune" with weights and
            "modern" without.
        start: The network to start from. None: that of the run to resume, or a new one of width 1.
        val: Images to validate with. None: those of `data`, or a share of them.
        machine: How to run.
        resume: Continue the run in `out`. The weights become the same as without the break.

    Raises:
        UserError: The data cannot be read, a setting is impossible, or classes or settings differ
            from those of the run to resume.
        DivergedError: The loss is no longer finite.
        Stopped: SIGINT or SIGTERM was received, and the state was saved.
    """
    data, out = check_path("data", data), check_path("out", out)
    val = None if val is None else check_path("val", val)
    check_kind("recipe", recipe, Recipe, type(None))
    check_kind("start", start, Start, type(None))
    check_kind("machine", machine, Machine, type(None))
    folder, machine = RunFolder(out), machine or Machine()
    fabric = launch()
    before = once(fabric, folder.read_settings if resume else lambda: folder.check_new(data, val))
    job = _job(fabric, machine, data, val, recipe, start, before)
    once(fabric, folder.check_writable)
    with explained_memory_errors(job.recipe.batch):
        return _run(job, folder, before)


def _run(job: Job, folder: RunFolder, before: Settings | None) -> Trained:
    """Everything behind the arguments; `before` are the settings of the run to resume."""
    fabric = job.fabric
    split, broken = _images(job)
    state = None
    if before:
        before.check_resumed(_resumable_settings(job, split))
        _warn_of_changes(job, before)
        state = folder.read_state()
        if state is None:
            LOG.warning("%s: no state was saved yet, so the run begins anew", folder.path)
    if before and state:
        net, settings = prepare(restore(before.architecture, before.recipe)), before
    else:
        net, settings = _begin(job, split, before)
        once(fabric, lambda: folder.write_settings(settings))
    trainer = Trainer(fabric, net, settings)
    progress = Progress()
    if state:
        progress = Progress(**state.pop("progress"))
        trainer.load_state_dict(state)
    context = _run_context(job, folder, trainer, settings, split)
    with closing(context.events), explained_worker_errors():
        run_epochs(context, progress)
    evaluation = once(fabric, lambda: _finish(folder, settings, split.val, progress))
    return Trained(folder.model, progress.epoch, int(progress.best["epoch"]), evaluation, broken)


def _job(
    fabric: Fabric,
    machine: Machine,
    data: str,
    val: str | None,
    recipe: Recipe | None,
    start: Start | None,
    before: Settings | None,
) -> Job:
    """The arguments of `fit`; those not given are taken from the run to resume, or are defaults."""
    start = start or (before.start if before else Start())
    if before:
        recipe, val = recipe or before.recipe, val or before.val
    recipe = recipe or default_recipe(start.weights is not None, start.small_images)
    if recipe.head_first and start.weights is None:
        raise UserError(
            f"recipe {recipe.name!r} fits the head first, so it needs weights (--weights)"
        )
    return Job(fabric, machine, data, val, recipe, start)


def _resumable_settings(job: Job, split: Split) -> dict[str, Any]:
    """The settings that must be the same when the run is resumed."""
    return {
        "start": job.start,
        "recipe": job.recipe,
        "classes": split.train.classes,
        "images": {"train": len(split.train.samples), "val": len(split.val.samples)},
        "precision": None if job.machine.precision == "auto" else job.machine.precision,
    }


def _warn_of_changes(job: Job, before: Settings) -> None:
    """Warns of what may have changed without another result, and is not compared."""
    sources = {"images to train with": (before.data, job.data)}
    sources["images to validate with"] = before.val, job.val
    for noun, (old, new) in sources.items():
        if old != new and not is_same_file(old, new):
            LOG.warning("the %s were %s, and are now %s: they must be the same", noun, old, new)
    if job.fabric.world_size != before.processes:
        LOG.warning(
            "the run to resume had %d processes, now there are %d: the weights will differ a little",
            before.processes,
            job.fabric.world_size,
        )


def _images(job: Job) -> tuple[Split, dict[str, ImageError]]:
    """The images that can be read, and the errors of the others. Logs a table of the classes."""
    if job.in_shards:
        split = _split_of_shards(job)
    else:
        split = read_split(job.data, job.val, val_share=job.recipe.val_share, seed=job.recipe.seed)
    if job.recipe.stretch:
        split = replace(split, train=split.train.stretched(), val=split.val.stretched())
    images = len(split.train.samples) + len(split.val.samples)

    def check() -> tuple[tuple[str, ...], dict[str, ImageError]]:
        checked, broken = check_split(split, job.machine.worker_count)
        return checked.problems, broken

    problems, broken = once(job.fabric, check)
    train, val = without(split.train, broken), without(split.val, broken)
    split = Split(train, val, problems)
    for problem in (*split.problems, *map(str, broken.values())):
        LOG.warning("%s", problem)
    if broken:
        LOG.warning("%d of %d images cannot be read and are left out", len(broken), images)
    for purpose, part in (("train", split.train), ("validate", split.val)):
        if not part.samples and not (part is split.train and job.in_shards):
            first = next(iter(broken.values()))
            raise UserError(f"no image to {purpose} with can be read: {first}")
    used = {sample.target for sample in (split.val if job.in_shards else split.train).samples}
    if len(used) < 2:
        raise UserError(f"{job.data}: images of one class only; a classifier needs two")
    match_classes(_validation(split.val), split.val.classes, len(split.val.classes), used)
    for line in _table(split):
        LOG.info("%s", line)
    return split, broken


def _split_of_shards(job: Job) -> Split:
    """A split without images to train with: shards are not read in advance. Their classes are those
    of the images to validate with.
    """
    recipe = job.recipe
    if job.val is None or not recipe.epoch_steps:
        raise UserError(
            f"{job.data}: shards need images to validate with, which also name the classes "
            "(--val), and the number of steps per epoch (--set epoch_steps=1000)"
        )
    if recipe.head_first or recipe.balance:
        raise UserError(
            f"{job.data}: shards are not read in advance: use --set head_first=false, and no "
            "--balance"
        )
    val = read_dataset(job.val)
    return Split(Dataset(val.classes, (), val.indices), val, val.problems)


def _table(split: Split) -> Iterator[str]:
    """The lines of a table: numbers of images per class, and their sums."""
    rows = split.rows()
    total = {
        "class": f"{len(rows)} classes",
        "train": len(split.train.samples),
        "val": len(split.val.samples),
    }
    shown = [*(rows if len(rows) <= MAX_LISTED else ()), total]
    width = max(len(str(row["class"])) for row in shown)
    yield f"{'class':{width}}  {'train':>9}  {'val':>9}"
    for row in shown:
        yield f"{row['class']:{width}}  {row['train']:9,}  {row['val']:9,}"


def _begin(job: Job, split: Split, before: Settings | None) -> tuple[MobileNetV2, Settings]:
    """The network before the first epoch, and the settings of the run."""
    classes = split.train.classes
    samples = split.train.samples or split.val.samples
    net, preprocessing, weights = build(job.start, classes, samples, job.recipe)
    if last_map(net.architecture) == (1, 1):
        LOG.warning(
            "images of %dx%d give a map of 1x1 before pooling, which is hardly enough: use a larger "
            "resolution (--resolution), or a new network for small images (--small-images)",
            *preprocessing.size,
        )
    net = prepare(net)
    settled = _resumable_settings(job, split)
    if before:
        settled["precision"] = before.precision
    if settled["precision"] is None:
        settled["precision"] = once(job.fabric, lambda: automatic_precision(job.fabric.device))
    LOG.info("precision %s", settled["precision"])
    settings = Settings(
        version=version("mobilenetv2"),
        data=job.data,
        val=job.val,
        architecture=net.architecture,
        preprocessing=preprocessing,
        weights=weights,
        processes=job.fabric.world_size,
        **settled,
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


def _run_context(
    job: Job, folder: RunFolder, trainer: Trainer, settings: Settings, split: Split
) -> RunContext:
    preprocessing, recipe = settings.preprocessing, settings.recipe
    augmented = recipe.augmentation.transform(preprocessing.size, preprocessing)

    def keep_best(best: Mapping[str, float]) -> None:
        if job.fabric.is_global_zero:
            _checkpoint(trainer.average.module, settings, best).save(folder.model)

    rank, world = job.fabric.global_rank, job.fabric.world_size
    return RunContext(
        job.fabric,
        trainer,
        folder,
        Events(folder.path if job.fabric.is_global_zero else None),
        job.machine,
        ShardImages(
            replace(read_shards(job.data, settings.classes), stretch=recipe.stretch),
            augmented,
            recipe.seed,
            rank,
            world,
        )
        if job.in_shards
        else Images(split.train.samples, augmented, recipe.seed, CACHE_BYTES),
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
        "start": settings.start.to_dict(),
        "recipe": settings.recipe.to_dict(),
        "validation": dict(scores),
    }
    return net.to_checkpoint(
        labels=settings.classes, preprocessing=settings.preprocessing, provenance=provenance
    )


def _finish(folder: RunFolder, settings: Settings, val: Dataset, progress: Progress) -> Evaluation:
    """Evaluates the model file by the CPU runtime, writes the scores into it, and draws figures."""
    checkpoint = Checkpoint.load(folder.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NarrowRangeWarning)  # counted before training
        evaluation = evaluate(Model(checkpoint), _validation(val))
    scores = {
        "epoch": progress.best["epoch"],
        **asdict(evaluation.scores),
        "balanced": balanced(evaluation.confusion),
    }
    provenance = checkpoint.provenance | {"validation": scores}
    replace(checkpoint, provenance=provenance).save(folder.model)
    folder.write_log(progress.rows)
    draw_curves(progress.rows, folder.curves)
    draw_confusion(evaluation.confusion, settings.classes, folder.confusion)
    return evaluation


def _validation(val: Dataset) -> Dataset:
    """The images held out, labelled by the classes of the trained model. The class indices of a list
    are kept only if they are those of the model.
    """
    same = val.indices == tuple(range(len(val.classes)))
    return val if same else replace(val, indices=())
