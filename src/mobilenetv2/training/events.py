"""The events of a run that TensorBoard shows."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

LOG = logging.getLogger(__name__)


class Events:
    """The file of events in a folder, made with the first of them.

    They are written at once, and whatever the name of the folder is. If that fails, a warning says
    why, there are no more events, and training goes on.

    Args:
        folder: Folder of the run; None writes nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Adds values by name at a step."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self._folder is None:
            return
        summary = Summary(
            value=[Summary.Value(tag=name, simple_value=x) for name, x in values.items()]
        )
        try:
            if self._file is None:
                name = f"events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}.{os.getpid()}"
                self._file = open(self._folder / name, "ab", buffering=0)  # noqa: SIM115
                self._append(file_version="brain.Event:2")
            self._append(summary=summary, step=step)
        except OSError as error:
            LOG.warning("no more TensorBoard events: %s", error.strerror or error)
            self.close()
            self._folder = None

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        RecordWriter(self._file).write(Event(wall_time=time.time(), **fields).SerializeToString())
