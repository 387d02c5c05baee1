"""`fit`: labelled images in, a model file out, in a folder from which the run can be resumed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from lightning.fabric import Fabric

from ..arguments import check_kind, check_path
from ..errors import ImageError, UserError
from ..int8 import AnyCheckpoint, Int8Checkpoint
from ..nn.backbone import Backbone
from ..nn.int8 import round_as_int8
from .augment import evaluation_transform
from .checkpoints import calibrated_start, checkpoint_of, quiet_about_range
from .classification import balanced
from .data import (
    Images,
    ShardImages,
    Split,
    check_split,
    loader,
    read_shards,
    without,
)
from .epochs import Progress, RunContext, run_epochs
from .events import Events
from .finish import finish
from .machine import Machine, automatic_precision, explained_memory_errors, launch, of_all, once
from .network import build, last_map, prepare
from .pictures import Pictures
from .recipes import Recipe
from .run_folder import RunFolder, Settings, is_same_file
from .shards import in_shards
from .start import Start
from .task import Task
from .tasks import task_called, task_of
from .trainer import Trainer
from .watch import Watch
from .workers import explained_worker_errors

LOG = logging.getLogger(__name__)
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
        evaluation: Evaluation of the file on the images held out, by the CPU runtime: an
            `Evaluation`, `DetectionEvaluation` or `SegmentationEvaluation`.
        broken: The errors of images that were left out, by name.
        task: What was trained.
    """

    file: Path
    epochs: int
    best_epoch: int
    evaluation: Any
    broken: Mapping[str, ImageError]
    task: Task

    @property
    def balanced(self) -> float:
        """Balanced accuracy of a classifier in percent: the mean recall of the classes."""
        return balanced(self.evaluation.confusion)

    def summary(self) -> dict[str, Any]:
        """The scores of the evaluation by name."""
        return self.task.summary(self.evaluation)

    def class_rows(self) -> list[dict[str, Any]]:
        """The scores of each class."""
        return self.task.class_rows(self.evaluation)


class Job(NamedTuple):
    """The arguments of `fit` with the defaults filled in, and the device and processes."""

    fabric: Fabric
    machine: Machine
    data: str
    val: str | None
    recipe: Recipe
    start: Start
    task: Task
    watch: Watch | None

    @property
    def in_shards(self) -> bool:
        return in_shards(self.data)


def fit(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    recipe: Recipe | None = None,
    start: Start | None = None,
    *,
    val: str | os.PathLike[str] | None = None,
    task: str | None = None,
    machine: Machine | None = None,
    resume: bool = False,
    watch: Watch | None = None,
) -> Trained:
    """Trains or fine-tunes a classifier, a detector or a segmenter.

    Progress is logged to the logger "mobilenetv2". Processes started by `torchrun` share the work.

    Args:
        data: Labelled images: a folder, .zip or .csv, as for `read_dataset`. Or images with boxes,
            as for `read_boxes`, or with masks, as for `read_masks`. Or any of them in shards, such
            as "train-{000000..000123}.tar", together with `val` and the recipe's `epoch_steps`.
        out: Folder of the run; it must not contain a run yet, unless `resume`, and not lie among
            the images.
        recipe: How to train. None: that of the run to resume, or else "finetune" with weights and
            "modern" without; for detectors "ssdlite-finetune" and "ssdlite", for segmenters
            "deeplab-finetune" and "deeplab".
        start: The network to start from. None: that of the run to resume, or a new one of width 1.
        val: Images to validate with. None: those of `data`, or a share of them.
        task: "classification", "detection" or "segmentation". None: that of the run to resume, or
            what `data` are for, or `val` if `data` are shards.
        machine: How to run.
        resume: Continue the run in `out`. The weights become the same as without the break.
        watch: Called after each batch with a `Step`, in the first process; without it, the log has a
            line every 30 seconds.

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
    check_kind("watch", watch, Callable, type(None))  # type: ignore[arg-type]
    folder, machine = RunFolder(out), machine or Machine()
    fabric = launch()
    before = once(fabric, folder.read_settings if resume else lambda: folder.check_new(data, val))
    chosen = _task(task, data, val, before)
    job = _job(fabric, machine, data, val, recipe, start, chosen, before)
    job = job._replace(watch=watch if fabric.is_global_zero else None)
    once(fabric, folder.check_writable)
    begins = before is None and fabric.is_global_zero
    with folder.begun() if begins else nullcontext(), explained_memory_errors(job.recipe.batch):
        return _run(job, folder, before)


def _run(job: Job, folder: RunFolder, before: Settings | None) -> Trained:
    """Everything behind the arguments; `before` are the settings of the run to resume."""
    fabric = job.fabric
    split, broken = _images(job)
    state = None
    if before:
        before.check_resumed(_resumable_settings(job, split))
        _warn_of_changes(job, before)
        state = once(fabric, folder.read_state)  # on another machine the folder may not exist
        if state is None:
            LOG.warning("%s: no state was saved yet, so the run begins anew", folder.path)
    if before and state:
        net, settings = prepare(job.task.new(before.architecture, before.recipe)), before
        if before.recipe.int8 != "off":
            round_as_int8(net, once(fabric, lambda: Int8Checkpoint.load(folder.calibrated)))
    else:
        net, settings = _begin(job, split, before)
        once(fabric, lambda: folder.write_settings(settings))
        if settings.recipe.int8 != "off":
            calibrated = once(fabric, lambda: calibrated_start(net, settings, split, folder))
            round_as_int8(net, calibrated)
            net.int8.start(net)
    trainer = Trainer(fabric, net, settings)
    progress = Progress()
    if state:
        progress = Progress(**state.pop("progress"))
        trainer.load_state_dict(state)
    context = _run_context(job, folder, trainer, settings, split)
    with closing(context.events), explained_worker_errors():
        run_epochs(context, progress)
    if isinstance(context.train, ShardImages):
        left_out = of_all(fabric, context.train.left_out)
        for name, error in left_out.items():
            if name not in context.train.left_out:  # another process has read it
                LOG.warning("left out: %s", error)
        if left_out:
            LOG.warning("images of shards that were left out: %d", len(left_out))
        broken |= left_out
    evaluation = once(fabric, lambda: finish(job.task, folder, settings, split.val, progress))
    best_epoch = int(progress.best["epoch"])
    if progress.epoch and not best_epoch:
        LOG.info("no epoch was better than the head alone, which is the result")
    return Trained(folder.model, progress.epoch, best_epoch, evaluation, broken, job.task)


def _task(name: str | None, data: str, val: str | None, before: Settings | None) -> Task:
    if before is None:
        return task_called(name, data, val)
    task = task_of(before.architecture)
    if name not in (None, task.name):
        raise UserError(f"the run to resume had task {task.name!r}, not {name!r:.80}")
    return task


def _job(
    fabric: Fabric,
    machine: Machine,
    data: str,
    val: str | None,
    recipe: Recipe | None,
    start: Start | None,
    task: Task,
    before: Settings | None,
) -> Job:
    """The arguments of `fit`; those not given are taken from the run to resume, or are defaults."""
    start = start or (before.start if before else Start())
    if before:
        recipe, val = recipe or before.recipe, val or before.val
    recipe = recipe or task.default_recipe(start.weights is not None, start.small_images)
    if recipe.int8 != "off" and start.weights is None:
        raise UserError("int8 goes on from a trained model: give it as the weights (--weights)")
    if recipe.architecture and start == Start(width=start.width, resolution=start.resolution):
        start = replace(start, architecture=recipe.architecture)
    task.check(recipe, start)
    return Job(fabric, machine, data, val, recipe, start, task, None)


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
    """The images that can be read, and the errors of the others. Logs how many there are."""
    read = job.task.read_shards if job.in_shards else job.task.read
    split = read(job.data, job.val, job.recipe)
    if job.recipe.stretch:
        split = replace(split, train=split.train.stretched(), val=split.val.stretched())
    images = len(split.train.samples) + len(split.val.samples)

    def check() -> tuple[tuple[str, ...], dict[str, ImageError]]:
        checked, broken = check_split(split, job.machine.worker_count, job.task.repeated)
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
    job.task.check_classes(split, job.data, job.in_shards)
    for line in job.task.table(split):
        LOG.info("%s", line)
    return split, broken


def _begin(job: Job, split: Split, before: Settings | None) -> tuple[Backbone, Settings]:
    """The network before the first epoch, and the settings of the run."""
    classes = split.train.classes
    samples = split.train.samples or split.val.samples
    net, preprocessing, weights, new = build(job.task, job.start, classes, samples, job.recipe)
    if last_map(net.architecture) == (1, 1):
        LOG.warning(
            "images of %dx%d give a last map of 1x1, which is hardly enough: use a larger "
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
        new=new,
        **settled,
    )
    if job.recipe.head_first:
        once(job.fabric, lambda: _fit_head(job, net, settings, split.train))
    return net, settings


def _fit_head(job: Job, net: Backbone, settings: Settings, train: Any) -> None:
    LOG.info("fitting the head to the features of %d images", len(train.samples))

    def batches() -> Any:
        images = Images(train.samples, evaluation_transform(settings.preprocessing))
        workers = job.machine.worker_count
        return loader(images, FEATURE_BATCH, epoch=0, seed=0, train=False, workers=workers)

    job.task.fit_head(net, settings.preprocessing, job.recipe, batches)


def _run_context(
    job: Job, folder: RunFolder, trainer: Trainer, settings: Settings, split: Split
) -> RunContext:
    preprocessing, recipe = settings.preprocessing, settings.recipe
    task, fabric = job.task, job.fabric
    described = recipe, settings.architecture, preprocessing

    def keep_best(best: Mapping[str, float]) -> None:
        if fabric.is_global_zero:
            checkpoint_of(trainer.average.module, settings, best).save(folder.model)

    def measure() -> dict[str, float]:
        def average() -> AnyCheckpoint:
            return checkpoint_of(trainer.average.module, settings, {})

        with quiet_about_range():
            return once(fabric, lambda: task.measured(average, split.val))

    if job.in_shards:
        images = task.images((), *described, train=True)
        shards = read_shards(job.data, settings.classes)
        shards = replace(shards, stretch=recipe.stretch, target=task.shard_target(split.val))
        rank, world = fabric.global_rank, fabric.world_size
        train: Any = ShardImages(
            shards,
            images.transform,
            recipe.seed,
            rank,
            world,
            images.item,
            images.set_share,
            images.alternate,
        )
    else:
        train = task.images(split.train.samples, *described, train=True, remember_bytes=CACHE_BYTES)
    return RunContext(
        fabric,
        trainer,
        folder,
        Events(folder.path if fabric.is_global_zero else None),
        job.machine,
        train,
        task.images(split.val.samples, *described, train=False),
        keep_best,
        measure,
        Pictures(folder if fabric.is_global_zero else None, task, settings),
        job.watch,
    )
