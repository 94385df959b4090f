"""SPIRAL: one policy on both sides of zero-sum games.

Liu et al. 2025, arXiv 2506.24119. Who plays against itself has an opponent as strong as it is, whatever it learns. One
policy sits on both seats of every game and reads which one it is on. The outcome R of a game, R_1 = −R_2, is all it is
paid for, and every turn of a seat has the same advantage. But some seats are better than others: the first player of a
game may win always, by luck of the draw and not by skill. So there is a baseline for each game and role (RAE):

    A = R − b[game, role]        for every turn of the role
    b[game, role] ← α b[game, role] + (1 − α) R        after its use, α = 0.95

One baseline for both seats would be nothing: in zero-sum games the mean over both is zero. What b takes away is known
before the game, so the expected gradient is the same with and without it; its variance is not.

How good a policy is, is read off its probabilities exactly, as exploitability (:mod:`minirl.evaluation.games`): what an
opponent wins who knows it. In games with hidden cards the last policy of self-play may go round the equilibrium while
the average of all is near it, so both are reported.

Departures from the paper
-------------------------
1. A policy of 0.2 M parameters that knows the legal moves and plays them at random. A move is one token: no thoughts.
2. Kuhn poker is one of the paper's three games. Nim takes the place of tic-tac-toe and negotiation, since it is small
   enough to be solved after every view and its first player wins by force.
3. REINFORCE, one step a batch, where the paper takes two PPO epochs. Rows without advantage stay, with no gradient.
4. ``beta``, a KL to the base in units of a game's stake, is ours; the paper has none. The base draws its moves evenly,
   so this is a bonus for entropy.
5. The fixed opponent draws its moves; the paper's are language models. Transfer is to sums, not to competitions.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.evaluation.attempts import Evaluation, attempt_all
from minirl.evaluation.games import strategy_of
from minirl.evaluation.strategies import DOUBLE, Past, game_metrics, game_of
from minirl.objectives.advantages import advantages, moving_advantages
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.games import roles
from minirl.rollouts.seats import self_play
from minirl.tasks import Item, Task, get
from minirl.tasks.chain import Chain
from minirl.tasks.game import Game
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase

GAMES = {"kuhn": 1, "nim": 9}  # name → level
SUMS = 2  # steps of the sums to which learning might transfer


class Baselines(Past):
    """What SPIRAL knows from earlier updates: a baseline for every game and role, and its strategies so far."""

    def __init__(self, games: Mapping[str, int], every: int) -> None:
        super().__init__(games, every)
        self.of: dict[int, float] = {}

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), "baselines": torch.tensor(list(self.of.items()), dtype=DOUBLE)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        super().load(state)
        self.of = {int(key): value for key, value in state["baselines"].tolist()}


class Spiral(Method):
    """Self-play on ``games``, which take turns, with role-conditioned advantages. ``baseline`` replaces it by
    the mean over the batch or by nothing, ``opponent`` the other self by a player who draws its moves; the control
    ``shuffle_scores`` deals outcomes out at random among all seats. Strategies are read every ``watch`` updates, and
    nothing is learned from that."""

    name: ClassVar[str] = "spiral"
    games: dict[str, PositiveInt] = Field(default=GAMES, min_length=1)
    baseline: Literal["role", "batch_mean", "none"] = "role"
    decay: float = Field(default=0.95, ge=0, lt=1)
    opponent: Literal["self", "random"] = "self"
    beta: NonNegativeFloat = 0.0
    watch: PositiveInt = 5

    def phases(self, train: TrainConfig) -> list[Phase]:
        for name, level in self.games.items():
            if not isinstance(get(name), Game) or level not in get(name).levels:
                raise ConfigError(f"games: {name!r} at level {level} is no game")
        if (train.samples, train.turns) != (2, 1):
            raise ConfigError("train.samples, train.turns: a deal has two seats, one row each; set them to 2 and 1")
        memory = Baselines(self.games, self.watch)
        how: dict[str, Any] = {"games": self.games, "opponent": self.opponent, "samples": 2}
        return [
            OnlinePhase(
                "self-play" if self.opponent == "self" else "RL",
                train.updates,
                partial(self.credit, memory),
                self.shuffle_scores,
                roll_out=partial(self_play, **how, temperature=train.temperature),
                memory=memory,
                stats=lambda _: memory.measured,
            )
        ]

    def credit(self, memory: Baselines, rollouts: Rollouts) -> Credit:
        won = rollouts.scores.sum(1)  # R [B]: the outcome for the player of every row
        game = torch.tensor([list(self.games).index(item.task) for item in rollouts.items], device=won.device)
        if self.baseline == "role":
            worth, memory.of = moving_advantages(won, 2 * game + roles(rollouts), memory.of, self.decay)
        else:
            worth = advantages(won[:, None], 1, self.baseline)[:, 0]
        stake = won.new_tensor([game_of(item.task).stake for item in rollouts.items])
        own = rollouts.own.to(won.dtype)
        left = {}
        for i, name in enumerate(self.games):
            rows = game == i
            left[f"{name}_spread"] = (worth[rows].square().mean() / won[rows].square().mean().clamp_min(1e-9)).item()
        return Credit(advantages=worth[:, None] * own, kl=self.beta * stake[:, None] * own, stats=left)


def evaluate(
    policy: Policy, task: Task, items: list[Item], *, seed: int, temperature: float = 1.0, batch: int = 256
) -> tuple[Evaluation, Rollouts]:
    """The metrics of :mod:`minirl.evaluation.strategies` in all games, exactly, and ``sums``, the share of sums that
    are right, one for every item. The rollouts are games of the policy with itself."""
    metrics: dict[str, float] = {}
    for name, level in GAMES.items():
        metrics |= game_metrics(name, level, strategy_of(policy, get(name), level))  # type: ignore[arg-type]
    sums = [Chain().item(item.seed, item.index, SUMS) for item in items]
    tried = attempt_all(policy, Chain(), sums, seed=seed, temperature=temperature, batch=batch)
    right = tried.scores[:, 0].tolist()
    noise = torch.Generator().manual_seed(seed)
    rollouts = self_play(policy, task, items[:64], games=GAMES, temperature=temperature, generator=noise)
    return Evaluation({**metrics, "sums": sum(right) / len(right)}, {"sums": right}, tried.generated_tokens()), rollouts


def learning(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of the last quarter of training, means: ``late`` exploitability of the strategies, and ``spread``, E[A²]/E[R²],
    which is 1 without a baseline; and the exploitability of the ``average`` strategy at the end."""
    late = records[-max(1, len(records) // 4) :]
    found: dict[str, float] = {}
    for name in GAMES:
        for metric, of in (("late", "exploitability"), ("spread", "spread")):
            values = [record[f"{name}_{of}"] for record in late if f"{name}_{of}" in record]
            found |= {f"{name}_{metric}": sum(values) / len(values)} if values else {}
        found |= {key: records[-1][key] for key in (f"{name}_average",) if key in records[-1]}
    return found
