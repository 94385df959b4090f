"""Explanations of known answers: ExPO (:mod:`minirl.techniques.curriculum.expo`), here because it is also an arm of the
comparison of remedies."""

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeFloat

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.hints import key, pick, shown, unseen, unsolved
from minirl.tasks import Item, Task
from minirl.tasks.gaps import Gaps
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, episodes
from minirl.techniques.hard_prompts import group_credit, signal, unaided, with_imitation

Keep = Literal["arrives", "right", "all"]


def usable(task: Gaps, rollouts: Rollouts, keep: Keep) -> list[int]:
    """Rows of explanations to learn from: all, those that arrive at the answer that was shown, or those that are right
    in every step."""
    rows = [row for row, item in enumerate(rollouts.items) if shown(item)]
    if keep == "right":
        return [row for row in rows if rollouts.scores[row, 0] == 1]
    if keep == "arrives":
        said = [(row, task.read(rollouts.answers[row][0])) for row in rows]
        return [row for row, text in said if text[-1:] == shown(rollouts.items[row])]
    return rows


class Expo(Method):
    """ExPO's hyper-parameters (:mod:`minirl.techniques.curriculum.expo`)."""

    name: ClassVar[str] = "expo"
    weight: NonNegativeFloat = 1.0
    keep: Keep = "right"
    given: Literal["own", "another"] = "own"
    where: Literal["failed", "all"] = "failed"
    beta: NonNegativeFloat = 0.0

    def phases(self, train: TrainConfig) -> list[Phase]:
        rolls = partial(self.roll_out, episodes(train))
        stats: Callable[[Rollouts], dict[str, float]] = lambda rollouts: signal(unaided(rollouts))  # noqa: E731
        return [OnlinePhase("ExPO", train.updates, self.credit, self.shuffle_scores, roll_out=rolls, stats=stats)]

    def roll_out(
        self,
        rolls: Callable[..., Rollouts],
        policy: Policy,
        task: Task,
        items: list[Item],
        *,
        generator: torch.Generator,
    ) -> Rollouts:
        """Attempts at all items, and then explanations of the answers of those that need it."""
        if not isinstance(task, Gaps):
            raise ConfigError(f"task: {task.name!r} has no answers to explain; take 'gaps'")
        tried = rolls(policy, task, items, generator=generator)
        needy = items if self.where == "all" else unsolved(tried)
        if not needy:
            return tried
        digits = [task.final(item) for item in needy]
        if self.given == "another":  # each digit but the right one with the same chance
            off = torch.randint(1, 10, (len(digits),), generator=generator).tolist()
            digits = [str((int(digit) + step) % 10) for digit, step in zip(digits, off, strict=True)]
        asked = [task.shown(item, digit) for item, digit in zip(needy, digits, strict=True)]
        return Rollouts.join([tried, rolls(policy, task, asked, generator=generator)])

    def credit(self, rollouts: Rollouts) -> Credit:
        alone = unaided(rollouts)
        made = len(rollouts.items) - len(alone.items)
        kept = usable(Gaps(), rollouts, self.keep)
        right = sum(rollouts.scores[row, 0].item() for row in kept)
        texts = unseen(pick(rollouts, kept)) if kept else None
        problems = len({key(item) for item in alone.items})
        credit = with_imitation(alone, group_credit(alone, self.beta), texts, self.weight / alone.samples, problems)
        said = {"kept": len(kept) / max(1, made), "right": right / max(1, len(kept)), "shown": made / alone.samples}
        return Credit(credit.advantages, credit.kl, said, credit.sequences)
