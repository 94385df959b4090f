"""Ranks: several processes that train one policy.

Every rank holds the whole learner and runs the same loop on the same numbers. Two things are shared out. Of episodes
each rank makes those of its own prompts and gets the others' from those who made them
(:func:`minirl.rollouts.episodes.roll_out`). Of a loss each rank backpropagates through its own micro-batches, and then
the gradients are added (:class:`minirl.loops.Learner`). Credit, samplers, memories and the optimiser's step are
computed by all, so techniques know nothing of ranks, and the state of a run is the same everywhere: one rank writes it.

What comes out is what one rank computes with the same batch, except for the order in which gradients are added.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(minutes=30)  # for a rank that is slower than another; one that ends is noticed at once


@dataclass(frozen=True)
class Place:
    """Which of how many ranks this process is."""

    rank: int = 0
    count: int = 1


_here = Place()


def here() -> Place:
    """The place of this process: the only one, unless it has :func:`joined` others."""
    return _here


@contextlib.contextmanager
def adopted(rank: int, count: int) -> Iterator[None]:
    """Be one of ``count`` ranks that someone else has brought together, such as accelerate."""
    global _here
    before, _here = _here, Place(rank, count)
    try:
        yield
    finally:
        _here = before


@contextlib.contextmanager
def joined(rank: int, count: int, store: Path, device: str = "cpu") -> Iterator[None]:
    """Be one of ``count`` ranks that meet by the file ``store``, which must be a new one; waits for all."""
    backend = "cpu:gloo,cuda:nccl" if torch.device(device).type == "cuda" else "gloo"
    dist.init_process_group(backend, f"file://{store.resolve()}", PATIENCE, rank=rank, world_size=count)
    try:
        with adopted(rank, count):
            yield
    finally:
        dist.destroy_process_group()


def share(parts: Sequence[Any]) -> Sequence[Any]:
    """What of ``parts`` is this rank's: every ``count``-th."""
    return parts[_here.rank :: _here.count]


def own_run(length: int) -> slice:
    """This rank's own run of ``length`` neighbours: even up to one, and in the order of ranks."""
    rank, count = _here.rank, _here.count
    return slice(length * rank // count, length * (rank + 1) // count)


def gather(part: Any) -> list[Any]:
    """``part`` of every rank, in their order. Tensors in it must lie on the CPU."""
    if _here.count == 1:
        return [part]
    parts: list[Any] = [None] * _here.count
    dist.all_gather_object(parts, part)
    return parts


def from_first(value: Any) -> Any:
    """The ``value`` that rank 0 gives; that of others is ignored."""
    if _here.count == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def add(stats: Mapping[str, float]) -> dict[str, float]:
    """Sums over the ranks, by name, of what was computed from own micro-batches."""
    total: dict[str, float] = {}
    for part in gather(dict(stats)):
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def add_gradients(parameters: Iterable[Tensor]) -> None:
    """Make each gradient the sum of those of all ranks. A rank that had nothing to backpropagate adds zeros."""
    if _here.count == 1:
        return
    parameters = list(parameters)
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    dist.all_reduce(flat)
    for parameter, total in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = total.view_as(parameter)
