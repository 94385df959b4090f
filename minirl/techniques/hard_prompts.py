"""What the techniques share that ask what to do with problems on which no rollout succeeds.

All of them are policy gradient with the advantages of GRPO on the groups that have a success and a failure, plus
something for the others: :func:`with_imitation` adds texts to imitate to the batch, :class:`Buffer` keeps problems for
later. :func:`signal` is what they log. :class:`GroupRL` does nothing about the others, :class:`Mending` is a remedy
that has no page of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat
from torch import Tensor

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.hints import as_written, key, pick, shown, unsolved
from minirl.tasks import Item, Task, get
from minirl.tasks.gaps import STEP, Gaps, hard
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, episodes, turn_credit


def group_credit(rollouts: Rollouts, beta: float) -> Credit:
    """GRPO's advantages, r − mean of the group over its standard deviation: 0 where all rows fail or all succeed."""
    return turn_credit(rollouts, rollouts.scores, (beta,), 0.0, "group_normalised")


def with_imitation(rollouts: Rollouts, credit: Credit, texts: Rollouts | None, weight: float, count: int) -> Credit:
    """``credit`` of ``rollouts``, and ``weight`` / ``count`` times the sum of log π of ``texts``.

    REINFORCE's loss is a mean over all N + M rows, so what was said of N rows is scaled by (N + M) / N to stay what it
    was, and each of the M texts has the advantage ``weight`` · (N + M) / ``count``.
    """
    if texts is None or not len(texts.items):
        return Credit(credit.advantages, credit.kl, credit.stats, rollouts)
    rows, sequences = len(rollouts.items), Rollouts.join([rollouts, texts])
    total, width = len(sequences.items), sequences.ids.shape[1]
    worth = weight * total / count * texts.own
    return Credit(
        advantages=torch.cat([_widened(credit.advantages, width) * total / rows, _widened(worth, width)]),
        kl=torch.cat(
            [_widened(credit.kl, width) * total / rows, torch.zeros(total - rows, width, device=worth.device)]
        ),
        stats=credit.stats,
        sequences=sequences,
    )


def _widened(tensor: Tensor, width: int) -> Tensor:
    """[B, L] → [B, width], padded with 0."""
    return F.pad(tensor.float(), (0, width - tensor.shape[1]))


def unaided(rollouts: Rollouts) -> Rollouts:
    """The attempts before which nothing was shown."""
    return pick(rollouts, [row for row, item in enumerate(rollouts.items) if not shown(item)])


def signal(rollouts: Rollouts) -> dict[str, float]:
    """``accuracy@1`` of attempts without help, also at ``easy`` and ``hard`` problems; ``signal``, the share of
    problems with some group whose scores differ, and ``hard_signal``, of the hard ones."""
    alone = unaided(rollouts)
    right: dict[str, list[float]] = {"accuracy@1": [], "easy": [], "hard": []}
    for item, score in zip(alone.items, alone.scores[:, 0].tolist(), strict=True):
        right["accuracy@1"].append(score)
        right["hard" if hard(item) else "easy"].append(score)
    scores: dict[int, set[float]] = {}
    of: dict[int, Item] = {}
    for group, item, score in zip(rollouts.group.tolist(), rollouts.items, rollouts.scores[:, 0].tolist(), strict=True):
        scores.setdefault(group, set()).add(score)
        of[group] = item
    informative = {key(of[group]): False for group in scores}
    for group, found in scores.items():
        informative[key(of[group])] |= len(found) > 1
    difficult = [informative[key(item)] for item in {key(i): i for i in alone.items}.values() if hard(item)]
    stats = {name: sum(values) / len(values) for name, values in right.items() if values}
    stats["signal"] = sum(informative.values()) / len(informative)
    return stats | ({"hard_signal": sum(difficult) / len(difficult)} if difficult else {})


class GroupRL(Method):
    """Plain GRPO, with the log of those that do something about silent problems: the baseline."""

    name: ClassVar[str] = "group_rl"
    beta: NonNegativeFloat = 0.0

    def phases(self, train: TrainConfig) -> list[Phase]:
        return [OnlinePhase("GRPO", train.updates, self.credit, self.shuffle_scores, stats=signal)]

    def credit(self, rollouts: Rollouts) -> Credit:
        return group_credit(rollouts, self.beta)


class Buffer:
    """Problems that nobody solved, until there are ``size`` of them. A memory of an online phase
    (:class:`minirl.techniques.base.Memory`): problems are functions of three numbers, which is what it keeps."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.items: list[Item] = []
        self.used = 0  # problems handed out so far

    def take(self) -> list[Item]:
        """The newest ``size`` problems if there are as many, and then none are left; else nothing."""
        if len(self.items) < self.size:
            return []
        newest, self.items = self.items[-self.size :], []
        self.used += len(newest)
        return newest

    def learned(self, policy: Policy) -> None:
        """Nothing to do."""

    def state(self) -> dict[str, Tensor]:
        kept = [key(item) for item in self.items]
        return {"problems": torch.tensor(kept, dtype=torch.long).view(-1, 3), "used": torch.tensor(self.used)}

    def load(self, state: dict[str, Tensor], task: str = "gaps") -> None:
        self.items = [get(task).item(*numbers) for numbers in state["problems"].tolist()]
        self.used = int(state["used"])


def intervention(task: Gaps, item: Item, text: str) -> str | None:
    """A failed answer up to its first wrong step, and the right step in its place; None if no step is wrong."""
    error = task.first_error(item, text)
    if error is None:
        return None
    at, step = error
    return text.strip()[: at * STEP] + step


class Mending(Method):
    """InT's step (Yang et al. 2026, arXiv 2601.14209): of each problem that no rollout solved one rollout is imitated
    up to its first wrong step, with the right step in its place. What follows is left to reward.

    The verifier finds the step and says what should stand there; in the paper the model does. And it happens in every
    update, where the paper imitates first and then does reinforcement learning.
    """

    name: ClassVar[str] = "mending"
    weight: NonNegativeFloat = 1.0
    beta: NonNegativeFloat = 0.0

    def phases(self, train: TrainConfig) -> list[Phase]:
        lessons: list[Rollouts] = []  # of this update, made before its credit is asked for
        rolls = partial(self.roll_out, episodes(train), lessons)
        credit = partial(self.credit, lessons)
        return [OnlinePhase("mending", train.updates, credit, self.shuffle_scores, roll_out=rolls, stats=signal)]

    def roll_out(
        self,
        rolls: Callable[..., Rollouts],
        lessons: list[Rollouts],
        policy: Policy,
        task: Task,
        items: list[Item],
        *,
        generator: torch.Generator,
    ) -> Rollouts:
        """Attempts at all items, and what is to be learned from those that failed. Raises :class:`ConfigError`."""
        if not isinstance(task, Gaps):
            raise ConfigError(f"task: {task.name!r} has no steps to mend; take 'gaps'")
        rollouts = rolls(policy, task, items, generator=generator)
        first = dict(zip(map(key, rollouts.items[::-1]), rollouts.answers[::-1], strict=True))
        mended = {item: intervention(task, item, first[key(item)][0]) for item in unsolved(rollouts)}
        texts = {item: text for item, text in mended.items() if text}
        lessons[:] = [as_written(policy, list(texts), list(texts.values()), stops=False)] if texts else []
        return rollouts

    def credit(self, lessons: list[Rollouts], rollouts: Rollouts) -> Credit:
        problems = len({key(item) for item in rollouts.items})
        credit = group_credit(rollouts, self.beta)
        credit = with_imitation(rollouts, credit, lessons[0] if lessons else None, self.weight, problems)
        shown = STEP * sum(len(texts.items) for texts in lessons)
        return Credit(credit.advantages, credit.kl, {"shown": float(shown)}, credit.sequences)
