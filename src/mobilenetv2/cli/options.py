"""Options that several commands share, and the names that other programs have for them."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from ..processors import MOST, VARIABLE

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_MODEL = "cifar10"
COMMANDS = {
    "classification": "`mobilenetv2 classify` runs it",
    "detection": "`mobilenetv2 detect` runs it",
    "segmentation": "`mobilenetv2 segment` runs it",
    "features": "`mobilenetv2 features` runs it",
}

model_option = click.option(
    "--model",
    "model_name",
    default=DEFAULT_MODEL,
    show_default=True,
    help="Model file, or a name from `models`.",
)

task_model_option = click.option(
    "--model", "model_name", required=True, help="Model file, or a name from `models`."
)


def task_model(name: str, task: str, precision: str | None) -> Any:
    """The model of a name, for a command that does one task.

    Args:
        name: As for `load`.
        task: What the command does.
        precision: As for `load`.

    Raises:
        UserError: The model does another.
    """
    from ..errors import UserError
    from ..loading import load
    from .output import notify_notes

    model = load(name, precision=precision)
    own = model.checkpoint.architecture.head.task
    if own != task:
        raise UserError(f"{name} is a model for {own}: {COMMANDS[own]}")
    notify_notes(model.checkpoint)
    return model


def model_argument(required: bool = True) -> Callable[[Command], Command]:
    """MODEL as an argument or as `--model`, which a command gets as `model`.

    Args:
        required: Whether it must be given; otherwise the command may get None.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def given(*arguments: Any, argument: str | None, option: str | None, **others: Any) -> Any:
            if argument is not None and option is not None:
                raise click.UsageError(f"two models, {argument} and --model {option}: give one")
            model = option if argument is None else argument
            if model is None and required:
                raise click.UsageError("no MODEL: give a model file, or a name from `models`")
            return command(*arguments, model=model, **others)

        option = click.option("--model", "option", help="The same as MODEL.")
        return click.argument("argument", metavar="MODEL", required=False)(option(given))  # type: ignore[return-value]

    return decorate


def _threads(context: click.Context, option: click.Parameter, threads: int | None) -> None:
    """Sets the number of threads for the command, as the environment variable does."""
    if threads is None:
        return
    if not 1 <= threads <= MOST:
        raise click.BadParameter(f"threads must be a whole number from 1 to {MOST}, not {threads}")
    before = os.environ.get(VARIABLE)

    def restore() -> None:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before

    os.environ[VARIABLE] = str(threads)
    context.call_on_close(restore)


threads_option = click.option(
    "--threads",
    type=int,
    callback=_threads,
    expose_value=False,
    help="Threads of the network.  [default: MOBILENETV2_THREADS, else the processors this process may use]",
)

precision_option = click.option(
    "--precision",
    metavar="float32|bf16",
    help="What float weights run in; bf16 needs a processor with AVX512_BF16.  [default: float32]",
)

max_pixels_option = click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    help="Refuse larger images.  [default: about 179 million]",
)

stretch_option = click.option(
    "--stretch",
    is_flag=True,
    help="Map the values of a grey image of more than 8 bits to black..white, its lowest to its highest.",
)


def resolution_option(default: str) -> Callable[[Command], Command]:
    """The option `--resolution SIDE|HxW`, which a command gets as (height, width) or None.

    Args:
        default: What None means, for the help text.
    """
    return click.option(
        "--resolution",
        metavar="SIDE|HxW",
        callback=_resolution,
        help=f"Size of the image, height first.  [default: {default}]",
    )


def _resolution(
    context: click.Context, option: click.Parameter, text: str | None
) -> tuple[int, int] | None:
    """`224` or `192x256` as (height, width)."""
    if text is None:
        return None
    sides = re.fullmatch(r"([0-9]{1,6})(?:x([0-9]{1,6}))?", text)
    if sides is None:
        raise click.BadParameter(
            f"{text!r} is neither a side such as 224 nor HEIGHTxWIDTH such as 192x256"
        )
    return int(sides[1]), int(sides[2] or sides[1])


# By each option of ours the names that other programs have for it. Each works where a command has
# the option and none of that name.
ALIASES = {
    "--batch": ("--batch-size", "--bs"),
    "--classes": ("--num-classes", "--nb-classes"),
    "--epochs": ("--num-epochs", "--n-epochs"),
    "--format": ("--output-format",),
    "--labels": ("--class-names", "--label-file"),
    "--lr": ("--learning-rate", "--lr0", "--max-lr"),
    "--max-pixels": ("--max-image-pixels",),
    "--model": ("--weights", "--checkpoint", "--ckpt", "--model-path"),
    "--output": ("--out", "--output-dir", "--out-dir", "--output-file", "--save-dir", "--project"),
    "--precision": ("--dtype",),
    "--resolution": ("--imgsz", "--img-size", "--image-size", "--img", "--input-size", "--size"),
    "--runs": ("--iterations", "--iters", "--repeats"),
    "--samples": ("--num-samples",),
    "--seed": ("--random-seed", "--manual-seed"),
    "--threads": ("--num-threads", "--nthreads"),
    "--top": ("--topk", "--top-k"),
    "--val": ("--val-dir", "--val-data", "--validation"),
    "--weight-decay": ("--wd",),
    "--weights": ("--model", "--checkpoint", "--ckpt", "--pretrained"),
    "--width": ("--width-mult", "--width-multiplier", "--alpha"),
    "--workers": ("--num-workers",),
}
# By option of other programs, the field of the recipe and a value that it may have.
_FIELDS = {
    **dict.fromkeys(("--optimizer", "--opt"), "optimizer=adamw"),
    **dict.fromkeys(("--dropout", "--drop"), "drop_rate=0.2"),
    **dict.fromkeys(("--scheduler", "--sched"), "schedule=cosine"),
    **dict.fromkeys(("--label-smoothing", "--smoothing"), "label_smoothing=0.1"),
    "--drop-path": "drop_path_rate=0.1",
    "--ema": "ema_decay=0.999",
    "--momentum": "momentum=0.9",
    "--warmup-epochs": "warmup_epochs=5",
    "--mixup": "augmentation.mixup=0.2",
    "--cutmix": "augmentation.cutmix=1.0",
}
_PRECISION = (
    "`train --precision auto|32|bf16` chooses the arithmetic of training, `--precision bf16` elsewhere "
    "that of running a model"
)
_DEVICE = (
    "the networks run on the CPU; `train` takes an accelerator that PyTorch can use, and "
    "CUDA_VISIBLE_DEVICES= keeps it from that"
)
_DATA = "the data are an argument without a name, such as `mobilenetv2 evaluate photos/`"
# What to do instead of an option that we do not have.
INSTEAD = {
    **dict.fromkeys(("--device", "--gpu", "--gpus", "--cuda", "--cpu", "--accelerator"), _DEVICE),
    **{
        name: f"write `train --set {example}`; docs/training.md lists the fields of a recipe"
        for name, example in _FIELDS.items()
    },
    **dict.fromkeys(("--amp", "--half", "--fp16", "--bf16"), _PRECISION),
    **dict.fromkeys(
        ("--data", "--dataset", "--data-dir", "--data-path", "--source", "--input", "--image"), _DATA
    ),
    "--model": "the model is an argument without a name here",
    "--images": _DATA,
    "--json": "write `--format json`",
    "--csv": "write `--format csv`",
    "--int8": "`mobilenetv2 quantize` makes an int8 model, and every command runs it",
    "--quantize": "`mobilenetv2 quantize` makes an int8 model, and every command runs it",
    "--batch": "images are grouped by the program; `benchmark --batch` measures other groups",
    "--resolution": "the model says at which size it runs",
    "--weights": "`--model FILE` gives the model",
    "--verbose": "there is one level of messages: results on stdout, the others on stderr",
    "--quiet": "messages go to stderr: `2> /dev/null` leaves them out",
}  # fmt: skip


def own_names(words: Sequence[str], flags: Iterable[str]) -> list[str]:
    """The words of a command line, with other programs' names of options replaced by ours.

    Args:
        words: What follows the command.
        flags: The options of the command.
    """
    known = set(flags)
    ours = {alias: flag for flag, aliases in ALIASES.items() if flag in known for alias in aliases}
    end = words.index("--") if "--" in words else len(words)
    renamed = []
    for word in words[:end]:
        name, equals, value = word.partition("=")
        name = name if name in known else name[:2] + name[2:].replace("_", "-")
        if word.startswith("--") and name not in known:
            name = ours.get(name, name)
        is_known = word.startswith("--") and name in known
        renamed.append(name + equals + value if is_known else word)
    return [*renamed, *words[end:]]


def instead(flag: str) -> str:
    """What to do instead of an option that a command lacks, as a sentence; "" if that is unknown."""
    name = flag.replace("_", "-")
    names = [name, *(ours for ours, aliases in ALIASES.items() if name in aliases)]
    return next((INSTEAD[name] for name in names if name in INSTEAD), "")
