"""How well a policy does at each level of a task, at the end and along the way."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from minirl.evaluation.attempts import Evaluation, attempt_all
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, Task, get

PROBE_SEED = 7_000_003  # of problems that neither train nor evaluate


def evaluate_levels(
    policy: Policy,
    task: Task,
    items: list[Item],
    *,
    seed: int,
    levels: Sequence[int],
    temperature: float = 1.0,
    batch: int = 256,
) -> tuple[Evaluation, Rollouts]:
    """``accuracy/LEVEL`` for the problems at ``levels`` that have the seeds and indices of ``items``, and ``accuracy``,
    their mean, per index. The rollouts are those of the last of ``levels``."""
    right: dict[int, list[float]] = {}
    spent = 0
    for level in levels:
        problems = [task.item(item.seed, item.index, level) for item in items]
        rollouts = attempt_all(policy, task, problems, seed=seed, temperature=temperature, batch=batch)
        right[level] = (rollouts.scores[:, 0] == 1).float().tolist()
        spent += rollouts.generated_tokens()
    values = {f"accuracy/{level}": right[level] for level in levels}
    values["accuracy"] = [sum(column) / len(levels) for column in zip(*right.values(), strict=True)]
    metrics = {name: sum(column) / len(column) for name, column in values.items()}
    return Evaluation(metrics, values, spent), rollouts


class Probe:
    """Measures the policy every ``every`` updates on ``items`` problems of each of ``levels``: ``probe/LEVEL``, and
    ``probe``, their mean. What it generates does not count. A memory of an online phase."""

    def __init__(self, task: str, levels: Sequence[int], items: int, every: int) -> None:
        self.task, self.levels, self.items, self.every = get(task), tuple(levels), items, every
        self.updates = 0

    def learned(self, policy: Policy) -> dict[str, float]:
        """The policy has been updated: maybe time to look."""
        self.updates += 1
        if self.updates % self.every:
            return {}
        problems = self.task.items(PROBE_SEED, range(self.items), self.levels[0])
        found, _ = evaluate_levels(policy, self.task, problems, seed=PROBE_SEED, levels=self.levels)
        return {name.replace("accuracy", "probe"): value for name, value in found.metrics.items()}

    def state(self) -> dict[str, Tensor]:
        return {"updates": torch.tensor(self.updates)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.updates = int(state["updates"])
