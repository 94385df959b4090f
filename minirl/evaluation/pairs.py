"""How two players do together in Hanabi and against each other in a chase (:mod:`minirl.tasks.hanabi`,
:mod:`minirl.tasks.chase`).

==================== ========================================================================================
metric               meaning
==================== ========================================================================================
hanabi_score         what a game of the policy with itself scores on average
chase_exploitability what the best response gains a game, mean over both seats: 0 for who cannot be beaten
chase_value          what the chaser gets a game if the policy sits on both seats
GAME_illegal         chance that a game with itself ends with a move that is not legal
==================== ========================================================================================

All are computed from the policy's probabilities after every view, without noise.
"""

from collections import defaultdict

from minirl.evaluation.games import exploitability, illegal, strategy_of, values
from minirl.evaluation.strategies import game_of
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import get
from minirl.tasks.chase import Chase
from minirl.tasks.game import role


def pair_metrics(policy: Policy, hanabi: int, chase: int) -> dict[str, float]:
    """The metrics of the table above at these levels of the two games."""
    found: dict[str, float] = {}
    for name, level in (("hanabi", hanabi), ("chase", chase)):
        game = game_of(name)
        strategy = strategy_of(policy, game, level)
        found["hanabi_score" if name == "hanabi" else "chase_value"] = values(game, level, [strategy] * 2)[0]
        found[f"{name}_illegal"] = illegal(game, level, strategy)
        if name == "chase":
            found["chase_exploitability"] = exploitability(game, level, strategy)
    return found


def game_stats(rollouts: Rollouts) -> dict[str, float]:
    """What the first seat got, the mean by game (``hanabi_got`` is the score); and ``chase_right``, the share of right
    moves among those of the chase that have a right and a wrong side."""
    got, right = defaultdict[str, list[float]](list), list[bool]()
    for item, total in zip(rollouts.items, rollouts.scores.sum(1).tolist(), strict=True):
        game, (deal, _, record) = get(item.task), item.answer.partition(":")
        if role(item) == 0:
            got[f"{item.task}_got"].append(total)
            if isinstance(game, Chase):
                right += game.right(deal, record)
    found = {name: sum(of_all) / len(of_all) for name, of_all in got.items()}
    return {**found, "chase_right": sum(right) / len(right)} if right else found
