"""Requests and answers of the V2 inference protocol, as KServe and Triton speak it: JSON, and binary
tensors behind it.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batch.columns import NamedBytes
from .limits import Limits, RefusalError, as_whole

HEADER_LENGTH = "inference-header-content-length"
FILES, PIXELS = "image", "pixels"  # the two inputs; a request has one of them
INPUTS = {FILES: ("BYTES", [-1]), PIXELS: ("UINT8", [-1, -1, -1, 3])}
DTYPES = {"INT64": "<i8", "FP32": "<f4", "UINT8": "u1", "UINT16": "<u2"}


@dataclass(frozen=True)
class InferRequest:
    """What a client asks for.

    Attributes:
        id: Given back with the answer.
        images: The content of files, or arrays (H, W, 3) uint8.
        options: By name, such as `top`.
        outputs: By name, whether it goes into the answer as binary data; none: all, by `binary`.
        binary: Whether outputs that are not named are binary.
    """

    id: str
    images: list[Any]
    options: dict[str, Any]
    outputs: dict[str, bool]
    binary: bool


def read_request(body: bytes, header_length: str | None, limits: Limits) -> InferRequest:
    """Reads the body of a request.

    Args:
        body: JSON, and binary data behind it.
        header_length: Bytes of JSON, as the header of that name says; None: all.
        limits: Of a request.

    Raises:
        RefusalError: It is not as the protocol wants it.
    """
    length = len(body) if header_length is None else _length(header_length, len(body))
    try:
        message = json.loads(body[:length])
    except (ValueError, RecursionError):
        raise RefusalError(400, "the request is not JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("inputs"), list):
        raise RefusalError(400, "the request must be a JSON object with a list of inputs")
    inputs = message["inputs"]
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in inputs]
    if names not in ([FILES], [PIXELS]):
        raise RefusalError(
            400,
            f"one input is needed: {FILES} (BYTES, the content of image files) or {PIXELS} (UINT8, N x H x W x 3)",
        )
    parameters = _mapping(message.get("parameters"), "parameters")
    binary = parameters.pop("binary_data_output", False) is True
    outputs: dict[str, bool] = {}
    chosen_outputs = message.get("outputs")
    if not isinstance(chosen_outputs, list | None):
        raise RefusalError(400, "outputs must be a list of objects with a name")
    for output in chosen_outputs or []:
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise RefusalError(400, "outputs must be a list of objects with a name")
        chosen = _mapping(output.get("parameters"), "parameters").get("binary_data", binary)
        outputs[output["name"]] = chosen is True
    request_id = message.get("id")
    if not isinstance(request_id, str | None):
        raise RefusalError(400, f"id must be text, not {request_id!r:.80}")
    images = _images(inputs[0], body[length:], limits)
    return InferRequest(request_id or "", images, parameters, outputs, binary)


def write_answer(
    head: Mapping[str, Any],
    tensors: Mapping[str, tuple[str, NDArray[Any]]],
    request: InferRequest,
) -> tuple[bytes, int | None]:
    """The body of an answer, and how much of it is JSON, None where all is.

    Args:
        head: Name and version of the model.
        tensors: Datatype and values of each output.
        request: What is answered.
    """
    outputs, blobs = [], []
    for name, (datatype, values) in tensors.items():
        entry: dict[str, Any] = {"name": name, "datatype": datatype}
        entry["shape"] = list(values.shape)
        if request.outputs.get(name, request.binary):
            blob = _to_bytes(datatype, values)
            entry["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            entry["data"] = [_plain(value) for value in values.ravel().tolist()]
        outputs.append(entry)
    message = {**head, **({"id": request.id} if request.id else {}), "outputs": outputs}
    text = json.dumps(message).encode()
    return b"".join([text, *blobs]), len(text) if blobs else None


def _length(text: str, most: int) -> int:
    length = as_whole(text)
    if length is None or length > most:
        raise RefusalError(400, f"{HEADER_LENGTH} must be at most the {most} bytes of the body")
    return length


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise RefusalError(400, f"{name} must be a JSON object")
    return dict(value or {})


def _images(entry: dict[str, Any], binary: bytes, limits: Limits) -> list[Any]:
    name = entry["name"]
    datatype, dims = INPUTS[name]
    shape: Any = entry.get("shape")
    if entry.get("datatype") != datatype:
        raise RefusalError(400, f"the input {name} must have the datatype {datatype}")
    whole = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
    if not whole or (name == PIXELS and (len(shape) != 4 or shape[3] != 3)):
        raise RefusalError(400, f"the input {name} must have the shape {dims}, not {shape!r:.80}")
    count = shape[0] if name == PIXELS else math.prod(shape)
    if count > limits.images:
        raise RefusalError(413, f"more than {limits.images} images in one request")
    size = _mapping(entry.get("parameters"), "parameters").get("binary_data_size")
    if (size is None) == bool(binary) or (binary and "data" in entry):
        raise RefusalError(
            400,
            "an input needs either data, or binary_data_size and as many bytes behind the JSON",
        )
    if size is not None:
        if type(size) is not int or size != len(binary):
            raise RefusalError(
                400, f"binary_data_size must be the {len(binary)} bytes behind the JSON"
            )
        if name == FILES:
            return _named(_split(binary), count)
        values = np.frombuffer(binary, np.uint8)
    else:
        data = entry.get("data")
        if name == FILES:
            return _named(_decoded(data), count)
        try:
            values = np.array(data)
        except ValueError:
            raise RefusalError(400, "data must be numbers") from None
        if values.dtype.kind not in "iu" or (
            values.size and not 0 <= values.min() <= values.max() < 256
        ):
            raise RefusalError(400, f"the data of {PIXELS} must be whole numbers from 0 to 255")
        values = values.astype(np.uint8)
    if values.size != math.prod(shape):
        raise RefusalError(
            400, f"the input {name} has {values.size} values, and its shape is {shape}"
        )
    if math.prod(shape[1:3]) > limits.pixels:
        raise RefusalError(413, f"images of more than {limits.pixels} pixels")
    return list(values.reshape(shape))


def _named(contents: list[bytes], count: int) -> list[NamedBytes]:
    if len(contents) != count:
        raise RefusalError(
            400, f"the input {FILES} has {len(contents)} values, and its shape is of {count}"
        )
    return [NamedBytes(content, f"image {i}") for i, content in enumerate(contents)]


def _split(binary: bytes) -> list[bytes]:
    """The elements of a tensor of bytes: each has its length in front, 4 bytes, the lowest first."""
    elements, at = [], 0
    while at < len(binary):
        if at + 4 > len(binary):
            raise RefusalError(400, "the binary data of the input are cut off")
        (size,) = struct.unpack_from("<I", binary, at)
        at += 4 + size
        if at > len(binary):
            raise RefusalError(400, "the binary data of the input are cut off")
        elements.append(binary[at - size : at])
    return elements


def _decoded(data: Any) -> list[bytes]:
    while isinstance(data, list) and data and isinstance(data[0], list):
        data = [value for row in data for value in (row if isinstance(row, list) else [row])]
    try:
        if not isinstance(data, list):
            raise TypeError
        return [base64.b64decode(text, validate=True) for text in data]
    except (TypeError, ValueError):
        raise RefusalError(
            400, f"the data of {FILES} must be texts in base64, or binary data"
        ) from None


def _to_bytes(datatype: str, values: NDArray[Any]) -> bytes:
    if datatype != "BYTES":
        return np.ascontiguousarray(values, DTYPES[datatype]).tobytes()
    encoded = [v if isinstance(v, bytes) else v.encode(errors="replace") for v in values.ravel()]
    return b"".join(struct.pack("<I", len(value)) + value for value in encoded)


def _plain(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
