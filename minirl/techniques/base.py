"""What a technique hands to the loops.

A technique is a :class:`Method`: a config of its own hyper-parameters that can name its training phases. An
:class:`OnlinePhase` says how to roll out and how to turn a batch of rollouts into :class:`Credit` (how good every token
was, how strongly it is tied to the reference, what a teacher would have written); a :class:`SupervisedPhase` says
which sequences to imitate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from minirl.config import Strict, TrainConfig
from minirl.objectives.advantages import Baseline, advantages, return_to_go, spread_over_tokens
from minirl.objectives.policy_gradient import OBJECTIVES, Objective
from minirl.rollouts.episodes import Rollouts, roll_out

if TYPE_CHECKING:
    from minirl.loops import Learner  # loops import this module
    from minirl.policy.models import Policy
    from minirl.tasks import Task


@dataclass(frozen=True)
class Teacher:
    """What the reference policy reads in order to teach: the same own tokens, after another context.

    ``ids`` [B, M] and ``own`` [B, M] have the own tokens of row b as the sequences learned from do, in the same order.
    Rows outside ``known`` [B] have no teacher. ``beta`` is that of :func:`minirl.objectives.distillation.divergence`.
    """

    ids: Tensor
    own: Tensor
    known: Tensor
    beta: float


@dataclass(frozen=True)
class Credit:
    """What a technique says of a batch of rollouts, token by token.

    ``advantages`` [B, L] of the tokens; ``kl`` [B, L] are the coefficients of KL(π ‖ π_ref). ``stats`` are logged. What
    is learned from are the rollouts, unless there are other ``sequences`` made from them (then these are [B, L]).
    """

    advantages: Tensor
    kl: Tensor
    stats: dict[str, float] = field(default_factory=dict)
    sequences: Rollouts | None = None


@dataclass(frozen=True)
class OnlinePhase:
    """``updates`` policy-gradient updates on fresh rollouts, credited by ``credit``, with the loss ``objective``.

    ``roll_out(policy, task, items, generator=…)`` makes the rollouts, by default as the shared settings say
    (:func:`episodes`). With ``teacher(policy, task, rollouts)``, the mean divergence from what the reference says after
    that context is added to the loss.
    After every update the reference moves the share ``1 - reference_decay`` of the way to the policy: 1 freezes it.
    ``shuffle_scores`` permutes the scores among the episodes of a batch first: the control in which everything is as
    it was, except that reward no longer depends on what was written.
    """

    name: str
    updates: int
    credit: Callable[[Rollouts], Credit]
    shuffle_scores: bool = False
    objective: Objective = OBJECTIVES["reinforce"]
    reference_decay: float = 1.0
    roll_out: Callable[..., Rollouts] | None = None
    teacher: Callable[[Policy, Task, Rollouts], Teacher] | None = None


@dataclass(frozen=True)
class SupervisedPhase:
    """``updates`` steps of imitation. ``collect`` makes the examples once, from the frozen reference policy."""

    name: str
    updates: int
    collect: Callable[[Learner], Examples]


@dataclass(frozen=True)
class Examples:
    """Sequences to imitate: ids [N, L] right-padded, ``learn`` [N, L] bool, and what generating them cost in tokens."""

    ids: Tensor
    learn: Tensor
    generated_tokens: int


Phase = OnlinePhase | SupervisedPhase


def episodes(train: TrainConfig, **changes: Any) -> Callable[..., Rollouts]:
    """:func:`~minirl.rollouts.episodes.roll_out` with the shared settings of a run, except for ``changes``."""
    shared = {name: getattr(train, name) for name in ("turns", "samples", "temperature", "feedback")}
    return partial(roll_out, **{**shared, **changes})


class Method(Strict):
    """One way to train. Subclasses add their hyper-parameters as fields; ``name`` is what configs call them.

    ``shuffle_scores`` turns any method into its own control: the same rollouts and updates, but which episode gets
    which score is random. ``independent`` has the trained policy make its attempts at evaluation without seeing the
    earlier ones, where the technique's ``evaluate`` can do so: more samples, the trivial rival of a second look.
    """

    name: ClassVar[str]
    shuffle_scores: bool = False
    independent: bool = False

    def phases(self, train: TrainConfig) -> list[Phase]:
        """The phases of a run with the shared settings ``train``; their updates add up to ``train.updates``."""
        raise NotImplementedError

    def evaluation(self) -> dict[str, Any]:
        """Arguments of the technique's ``evaluate`` that this arm needs to be other than the shared settings say."""
        return {"independent": True} if self.independent else {}


def turn_credit(
    rollouts: Rollouts,
    rewards: Tensor,
    kl: tuple[float, ...],
    gamma: float,
    baseline: Baseline = "leave_one_out",
) -> Credit:
    """Credit for rewards per attempt [B, turns]: advantage of the return-to-go, KL coefficient by turn.

    Every token of an attempt gets the attempt's advantage; ``baseline`` compares it with attempts at the same prompt
    and turn, as far as they were made.
    """
    returns = return_to_go(rewards, gamma)
    per_turn = advantages(returns, rollouts.samples, baseline, rollouts.alive)
    coefficients = torch.tensor(kl, device=rewards.device).expand_as(rewards)
    return Credit(
        advantages=spread_over_tokens(per_turn, rollouts.turn),
        kl=spread_over_tokens(coefficients, rollouts.turn),
        stats={"return": returns[:, 0].mean().item()},
    )
