"""Random arguments of every command: exit code 0, 1 or 2, one line for a mistake, and an end."""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from mobilenetv2.cli import main, run
from mobilenetv2.errors import missing_modules

from .fuzzing_commands import command_arguments, make_paths

SECONDS = 30  # of one command line; most take a few milliseconds
SEEDS = {"explain": 4, "quantize": 6, "train": 30, "benchmark": 40, "models": 40}
pytestmark = pytest.mark.skipif(
    not hasattr(os, "mkfifo") or not hasattr(signal, "setitimer"), reason="needs POSIX"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder with the odd files, which commands run in; no server is reached."""
    make_paths(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOBILENETV2_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("mobilenetv2.runtime.timing.WARM_UP_SECONDS", 0)
    monkeypatch.setattr("mobilenetv2.runtime.timing.SECONDS", 0)
    if not missing_modules("uvicorn", "starlette"):
        # a service would serve for ever
        monkeypatch.setattr("mobilenetv2.serving.server.serve", lambda *arguments: None)
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        yield tmp_path
    (tmp_path / "closed").chmod(0o700)


class TooLate(BaseException):
    """No `Exception`, so that nothing takes it for a file that cannot be read."""


def late(number: int, frame: FrameType | None) -> None:
    raise TooLate(f"not done after {SECONDS} seconds")


@pytest.mark.parametrize("command", sorted(main.commands))
def test_random_arguments(command: str, folder: Path, capsys) -> None:
    before = signal.signal(signal.SIGALRM, late)
    try:
        for seed in range(SEEDS.get(command, 80)):
            words = command_arguments(command, seed)
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                code = run(words)
            except BaseException as error:
                error.add_note(f"seed {seed}: {words!r:.2000}") if sys.version_info >= (
                    3,
                    11,
                ) else None
                raise
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            out, err = capsys.readouterr()
            assert code in (0, 1, 2), words
            assert code == 0 or err, words
            shown = set(out + err)
            assert not {c for c in shown if c < " " and c != "\n"}, words
            assert not any("\ud800" <= c <= "\udfff" or c == "\u202e" for c in shown), words
    finally:
        signal.signal(signal.SIGALRM, before)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert not list(folder.rglob("*.part"))
