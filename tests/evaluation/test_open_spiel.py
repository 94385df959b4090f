"""Our exploitability beside OpenSpiel's (``pip install "minirl[games]"``), an independent implementation."""

import random

import pytest

from minirl.evaluation.games import best_response, exploitability, uniform_strategy, values, views
from minirl.tasks import get

pyspiel = pytest.importorskip("pyspiel", reason="OpenSpiel is not installed: the extra 'games'")
KUHN = get("kuhn")


def theirs(strategy):
    """A strategy as OpenSpiel's tabular policy: its Kuhn poker names cards 0, 1, 2 and moves p, b, as 0 and 1."""
    from open_spiel.python.policy import TabularPolicy

    game = pyspiel.load_game("kuhn_poker")
    policy = TabularPolicy(game)
    for view, moves in strategy.items():
        state = policy.policy_for_key(str("JQK".index(view[2])) + view[3:])
        state[0], state[1] = moves["p"], moves["b"]
    return game, policy


def drawn(seed):
    rng = random.Random(seed)
    bets = {view: rng.choice([0.0, 1.0, rng.random()]) for view in views(KUHN, 1)}
    return {view: {"b": p, "p": 1 - p} for view, p in bets.items()}


@pytest.mark.parametrize("seed", [None, *range(20)])
def test_exploitability_of_kuhn_is_theirs(seed):
    from open_spiel.python.algorithms.expected_game_score import policy_value
    from open_spiel.python.algorithms.exploitability import exploitability as their_exploitability
    from open_spiel.python.algorithms.exploitability import nash_conv

    strategy = uniform_strategy(KUHN, 1) if seed is None else drawn(seed)
    game, policy = theirs(strategy)
    assert exploitability(KUHN, 1, strategy) == pytest.approx(their_exploitability(game, policy), abs=1e-9)
    ours = values(KUHN, 1, [strategy] * 2)
    assert ours == pytest.approx(policy_value(game.new_initial_state(), [policy, policy]), abs=1e-9)
    gains = [best_response(KUHN, 1, [strategy] * 2, player)[0] - ours[player] for player in (0, 1)]
    assert gains == pytest.approx(nash_conv(game, policy, return_only_nash_conv=False).player_improvements, abs=1e-9)
