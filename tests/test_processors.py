"""`usable_processors`: affinity, control groups of both versions, and MOBILENETV2_THREADS."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mobilenetv2 import processors
from mobilenetv2.errors import UserError
from mobilenetv2.processors import usable_processors

Machine = Callable[[int, str, dict[str, str]], None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Replaces this machine: affinity, the process's own groups, and the files of all groups."""

    def replace(affinity: int, own: str, files: dict[str, str]) -> None:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "groups" / name).write_text(text)
        monkeypatch.setattr(processors, "OWN_GROUPS", tmp_path / "own")
        monkeypatch.setattr(processors, "CONTROL_GROUPS", tmp_path / "groups")
        mask = set(range(affinity))
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: mask, raising=False)

    monkeypatch.delenv("MOBILENETV2_THREADS", raising=False)
    return replace


@pytest.mark.parametrize(
    ("affinity", "quota", "expected"),
    [
        (5, "max 100000", 5),
        (8, "300000 100000", 3),
        (2, "300000 100000", 2),
        (8, "250000 100000", 2),
        (8, "50000 100000", 1),
        (8, "damaged", 8),
    ],
)
def test_the_lower_of_affinity_and_quota(
    machine: Machine, affinity: int, quota: str, expected: int
) -> None:
    machine(affinity, "0::/\n", {"cpu.max": quota})
    assert usable_processors() == expected


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "300000 100000\n", "a/cpu.max": "150000 100000\n"}, 1),
        ("0::/a\n", {"b/cpu.max": "100000 100000\n"}, 8),
        ("0::/a:b:c\n", {"a:b:c/cpu.max": "100000 100000\n"}, 1),
        (
            "4:cpu,cpuacct:/docker/x\n3:cpuset:/\n",
            {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "50000\n"},
            4,
        ),
        (
            "4:cpu,cpuacct:/docker/x\n",
            {
                "cpu/docker/x/cpu.cfs_quota_us": "100000\n",
                "cpu/docker/x/cpu.cfs_period_us": "50000\n",
            },
            2,
        ),
        (
            "4:cpu,cpuacct:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "50000\n"},
            8,
        ),
        (
            "4:cpuset:/\n",
            {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "50000\n"},
            8,
        ),
    ],
    ids=[
        "v2",
        "v2 parent",
        "v2 other group",
        "v2 colons",
        "v1 container",
        "v1 host",
        "v1 none",
        "v1 cpuset",
    ],
)
def test_control_groups(machine: Machine, own: str, files: dict[str, str], expected: int) -> None:
    machine(8, own, files)
    assert usable_processors() == expected


def test_without_control_groups_or_affinity(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(8, "", {})
    (tmp_path / "own").unlink()
    assert usable_processors() == 8
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_processors() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_processors() == 1


@pytest.mark.parametrize(("text", "expected"), [("1", 1), ("12", 12), ("1024", 1024), ("", 4)])
def test_the_environment_decides(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, text: str, expected: int
) -> None:
    machine(4, "0::/\n", {})
    monkeypatch.setenv("MOBILENETV2_THREADS", text)
    assert usable_processors() == expected


@pytest.mark.parametrize("text", ["0", "-1", "1025", "2.5", "two", "²", "9" * 5000])
def test_nonsense_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MOBILENETV2_THREADS", text)
    with pytest.raises(
        UserError, match="MOBILENETV2_THREADS must be a whole number from 1 to 1024"
    ):
        usable_processors()
