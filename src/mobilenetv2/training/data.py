"""Stub until the real one arrives."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..datasets import Dataset, read_dataset
from ..errors import ImageError
from ..images import decode


@dataclass(frozen=True)
class Split:
    train: Dataset
    val: Dataset
    problems: tuple = ()

    def rows(self):
        return [
            {"class": a["class"], "train": a["pictures"], "val": b["pictures"]}
            for a, b in zip(self.train.summary(), self.val.summary())
        ]


def read_split(source, val=None, *, val_share=0.1, seed=0):
    try:
        return Split(read_dataset(source, "train"), read_dataset(source, "val"))
    except Exception:
        whole = read_dataset(source)
        held = set(range(0, len(whole.samples), max(2, round(1 / val_share))))
        a = tuple(s for i, s in enumerate(whole.samples) if i not in held)
        b = tuple(s for i, s in enumerate(whole.samples) if i in held)
        return Split(replace(whole, samples=a), replace(whole, samples=b))


def check_pictures(samples, workers):
    broken = {}
    for s in samples:
        try:
            decode(s.open())
        except ImageError as error:
            broken[s.name] = error
    return broken


def without(dataset, broken):
    return replace(dataset, samples=tuple(s for s in dataset.samples if s.name not in broken))


class Pictures(torch.utils.data.Dataset):
    def __init__(self, samples, transform, seed=0, remember_bytes=0):
        self.samples, self.transform, self.seed, self.epoch = samples, transform, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        s = self.samples[i]
        rng = np.random.default_rng([self.seed, self.epoch, i])
        return torch.from_numpy(self.transform(decode(s.open()), rng)).permute(2, 0, 1), s.label


def loader(pictures, batch, *, epoch, seed, train, workers, balance=False, rank=0, world=1):
    pictures.set_epoch(epoch)
    n = len(pictures)
    order = np.random.default_rng([seed, epoch]).permutation(n) if train else np.arange(n)
    order = order[rank::world]
    parts = np.array_split(order, max(1, -(-len(order) // batch)))
    return DataLoader(
        pictures, batch_sampler=[list(map(int, p)) for p in parts if len(p)], num_workers=workers
    )


def default_workers():
    return 0
