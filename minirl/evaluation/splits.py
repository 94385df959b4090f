"""Trust-and-Split (:mod:`minirl.tasks.trust_split`): who gets what with whom, who leaves the coins to whom, and who
tells the truth.

================ =====================================================================================
metric           meaning
================ =====================================================================================
payoff           reward a round, the policy against itself, mean of both players
yielding         share of the rounds with a losing hand in which the policy claims nothing, against itself
honesty          share of its messages that name the hand it holds, against itself
payoff/NAME      reward a round of the policy against NAME, one of the :data:`OPPONENTS`
yielding/NAME    ``yielding`` against NAME
reciprocity      ``yielding/fair`` less ``yielding/grabber``: 1 leaves the coins to the fair and to nobody else
================ =====================================================================================

A round that was not played, because a move that is not legal had ended the game, brings nothing, and in it nobody says
or leaves anything.
"""

from collections.abc import Sequence

from minirl.evaluation.attempts import Evaluation
from minirl.evaluation.dilemmas import match
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.games import Mover, random_mover
from minirl.tasks import Item
from minirl.tasks.game import role
from minirl.tasks.splitting_habits import NOTHING, fair, grabber, tit_for_tat
from minirl.tasks.trust_split import BEATS, ROUND, TrustSplit, hands

OPPONENTS: dict[str, Mover] = {
    "grabber": grabber,
    "fair": fair,
    "tit_for_tat": tit_for_tat,
    "random": random_mover,
}


def yielding(item: Item, player: int) -> float:
    """Of the rounds in which ``player`` held the losing hand, the share in which it claimed nothing; 0 if it never
    did."""
    deal, _, moves = item.answer.partition(":")
    lost = [number for number, both in enumerate(hands(deal)) if BEATS[both[1 - player]] == both[player]]
    left = [moves[ROUND * number + 2 + player :][:1] == NOTHING for number in lost]
    return sum(left) / len(left) if left else 0.0


def honesty(item: Item, player: int) -> float:
    """Of the rounds of the game, the share in which ``player`` named its hand."""
    deal, _, moves = item.answer.partition(":")
    held = hands(deal)
    return sum(moves[ROUND * number + player :][:1] == both[player].lower() for number, both in enumerate(held)) / len(
        held
    )


def by_row(rollouts: Rollouts) -> dict[str, list[float]]:
    """Of every row: its reward a round, ``yielding`` and ``honesty``."""
    rounds = rollouts.scores.shape[1] / 2
    return {
        "payoff": (rollouts.scores.sum(1) / rounds).tolist(),
        "yielding": [yielding(item, role(item)) for item in rollouts.items],
        "honesty": [honesty(item, role(item)) for item in rollouts.items],
    }


def evaluate_splits(
    policy: Policy, task: TrustSplit, items: Sequence[Item], *, seed: int, temperature: float = 1.0
) -> tuple[Evaluation, Rollouts]:
    """The metrics of the table above, a game an item against everybody; and the games of the policy with itself, to
    read."""
    own = match(policy, task, items, policy, seed=seed, temperature=temperature)
    values = {
        name: [(first + second) / 2 for first, second in zip(found[::2], found[1::2], strict=True)]
        for name, found in by_row(own).items()
    }
    tokens = own.generated_tokens()
    for name, other in OPPONENTS.items():
        played = match(policy, task, items, other, seed=seed, temperature=temperature)
        found = by_row(played)
        values |= {f"{metric}/{name}": found[metric] for metric in ("payoff", "yielding")}
        tokens += played.generated_tokens()
    to_whom = zip(values["yielding/fair"], values["yielding/grabber"], strict=True)
    values["reciprocity"] = [fairly - meekly for fairly, meekly in to_whom]
    return Evaluation({name: sum(of_all) / len(of_all) for name, of_all in values.items()}, values, tokens), own
