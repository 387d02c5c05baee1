"""The first batches of a run, drawn as the network sees them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .page import write_page
from .run_folder import BATCHES, RunFolder, Settings
from .sheets import Sheet, never_stopping, sheet_of
from .task import Task

IMAGES = 16  # of each batch


class Pictures:
    """Draws the first batches of a run.

    Args:
        folder: Folder of the run; None draws nothing.
        task: Knows what the targets mean.
        settings: Of the run.
    """

    def __init__(self, folder: RunFolder | None, task: Task, settings: Settings) -> None:
        self.folder, self.task, self.settings = folder, task, settings

    def batch(self, number: int, pixels: Tensor, targets: Tensor, seed: int, share: float) -> None:
        """Draws a batch, if it is one of the first of the run, and writes the page with it.

        Args:
            number: Of the batch in the run, from 0.
            pixels: As for `Trainer.step`.
            targets: As for `Trainer.step`.
            seed: As for `Trainer.step`: images are mixed in the same way.
            share: As for `Trainer.step`.
        """
        if self.folder is None or number >= BATCHES:
            return
        path = self.folder.batch_picture(number)
        with never_stopping(path):
            self._sheet(pixels, targets, seed, share).save(path)
        with never_stopping(self.folder.page):
            write_page(self.folder, self.settings, self.task)

    def _sheet(self, pixels: Tensor, targets: Tensor, seed: int, share: float) -> Sheet:
        recipe, architecture = self.settings.recipe, self.settings.architecture
        generator = torch.Generator().manual_seed(seed)
        classes = self.settings.classes
        # mixed as the normalised pixels are, from which these differ by factors and sums
        mixed, targets = self.task.mixed(
            pixels.float(), targets, recipe, len(classes), generator, share
        )
        shown = mixed[:IMAGES].round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        tiles = []
        for image, target in zip(shown, targets[:IMAGES].numpy()):
            own = np.ascontiguousarray(image)
            picture, caption = self.task.tile(own, target, classes, architecture)
            tiles.append((picture, (caption,)))
        return sheet_of(tiles)
