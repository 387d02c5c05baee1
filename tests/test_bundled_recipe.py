"""The tool that trains the model that ships: what is not the package's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import train_bundled_model as tool
from torch import distributed
from torch.nn import functional


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
