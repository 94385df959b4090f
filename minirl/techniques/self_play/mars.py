"""MARS: what a move is praised for, and what that is compared with.

Yuan et al. 2025, arXiv 2510.15414 (later called MARSHAL). One policy plays all seats of several games, some of which
pay after every round. GRPO gives all moves of a game its total, and so praises a move for what had come before it; and
seats that are worth different amounts are compared with one mean. MARS changes both. Let r_t be what came to a player
from its t-th move until its next, in a game g on seat i:

    R_t = Σ_{k ≥ t} r_k               what follows from the move, and nothing else          (turn-level)
    A_t = R_t − mean(R | g, i)        over all moves of that seat in that game in the batch   (agent-specific)

and no division by a standard deviation. Where there is one payment at the end, R_t is the total for every t, and the
first of the two changes nothing.

Departures from the paper
-------------------------
1. A policy of 0.05 M parameters that knows the legal moves and plays them at random. A move is one token: no thoughts.
2. Two small games instead of the paper's three: Hanabi with four cards, in which both get the same, and a chase round a
   ring, in which one seat pays the other after every round. Kuhn poker and tic-tac-toe pay at the end only.
3. REINFORCE, one step a batch, a small KL to the base (``beta``); the paper clips ratios and has a KL of 0.2.
4. The authors' code centres the rewards of each player first, and sums them then: ``mean: rewards``. That also charges
   a price for every further turn, which matters where games differ in length.
5. ``mean: turn``, a mean for each seat and turn, is ours. R_t gets smaller the fewer rounds are left, whatever one
   does, and a mean over all turns leaves that in.
6. The baseline, ``credit: game``, is not divided by a standard deviation either, so that arms differ in one thing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.attempts import Evaluation
from minirl.evaluation.learning import log2_tokens_to
from minirl.evaluation.pairs import game_stats, pair_metrics
from minirl.objectives.advantages import keyed_advantages, return_to_go, spread_over_tokens
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.games import roles
from minirl.rollouts.seats import self_play
from minirl.tasks import Item, Task, get
from minirl.tasks.game import Game
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase

GAMES = {"hanabi": 1, "chase": 4}  # name → level
By = Literal["turn", "game"]
Mean = Literal["player", "game", "turn", "rewards"]
RIVALS: dict[str, tuple[By, Mean]] = {
    "mars": ("turn", "player"),
    "trajectory": ("game", "player"),
    "one_mean": ("turn", "game"),
    "by_turn": ("turn", "turn"),
    "centred": ("turn", "rewards"),
}
RATIOS: tuple[tuple[str, str, str], ...] = (("past", "trajectory", "mars"), ("seats", "one_mean", "mars"))
RATIOS += (("trend", "mars", "by_turn"), ("code", "mars", "centred"))
TINY = 1e-3  # where everybody plays the same game there is no advantage, and no ratio


def turn_advantages(rewards: Tensor, made: Tensor, game: Tensor, seat: Tensor, credit: By, mean: Mean) -> Tensor:
    """A [B, T] of rewards [B, T] by turn; ``made`` [B, T] bool says which turns there were, game and seat [B] whose.

    ``credit``: a move is given what follows from it (turn), or the total (game). ``mean`` is subtracted from that: of
    the same player, of all players of the same game, of the same player's same turn; or of the same player before
    rewards are added up (rewards). Turns that were not made have advantage 0 and count nowhere.
    """
    player = (2 * game + seat)[:, None].expand_as(rewards)
    turn = torch.arange(rewards.shape[1], device=rewards.device).expand_as(rewards)
    keys = {"game": game[:, None].expand_as(rewards), "turn": player * rewards.shape[1] + turn}.get(mean, player)

    def centred(x: Tensor) -> Tensor:
        return torch.zeros_like(x).masked_scatter(made, keyed_advantages(x[made], keys[made]))

    if mean == "rewards":
        rewards = centred(rewards)
    returns = return_to_go(rewards) if credit == "turn" else rewards.sum(1, keepdim=True).expand_as(rewards)
    return centred(returns)


class Mars(Method):
    """Self-play on ``games``, which take turns, with :func:`turn_advantages`. The control ``shuffle_scores`` deals what
    players got out at random among all seats of all games. ``beta`` weighs a KL to the base, which draws its moves."""

    name: ClassVar[str] = "mars"
    games: dict[str, PositiveInt] = Field(default=GAMES, min_length=1)
    credit: By = "turn"
    mean: Mean = "player"
    beta: NonNegativeFloat = 0.0

    def phases(self, train: TrainConfig) -> list[Phase]:
        for name, level in self.games.items():
            if not isinstance(get(name), Game) or level not in get(name).levels:
                raise ConfigError(f"games: {name!r} at level {level} is no game")
        if (train.samples, train.turns) != (2, 1):
            raise ConfigError("train.samples, train.turns: a deal has two seats, one row each; set them to 2 and 1")
        how: dict[str, Any] = {"games": self.games, "samples": 2, "temperature": train.temperature}
        phase = OnlinePhase("self-play", train.updates, self.worth, self.shuffle_scores, stats=game_stats)
        return [replace(phase, roll_out=partial(self_play, **how))]

    def worth(self, rollouts: Rollouts) -> Credit:
        """Advantages of all own tokens; logged of every game is what the choices do to E[A²] on these rollouts."""
        scores, made = rollouts.scores, rollouts.alive
        game = torch.tensor([list(self.games).index(item.task) for item in rollouts.items], device=scores.device)
        of = partial(turn_advantages, scores, made, game, roles(rollouts))
        per_turn = of(self.credit, self.mean)

        stats = {}
        for i, name in enumerate(self.games):

            def size(a: Tensor, rows: Tensor = game == i) -> float:
                return a[rows][made[rows]].square().mean().item()

            stats[f"{name}_a2"] = size(per_turn)
            for other, (credit, mean) in RIVALS.items():
                stats[f"{name}_a2/{other}"] = size(of(credit, mean))
        kl = torch.full_like(scores, self.beta)
        advantages, held = (spread_over_tokens(x, rollouts.turn) for x in (per_turn, kl))
        return Credit(advantages, held, stats)


def evaluate(policy: Policy, task: Task, items: list[Item], *, seed: int) -> tuple[Evaluation, Rollouts]:
    """The metrics of :mod:`minirl.evaluation.pairs`, exactly. The rollouts are games to read."""
    noise = torch.Generator().manual_seed(seed)
    rollouts = self_play(policy, task, items[:64], games=GAMES, generator=noise)
    return Evaluation(pair_metrics(policy, GAMES["hanabi"], GAMES["chase"]), {}, 0), rollouts


def learning(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of all of training: the means of what was played (``hanabi_mean``, ``chase_mean``); the binary logarithm of the
    moves made until it was played well (``hanabi_log2``, ``chase_log2``); and, mean over updates, those of ratios of
    E[A²] on the same rollouts: what MARS saves by not praising for the ``past`` and by a mean for each of the
    ``seats``, and what it could save by taking out the ``trend`` of the turns or by doing as its ``code`` does."""
    found: dict[str, float] = {}
    for name, metric, target in (("hanabi", "hanabi_got", 1.5), ("chase", "chase_right", 0.85)):
        found[f"{name}_mean"] = sum(record[metric] for record in records) / len(records)
        found[f"{name}_log2"] = log2_tokens_to(records, target, metric=metric)
        for what, more, less in RATIOS:
            pairs = ((record[f"{name}_a2/{more}"], record[f"{name}_a2/{less}"]) for record in records)
            logs = [math.log2((a + TINY) / (b + TINY)) for a, b in pairs]
            found[f"{name}_{what}"] = sum(logs) / len(logs)
    return found
