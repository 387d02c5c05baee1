"""Other people's formats, written from a checkpoint: a loop over `network()` for each, without a
tracer, PyTorch or TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from ..errors import MissingExtraError, install_hint, missing_modules
from ..int8 import AnyCheckpoint
from .options import WriteOptions, WriterError

__all__ = ["FORMATS", "Format", "WriteOptions", "WriterError", "format_of", "writer"]


@dataclass(frozen=True)
class Format:
    """A format that files are written in.

    Attributes:
        name: As `--to` takes it.
        suffix: Ending of its files; "" stands for a folder.
        module: The module of this package that writes it, with a function `write(checkpoint, path,
            options)`; it gives every file and folder that it made. Of the same name is the module of
            `verification` that runs it.
        needs: Modules that writing needs.
        runs_with: The package on PyPI that checks a written file, and its module.
        beside: Endings of the files that are written beside the one that is named.
        inside: Of a folder, what may be in it, as a pattern of relative paths.
        inputs: What its files can take; a caller who says nothing gets the first, or of int8 files the
            last.
        float16: What it rounds where weights are float16: "kernels" with their batch norms folded in;
            "constants", these and biases; or "arrays", kernels alone.
        says_detections: Whether its files say how detections are selected from raw results.
    """

    name: str
    suffix: str
    module: str
    needs: tuple[str, ...] = ()
    runs_with: tuple[str, str] = ("", "")
    beside: tuple[str, ...] = ()
    inside: str = ""
    inputs: tuple[str, ...] = ("float32", "uint8")
    float16: Literal["kernels", "constants", "arrays"] = "kernels"
    says_detections: bool = False

    def files(self, path: Path) -> tuple[Path, ...]:
        """What may be written where `path` is named."""
        return (path, *(path.with_suffix(suffix) for suffix in self.beside))


FACTS = (".json", ".labels.txt")  # of formats without a place for them
FORMATS = {
    each.name: each
    for each in (
        Format("onnx", ".onnx", "onnx", ("onnx",), ("onnxruntime", "onnxruntime")),
        Format("tflite", ".tflite", "tflite", (), ("ai-edge-litert", "ai_edge_litert")),
        Format(
            "openvino",
            ".xml",
            "openvino",
            ("onnx", "openvino"),
            ("openvino", "openvino"),
            beside=(".bin",),
            float16="constants",
        ),
        Format(
            "coreml",
            ".mlpackage",
            "coreml",
            ("coremltools",),
            ("coremltools", "coremltools"),
            inside=r"Manifest\.json|Data(/.*)?",
            float16="constants",
        ),
        Format("ncnn", ".param", "ncnn", (), ("ncnn", "ncnn"), beside=(".bin", *FACTS)),
        Format(
            "torchvision",
            ".pth",
            "torchvision",
            ("torch",),
            ("torch", "torch"),
            beside=FACTS,
            float16="arrays",
        ),
        Format("timm", ".safetensors", "timm", beside=(".json",), float16="arrays"),
        Format("keras", ".h5", "keras", ("h5py",), ("h5py", "h5py"), beside=FACTS),
        Format("program", ".mnv2", "program", inputs=("uint8",), says_detections=True),
        Format(
            "transformers.js",
            "",
            "transformers_js",
            ("onnx",),
            ("onnxruntime", "onnxruntime"),
            inside=r"config\.json|preprocessor_config\.json|onnx|onnx/model(_quantized)?\.onnx",
            inputs=("float32",),
        ),
    )
}


def format_of(path: Path) -> Format | None:
    """The format that a file's ending stands for; None: our own, or an unknown one."""
    named = [each for each in FORMATS.values() if each.suffix == path.suffix.lower()]
    return named[0] if path.suffix and named and named[0].name != "timm" else None


def writer(target: Format) -> Callable[[AnyCheckpoint, Path, WriteOptions], tuple[Path, ...]]:
    """The function that writes a format.

    Raises:
        MissingExtraError: A module that it needs is not installed.
    """
    if missing := missing_modules(*target.needs):
        raise MissingExtraError(
            f"writing {target.name} needs {' and '.join(missing)}; {install_hint('export')}"
        )
    module: Any = import_module(f".{target.module}", __name__)
    write: Callable[[AnyCheckpoint, Path, WriteOptions], tuple[Path, ...]] = module.write
    return write
