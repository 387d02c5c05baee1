"""The events of a run, as TensorBoard reads them, and what happens where they cannot be written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

from mobilenetv2.training.events import Events


def read_events(folder: Path) -> list[Any]:
    (file,) = folder.glob("events.out.tfevents.*")
    return [Event.FromString(record) for record in RawEventFileLoader(str(file)).Load()]


def test_events_are_written_at_once(tmp_path: Path) -> None:
    events = Events(tmp_path)
    assert list(tmp_path.iterdir()) == []
    events.write({"a": 0.5, "b": -2.0}, 7)
    events.write({"a": 1.5}, 8)
    first, *rest = read_events(tmp_path)
    assert first.file_version == "brain.Event:2"
    values = [(e.step, {v.tag: v.simple_value for v in e.summary.value}) for e in rest]
    assert values == [(7, {"a": 0.5, "b": -2.0}), (8, {"a": 1.5})]
    events.close()


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Events(None).write({"a": 1.0}, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    events = Events(tmp_path / "absent")
    for step in range(3):
        events.write({"a": 1.0}, step)
    assert caplog.messages == ["no more TensorBoard events: No such file or directory"]


def test_a_full_disk_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = Events(tmp_path)
    events.write({"a": 1.0}, 0)

    class Full(io.BytesIO):
        def write(self, content: Any) -> int:
            raise OSError(28, "No space left on device")

    assert events._file is not None
    events._file.close()
    events._file = Full()
    for step in range(3):
        events.write({"a": 1.0}, step)
    assert caplog.messages == ["no more TensorBoard events: No space left on device"]
    assert len(read_events(tmp_path)) == 2
