"""What a service accepts, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ..records import Meta, Record

MAX_BUFFERED_BYTES = 1 << 29  # of all bodies that are being received or worked on
Count = Annotated[int, Meta(ge=1, le=1 << 40)]


@dataclass(frozen=True, kw_only=True)
class Limits(Record):
    """The limits of a service.

    Attributes:
        body_bytes: Of a request, with all of its images.
        images: Of a request.
        pixels: Of an image.
        seconds: For receiving a request, and again for answering it.
        queue: Images that wait for a thread, of all requests.
    """

    noun: ClassVar[str] = "limit"

    body_bytes: Count = 20 << 20
    images: Count = 32
    pixels: Count = 50_000_000
    seconds: Annotated[float, Meta(ge=0.1, le=86_400)] = 30.0
    queue: Count = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images > self.queue:
            raise self.refusal("images", f"at most queue, {self.queue}")


class RefusalError(Exception):
    """An answer that is an error.

    Args:
        status: Of HTTP.
        message: A sentence for the caller.
        close: Whether the connection ends with it, because the rest of the request is not read.
    """

    def __init__(self, status: int, message: str, close: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"connection": "close"} if close else {}
        if status in (429, 503):
            self.headers["retry-after"] = "1"


def as_whole(text: str) -> int | None:
    """The number of bytes that a header says; None if it is none of up to 15 digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else None
