"""Random command lines: `command_arguments` makes them, `make_paths` the files that they name."""

from __future__ import annotations

import os
import random
from pathlib import Path

import click
from PIL import Image

from mobilenetv2.cli import main

ODD_TEXTS = (
    "", " ", "-", "--", "-1", "0", "1", "2", "3.5", "nan", "inf", "-inf", "1e308", "1e-320", "9" * 30, "0x10", "\u0663\u0662",
    "\udcff", "\ud800", "\x1b]0;x\x07", "two\nlines", "\u202e", "a" * 5000, "%s%n", "{}", "~", "*", "[", "**/*", "C:\\x",
    "http://127.0.0.1:9/x.jpg", "cifar10", "slim-1.0-22", "32", "32x", "x32", "8x8", "999999", "1x999999", "=1", "NAME=VALUE",
)  # fmt: skip
ODD_PATHS = (
    "absent", "absent/x.csv", "folder", "empty", "pipe", "dangling", "loop", "closed", "image.png", "bad.png", "text.txt",
    "list.csv", "bad.csv", "bad.zip", "bad.tflite", "bad.safetensors", "bad.pth", "bad.h5", "bad.tgz", "bad.json", "/dev/null",
    "/dev/full", "n" * 300, "folder/a/b\udce9\x1b.png", "image.png/x", "new.csv", "new.json", "new.safetensors", "new.html",
    "new.png", "new.npz", "labels.txt",
)  # fmt: skip
# A network that runs a million times, or as a thousand processes, is what was asked for.
SMALL_NUMBERS = {"runs", "workers", "epochs"}
# What is right for a parameter, so that many command lines get as far as the work.
RIGHT = {
    "data": "labelled", "paths": "folder", "sources": "folder", "images": "labelled", "source": "cifar10", "argument": "cifar10",
    "option": "cifar10", "model_name": "cifar10", "mistakes": "new.png", "predictions": "new.csv", "output": "new.csv",
    "quantize target": "new.safetensors", "convert target": "new.safetensors", "explain target": "new.html",
    "features target": "new.npz", "samples": "2", "runs": "1", "batch": "1", "resolution": "32", "labels": "labels.txt",
    "figures": "figures", "report": "new.json", "split": "val",
}  # fmt: skip
JUNK = ("--nonsense", "-z", "--top=", "--format", "--device", "--batch_size", "--=", "---", "-o")


def make_paths(folder: Path) -> None:
    """Makes the files that `command_arguments` names, relative to a folder."""
    for name in ("folder/a", "folder/b", "empty", "closed", "labelled/cat", "labelled/dog"):
        (folder / name).mkdir(parents=True)
    for name in (
        "image.png",
        "labelled/cat/1.png",
        "labelled/dog/1.png",
        "folder/a/1.png",
        "folder/b/2.png",
        "folder/a/b\udce9\x1b.png",
    ):
        Image.new("RGB", (9, 7), (len(name), 100, 200)).save(folder / name, "PNG")
    os.mkfifo(folder / "pipe")
    (folder / "dangling").symlink_to("absent")
    (folder / "loop").symlink_to("loop")
    (folder / "closed").chmod(0)
    (folder / "text.txt").write_text("image.png\nabsent\n")
    (folder / "list.csv").write_text("file,label\nimage.png,cat\nbad.png,dog\nabsent,ship\n")
    (folder / "bad.csv").write_bytes(b"file,label\n\xff,\x00\n")
    (folder / "labels.txt").write_text("\n".join("=abcdefghi"))
    for name in ("png", "zip", "tflite", "safetensors", "pth", "h5", "tgz", "json"):
        (folder / f"bad.{name}").write_bytes(bytes(range(256)) * 3)


def command_arguments(command: str, seed: int) -> list[str]:
    """Random words of a command line: options of every kind with values right and wrong.

    Args:
        command: The name of a command. `train` never gets images that it could train with.
        seed: Of the random choices.
    """
    rng = random.Random(f"{command} {seed}")
    parameters = main.commands[command].params
    options = [p for p in parameters if isinstance(p, click.Option)]
    words: list[str] = []
    for option in options:
        if rng.random() < (0.9 if option.required else 2 / (len(options) + 2)):
            words += _option(rng, option, command) * rng.choice((1, 1, 1, 1, 2))
    if rng.random() < 0.15:
        words.append(rng.choice(JUNK))
    for argument in (p for p in parameters if isinstance(p, click.Argument)):
        if rng.random() < 0.95:
            count = rng.choice((1, 1, 2, 4)) if argument.nargs != 1 else 1
            places = [_value(rng, argument, command) for _ in range(count)]
            words = [*places, *words] if rng.random() < 0.5 else [*words, *places]
    return [command, *words]


def _option(rng: random.Random, option: click.Option, command: str) -> list[str]:
    flag = rng.choice((*option.opts, *option.secondary_opts))
    if option.is_flag:
        return [flag]
    value = _value(rng, option, command)
    return [f"{flag}={value}"] if flag.startswith("--") and rng.random() < 0.3 else [flag, value]


def _value(rng: random.Random, parameter: click.Parameter, command: str) -> str:
    name = parameter.name or ""
    right = RIGHT.get(f"{command} {name}", RIGHT.get(name))
    if right and rng.random() < 0.75 and (command, name) != ("train", "data"):
        return right
    if isinstance(parameter.type, click.Choice) and rng.random() < 0.8:
        return str(rng.choice(list(parameter.type.choices)))
    numeric = isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType)
    if name == "processes":  # each imports PyTorch
        return rng.choice(("0", "1", "x", "-1"))
    if numeric or name == "resolution":
        small = name in SMALL_NUMBERS or command in ("benchmark", "train")
        texts = [text for text in ODD_TEXTS if not (small and text in ("9" * 30, "999999"))]
        return rng.choice(("1", "2", "8", rng.choice(texts)))
    if command == "train" and name in ("data", "val"):
        return rng.choice((*ODD_TEXTS[:30], "absent", "empty", "pipe", "bad.csv", "bad.zip"))
    if name in ("argument", "option", "model_name", "source"):
        return rng.choice(("cifar10", "cifar10", "cifar10-int8", *ODD_PATHS, *ODD_TEXTS[:30]))
    if rng.random() < 0.3:
        return rng.choice(ODD_TEXTS)
    return rng.choice(("image.png", "folder", "new.csv", "new.safetensors", *ODD_PATHS))
