"""`mobilenetv2 train`: labelled images in, a model file out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..printable import printable
from ..processors import MOST
from .options import resolution_option
from .output import format_option, write_json, write_rows
from .recipe import (
    is_file,
    named_recipe,
    option_of,
    print_recipe,
    recipe_changes,
    recipe_option,
)
from .training_bar import training_bar

if TYPE_CHECKING:
    from ..architecture import Architecture
    from ..training import Trained
    from ..training.watch import Watch

TASKS = ("classification", "detection", "segmentation")


@click.command()
@click.argument("data", metavar="DATA")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the run.",
)
@click.option("--val", metavar="DATA", help="Images to validate with.")
@click.option("--task", type=click.Choice(TASKS), help="What to train.  [default: by the data]")
@click.option("--weights", help="Start from a model file or a name from `models`.")
@click.option("--width", type=float, help="Width multiplier of a new network.")
@resolution_option(
    "the weights'; or 224, or 32 with --small-images; or 300 for boxes, 513 for masks"
)
@click.option("--small-images", is_flag=True, help="A new network for images around 32x32.")
@click.option(
    "--architecture",
    metavar="MODEL",
    help="A new network with the architecture of this model, or of a .json file.",
)
@recipe_option(
    "modern, ssdlite or deeplab by the task; with --weights finetune, ssdlite-finetune or "
    "deeplab-finetune"
)
@click.option(
    "--int8",
    is_flag=True,
    help="Fine-tune a trained model with the rounding of int8, and write the int8 model.",
)
@click.option("--freeze", is_flag=True, help="Train the head of a classifier alone.")
@click.option("--epochs", type=int, help="Passes over the images.")
@click.option("--minutes", type=float, help="Time to train for, in place of epochs.")
@click.option("--batch", type=int, help="Images per step.")
@click.option("--lr", type=float, help="Highest learning rate.")
@click.option(
    "--weight-decay", type=float, help="Weight decay of all kernels except depthwise ones."
)
@click.option("--patience", type=int, help="Stop after this many epochs without a better result.")
@click.option("--seed", type=int, help="Seed of everything random.")
@click.option("--balance", is_flag=True, default=None, help="Show all classes equally often.")
@click.option(
    "--stretch", is_flag=True, default=None, help="Decode images of more than 8 bits stretched."
)
@click.option(
    "--set",
    "changes",
    metavar="NAME=VALUE",
    multiple=True,
    help="Any other field of the recipe; may be repeated.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "32", "bf16"]),
    default="auto",
    show_default=True,
    help="Arithmetic; auto: bf16 if the device has instructions for it.",
)
@click.option("--workers", type=int, help="Processes that read images.")
@click.option(
    "--processes",
    type=click.IntRange(1, MOST),
    help="Processes that train together.  [default: one per processor from scratch, else 1]",
)
@click.option("--resume", is_flag=True, help="Continue the run in the folder.")
@click.option("--show", is_flag=True, help="Print the recipe, every field of it, and do not train.")
@format_option
def train(data: str, output: Path | None, format_: str, **options: Any) -> int:
    """Train or fine-tune a classifier, a detector or a segmenter.

    DATA is a folder or a .zip with one folder per class (optionally in folders train and val), or
    a CSV list as for `evaluate`. Or it is images with boxes, in the layout of COCO, Pascal VOC or
    YOLO, or with masks in that of Pascal VOC. With --val and --set epoch_steps=N, any of these may
    be in WebDataset's tar files, such as 'train-{000..123}.tar'. The folder of the run gets
    model.safetensors, the best network so far, index.html, a page that shows the run, and everything
    that --resume needs. A terminal shows a progress bar.

    Images that cannot be read are named on stderr and left out, and the exit code is 1. It is also
    1 if the loss is no longer finite. At SIGINT and SIGTERM the step is finished and the state is
    saved: exit codes 130 and 143."""
    changes = recipe_changes(options)
    if output is None and (options["resume"] or not options["show"]):
        raise click.UsageError("Missing option '-o' / '--output'.")
    _check_libraries()
    if options["show"]:
        return _show(data, output, options, changes)
    assert output is not None
    from ..training.processes import end_with_first, is_first, other_processes

    first = is_first()
    level = logging.INFO if first else logging.CRITICAL
    with training_bar(first) as (watch, handler), _logged(level, handler) as log:
        from ..errors import UserError
        from ..training.epochs import DivergedError, Stopped

        reports = end_with_first() or first
        try:
            if options["resume"] and first:  # another machine may not have the folder
                _check_resumed(output, options, changes)
            count = _processes(data, output, options, changes)
            with other_processes(count, click.get_current_context().obj):
                trained = _fit(data, output, options, changes, watch)
        except Stopped as stop:
            log.info("%s", stop)
            return 128 + int(stop.signal)
        except DivergedError as error:
            log.error("error: %s", error)
            return 1
        except UserError:
            if reports:
                raise
            return 2
    if first:
        _write(trained, format_)
    return 1 if trained.broken else 0


def _check_libraries() -> None:
    from ..errors import UserError

    try:
        os.getcwd()
    except OSError as error:  # libraries of PyTorch end the process then
        raise UserError(
            f"the working directory is gone ({error.strerror}): change to another one (cd)"
        ) from None
    try:
        from ..training import check_installed

        check_installed()
    except UserError:  # an extra is missing
        raise
    except ImportError as error:  # too little memory, or another build of a library
        raise UserError(f"PyTorch cannot be loaded: {error}") from None


def _fit(
    data: str,
    output: Path,
    options: Mapping[str, Any],
    changes: Mapping[str, Any],
    watch: Watch | None,
) -> Trained:
    import warnings

    from ..training import Machine, Start, fit

    warnings.filterwarnings("ignore", module="PIL")
    resume = options["resume"]
    return fit(
        data,
        output,
        None if resume else _recipe(data, options, changes),
        None if resume else Start(**_start(options)),
        val=options["val"],
        task=options["task"],
        machine=Machine(options["workers"], options["precision"]),
        resume=resume,
        watch=watch,
    )


def _start(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the start that the options set."""
    names = ("weights", "width", "resolution", "small_images", "architecture")
    start = {name: options[name] for name in names if options[name] not in (None, False)}
    if "architecture" in start:
        start["architecture"] = _architecture(start["architecture"])
    return start


def _check_resumed(output: Path, options: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Refuses options that are not those of the run to resume."""
    from ..errors import UserError
    from ..training.run_folder import RunFolder

    before = RunFolder(output).read_settings()
    given = {
        f"--{name.replace('_', '-')}": ("start", name, value)
        for name, value in _start(options).items()
    }
    if options["recipe"] is not None and is_file(options["recipe"]):
        before.check_resumed({"recipe": named_recipe(options["recipe"]).changed(changes)})
    elif options["recipe"] is not None:
        given["--recipe"] = "recipe", "name", options["recipe"] + "-int8" * options["int8"]
    if options["int8"]:
        rounded = before.recipe.int8 if before.recipe.int8 != "off" else "channel"
        given["--int8"] = "recipe", "int8", rounded
    for name, value in changes.items():
        option = option_of(name, options)
        given[f"{option} {name}" if option == "--set" else option] = "recipe", name, value
    before.check_options(given)
    if options["precision"] not in ("auto", before.precision):
        now = options["precision"]
        raise UserError(f"--precision: the run to resume had {before.precision}, not {now}")
    if options["val"] is not None and before.val is None:
        raise UserError(f"--val: the run to resume had none, not {options['val']}")


def _processes(
    data: str, output: Path, options: Mapping[str, Any], changes: Mapping[str, Any]
) -> int:
    """The number of processes: as requested, as in the run to resume, or as many as are useful."""
    from ..training.processes import default_processes, is_one_of_several, is_other_process
    from ..training.run_folder import RunFolder
    from ..training.shards import in_shards
    from ..training.tasks import task_called

    if is_one_of_several():
        if options["processes"] is not None and not is_other_process():
            raise click.UsageError(
                "--processes: leave it out, torchrun has already started several"
            )
        return 1
    if options["processes"] is not None:
        return int(options["processes"])
    if options["resume"]:
        return int(RunFolder(output).read_settings().processes)
    if options["weights"] is not None:  # one process fits the head
        return 1
    task = task_called(options.get("task"), data, options["val"])
    recipe = _recipe(data, options, changes)
    recipe = recipe or task.default_recipe(False, options["small_images"])
    if in_shards(data):
        images = recipe.epoch_steps * recipe.batch
    else:
        images = len(task.read(data, options["val"], recipe).train.samples)
    return int(default_processes(images, recipe.batch))


def _architecture(name: str) -> Architecture:
    """The architecture in a .json file, or of a model."""
    from ..architecture import Architecture
    from ..errors import ArchitectureError, UserError
    from ..files import read_text
    from ..formats import open_checkpoint

    if not name.lower().endswith(".json"):
        return open_checkpoint(name).architecture
    try:
        return Architecture.from_json(read_text(Path(name)))
    except ArchitectureError as error:
        raise UserError(f"{name}: {error}") from None


def _recipe(data: str, options: Mapping[str, Any], changes: Mapping[str, Any]) -> Any:
    """The requested recipe, or None if none of its options is given."""
    from ..training.tasks import task_called

    task = task_called(options.get("task"), data, options["val"])
    if options["freeze"] and not task.fits_head:
        raise click.UsageError(
            f"--freeze is for classifiers; for {task.name} give --epochs N --set head_epochs=N"
        )
    if options.get("int8") and options["weights"] is None:
        raise click.UsageError("--int8 goes on from a trained model: give it with --weights")
    recipe = task.default_recipe(options["weights"] is not None, options["small_images"])
    if options["recipe"] is not None:
        recipe = named_recipe(options["recipe"])
    if options.get("int8"):
        recipe = recipe.for_int8()
    elif options["recipe"] is None and not changes:
        return None
    return recipe.changed(changes)


def _show(
    data: str, output: Path | None, options: Mapping[str, Any], changes: Mapping[str, Any]
) -> int:
    """Prints the recipe that would run."""
    from ..training import Start
    from ..training.run_folder import RunFolder
    from ..training.tasks import task_called

    if options["resume"] and output is not None:
        _check_resumed(output, options, changes)
        print_recipe(RunFolder(output).read_settings().recipe, {})
        return 0
    start, task = Start(**_start(options)), task_called(options["task"], data, options["val"])
    recipe = _recipe(data, options, changes)
    recipe = recipe or task.default_recipe(start.weights is not None, start.small_images)
    task.check(recipe, start)
    print_recipe(recipe, {name: option_of(name, options) for name in changes})
    return 0


class _Printable(logging.Formatter):
    """Escapes what a terminal might obey, or could not show."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@contextmanager
def _logged(level: int, handler: logging.Handler) -> Iterator[logging.Logger]:
    """In the block, a handler gets the library's log, without prefixes."""
    logger = logging.getLogger("mobilenetv2")
    handler.setFormatter(_Printable())
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    for noisy in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        yield logger
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _write(trained: Trained, format_: str) -> None:
    summary = {
        "file": str(trained.file),
        "epochs": trained.epochs,
        "best_epoch": trained.best_epoch,
        "broken": len(trained.broken),
        **trained.summary(),
    }
    classes = trained.class_rows()
    if format_ == "json":
        write_json([{**summary, "classes": classes}])
        return
    if format_ == "table":
        rows = [{"property": name, "value": value} for name, value in summary.items()]
        write_rows(rows, ("property", "value"), format_)
    write_rows(classes, trained.task.result_columns, format_)
