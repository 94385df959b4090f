"""Opponents compared: who sits opposite, what a game is worth, and what a run remembers."""

import random

import pytest
import torch

from minirl.config import TrainConfig, validate
from minirl.errors import ConfigError
from minirl.evaluation.games import average_strategy, best_response, exploitability, strategy_of, uniform_strategy
from minirl.evaluation.players import RunningAverage
from minirl.experiments.run import load_experiment, load_method
from minirl.loops import Learner, run_phases
from minirl.policy.models import Policy, load_policy, tiny_llama
from minirl.rollouts.episodes import CONTEXT, Rollouts
from minirl.rollouts.games import random_mover, roles
from minirl.rollouts.opponents import Pool
from minirl.rollouts.players import equilibrium, follower
from minirl.tasks import Item, get
from minirl.techniques.self_play.opponents import LATE, Circle, OpponentRL, evaluate, learning

KUHN, BASE = get("kuhn"), load_policy("players")
TRAIN = TrainConfig(updates=3, prompts=4, samples=4, learning_rate=1e-3)


def circle(opponent="self", games=8, pool=None) -> Circle:
    return Circle(opponent, games, 1.0, pool or Pool(3, 1))


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


# --- who sits opposite ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("opponent", "rows"), [("random", 8), ("strong", 8), ("best_response", 8), ("self", 8)])
def test_as_many_rows_of_the_learner_whoever_sits_opposite(opponent, rows):
    rollouts = circle(opponent).roll_out(BASE, KUHN, KUHN.items(0, range(3), 1), generator=noise())
    assert len(rollouts.items) == rows
    assert roles(rollouts).tolist() == [0, 1] * (rows // 2)  # on either seat equally often
    deals = [item.answer.split(":")[0] for item in rollouts.items]
    expected = [item.prompt for item in KUHN.items(0, range(3), 1)]
    if opponent == "self":  # four games, two rows each, the deals in turn
        assert deals == [deal for i in range(4) for deal in [expected[i % 3]] * 2]
    else:
        assert deals == [expected[i % 3] for i in range(8)]


def test_opponents_by_name():
    strategy = strategy_of(BASE, KUHN, 1)
    assert circle("random").others(BASE, KUHN, 1, strategy) == ([random_mover], [random_mover])
    assert circle("self").others(BASE, KUHN, 1, strategy) == ([BASE], [BASE])
    first, second = circle("best_response").others(BASE, KUHN, 1, strategy)
    assert len(first) == len(second) == 1 and first[0] is not second[0]
    # If the policy moves first, the best response moves second, and the other way round.
    plans = [best_response(KUHN, 1, [strategy] * 2, player)[1] for player in (0, 1)]
    for mover, plan, player in ((first[0], plans[1], 1), (second[0], plans[0], 0)):
        for view, move in plan.items():
            deal = view[2] + "JQK".replace(view[2], "")[0]
            deal = deal if player == 0 else deal[::-1]
            assert mover(KUHN, deal, view[3:], player, random.Random(0)) == move


def test_a_pool_that_is_empty_is_the_policy_itself_and_then_its_past():
    pool = Pool(8, 1)
    strategy = strategy_of(BASE, KUHN, 1)
    assert circle("pool", pool=pool).others(BASE, KUHN, 1, strategy) == ([BASE], [BASE])
    for _ in range(8):
        pool.learned(BASE)
    members, same = circle("pool", pool=pool).others(BASE, KUHN, 1, strategy)
    assert len(members) == 4 and members is same  # every second of eight
    assert all(isinstance(member, Policy) and member is not BASE for member in members)


def test_the_equilibrium_is_one_and_is_followed():
    assert exploitability(KUHN, 1, equilibrium()) == pytest.approx(0, abs=1e-12)
    move, rng = follower(equilibrium(1 / 3)), random.Random(0)
    bets = [move(KUHN, "JQ", "", 0, rng) for _ in range(3000)].count("b") / 3000
    assert bets == pytest.approx(1 / 3, abs=0.035)  # four standard errors
    assert {move(KUHN, "QK", "b", 1, rng) for _ in range(50)} == {"b"}


# --- credit -----------------------------------------------------------------------------------------------------------


def test_a_game_is_compared_with_the_games_on_the_same_seat():
    """Two games. On the first seat 1 and −2 (mean −½), on the second −1 and 2 (mean ½)."""
    seats = [Item("kuhn", 0, i // 2, 1, f"K{1 + i % 2}Q", "") for i in range(4)]
    turn = torch.tensor([[-1, 0, -1, 1], [-1, -1, 0, -1], [-1, 0, -1, 1], [-1, -1, 0, -1]])
    rollouts = Rollouts(
        ids=torch.zeros(4, 4, dtype=torch.long),
        turn=turn,
        logprobs=torch.zeros(4, 4),
        scores=torch.tensor([[0.0, 1.0], [-1.0, 0.0], [0.0, -2.0], [2.0, 0.0]]),
        group=torch.arange(4),
        answers=[["p", "b"], ["b"]] * 2,
        items=seats,
        longest=2,
    )
    credit = OpponentRL(opponent="self", beta=0.25).credit(rollouts)
    gained = torch.tensor([1.5, -1.5, -1.5, 1.5])[:, None].expand(4, 4)
    own = turn != CONTEXT
    torch.testing.assert_close(credit.advantages, torch.where(own, gained, 0.0))
    torch.testing.assert_close(credit.kl, torch.where(own, 0.25, 0.0))


# --- the average of a run -------------------------------------------------------------------------------------------


def test_a_running_average_is_the_average():
    some = [uniform_strategy(KUHN, 1), equilibrium(0.0), equilibrium(0.3)]
    kept = RunningAverage()
    for strategy in some:
        kept.add(KUHN, 1, {view: strategy[view] for view in some[0]})  # in one order
    whole, ours = average_strategy(KUHN, 1, some), kept.strategy(some[0])
    for view, moves in ours.items():
        assert moves == pytest.approx(whole[view])


def test_where_nobody_gets_the_average_says_what_the_latest_does():
    never = {**equilibrium(), "K1Q": {"p": 0.0, "b": 1.0}}
    kept = RunningAverage()
    kept.add(KUHN, 1, never)
    assert kept.strategy(never)["K1Qpb"] == never["K1Qpb"]


def test_what_is_read_off_the_records():
    records = [{"exploitability": 1.0, "exploitability_of_average": 1.0}] * 10
    records += [{"exploitability": 0.25, "exploitability_of_average": 0.5}] * (LATE - 1)
    records += [{"exploitability": 0.25, "exploitability_of_average": 0.125}]
    assert learning(records) == {"late": 0.25, "average": 0.125, "gap": 0.125}


# --- a run ----------------------------------------------------------------------------------------------------------


def learner(policy) -> Learner:
    from minirl.config import TaskConfig

    return Learner(policy, TaskConfig(name="kuhn"), TRAIN, seed=0)


@pytest.mark.parametrize("opponent", ["self", "pool", "best_response"])
@pytest.mark.parametrize("stop", [1, 2])
def test_a_resumed_run_is_the_undisturbed_run(opponent, stop):
    method = OpponentRL(opponent=opponent, pool=2, every=1)
    whole = learner(load_policy("players"))
    records = list(run_phases(whole, method.phases(TRAIN)))
    assert {"exploitability", "exploitability_of_average", "won"} <= records[0].keys()
    assert records[0]["exploitability"] == pytest.approx(exploitability(KUHN, 1, strategy_of(BASE, KUHN, 1)), abs=1e-5)

    first = learner(load_policy("players"))
    generator = run_phases(first, method.phases(TRAIN))
    seen = [next(generator) for _ in range(stop)]
    second = learner(load_policy("players"))
    second.policy.model.load_state_dict(first.policy.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.updates_done, second.generated_tokens, second.memory = stop, first.generated_tokens, dict(first.memory)
    del generator
    assert seen + list(run_phases(second, method.phases(TRAIN))) == records


def test_an_evaluation_is_computed():
    evaluation, rollouts = evaluate(BASE, KUHN, KUHN.items(1, range(5), 1), seed=0)
    assert evaluation.items == {} and evaluation.metrics.keys() == {
        *("exploitability", "against_random", "value", "illegal")
    }
    again, _ = evaluate(BASE, KUHN, KUHN.items(9, range(2), 1), seed=7)
    assert again.metrics == evaluation.metrics  # whatever the items and the seed are
    assert len(rollouts.items) == 10  # both seats of five games
    assert evaluation.metrics["exploitability"] == pytest.approx(0.45, abs=0.03)  # it plays nearly at random


def test_an_untrained_model_pays_for_moves_that_are_none():
    evaluation, _ = evaluate(tiny_llama(16, 1, 2), KUHN, KUHN.items(1, range(2), 1), seed=0)
    assert evaluation.metrics["illegal"] > 0.9 and evaluation.metrics["against_random"] < -1.5


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [{"opponent": "strongest"}, {"pool": 0}, {"every": 0}, {"beta": -1}, {"bta": 1}])
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(OpponentRL, {"opponent": "self", **bad}, "arms.self")


def test_games_are_played_on_either_seat():
    with pytest.raises(ConfigError, match="make it even"):
        OpponentRL(opponent="self").phases(TRAIN.model_copy(update={"prompts": 3, "samples": 3}))


@pytest.mark.parametrize("tier", ["smoke", "tiny"])
def test_arms_differ_in_nothing_but_the_opponent(tier):
    experiment = load_experiment("opponents", tier)
    methods = {arm: load_method(experiment, arm) for arm in experiment.arms}
    assert {arm: (m.opponent, m.shuffle_scores) for arm, m in methods.items()} == {
        **{arm: (arm, False) for arm in ("random", "strong", "self", "pool", "best_response")},
        "shuffled": ("self", True),
    }
    assert len({(m.beta, m.pool, m.every) for m in methods.values()}) == 1
