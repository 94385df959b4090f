"""Advantage Alignment: who treats you well is treated well.

Piche et al. 2025, arXiv 2511.19405, after Duque et al. 2024, arXiv 2406.14662. In a social dilemma all are better off
if all cooperate, and each alone is better off defecting. Who learns from its own reward ends up defecting; who is paid
for the sum of both rewards cooperates, with anybody. Advantage Alignment stays selfish, but reckons with another who
learns from what follows its moves. With advantages A¹ of a player and A² of the other, the move in round t is worth

    c_t = A¹_t + β · (Σ_{k<t} γ^{t−k} A¹_k) · A²_t        and the gradient is E Σ_t c_t ∇ log π(a_t | s_t)

If the past went well for me, I learn to do what is good for the other, and if it went badly, what is bad for it. So
what is done to me comes back, and it pays to treat me well. β = 0 is policy gradient for oneself. There is no critic:
A^i_t is the discounted return-to-go less its mean over other games of the same two policies, round by round.

Departures from the paper
-------------------------
1. The game is its IPD (rewards divided by 5, too) with sixteen rounds for ten; the model a tiny one without language.
2. The paper's base cooperates. This one has read games of people with habits (:mod:`minirl.tasks.habits`). A KL to a
   reference that follows the policy (``decay``) stands for the entropy bonus; γ is 0.7, not 0.9, and β 2, not 0.5.
3. A move that is none is credited with A¹ alone: to end the game would be a way to get even. c is centred, as in an
   option of the authors' code: its mean does not depend on the move. The weight γ^t of round t is left out.
4. The paper plays against a buffer of past selves. Here that is an option: with ``pool``, half of the rows do.
5. ``other: stranger`` is ours: A² of another game, which makes the second term noise of the same size.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.dilemmas import conditional, cooperation, other_rewards
from minirl.evaluation.dilemmas import evaluate_dilemma as evaluate
from minirl.objectives.advantages import advantages, return_to_go, spread_over_tokens
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.games import play
from minirl.rollouts.opponents import Pool
from minirl.tasks import Item, Task
from minirl.tasks.dilemma import Dilemma
from minirl.tasks.game import INVALID
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase

__all__ = ["AdAlign", "alignment", "evaluate", "game_stats", "legal_rounds", "per_seat", "self_play"]

SEATS = 2


def alignment(own: Tensor, other: Tensor, beta: float, gamma: float) -> Tensor:
    """c [B, T] of the moves of B players in T rounds, from their advantages A¹ and those A² of the other player."""
    past, credit = torch.zeros_like(own[:, 0]), []  # past: Σ_{k<t} γ^{t−k} A¹_k
    for mine, theirs in zip(own.unbind(1), other.unbind(1), strict=True):
        credit.append(mine + beta * past * theirs)
        past = gamma * (past + mine)
    return torch.stack(credit, dim=1)


def per_seat(rewards: Tensor, alive: Tensor, games: int, gamma: float) -> Tensor:
    """A [B, T] of rewards [B, T]: the return-to-go less its mean over the other of ``games`` games of the same two
    policies, by round and seat. Rows are the first and the second player in turn."""

    def by_seat(rows: Tensor) -> Tensor:
        return rows.unflatten(0, (-1, SEATS)).transpose(0, 1).flatten(0, 1)

    found = advantages(by_seat(return_to_go(rewards, gamma)), games, "leave_one_out", by_seat(alive))
    return found.unflatten(0, (SEATS, -1)).transpose(0, 1).flatten(0, 1)


def legal_rounds(rollouts: Rollouts) -> Tensor:
    """[B, T] bool: the rounds that were played, without the one in which a move that is none ended the game."""
    records = [item.answer.partition(":")[2].partition(INVALID)[0] for item in rollouts.items]
    rounds = torch.tensor([len(record) // SEATS for record in records], device=rollouts.scores.device)
    return torch.arange(rollouts.scores.shape[1], device=rounds.device) < rounds[:, None]


class AdAlign(Method):
    """Self-play with :func:`alignment`. ``paid``: a player's reward is its own, or the sum of both players'. ``other``:
    A² is that of the opponent, or of somebody in another game. ``pool``: the most snapshots, one every ``every``
    updates, to draw opponents from. ``kl`` holds to a reference that keeps the share ``decay`` of itself."""

    name: ClassVar[str] = "adalign"
    beta: float = Field(default=2.0, ge=0)
    gamma: float = Field(default=0.7, gt=0, le=1)
    kl: float = Field(default=0.2, ge=0)
    decay: float = Field(default=0.95, ge=0, le=1)
    paid: Literal["own", "sum"] = "own"
    other: Literal["opponent", "stranger"] = "opponent"
    pool: NonNegativeInt = 0
    every: PositiveInt = 10

    def phases(self, train: TrainConfig) -> list[Phase]:
        if self.shuffle_scores:
            raise ConfigError("shuffle_scores: the rewards of a game belong together; the control is 'other: stranger'")
        if (self.paid == "sum" or self.other == "stranger") and (self.paid == "sum") == (self.beta > 0):
            raise ConfigError(f"beta {self.beta:g}: 'paid: sum' goes with 0, and 'other: stranger' with more than 0")
        least = 4 if self.pool else 2
        if train.samples != SEATS or train.prompts < least or (self.pool and train.prompts % 2):
            raise ConfigError(f"train: samples must be 2, the seats; prompts at least {least}, even with a pool")
        pool = Pool(self.pool, self.every) if self.pool else None
        shared = {"turns": train.turns, "samples": train.samples, "temperature": train.temperature}
        roll_out = partial(self_play, pool=pool, **shared)  # type: ignore[arg-type]
        phase = OnlinePhase("self-play", train.updates, self.credit, roll_out=roll_out, memory=pool, stats=game_stats)
        return [replace(phase, reference_decay=self.decay)]

    def credit(self, rollouts: Rollouts) -> Credit:
        own, other = rollouts.scores / Dilemma.stake, other_rewards(rollouts) / Dilemma.stake
        if self.paid == "sum":
            own = other = own + other
        games = rollouts.samples // SEATS
        mine, theirs = (per_seat(rewards, rollouts.alive, games, self.gamma) for rewards in (own, other))
        if self.other == "stranger":
            theirs = theirs.roll(SEATS, 0)  # games are drawn independently: the one before is as good as any
        found = alignment(mine, theirs * legal_rounds(rollouts), self.beta, self.gamma)
        shaping = ((found - mine).abs().sum() / (mine.abs().sum() + 1e-9)).item()
        centred = advantages(found, rollouts.samples, "group_mean", rollouts.alive)
        kl = torch.full_like(found, self.kl)
        worth, held = (spread_over_tokens(per_turn, rollouts.turn) for per_turn in (centred, kl))
        return Credit(worth, held, stats={"shaping": shaping})


def self_play(
    policy: Policy, task: Task, items: Sequence[Item], *, generator: torch.Generator, turns: int, samples: int,
    temperature: float, pool: Pool | None = None,
) -> Rollouts:  # fmt: skip
    """``samples`` = 2 rows of the learner for every item: both players of its game; or, if ``pool`` has members, for
    half of the items one in a game from either seat against one of them. Rows with the same ``group`` are of the same
    two policies."""
    if not isinstance(task, Dilemma) or turns != task.turns(items[0].level):
        raise ConfigError(f"train.turns {turns}: set it to the rounds of the game, which has to be the dilemma")
    half = len(items) // SEATS if pool else len(items)
    played, seats = [*items[:half], *(item for item in items[half:] for _ in range(samples))], [(policy, policy)] * half
    if pool:
        member = pool.member(policy, random.Random(generator.initial_seed()).randrange(len(pool)))
        seats += [(policy, member), (member, policy)] * (len(items) - half)
    rollouts = play(task, played, seats, learner=policy, generator=generator, temperature=temperature)
    rollouts.group = torch.arange(len(rollouts.items), device=rollouts.group.device) // (SEATS * half)
    return rollouts


def game_stats(rollouts: Rollouts) -> dict[str, float]:
    """How often the learner cooperates, what it gets a round, and how often it cooperates after what."""
    shares, payoff = cooperation(rollouts), rollouts.scores.mean().item()
    return {"cooperation": sum(shares) / len(shares), "payoff": payoff, **conditional(rollouts)}
