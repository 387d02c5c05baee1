"""The command line, one file per command: parse, call the library, print. Entry point: `run`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from ..errors import UserError
from .benchmark import benchmark
from .classify import classify
from .convert import convert
from .cost import cost
from .evaluate import evaluate
from .explain import explain
from .inspect import inspect
from .models import models
from .quantize import quantize
from .train import train


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mobilenetv2")
def main() -> None:
    """MobileNetV2, complete: count its cost, convert published weights, quantise them, train,
    classify images, measure accuracy and speed.

    Results go to stdout, progress and errors to stderr. Exit codes: 0 done; 1 it ran, but a
    check failed or some inputs could not be read; 2 wrong usage, a missing file or a missing extra;
    130 interrupted, 143 terminated."""


for command in (
    benchmark, classify, convert, cost, evaluate, explain, inspect, models, quantize, train,
):  # fmt: skip
    main.add_command(command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    A user's mistake is one line on stderr, never a traceback.

    Args:
        arguments: Without the name of the program; None: those of this process.
    """
    try:
        words = list(sys.argv[1:] if arguments is None else arguments)
        return int(main.main(words, "mobilenetv2", standalone_mode=False, obj=words) or 0)
    except click.ClickException as error:
        error.show()
        return 2
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        return 2
    except MemoryError:
        click.echo("error: not enough memory; a smaller image or batch needs less", err=True)
        return 2
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return 130
