"""What "micro-batches add up to the batch" means, for every objective."""

import pytest
import torch
from torch import Tensor


def assert_parts_add_up(whole: tuple[Tensor, dict], parts: list[tuple[Tensor, dict]], leaf: Tensor) -> None:
    """Loss, gradient with respect to ``leaf`` and all statistics of ``parts`` sum to those of ``whole``."""
    (loss, stats), sum_of_parts = whole, sum(loss for loss, _ in parts)
    torch.testing.assert_close(sum_of_parts, loss)
    gradients = [torch.autograd.grad(value, leaf, retain_graph=True) for value in (sum_of_parts, loss)]
    torch.testing.assert_close(*gradients)
    assert {name: sum(part[name] for _, part in parts) for name in stats} == pytest.approx(stats)
