"""The tool that trains the model that ships: what is not the package's own."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
import train_bundled_model as tool
from PIL import Image
from torch import distributed
from torch.nn import functional

from mobilenetv2.checkpoint import Checkpoint


@pytest.mark.parametrize("shape", [(24, 144), (144, 24), (64, 64)])
def test_a_step_turns_all_directions_alike(shape: tuple[int, int]) -> None:
    """Singular values over three orders of magnitude become nearly equal; their vectors stay."""
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    found = tool.orthogonal(u @ torch.diag(torch.logspace(0, -3, len(vh))) @ vh)
    turned = u.T @ found @ vh.T
    assert torch.allclose(turned, torch.diag(turned.diag()), atol=1e-3)
    large = turned.diag()[torch.logspace(0, -3, len(vh)) > 0.03]
    assert 0.6 < large.min() <= large.max() < 1.3


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A group of one process."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


def test_a_step_forgets_its_gradient(alone: None) -> None:
    """What is left of a gradient would be added to the next one."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(8, 24, 1, bias=False)
    muon = tool.Muon([layer.weight])
    before = layer.weight.detach().clone()
    y = functional.batch_norm(layer(torch.randn(2, 8, 3, 3)), None, None, training=True)
    (y * torch.randn(y.shape)).mean().backward()
    muon.step(0.02)
    assert layer.weight.grad is None
    assert float(layer.weight.detach().norm()) == pytest.approx(24**0.5)
    turned = functional.cosine_similarity(before.flatten(), layer.weight.flatten(), dim=0)
    assert float(turned.detach().arccos()) == pytest.approx(0.02, rel=0.2)


def test_the_pace_of_the_recipe() -> None:
    recipe = tool.Recipe(warm_up=0.1, sides=((0.25, 24), (1.0, 32)))
    paces = [recipe.pace(share) for share in (0, 0.05, 0.1, 0.55, 1, 1.01)]
    assert paces == pytest.approx([0, 0.5, 1, 0.5, 0, 0])
    assert [recipe.side(share) for share in (0, 0.24, 0.25, 1.0)] == [24, 24, 32, 32]


def test_pasted_squares_are_the_image_before() -> None:
    x = np.random.default_rng(0).integers(0, 256, (2000, 32, 32, 3), dtype=np.uint8)
    own = torch.eye(2000)  # each image is a class
    mixed, target = tool.cutmix(x, own, 0.3, np.random.default_rng(1))
    changed = (mixed != x).any(-1)
    assert (mixed == np.roll(x, 1, axis=0))[changed].all()
    shares = target[torch.arange(2000), torch.arange(-1, 1999)].numpy()  # of the image before
    assert np.allclose(changed.mean((1, 2)), shares, atol=3 / 1024)
    assert torch.allclose(target.diag() + torch.from_numpy(shares), torch.ones(2000))
    assert (shares > 0).mean() == pytest.approx(0.3, abs=0.03)
    assert shares.max() > 0.8
    rows, columns = np.ptp(np.argwhere(changed[shares.argmax()]), axis=0)
    assert abs(int(rows) - int(columns)) < 16  # a square, cut at the edges


def _zip_of_colours(path: Path, a_class: int) -> Path:
    """Ten classes, each of one grey, noisy."""
    random = np.random.default_rng(a_class)
    with zipfile.ZipFile(path, "w") as archive:
        for label in range(10):
            for i in range(a_class):
                pixels = random.integers(0, 25, (32, 32, 3)) + 25 * label
                encoded = BytesIO()
                Image.fromarray(pixels.astype(np.uint8)).save(encoded, "jpeg")
                archive.writestr(f"images/grey{label}/{i}.jpg", encoded.getvalue())
    return path


class _Clock:
    """A tenth of a second a call, until it is stopped."""

    def __init__(self, calls: int) -> None:
        self.called, self.calls = 0, calls

    def time(self) -> float:
        self.called += 1
        if self.called > self.calls:
            raise KeyboardInterrupt
        return self.called / 10


def test_training_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in its third epoch and started again, it ends as if it had not been stopped."""
    recipe = tool.Recipe(minutes=0.02, batch=16, validation=20, precision="fp32", cutmix_from=0.5)
    train, test = _zip_of_colours(tmp_path / "train.zip", 6), _zip_of_colours(tmp_path / "t.zip", 2)
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "0")
    monkeypatch.setattr(tool, "Recipe", lambda: recipe)

    def run(output: Path, calls: int) -> None:
        monkeypatch.setattr(tool, "time", _Clock(calls))
        monkeypatch.setattr("sys.argv", ["tool", str(train), str(test), "-o", str(output)])
        threads = torch.get_num_threads()
        try:
            tool.main()
        finally:
            torch.set_num_threads(threads)
            if distributed.is_initialized():
                distributed.destroy_process_group()

    run(tmp_path / "whole.safetensors", 1000)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts.safetensors", 8)
    assert not (tmp_path / "parts.safetensors").exists()
    run(tmp_path / "parts.safetensors", 1000)
    whole = Checkpoint.load(tmp_path / "whole.safetensors")
    parts = Checkpoint.load(tmp_path / "parts.safetensors")
    log = whole.provenance["log"]
    assert whole.labels == tuple(f"grey{label}" for label in range(10))
    assert [(each["epoch"], each["images"], each["side"]) for each in log] == [
        (1, 32, 24), (2, 32, 24), (3, 32, 28), (4, 32, 32), (5, 16, 32),
    ]  # fmt: skip
    assert parts.provenance == whole.provenance
    for name, array in whole.arrays.items():
        assert np.allclose(parts.arrays[name], array, atol=1e-6), name
