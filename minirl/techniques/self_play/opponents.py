"""Against whom should one train? Five opponents, one game.

After Lanctot et al. 2017, arXiv 1711.00832, who ask what an agent has learned if it was trained against others that
learn, too. All arms are the same policy gradient on Kuhn poker from the same base, with as many games on either seat.
They differ in who sits opposite:

============= ==========================================================================================
opponent      moves
============= ==========================================================================================
random        any legal one
strong        as an equilibrium says: against it nobody wins more than the value of the game
self          as the policy does at this moment; both seats learn
pool          as one of its snapshots did: fictitious self-play
best_response the best against the policy of this moment, computed exactly: exploitability descent
============= ==========================================================================================

All are judged alike, by what the best response to them wins (:func:`minirl.evaluation.games.exploitability`), and by
what they win against a random player. The two need not agree: whoever does best against one opponent may be wide open
to another.

Departures from the paper
-------------------------
1. A policy gradient on one transformer, no deep Q-learning oracles; a plain pool of snapshots, no meta-strategy solved.
2. Best responses are exact, which needs a game that can be enumerated.
3. The KL to the base, which plays at random, is an entropy bonus up to a constant: it keeps all arms mixing.
"""

import random
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.games import Strategy, best_response, exploitability, strategy_of
from minirl.evaluation.players import RunningAverage
from minirl.evaluation.players import evaluate_player as evaluate
from minirl.objectives.advantages import keyed_advantages, spread_over_tokens
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.games import Seat, play, random_mover, roles
from minirl.rollouts.opponents import Pool
from minirl.rollouts.players import equilibrium, follower
from minirl.tasks import Item
from minirl.tasks.game import Game
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase

__all__ = ["Circle", "OpponentRL", "evaluate"]

Opponent = Literal["random", "strong", "self", "pool", "best_response"]
MEMBERS = 4  # snapshots that play in one update
LATE = 50  # updates over which the end of a run is averaged: single strategies go up and down


class Circle:
    """Who sits opposite, update by update, and how exploitable the policy has been. A memory of the phase."""

    def __init__(self, opponent: Opponent, games: int, temperature: float, pool: Pool) -> None:
        self.opponent, self.games, self.temperature, self.pool = opponent, games, temperature, pool
        self.average = RunningAverage()
        self.said: dict[str, float] = {}

    def roll_out(self, policy: Policy, game: Game, items: list[Item], *, generator: torch.Generator) -> Rollouts:
        level, strategy = items[0].level, strategy_of(policy, game, items[0].level)
        self.note(game, level, strategy)
        rng = random.Random(generator.initial_seed())
        others = self.others(policy, game, level, strategy)
        deals = [items[i % len(items)] for i in range(self.games // (2 if self.opponent == "self" else 1))]
        opposite = [rng.choice(others[i % 2]) for i in range(len(deals))]
        seats = [(other, policy) if i % 2 else (policy, other) for i, other in enumerate(opposite)]
        return play(game, deals, seats, learner=policy, generator=generator, temperature=self.temperature)

    def others(self, policy: Policy, game: Game, level: int, strategy: Strategy) -> tuple[list[Seat], list[Seat]]:
        """Who may sit opposite if the policy moves first, and if it moves second."""
        fixed: dict[str, Seat] = {"random": random_mover, "strong": follower(equilibrium()), "self": policy}
        if self.opponent in fixed or (self.opponent == "pool" and not len(self.pool)):
            who = fixed.get(self.opponent, policy)
            return [who], [who]
        if self.opponent == "pool":
            step = max(1, len(self.pool) // MEMBERS)
            members: list[Seat] = [self.pool.member(policy, i) for i in range(0, len(self.pool), step)]
            return members, members
        plans = [best_response(game, level, [strategy] * 2, player)[1] for player in (0, 1)]
        first, second = (follower({view: {move: 1.0} for view, move in plan.items()}) for plan in plans)
        return [second], [first]

    def note(self, game: Game, level: int, strategy: Strategy) -> None:
        """Say how exploitable ``strategy`` is, and the average of all so far with it."""
        self.average.add(game, level, strategy)
        self.said = {
            "exploitability": exploitability(game, level, strategy),
            "exploitability_of_average": exploitability(game, level, self.average.strategy(strategy)),
        }

    def stats(self, rollouts: Rollouts) -> dict[str, float]:
        return {**self.said, "won": rollouts.scores.sum(1).mean().item()}

    def learned(self, policy: Policy) -> None:
        self.pool.learned(policy)

    def state(self) -> dict[str, Tensor]:
        return {"sums": self.average.sums, **{f"pool/{name}": value for name, value in self.pool.state().items()}}

    def load(self, state: dict[str, Tensor]) -> None:
        self.average.sums = state["sums"]
        self.pool.load({name.removeprefix("pool/"): value for name, value in state.items() if name != "sums"})


class OpponentRL(Method):
    """Policy gradient in a game of two, against ``opponent``; ``pool`` snapshots are kept, one every ``every``
    updates."""

    name: ClassVar[str] = "opponent_rl"
    opponent: Opponent
    pool: PositiveInt = 12
    every: PositiveInt = 10
    beta: float = Field(default=0.2, ge=0)

    def phases(self, train: TrainConfig) -> list[Phase]:
        games = train.prompts * train.samples
        if games % 2:
            raise ConfigError("train.prompts · train.samples games are played, half on either seat: make it even")
        size = self.pool if self.opponent == "pool" else 1
        circle = Circle(self.opponent, games, train.temperature, Pool(size, self.every if size > 1 else train.updates))
        return [
            OnlinePhase(
                *("RL", train.updates, self.credit, self.shuffle_scores),
                roll_out=circle.roll_out,
                memory=circle,
                stats=circle.stats,
            )
        ]

    def credit(self, rollouts: Rollouts) -> Credit:
        """What a game brought, beside the mean of the games on the same seat; the same for all moves of a game."""
        brought = rollouts.scores.sum(1)
        gained = keyed_advantages(brought, roles(rollouts))[:, None].expand_as(rollouts.scores)
        coefficients = torch.full_like(gained, self.beta)
        return Credit(spread_over_tokens(gained, rollouts.turn), spread_over_tokens(coefficients, rollouts.turn))


def learning(records: list[dict[str, Any]]) -> dict[str, float]:
    """``late``: exploitability before each of the last updates, their mean; ``average``: that of the average of all
    strategies of the run; ``gap``: by how much the average is less exploitable."""
    end = records[-LATE:]
    late, average = sum(r["exploitability"] for r in end) / len(end), end[-1]["exploitability_of_average"]
    return {"late": late, "average": average, "gap": late - average}
