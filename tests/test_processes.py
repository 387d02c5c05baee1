"""How many processes train together, and what the first says of another that fails."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from mobilenetv2.errors import UserError
from mobilenetv2.training import processes
from mobilenetv2.training.processes import default_processes, other_processes


@pytest.mark.parametrize(
    ("processors", "images", "batch", "count"),
    [
        (2, 50_000, 128, 2),
        (1, 50_000, 128, 1),
        (64, 50_000, 128, 8),  # 16 images each
        (64, 3_500, 128, 3),
        (64, 244, 128, 1),
        (64, 50_000, 8, 1),
    ],
)
def test_as_many_as_have_enough_to_do(
    monkeypatch: pytest.MonkeyPatch, processors: int, images: int, batch: int, count: int
) -> None:
    monkeypatch.setattr(processes, "usable_processors", lambda: processors)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert default_processes(images, batch) == count
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert default_processes(images, batch) == 1


def test_the_environment_is_as_before() -> None:
    before, threads = dict(os.environ), torch.get_num_threads()
    with other_processes(2, ["--version"]):
        assert os.environ["WORLD_SIZE"] == "2"
    assert dict(os.environ) == before
    assert torch.get_num_threads() == threads


def test_one_that_fails_is_named() -> None:
    with (
        pytest.raises(UserError, match=r"the 3 processes .* exit code 2: .*No such command 'dig'"),
        other_processes(3, ["dig"]),
    ):
        raise RuntimeError("connection closed by peer")


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="of its own"), other_processes(2, ["--version"]):
        raise RuntimeError("of its own")


def test_one_that_fails_at_once_is_not_waited_for() -> None:
    code = (
        "import time; from mobilenetv2.training.processes import other_processes\n"
        "with other_processes(2, ['dig']): time.sleep(300)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: one of the 2 processes")
    assert "No such command 'dig'" in done.stderr


def test_processes_that_the_system_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    before, start, begun = dict(os.environ), subprocess.Popen, []

    def refused(*arguments: Any, **options: Any) -> Any:
        if begun:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        begun.append(start([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
        return begun[0]

    monkeypatch.setattr(subprocess, "Popen", refused)
    message = "starts 2 of 4 processes: Resource temporarily unavailable; give fewer"
    with pytest.raises(UserError, match=message), other_processes(4, ["--version"]):
        pytest.fail("it goes on")
    assert begun[0].returncode is not None  # it has ended
    assert dict(os.environ) == before
