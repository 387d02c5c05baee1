"""The progress bar of `mobilenetv2 train`, on a pseudo-terminal."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mobilenetv2.cli import run
from mobilenetv2.cli.training_bar import Pace, TrainingBar, training_bar
from mobilenetv2.training.watch import Step

from .test_fit import make_images

if sys.platform == "win32":
    pytest.skip("no pseudo-terminals", allow_module_level=True)

import pty

QUICK = (
    *("--small-images", "--resolution", "16", "--width", "0.35", "--batch", "8", "--lr", "0.05"),
    *("--set", "augmentation.policy=none", "--precision", "32", "--workers", "0"),
)
CONTROL = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_images(tmp_path / "data", {"dark": 20, "light": 20})


def read_all(descriptor: int, seen: Callable[[bytes], object] = lambda content: None) -> str:
    """All that comes to a terminal until nobody has its other side open.

    Args:
        descriptor: Of the terminal's own side.
        seen: Called with all that came so far.
    """
    content = b""
    while True:
        try:
            part = os.read(descriptor, 1 << 16)
        except OSError:  # nobody has
            break
        if not part:
            break
        content += part
        seen(content)
    os.close(descriptor)
    return content.decode()


# The terminal sends Ctrl-C to the processes that it controls.
CONTROLLED = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from mobilenetv2.cli import run
sys.exit(run(sys.argv[1:]))
"""


def screen(text: str) -> list[str]:
    """The lines that a terminal shows at the end, without empty ones below them."""
    lines, row, column = [""], 0, 0
    position = 0
    while position < len(text):
        if match := CONTROL.match(text, position):
            number, kind = match.groups()
            if kind == "A":
                row -= int(number or 1)
            elif kind == "K" and number == "2":
                lines[row] = ""
            else:
                assert kind in "mhl", match[0]
            position = match.end()
            continue
        character, position = text[position], position + 1
        if character == "\r":
            column = 0
        elif character == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        else:
            lines[row] = lines[row][:column].ljust(column) + character + lines[row][column + 1 :]
            column += 1
    while lines and not lines[-1]:
        lines.pop()
    return lines


def frames(text: str) -> str:
    """All that was ever shown, without colours and movements."""
    return CONTROL.sub("", text)


def test_a_run_on_a_terminal(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["train", str(data), "-o", str(tmp_path / "run"), *QUICK, "--epochs", "2"]
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    main, other = pty.openpty()
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(read_all, main)
        with open(other, "w") as terminal:
            monkeypatch.setattr(sys, "stdout", terminal)
            monkeypatch.setattr(sys, "stderr", terminal)
            code = run(arguments)
        text = reading.result()
    assert code == 0, text
    assert re.search(
        r"epoch 2 of 2 \S+ +5/5  0:00 left\s+"
        r"loss \d\.\d{4}  rate \S+  [\d,.]+ images/s  run 100 %",
        frames(text),
    )
    assert re.search(r"validation after epoch 2 of 2 \S+ +1/1 ", frames(text))
    lines = screen(text)
    assert not any("images/s" in line or " left" in line for line in lines)
    epochs = [line.split("  ")[0] for line in lines if line.startswith("epoch ")]
    assert epochs == ["epoch 1/2", "epoch 2/2"]
    # what is printed at the end stands below the log
    starts = [line.split()[0] for line in lines if line.strip()]
    assert starts.index("best_epoch") > len(starts) - 1 - starts[::-1].index("epoch")
    assert "\x1b[?25h" in text.rsplit("\x1b[?25l", 1)[1]


def test_ctrl_c_leaves_a_clean_terminal(data: Path, tmp_path: Path) -> None:
    arguments = ["train", str(data), "-o", str(tmp_path / "run"), *QUICK, "--epochs", "500"]
    variables = {name: value for name, value in os.environ.items() if name != "CI"}
    main, other = pty.openpty()
    pressed = False

    def press(content: bytes) -> None:
        nonlocal pressed
        if b"epoch 2 of 500" in content and not pressed:
            pressed = True
            os.write(main, b"\x03")

    with subprocess.Popen(
        [sys.executable, "-c", CONTROLLED, *arguments],
        stdin=other,
        stdout=other,
        stderr=other,
        env={**variables, "TERM": "xterm", "COLUMNS": "80", "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    ) as process:
        os.close(other)
        text = read_all(main, press)
    assert process.returncode == 130, text
    assert "Traceback" not in text
    lines = screen(text)
    assert not any("images/s" in line or " left" in line for line in lines)
    assert lines[-1] == "stopped by signal 2; --resume continues from here"
    assert "\x1b[?25h" in text.rsplit("\x1b[?25l", 1)[1]


@pytest.mark.parametrize("variables", [{"CI": "true"}, {"TERM": "dumb"}], ids=["CI", "dumb"])
def test_lines_where_nobody_watches(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with training_bar(True) as (watch, _):
        assert watch is not None
    with training_bar(False) as (watch, _):
        assert watch is None
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with training_bar(True) as (watch, _):
        assert watch is None
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which Rich takes a file for a terminal
    with training_bar(True) as (watch, _):
        assert watch is None


def test_a_terminal_that_is_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        gone = False

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            if self.gone:
                raise OSError(5, "Input/output error")
            return super().write(text)

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with training_bar(True) as (watch, handler):
        assert watch is not None
        watch(Step(False, 1, 1, 1, 3, 8, 0.5, 0.1))
        assert "epoch 1 of 1" in terminal.getvalue()
        terminal.gone = True
        for step in (2, 3):
            watch(Step(False, 1, 1, step, 3, 8, 0.5, 0.1))
        handler.emit(logging.makeLogRecord({"msg": "epoch 1/1"}))


def test_pace_is_that_of_the_last_batches() -> None:
    """Three epochs of four batches: 2 seconds per batch, 5 between two epochs, 3 of them validation."""
    now = 0.0
    pace = Pace(lambda: now)
    assert pace.images_per_second is pace.left() is pace.left_of_run() is None

    def step(at: float, validates: bool, epoch: int, number: int, steps: int) -> None:
        nonlocal now
        now = at
        pace.add(Step(validates, epoch, 3, number, steps, 8, 0.5, 0.1))

    step(100, False, 1, 1, 4)
    assert pace.left() is pace.left_of_run() is None
    step(102, False, 1, 2, 4)
    assert pace.images_per_second == 4
    assert pace.left() == 4
    assert pace.left_of_run() == 4 + 2 * 8
    step(104, False, 1, 3, 4)
    step(106, False, 1, 4, 4)
    step(108, True, 1, 1, 2)
    step(109, True, 1, 2, 2)
    assert pace.images_per_second == 8
    assert pace.left() == 0
    assert pace.left_of_run() == 2 * 8
    step(111, False, 2, 1, 4)
    step(113, False, 2, 2, 4)
    assert pace.left() == 4
    # two batches, one epoch, and what follows both epochs
    assert pace.left_of_run() == 4 + 8 + 2 * 5


def test_the_facts_of_a_step() -> None:
    now = 0.0
    bar = TrainingBar(lambda: now)
    assert bar.facts() == ""
    bar.add(Step(False, 3, 40, 1, 100, 64, 0.81234, 0.0034))
    assert bar.facts() == "loss 0.8123  rate 0.0034  – images/s  run 5 %, – left"
    now = 0.05
    bar.add(Step(False, 3, 40, 50, 100, 64, 0.7, 1e-5))
    assert bar.facts() == "loss 0.7000  rate 1e-05  1,280 images/s  run 6 %, 3:08 left"
    now = 10.05
    bar.add(Step(True, 3, 40, 1, 10, 64, float("nan"), float("nan")))
    now = 30.05
    bar.add(Step(True, 3, 40, 2, 10, 64, float("nan"), float("nan")))
    assert bar.facts() == "3.2 images/s  run 8 %, 5:45 left"


def test_a_run_with_minutes_knows_its_end() -> None:
    bar = TrainingBar(lambda: 0.0)
    bar.add(Step(False, 3, 0, 1, 100, 64, 0.5, 0.01, 0.25, 90.0))
    assert bar.facts() == "loss 0.5000  rate 0.01  – images/s  run 25 %, 1:30 left"
    bar.add(Step(True, 3, 0, 1, 10, 64, float("nan"), float("nan"), 1.0, 0.0))
    assert bar.facts() == "– images/s  run 100 %, 0:00 left"
