"""The runtimes that ours is compared with: how each loads its model file and prepares its input.

A runtime is imported when it loads a file, so a process pays only for the runtime that it uses.
`peer_files.py` writes the files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Run = Callable[[Any], Array]  # a prepared input -> (N, classes) float32 logits
PRECISIONS = ("float32", "int8")


class Peer(NamedTuple):
    """One runtime that ours is compared with.

    Attributes:
        title: Its name in the tables.
        package: The Python distribution whose version is reported.
        suffix: Suffix of its model file.
        load: (file, threads) -> a function that runs the network on exactly that many threads.
        prepare: For each precision that it supports, a function from (N, H, W, 3) to the input that
            is fastest for it. The argument is normalised float32, or uint8 pixels for "int8".
        load_bf16: `load` for "bf16", from the same file as for "float32".
    """

    title: str
    package: str
    suffix: str
    load: Callable[[Path, int], Run]
    prepare: Mapping[str, Callable[[Array], Any]]
    load_bf16: Callable[[Path, int], Run] | None = None


def nchw(inputs: Array) -> Array:
    """Reorders (N, H, W, C) to a contiguous (N, C, H, W)."""
    return np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))


def load_onnxruntime(path: Path, threads: int, *, spin: bool = True) -> Run:
    """ONNX Runtime on the CPU with its defaults: all optimisations, and threads that spin while idle."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, {"image": inputs})[0]


def load_openvino(path: Path, threads: int, precision: str = "f32") -> Run:
    """OpenVINO on the CPU, set to low latency and to float32; its default is bfloat16, "bf16", where
    the processor has it.
    """
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda inputs: request.infer([inputs], share_inputs=True, share_outputs=True)[0]


def load_litert(path: Path, threads: int) -> Run:
    """LiteRT with its default, the XNNPACK delegate."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    image = interpreter.get_input_details()[0]["index"]
    logits = interpreter.get_output_details()[0]["index"]

    def run(inputs: Array) -> Array:
        interpreter.set_tensor(image, inputs)
        interpreter.invoke()
        output: Array = interpreter.get_tensor(logits)
        return output

    return run


def load_ncnn(path: Path, threads: int) -> Run:
    """ncnn in float32. It has no batches, so images run one after another."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    net.load_param(str(path))
    net.load_model(str(path.with_suffix(".bin")))

    def run(inputs: list[Any]) -> Array:
        outputs = []
        for image in inputs:
            extractor = net.create_extractor()
            extractor.input("image", image)
            outputs.append(np.array(extractor.extract("logits")[1]))
        return np.stack(outputs)

    return run


def prepare_ncnn(inputs: Array) -> list[Any]:
    """One `ncnn.Mat` (C, H, W) per image."""
    import ncnn

    return [ncnn.Mat(image).clone() for image in nchw(inputs)]


def load_torch(path: Path, threads: int) -> Run:
    """PyTorch in eager mode, channels last, batch norms folded. The file lists the calls to make."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads)
    steps: list[dict[str, Any]] = torch.load(path)
    for step in steps:
        if "groups" in step:
            step["weight"] = step["weight"].to(memory_format=torch.channels_last)

    def run_step(step: dict[str, Any], x: Any, y: Any) -> Any:
        kind = step["kind"]
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

    def run(inputs: Any) -> Array:
        with torch.inference_mode():
            values = {"image": inputs}
            for step in steps:
                x, *others = (values[source] for source in step["sources"])
                values[step["name"]] = run_step(step, x, *(others or [None]))
            logits: Array = values[steps[-1]["name"]].numpy()
            return logits

    return run


def prepare_torch(inputs: Array) -> Any:
    """A tensor of shape (N, C, H, W) whose memory is in the order NHWC."""
    import torch

    return torch.from_numpy(nchw(inputs)).to(memory_format=torch.channels_last)


NCHW = {"float32": nchw, "int8": nchw}
PEERS = {
    "onnxruntime": Peer("ONNX Runtime", "onnxruntime", ".onnx", load_onnxruntime, NCHW),
    "openvino": Peer(
        "OpenVINO",
        "openvino",
        ".onnx",
        load_openvino,
        NCHW | {"bf16": nchw},
        partial(load_openvino, precision="bf16"),
    ),
    "litert": Peer(
        "LiteRT",
        "ai-edge-litert",
        ".tflite",
        load_litert,
        {"float32": np.ascontiguousarray, "int8": np.ascontiguousarray},
    ),
    "ncnn": Peer("ncnn", "ncnn", ".param", load_ncnn, {"float32": prepare_ncnn}),
    "torch": Peer("PyTorch eager", "torch", ".pt", load_torch, {"float32": prepare_torch}),
}


class Recipe(NamedTuple):
    """Image preparation and labels, as a user of a peer writes them by hand."""

    short_side: int
    crop: int
    filter: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Reads a file that `save` wrote."""
        return cls(*json.loads(path.read_text(encoding="utf-8")))

    def save(self, path: Path) -> None:
        """Writes the recipe as a JSON list."""
        path.write_text(json.dumps(self), encoding="utf-8")

    def pixels(self, path: Path) -> Array:
        """Decodes an image file with Pillow: (crop, crop, 3) uint8."""
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

    def normalized(self, path: Path) -> Array:
        """Decodes an image file and normalises it: (crop, crop, 3) float32."""
        scale = np.float32(1 / (255 * np.array(self.std)))
        offset = np.float32(-np.array(self.mean) / np.array(self.std))
        return self.pixels(path) * scale + offset
