"""What a technique hands to the loops.

A technique is a :class:`Method`: a config of its own hyper-parameters that can name its training phases. An
:class:`OnlinePhase` says how to turn a batch of fresh rollouts into :class:`Credit` (how good every token was, how
strongly it is tied to the reference); a :class:`SupervisedPhase` says which sequences to imitate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from minirl.config import Strict, TrainConfig
from minirl.objectives.advantages import Baseline, advantages, return_to_go, spread_over_tokens
from minirl.objectives.policy_gradient import OBJECTIVES, Objective
from minirl.rollouts.episodes import Rollouts

if TYPE_CHECKING:
    from minirl.loops import Learner  # loops import this module


@dataclass(frozen=True)
class Credit:
    """What a technique says of a batch of rollouts, token by token.

    ``advantages`` [B, L] of the tokens; ``kl`` [B, L] are the coefficients of KL(π ‖ π_ref). ``stats`` are logged.
    """

    advantages: Tensor
    kl: Tensor
    stats: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class OnlinePhase:
    """``updates`` policy-gradient updates on fresh rollouts, credited by ``credit``, with the loss ``objective``.

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


class Method(Strict):
    """One way to train. Subclasses add their hyper-parameters as fields; ``name`` is what configs call them.

    ``shuffle_scores`` turns any method into its own control: the same rollouts and updates, but which episode gets
    which score is random.
    """

    name: ClassVar[str]
    shuffle_scores: bool = False

    def phases(self, train: TrainConfig) -> list[Phase]:
        """The phases of a run with the shared settings ``train``; their updates add up to ``train.updates``."""
        raise NotImplementedError


def turn_credit(
    rollouts: Rollouts,
    rewards: Tensor,
    kl: tuple[float, ...],
    samples: int,
    gamma: float,
    baseline: Baseline = "leave_one_out",
) -> Credit:
    """Credit for rewards per attempt [B, turns]: advantage of the return-to-go, KL coefficient by turn.

    Every token of an attempt gets the attempt's advantage; ``baseline`` compares it with attempts at the same prompt
    and turn.
    """
    returns = return_to_go(rewards, gamma)
    per_turn = advantages(returns, samples, baseline)
    coefficients = torch.tensor(kl, device=rewards.device).expand_as(rewards)
    return Credit(
        advantages=spread_over_tokens(per_turn, rollouts.turn),
        kl=spread_over_tokens(coefficients, rollouts.turn),
        stats={"return": returns[:, 0].mean().item()},
    )
