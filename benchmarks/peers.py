"""The runtimes that ours is measured against: each loads its own file and answers its own input.

Imports nothing but NumPy until a peer is asked for, so that a process which needs one peer pays for
that peer alone. `peer_files.py` writes the files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Run = Callable[[Any], Array]  # a prepared input -> (N, classes) float32 logits
PRECISIONS = ("float32", "int8")


class Peer(NamedTuple):
    """One runtime.

    Attributes:
        title: As the tables call it.
        package: The distribution that has its version.
        suffix: Ending of its model file.
        load: (file, threads) -> what runs it on exactly that many threads.
        prepare: By precision that it has: (N, H, W, 3), normalised float32 or uint8 pixels -> the input
            that it likes best.
    """

    title: str
    package: str
    suffix: str
    load: Callable[[Path, int], Run]
    prepare: Mapping[str, Callable[[Array], Any]]


def nchw(images: Array) -> Array:
    """(N, H, W, C) -> (N, C, H, W), contiguous."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def load_onnxruntime(path: Path, threads: int, *, spin: bool = True) -> Run:
    """ONNX Runtime's CPU provider with all its optimisations and a pool that spins, its defaults."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"image": images})[0]


def load_openvino(path: Path, threads: int) -> Run:
    """OpenVINO's CPU plugin, tuned for latency. Its float32 is float32: left alone it takes bfloat16
    where the processor has it.
    """
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda images: request.infer([images], share_inputs=True, share_outputs=True)[0]


def load_litert(path: Path, threads: int) -> Run:
    """LiteRT's interpreter with its XNNPACK delegate, its default."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    image = interpreter.get_input_details()[0]["index"]
    logits = interpreter.get_output_details()[0]["index"]

    def run(images: Array) -> Array:
        interpreter.set_tensor(image, images)
        interpreter.invoke()
        answer: Array = interpreter.get_tensor(logits)
        return answer

    return run


def load_ncnn(path: Path, threads: int) -> Run:
    """ncnn in float32; it knows no batches, so images go one after another."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    net.load_param(str(path))
    net.load_model(str(path.with_suffix(".bin")))

    def run(images: list[Any]) -> Array:
        answers = []
        for image in images:
            extractor = net.create_extractor()
            extractor.input("image", image)
            answers.append(np.array(extractor.extract("logits")[1]))
        return np.stack(answers)

    return run


def prepare_ncnn(images: Array) -> list[Any]:
    """One `ncnn.Mat` (C, H, W) an image."""
    import ncnn

    return [ncnn.Mat(image).clone() for image in nchw(images)]


def load_torch(path: Path, threads: int) -> Run:
    """PyTorch eager in channels last, batch norms folded; the file lists the calls to make."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads)
    steps: list[dict[str, Any]] = torch.load(path)
    for step in steps:
        if "groups" in step:
            step["weight"] = step["weight"].to(memory_format=torch.channels_last)

    def step_(kind: str, step: dict[str, Any], x: Any, y: Any) -> Any:
        if kind == "add":
            return x + y
        if kind == "pool":
            return x.mean((2, 3))
        if kind == "linear":
            return functional.linear(x, step["weight"], step["bias"])
        if step["pad"]:
            x = functional.pad(x, step["pad"])
        x = functional.conv2d(
            x, step["weight"], step["bias"], step["stride"], step["padding"], groups=step["groups"]
        )
        return functional.hardtanh_(x, 0, 6) if step["relu6"] else x

    def run(images: Any) -> Array:
        with torch.inference_mode():
            values = {"image": images}
            for step in steps:
                first, *second = (values[source] for source in step["sources"])
                answer = step_(step["kind"], step, first, *(second or [None]))
                values[step["name"]] = answer
            logits: Array = answer.numpy()
            return logits

    return run


def prepare_torch(images: Array) -> Any:
    """A tensor (N, C, H, W) whose memory is NHWC."""
    import torch

    return torch.from_numpy(nchw(images)).to(memory_format=torch.channels_last)


def less_128(pixels: Array) -> Array:
    """uint8 -> int8."""
    return (pixels ^ np.uint8(128)).view(np.int8)


NCHW = {"float32": nchw, "int8": nchw}
PEERS = {
    "onnxruntime": Peer("ONNX Runtime", "onnxruntime", ".onnx", load_onnxruntime, NCHW),
    "openvino": Peer("OpenVINO", "openvino", ".onnx", load_openvino, NCHW),
    "litert": Peer(
        "LiteRT",
        "ai-edge-litert",
        ".tflite",
        load_litert,
        {"float32": np.ascontiguousarray, "int8": less_128},
    ),
    "ncnn": Peer("ncnn", "ncnn", ".param", load_ncnn, {"float32": prepare_ncnn}),
    "torch": Peer("PyTorch eager", "torch", ".pt", load_torch, {"float32": prepare_torch}),
}


class Recipe(NamedTuple):
    """What a user of a peer writes by hand: how its images are prepared, and its labels."""

    short_side: int
    crop: int
    filter: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Reads what `save` wrote."""
        return cls(*json.loads(path.read_text(encoding="utf-8")))

    def save(self, path: Path) -> None:
        """Writes the recipe as a JSON list."""
        path.write_text(json.dumps(self), encoding="utf-8")

    def pixels(self, path: Path) -> Array:
        """An image file -> (crop, crop, 3) uint8, by Pillow."""
        from PIL import Image

        with Image.open(path) as source:
            image = source.convert("RGB")
        ratio = self.short_side / min(image.size)
        width, height = (
            self.short_side if side == min(image.size) else int(side * ratio) for side in image.size
        )
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling[self.filter.upper()])
        left, top = round((width - self.crop) / 2), round((height - self.crop) / 2)
        return np.asarray(image.crop((left, top, left + self.crop, top + self.crop)))

    def image(self, path: Path) -> Array:
        """An image file -> normalised (crop, crop, 3) float32."""
        scale = np.float32(1 / (255 * np.array(self.std)))
        offset = np.float32(-np.array(self.mean) / np.array(self.std))
        return self.pixels(path) * scale + offset
