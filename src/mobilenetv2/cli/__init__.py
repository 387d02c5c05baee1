"""The command line, one file per command: parse, call the library, print. Entry point: `run`."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import click

from ..errors import UserError
from .commands import Commands, OwnModules
from .options import instead
from .output import notify, show_warnings_as_lines, use_utf8

NAMES = (
    "benchmark", "classify", "convert", "cost", "detect", "evaluate", "explain", "features", "inspect", "models",
    "page", "quantize", "segment", "serve", "train",
)  # fmt: skip
WITHOUT_BLAS = {"classify", "detect", "features", "segment"}  # which multiply no matrices in NumPy
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # what stdout was redirected to


@click.group(
    cls=Commands,
    commands=OwnModules(__name__, NAMES),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="mobilenetv2")
def main() -> None:
    """MobileNetV2, complete: count its cost, convert published weights, quantise them, train,
    classify, detect and segment images, measure accuracy and speed.

    Results go to stdout, progress and errors to stderr. Exit codes: 0 done; 1 it ran, but a
    check failed or some inputs could not be read; 2 wrong usage, a missing file or a missing extra;
    130 interrupted, 143 terminated."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    A user's mistake is one line on stderr, never a traceback.

    Args:
        arguments: Without the name of the program; None: those of this process.
    """
    try:
        with _unwound_by_sigterm():
            if arguments is None:
                arguments = sys.argv[1:]
                if WITHOUT_BLAS & set(arguments[:1]):
                    # NumPy would start a thread per processor for its matrix products
                    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
            return _run(arguments)
    except (KeyboardInterrupt, click.Abort):
        notify("interrupted")
        return 130


@contextmanager
def _unwound_by_sigterm() -> Iterator[None]:
    """In the block, the first SIGTERM ends the program as an error does: what is unfinished is removed."""

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(128 + number)

    usual = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _run(arguments: Sequence[str]) -> int:
    try:
        use_utf8()
        show_warnings_as_lines()
        if sys.stdout is None:
            raise UserError("stdout is closed: there is nowhere to print to")
        words = list(arguments)
        _check_words(words)
        code = int(main.main(words, "mobilenetv2", standalone_mode=False, obj=words) or 0)
        sys.stdout.flush()
        return code
    except click.ClickException as error:
        _show(error)
        return 2
    except UserError as error:
        notify(f"error: {error}")
        return 2
    except MemoryError:
        notify("error: not enough memory; a smaller image or batch needs less")
        return 2
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
        _discard_output()
        return 1
    except OSError as error:
        if error.errno in FULL:
            _discard_output()
            notify(f"error: the results cannot be written: {error.strerror}")
        else:
            name = "" if error.filename is None else f"{error.filename}: "
            notify(f"error: {name}{error.strerror or error}")
        return 2


def _check_words(words: Sequence[str]) -> None:
    """Refuses arguments that no shell can give, that no file can be called, and empty ones."""
    for before, word in zip(("", *words), words):
        if not word or re.fullmatch("--[a-z-]+=", word):
            option = f"{before} " if before.startswith("-") else ""
            raise UserError(f"{option}{word or repr(word)}: an empty argument: a value is missing")
        try:
            if b"\0" in os.fsencode(word):
                raise UserError(f"{word!r}: an argument with a NUL character")
        except UnicodeEncodeError:
            raise UserError(f"{word!r}: an argument with half of a surrogate pair") from None


def _show(error: click.ClickException) -> None:
    """Prints wrong usage as click does, with everything from outside escaped."""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
        notify(f"Try '{error.ctx.command_path} --help' for help.")
    text = error.format_message()
    if isinstance(error, click.NoSuchOption) and (advice := instead(error.option_name)):
        text = f"no option {error.option_name}: {advice}"
    notify(f"error: {text}")


def _discard_output() -> None:
    """Lets what is still buffered for stdout go nowhere, when Python flushes it at its end."""
    with suppress(io.UnsupportedOperation):  # a program that calls `run` may have replaced stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
