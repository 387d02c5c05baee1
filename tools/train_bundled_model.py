"""Trains the network that ships: CIFAR-10's ten classes at 32 x 32, from scratch.

    torchrun --nproc_per_node 2 tools/train_bundled_model.py TRAIN.zip TEST.zip -o cifar10.safetensors

The zips hold JPEG files as class/name.jpg. 2,000 of the training images (of a fixed shuffle) are
the validation set; the test set is used once, at the end. Each process trains half of every batch on
one core. The recipe is laid out over a time, not over epochs: a slower machine trains less, and no
longer. A checkpoint is written after each epoch; started again, it goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import zipfile
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, distributed, nn
from torch.nn.functional import interpolate, one_hot
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mobilenetv2.architecture import Architecture, Stage
from mobilenetv2.heads import Classifier
from mobilenetv2.images import Preprocessing
from mobilenetv2.nn import MobileNetV2
from mobilenetv2.nn.fused import fuse
from mobilenetv2.training.augment import Augmentation
from mobilenetv2.training.machine import autocast

# Table 2 with less stride in front, and channels where they are cheap: 32, 16, 8 and 4 pixels.
ARCHITECTURE = Architecture(
    stages=(
        Stage(expansion=1, channels=16, repeats=1, stride=1),
        Stage(expansion=3, channels=16, repeats=1, stride=1),
        Stage(expansion=4, channels=32, repeats=3, stride=2),
        Stage(expansion=4, channels=64, repeats=8, stride=2),
        Stage(expansion=6, channels=96, repeats=3, stride=2),
        Stage(expansion=4, channels=128, repeats=1, stride=1),
    ),
    stem_channels=16,
    stem_stride=1,
    last_channels=256,
    head=Classifier(10),
    resolution=(32, 32),
    padding="symmetric",
    bn_epsilon=1e-5,
)
PREPROCESSING = Preprocessing(
    size=(32, 32), crop_fraction=1.0, mean=(0.5,) * 3, std=(0.25,) * 3
)  # -2 to 2
POLICY = Augmentation(crop="none", flip=False, policy="trivial").transform((32, 32), PREPROCESSING)


@dataclass(frozen=True)
class Recipe:
    minutes: float = 118.0  # of training; below, a share is one of this time
    sides: tuple[tuple[float, int], ...] = ((0.25, 24), (0.5, 28), (1.0, 32))  # until share, pixels
    matrix_rate: float = 0.025  # the highest, of the matrices of 1x1 convolutions (`Muon`)
    learning_rate: float = 0.12  # the highest, of everything else; SGD, Nesterov momentum 0.9
    warm_up: float = 0.03  # share, after which both rates fall along a line to 0
    weight_decay: float = 5e-4  # of all other kernels and the classifier
    batch: int = 256  # of both processes together
    label_smoothing: float = 0.1
    ema_decay: float = 0.999
    precision: str = "bf16"  # which not every processor is faster with
    bn_decay: float = 0.9
    shift: int = 4  # pixels, at most, over reflected edges
    cutout: int = 8  # side in pixels of the square that is greyed
    policy: float = 1.0  # chance of TrivialAugment as well,
    cutmix: float = 0.3  # chance of a square of another image, from `cutmix_from` on;
    cutmix_from: float = 0.25
    policies: float = 0.96  # until this share, both
    validation: int = 2000
    seed: int = 0

    def pace(self, share: float) -> float:
        """What the learning rates are multiplied by, 0 to 1, after this share of the time."""
        return max(0.0, min(share / self.warm_up, (1 - share) / (1 - self.warm_up)))

    def side(self, share: float) -> int:
        """Pixels to which images are resized."""
        return next(side for until, side in self.sides if share < until or until == 1)


class Muon:
    """Momentum whose steps are orthogonal matrices (Jordan et al. 2024), for 1x1 convolutions.

    A batch norm follows each of them, so that only a matrix's direction matters: its Frobenius norm
    is kept at the root of the number of its rows, and `rate` is the share of it that a step turns.
    The processes, whose gradients are equal, share the matrices out.
    """

    def __init__(self, matrices: list[Tensor], momentum: float = 0.85) -> None:
        self.matrices, self.momentum = [each.detach().flatten(1) for each in matrices], momentum
        self.parameters = matrices
        self.velocities = [torch.zeros_like(each) for each in self.matrices]
        self.keep_norms()

    def keep_norms(self) -> None:
        for matrix in self.matrices:
            matrix.mul_(len(matrix) ** 0.5 / matrix.norm())

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Takes the parameters' gradients, and leaves none."""
        updates = []
        for i, (parameter, velocity) in enumerate(zip(self.parameters, self.velocities)):
            gradient = parameter.grad.flatten(1)
            velocity.mul_(self.momentum).add_(gradient)
            mine = i % distributed.get_world_size() == distributed.get_rank()
            ahead = gradient + self.momentum * velocity
            updates.append(orthogonal(ahead) if mine else torch.zeros_like(ahead))
            parameter.grad = None
        flat = torch.cat([each.flatten() for each in updates])
        distributed.all_reduce(flat)
        for matrix, update in zip(self.matrices, flat.split([each.numel() for each in updates])):
            rows, columns = matrix.shape
            matrix.sub_(update.view_as(matrix), alpha=rate * max(1.0, rows / columns) ** 0.5)
        self.keep_norms()


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """U V^T of the decomposition U S V^T, its singular values from about 0.7 to 1.2."""
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(iterations):
        square = wide @ wide.T
        wide = 3.4445 * wide + (2.0315 * square @ square - 4.775 * square) @ wide
    return wide if wide.shape == matrix.shape else wide.T


def read_zip(path: Path) -> tuple[NDArray[np.uint8], Tensor, list[str]]:
    """All images of a zip as (N, H, W, 3), their classes, and the class names in sorted order."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        classes = sorted({name.split("/")[-2] for name in names})
        images = np.stack(
            [np.asarray(Image.open(BytesIO(archive.read(name))).convert("RGB")) for name in names]
        )
    return images, torch.tensor([classes.index(name.split("/")[-2]) for name in names]), classes


def augment(
    x: NDArray[np.uint8],
    mirrored: NDArray[np.bool_],
    recipe: Recipe,
    share: float,
    random: np.random.Generator,
) -> NDArray[np.uint8]:
    """Shifts, mirrors, perhaps distorts, and greys a square of each image; (N, H, W, 3)."""
    n, side = x.shape[:2]
    padded = np.pad(x, ((0, 0), (recipe.shift,) * 2, (recipe.shift,) * 2, (0, 0)), "reflect")
    top, left = random.integers(0, 2 * recipe.shift + 1, (2, n, 1))
    at = np.arange(side)
    columns = np.where(mirrored[:, None], side - 1 - at, at) + left
    x = padded[np.arange(n)[:, None, None], (at + top)[:, :, None], columns[:, None, :]]
    if share < recipe.policies:
        for i in np.flatnonzero(random.random(n) < recipe.policy):
            x[i] = POLICY(Image.fromarray(x[i]), random)
    x[squares(np.full(n, recipe.cutout), side, random)] = 128
    return x


def cutmix(
    x: NDArray[np.uint8], target: Tensor, chance: float, random: np.random.Generator
) -> tuple[NDArray[np.uint8], Tensor]:
    """Pastes into some of the images (N, H, W, 3) a square of the one before, its area uniform,
    and as large a share of its classes into theirs, (N, classes); each image has its own square.
    """
    n, side = x.shape[:2]
    pasted = squares(side * random.random(n) ** 0.5 * (random.random(n) < chance), side, random)
    mixed = np.where(pasted[..., None], np.roll(x, 1, axis=0), x)
    covered = torch.from_numpy(pasted.mean((1, 2))).float()[:, None]
    return mixed, torch.lerp(target, target.roll(1, 0), covered)


def squares(sizes: NDArray[np.number], side: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """Sizes in pixels (N,) -> where a square of that size is around a random point, (N, H, W)."""
    centre = random.integers(0, side, (2, len(sizes), 1))
    rows, columns = np.abs(np.arange(side) - centre + 0.5) <= sizes[:, None] / 2
    return rows[:, :, None] & columns[:, None, :]


def normalise(x: NDArray[np.uint8]) -> Tensor:
    """(N, H, W, 3) of 0..255 -> what the network is fed, (N, 3, H, W) channels last."""
    return ((torch.from_numpy(x).float() / 255 - 0.5) / 0.25).permute(0, 3, 1, 2)


@torch.no_grad()
def accuracy(net: nn.Module, x: NDArray[np.uint8], y: Tensor) -> float:
    """Percent of the images whose most probable class is right; each process tries its share."""
    net.eval()
    rank, world = distributed.get_rank(), distributed.get_world_size()
    right = sum(
        (net(normalise(x[i : i + 250])).argmax(1) == y[i : i + 250]).sum()
        for i in range(250 * rank, len(y), 250 * world)
    )
    right = torch.as_tensor(right)
    distributed.all_reduce(right)
    return 100 * int(right) / len(y)


def shared_mean(tensors: list[Tensor]) -> None:
    """Each tensor becomes its mean over the processes."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(part.view_as(tensor))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    recipe = Recipe()
    distributed.init_process_group("gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    x, y, classes = read_zip(options.train)
    order = np.random.default_rng(recipe.seed).permutation(len(x))
    held_out, train = order[: recipe.validation], order[recipe.validation :]

    net = MobileNetV2(ARCHITECTURE, drop_rate=0.0, bn_decay=recipe.bn_decay)
    net.to(memory_format=torch.channels_last)
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)
    fuse(net)
    pointwise = [
        m.weight for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)
    ]
    muon = Muon(pointwise)
    others = [p for p in net.parameters() if all(p is not each for each in pointwise)]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in others if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True, fused=True)
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    parts = {"net": net, "ema": ema, "optimizer": optimizer}
    saved = options.output.with_suffix(".part.pt")
    log: list[dict[str, float]] = []
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        log = state["log"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
        for velocity, each in zip(muon.velocities, state["velocities"], strict=True):
            velocity.copy_(each)

    started = time.time() - (log[-1]["seconds"] if log else 0.0)
    share = log[-1]["share"] if log else 0.0
    while share < 1:
        epoch, side = len(log), recipe.side(share)
        random = np.random.default_rng([recipe.seed, epoch, rank])
        torch.manual_seed(1000 * epoch + rank)
        order = np.random.default_rng([recipe.seed, epoch]).permutation(train)
        net.train()
        count = right = 0
        total = torch.zeros(1)
        for step in range(len(order) // recipe.batch):
            part = order[step * recipe.batch : (step + 1) * recipe.batch][rank::world]
            mirrored = (part + epoch) % 2 == 0  # each image in every other epoch
            augmented, labels = augment(x[part], mirrored, recipe, share, random), y[part]
            target = one_hot(labels, len(classes)).float()
            if recipe.cutmix_from <= share < recipe.policies:
                augmented, target = cutmix(augmented, target, recipe.cutmix, random)
            images = interpolate(normalise(augmented), size=side, mode="bilinear", antialias=True)
            with autocast(images.device, recipe.precision):
                logits = net(images).float()
            loss = loss_of(logits, target)
            optimizer.zero_grad()
            loss.backward()
            clock = torch.tensor([(time.time() - started) / (60 * recipe.minutes)])
            shared_mean([clock, *(p.grad for p in net.parameters() if p.grad is not None)])
            share = float(clock)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * recipe.pace(share)
            optimizer.step()
            muon.step(recipe.matrix_rate * recipe.pace(share))
            ema.update_parameters(net)
            count, right = count + len(part), right + int((logits.argmax(1) == labels).sum())
            total += loss.detach() * len(part)
            if share >= 1:
                break
        shared_mean([total])
        shared_mean([b for b in net.buffers() if b.dtype == torch.float32])
        shared_mean([b for b in ema.buffers() if b.dtype == torch.float32])
        validation = accuracy(ema.module, x[held_out], y[held_out])
        if rank == 0:
            log.append(
                {
                    "epoch": epoch + 1,
                    "side": side,
                    "images": count * world,
                    "loss": round(float(total) / count, 4),
                    "train_top1": round(100 * right / count, 2),
                    "validation_top1": round(validation, 2),
                    "share": round(share, 5),
                    "seconds": round(time.time() - started, 1),
                }
            )
            print(json.dumps(log[-1]), flush=True)
            state = {name: part.state_dict() for name, part in parts.items()}
            state |= {"velocities": muon.velocities, "log": log}
            torch.save(state, saved.with_suffix(".tmp"))
            os.replace(saved.with_suffix(".tmp"), saved)
        else:
            log.append({})
    test_x, test_y, _ = read_zip(options.test)
    test_top1 = accuracy(ema.module, test_x, test_y)
    if rank == 0:
        provenance = {
            "source": "tools/train_bundled_model.py",
            "trained_on": f"CIFAR-10 (Krizhevsky 2009), {len(train)} of the {len(x)} training "
            "images, from scratch",
            "licence": "Apache-2.0",
            "validation_top1": log[-1]["validation_top1"],
            "test_top1": test_top1,
            "recipe": asdict(recipe),
            "log": log,
        }
        print(json.dumps({"test_top1": test_top1}), flush=True)
        ema.module.to_checkpoint(
            labels=classes, preprocessing=PREPROCESSING, provenance=provenance
        ).save(options.output)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
