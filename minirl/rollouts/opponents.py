"""Opponents from the past: snapshots of a policy that is being trained."""

import torch
from torch import Tensor

from minirl.policy.models import Policy


class Pool:
    """The newest ``size`` snapshots of a policy, one every ``every`` updates. A memory of an online phase
    (:class:`minirl.techniques.base.Memory`)."""

    def __init__(self, size: int, every: int) -> None:
        self.size, self.every = size, every
        self.updates = 0
        self.snapshots: list[dict[str, Tensor]] = []

    def __len__(self) -> int:
        return len(self.snapshots)

    def learned(self, policy: Policy) -> None:
        """The policy has been updated: maybe time for a snapshot."""
        self.updates += 1
        if self.updates % self.every == 0:
            trained = ((name, p) for name, p in policy.model.named_parameters() if p.requires_grad)
            taken = {name: tensor.detach().clone() for name, tensor in trained}
            self.snapshots = [*self.snapshots, taken][-self.size :]

    @torch.no_grad()
    def member(self, policy: Policy, index: int) -> Policy:
        """The ``index``-th snapshot, the oldest first, as a frozen policy like ``policy``."""
        found = policy.frozen_copy()
        parameters = dict(found.model.named_parameters())
        for name, value in self.snapshots[index].items():
            parameters[name].copy_(value)
        return found

    def state(self) -> dict[str, Tensor]:
        members = {f"{i}/{name}": value for i, some in enumerate(self.snapshots) for name, value in some.items()}
        return {"updates": torch.tensor(self.updates), **members}

    def load(self, state: dict[str, Tensor]) -> None:
        self.updates = int(state["updates"])
        count = 1 + max((int(name.split("/")[0]) for name in state if "/" in name), default=-1)
        self.snapshots = [
            {name.partition("/")[2]: value for name, value in state.items() if name.startswith(f"{i}/")}
            for i in range(count)
        ]
