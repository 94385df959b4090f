"""Repeated games in which both players move at the same time, ``c`` to cooperate or ``d`` to defect: who gets what
against whom, and who answers what with what.

================ =====================================================================================
metric           meaning
================ =====================================================================================
cooperation      share of ``c`` among the moves of both players, the policy against itself
payoff           reward a round, the policy against itself, mean of both players
payoff/NAME      reward a round of the policy against NAME, one of the :data:`OPPONENTS`
c/xy             share of ``c`` after a round in which the policy itself played x and the other one y,
                 against ``random``, who makes all answers happen; left out if it never came to that
================ =====================================================================================

A round that was not played, because a move that is not legal had ended the game, counts as a round without reward and
without ``c``.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from minirl.evaluation.attempts import Evaluation
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.games import Mover, Seat, play, random_mover
from minirl.tasks import Item, get
from minirl.tasks.game import INVALID, Game, role
from minirl.tasks.habits import cooperator, defector, tit_for_tat

OPPONENTS: dict[str, Mover] = {
    "defector": defector,
    "cooperator": cooperator,
    "tit_for_tat": tit_for_tat,
    "random": random_mover,
}


def match(
    policy: Policy, game: Game, items: Sequence[Item], other: Seat, *, seed: int, temperature: float = 1.0
) -> Rollouts:
    """``policy`` against ``other`` in the game of every item, in turn as first and as second player; if ``other`` is
    the policy itself, rows 2i and 2i + 1 are the two players of game i. ``temperature`` 0 is greedy."""
    seats = [(policy, other) if i % 2 == 0 else (other, policy) for i in range(len(items))]
    generator = torch.Generator().manual_seed(seed) if temperature > 0 else None
    return play(game, items, seats, learner=policy, generator=generator, temperature=temperature or 1.0)


def other_rewards(rollouts: Rollouts) -> Tensor:
    """[B, turns]: what the other player got in every round, worked out from the record of the game."""
    rewards = torch.zeros_like(rollouts.scores)
    for row, item in enumerate(rollouts.items):
        game, (deal, _, record) = get(item.task), item.answer.partition(":")
        assert isinstance(game, Game)
        for t in range(len(record) // 2):
            offenders = tuple(player for player in (0, 1) if record[2 * t + player] == INVALID)
            brought = game.forfeit(offenders) if offenders else game.rewards(deal, record[: 2 * t + 2])
            rewards[row, t] = brought[1 - role(item)]
    return rewards


def cooperation(rollouts: Rollouts) -> list[float]:
    """Of every row, the share of ``c`` among its own moves."""
    return [moves.count("c") / rollouts.scores.shape[1] for moves in rollouts.answers]


def conditional(rollouts: Rollouts) -> dict[str, float]:
    """``c/xy`` of all rows together: the share of ``c`` among the moves that came after own x and other's y."""
    answers = defaultdict[str, list[bool]](list)
    for item in rollouts.items:
        record, player = item.answer.partition(":")[2], role(item)
        for t in range(2, len(record), 2):
            answers[record[t - 2 + player] + record[t - 1 - player]].append(record[t + player] == "c")
    return {
        f"c/{after}": sum(answers[after]) / len(answers[after]) for after in ("cc", "cd", "dc", "dd") if answers[after]
    }


def evaluate_dilemma(
    policy: Policy, task: Game, items: Sequence[Item], *, seed: int, temperature: float = 1.0
) -> tuple[Evaluation, Rollouts]:
    """The metrics of the table above, a game an item against everybody; and the games of the policy with itself, to
    read."""
    settings, turns = {"seed": seed, "temperature": temperature}, max(task.turns(item.level) for item in items)
    own = match(policy, task, items, policy, **settings)  # type: ignore[arg-type]

    def a_game(values: Sequence[float]) -> list[float]:
        return [(first + second) / 2 for first, second in zip(values[::2], values[1::2], strict=True)]

    values = {"cooperation": a_game(cooperation(own)), "payoff": a_game((own.scores.sum(1) / turns).tolist())}
    tokens = own.generated_tokens()
    for name, other in OPPONENTS.items():
        played = match(policy, task, items, other, **settings)  # type: ignore[arg-type]
        values[f"payoff/{name}"] = (played.scores.sum(1) / turns).tolist()
        tokens += played.generated_tokens()
    metrics = {name: sum(of_all) / len(of_all) for name, of_all in values.items()}
    return Evaluation({**metrics, **conditional(played)}, values, tokens), own
