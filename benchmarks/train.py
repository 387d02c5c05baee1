"""How many images per second a network learns from: `mobilenetv2 train` beside a plain PyTorch
loop, in turns, data loading included.

    pip install '.[train]'
    python benchmarks/train.py --data cifar10/train.zip

The network and the images are the same: width 0.5 for 32x32 pixels, shifted and mirrored, batches of
64. "Every default" is what a short loop does: the maps as PyTorch lays them out, float32, `DataLoader`
without workers, SGD. "Every switch" has channels last, bfloat16 where that is faster, workers where
there are processors for them, and images decoded once. Both have PyTorch's default number of threads;
`mobilenetv2 train` shares the batches among as many processes as it would start itself. None runs in
the process of another, and each turn is an epoch over `--most` images, its start included; the first
round is not counted. "Kept" is what a step keeps for its backward pass. `--profile` adds where its time
goes.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from measure import RESULTS, Watch, machine, markdown, ratio, report, turn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mobilenetv2.architecture import SMALL_IMAGES
from mobilenetv2.heads import Classifier
from mobilenetv2.images import Preprocessing
from mobilenetv2.nn import MobileNetV2
from mobilenetv2.processors import usable_processors
from mobilenetv2.training.augment import Augmentation
from mobilenetv2.training.data import Images, default_workers, loader, read_split
from mobilenetv2.training.machine import automatic_precision, keep_freed_memory
from mobilenetv2.training.network import prepare
from mobilenetv2.training.processes import default_processes, environment
from mobilenetv2.training.recipes import MODERN
from mobilenetv2.training.run_folder import Settings
from mobilenetv2.training.start import Start
from mobilenetv2.training.trainer import Trainer

OURS = "mobilenetv2 train"
DEFAULT, SWITCHES = "PyTorch, every default", "PyTorch, every switch"
BATCH = 64
Step = Callable[[Tensor, Tensor], Any]
Epoch = Callable[[int], Iterable[tuple[Tensor, Tensor]]]
PREPROCESSING = Preprocessing(size=(32, 32), crop_fraction=1.0)


def main() -> int:
    """Trains in turns, prints and writes the table; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder, .zip or .csv")
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--most", type=int, default=1920, help="images an epoch; default: 1920")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="also the operators of a step")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    about, watch = machine(["torch", "lightning", "pillow"]), Watch()
    images = len(read_split(options.data).train.samples)
    served = {name: start(name, options, 1) for name in (DEFAULT, SWITCHES)}
    served = {OURS: start(OURS, options, default_processes(images, BATCH))} | served
    results: dict[str, dict[str, Any]] = {name: {"s": []} for name in served}
    for round_ in range(-1, options.rounds):
        for name in turn(list(served), round_):
            seconds = max(asked(served[name], ("epoch", round_ + 1)))
            if round_ >= 0:
                results[name]["s"].append(seconds)
    for name, processes in served.items():
        results[name]["kept_bytes"] = sum(asked(processes, ("kept",)))
        results[name]["processes"] = len(processes)
    text = table(results, options.most)
    if options.profile:
        profiles = (f"{name}:\n\n{asked(each, ('profile',))[0]}" for name, each in served.items())
        text += "\n\n" + "\n\n".join(profiles)
    for processes in served.values():
        for _, pipe in processes:
            pipe.send(None)
        for process, _ in processes:
            process.join()
    report("train", about, watch, results, text, options.output)
    return 0


Served = list[tuple[BaseProcess, Connection]]


def start(name: str, options: argparse.Namespace, count: int) -> Served:
    """The processes of a way."""
    context, served = get_context("spawn"), []
    settings = environment(count, max(1, usable_processors() // count)) if count > 1 else {}
    for rank in range(count):
        mine, theirs = context.Pipe()
        if settings:
            settings |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        arguments = (name, options, theirs, settings)
        process = context.Process(target=serve, args=arguments, daemon=True)
        process.start()
        theirs.close()  # so that a process that failed is not waited for
        served.append((process, mine))
    return served


def asked(served: Served, question: tuple[Any, ...]) -> list[Any]:
    """What each process answers."""
    for _, pipe in served:
        pipe.send(question)
    return [pipe.recv() for _, pipe in served]


def serve(
    name: str, options: argparse.Namespace, pipe: Connection, settings: dict[str, str]
) -> None:
    """A process of a way, which sleeps while the others have their turns."""
    os.environ.update(settings)
    if settings:
        torch.set_num_threads(int(settings["OMP_NUM_THREADS"]))
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    samples = read_split(options.data).train.samples
    samples = samples[:: len(samples) // options.most][: options.most]  # of all classes
    transform = Augmentation(crop="pad").transform((32, 32), PREPROCESSING)
    classes = 1 + max(sample.target for sample in samples)
    architecture = replace(SMALL_IMAGES, width_mult=options.width, head=Classifier(classes))
    images = Images(samples, transform, remember_bytes=0 if name == DEFAULT else 1 << 30)
    if name == OURS:
        step, batches = ours(architecture, images)
    else:
        step, batches = plain(architecture, images, switched=name == SWITCHES)
    while question := pipe.recv():
        match question:
            case ("epoch", epoch):
                start = time.perf_counter()
                for pixels, labels in batches(epoch):
                    step(pixels, labels)
                pipe.send(time.perf_counter() - start)
            case ("kept",):
                pipe.send(kept_bytes(step, batches))
            case ("profile",):
                pipe.send(profile(step, batches))


def ours(architecture: Any, images: Images) -> tuple[Step, Epoch]:
    """The step and the batches of `mobilenetv2 train`, recipe "modern"."""
    keep_freed_memory()
    fabric = Fabric(accelerator="cpu", devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    fabric.launch()
    net = prepare(MobileNetV2(architecture))
    recipe = MODERN.changed({"batch": BATCH, "augmentation.crop": "pad"})
    recipe = recipe.changed({"augmentation.policy": "none"})
    batch = BATCH // fabric.world_size
    settings = Settings(
        version="",
        data="",
        val=None,
        start=Start(small_images=True),
        recipe=recipe,
        precision=automatic_precision(fabric.device),
        classes=(),
        images={},
        architecture=architecture,
        preprocessing=PREPROCESSING,
        weights={},
    )
    trainer = Trainer(fabric, net, settings)

    def batches(epoch: int) -> Iterable[tuple[Tensor, Tensor]]:
        return loader(
            images,
            batch,
            epoch=epoch,
            seed=0,
            train=True,
            workers=default_workers(),
            rank=fabric.global_rank,
            world=fabric.world_size,
        )

    return lambda pixels, labels: trainer.step(pixels, labels, 0.1, 0), batches


def plain(architecture: Any, images: Images, switched: bool) -> tuple[Step, Epoch]:
    """A loop as people write it."""
    net = MobileNetV2(architecture).train()
    bfloat16 = False
    if switched:
        net = net.to(memory_format=torch.channels_last)
        bfloat16 = automatic_precision(torch.device("cpu")) == "bf16"
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True)

    def step(pixels: Tensor, labels: Tensor) -> None:
        x = pixels.float().div(127.5).sub(1)
        x = x.to(memory_format=torch.channels_last) if switched else x.contiguous()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = nn.functional.cross_entropy(net(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    if not switched:
        return step, lambda epoch: DataLoader(images, BATCH, shuffle=True)
    return step, lambda epoch: DataLoader(
        images, BATCH, shuffle=True, num_workers=default_workers()
    )


def kept_bytes(step: Step, batches: Epoch) -> int:
    """What one step keeps for its backward pass, weights included."""
    kept: dict[int, int] = {}  # by address: what is kept twice counts once

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step(*next(iter(batches(0))))
    return sum(kept.values())


def profile(step: Step, batches: Epoch) -> str:
    """The operators that take most of a step's time, by share."""
    pixels, labels = next(iter(batches(0)))
    step(pixels, labels)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        step(pixels, labels)
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    rows = [
        [event.key, str(event.count), f"{100 * event.self_cpu_time_total / total:.0f} %"]
        for event in events[:8]
    ]
    return markdown(["operator", "calls", "share"], rows)


def table(results: dict[str, dict[str, Any]], images: int) -> str:
    """A row a way."""
    rows = [
        [
            name,
            str(result["processes"]),
            f"{images / np.median(result['s']):.0f}",
            str(ratio(result["s"], results[OURS]["s"])),
            f"{result['kept_bytes'] / 1e6:.0f} MB",
        ]
        for name, result in results.items()
    ]
    return markdown(["way", "processes", "images/s", "time / ours", "kept"], rows)


if __name__ == "__main__":
    sys.exit(main())
