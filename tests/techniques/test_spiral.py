"""SPIRAL: who sits where, what every seat's outcome is compared with, and what is read off a policy that plays."""

from functools import partial

import pytest
import torch
from stand_ins import sharp_policy

from minirl.config import TrainConfig, validate
from minirl.errors import ConfigError
from minirl.evaluation.games import exploitability, strategy_of, uniform_strategy
from minirl.evaluation.strategies import Past, against_random, game_metrics, optimal
from minirl.experiments.run import load_experiment, load_method
from minirl.loops import Learner, run_phases
from minirl.policy.models import load_policy
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.games import roles
from minirl.rollouts.seats import self_play
from minirl.tasks import Item, get
from minirl.techniques.base import OnlinePhase
from minirl.techniques.self_play.spiral import GAMES, Baselines, Spiral, evaluate, learning

POLICY, KUHN, NIM = sharp_policy(), get("kuhn"), get("nim")
BASE = load_policy("players", "cpu")  # the only one here that knows what a legal move is
# What the players of one game of Kuhn and one of Nim read first, and what they got.
ROWS = (("kuhn", "K1Q", 2.0), ("kuhn", "K2J", -2.0), ("nim", "N1i", -1.0), ("nim", "N2i", 1.0))


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 4, "prompts": 8, "samples": 2, "turns": 1, "learning_rate": 1e-3, **changes})


def noise(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rollouts(rows=ROWS) -> Rollouts:
    """Rows of two moves each, with something read before, between and after them."""
    count = len(rows)
    return Rollouts(
        ids=torch.zeros(count, 5, dtype=torch.long),
        turn=torch.tensor([[-1, 0, -1, 1, -1]] * count),
        logprobs=torch.zeros(count, 5),
        scores=torch.tensor([[0.0, outcome] for *_, outcome in rows]),
        group=torch.arange(count),
        answers=[["p", "b"]] * count,
        items=[Item(game, 0, 0, GAMES[game], prompt, "") for game, prompt, _ in rows],
        longest=2,
    )


def credit_of(rows=ROWS, memory=None, **settings):
    return Spiral(**settings).credit(memory or Baselines(GAMES, 1), rollouts(rows))


def first(credit) -> list[float]:
    """The advantage of every row's first move."""
    return credit.advantages[:, 1].tolist()


# --- credit ---------------------------------------------------------------------------------------------------------


def test_a_new_baseline_takes_nothing_away():
    assert first(credit_of()) == [2, -2, -1, 1]


def test_every_turn_of_a_role_has_the_same_advantage_and_context_none():
    assert credit_of().advantages[0].tolist() == [0, 2, 0, 2, 0]


def test_baselines_move_after_their_use():
    memory = Baselines(GAMES, 1)
    credit_of(memory=memory)
    # b ← 0.95 · 0 + 0.05 R, for kuhn 1 and 2, nim 1 and 2.
    assert memory.of == pytest.approx({0: 0.1, 1: -0.1, 2: -0.05, 3: 0.05})
    assert first(credit_of(memory=memory)) == pytest.approx([1.9, -1.9, -0.95, 0.95])
    # b ← 0.95 · 0.1 + 0.05 · 2 = 0.195
    assert memory.of[0] == pytest.approx(0.195)


def test_rows_of_a_batch_come_after_each_other():
    # Twice the first player of nim, who loses: b is 0 for the first row and −0.5 for the second.
    assert first(credit_of([ROWS[2], ROWS[2]], decay=0.5)) == pytest.approx([-1, -0.5])


def test_another_game_or_role_has_another_baseline():
    memory = Baselines(GAMES, 1)
    credit_of([ROWS[0]] * 50, memory)
    assert memory.of.keys() == {0}
    assert first(credit_of(ROWS[1:], memory)) == [-2, -1, 1]


def test_a_seat_that_always_wins_has_nothing_left_to_learn_from():
    memory = Baselines(GAMES, 1)
    credit_of(ROWS[2:] * 200, memory)
    late = credit_of(ROWS[2:], memory)
    assert late.stats["nim_spread"] == pytest.approx(0, abs=1e-6)
    assert credit_of(ROWS[2:], memory, baseline="none").stats["nim_spread"] == 1


def test_in_self_play_the_mean_over_both_seats_is_no_baseline():
    assert torch.equal(credit_of(baseline="batch_mean").advantages, credit_of(baseline="none").advantages)


def test_against_another_opponent_the_mean_is_one():
    # Two wins of nim and one loss: the mean is ⅓.
    rows = [ROWS[3], ROWS[3], ROWS[2]]
    assert first(credit_of(rows, baseline="batch_mean")) == pytest.approx([2 / 3, 2 / 3, -4 / 3])
    assert first(credit_of(rows, baseline="none")) == [1, 1, -1]


def test_the_spread_is_the_part_of_the_mean_square_that_is_left():
    assert credit_of().stats == {"kuhn_spread": 1, "nim_spread": 1}
    memory = Baselines(GAMES, 1)
    memory.of = {0: 1.0, 1: 0.0, 2: -0.5, 3: 0.5}
    # Kuhn: A = 1 and −2 for R = 2 and −2. Nim: A = −½ and ½ for R = −1 and 1.
    assert credit_of(memory=memory).stats == pytest.approx({"kuhn_spread": (1 + 4) / 8, "nim_spread": 1 / 4})


def test_kl_is_on_own_tokens_and_off_in_the_paper():
    kl = credit_of(beta=0.25).kl  # times the stake, 2 in Kuhn and 1 in Nim
    assert kl[0].tolist() == [0, 0.5, 0, 0.5, 0] and kl[2].tolist() == [0, 0.25, 0, 0.25, 0]
    assert not credit_of().kl.any()


# --- rolling out ----------------------------------------------------------------------------------------------------


def test_both_seats_of_a_game_are_rows():
    drawn = self_play(BASE, KUHN, KUHN.items(0, range(4), 1), games=GAMES, generator=noise())
    assert [item.task for item in drawn.items] == ["kuhn"] * 4 + ["nim"] * 4
    assert roles(drawn).tolist() == [0, 1] * 4
    # Row 2i and 2i + 1 are of one game, and what one wins the other loses.
    assert all(a.answer == b.answer for a, b in zip(drawn.items[::2], drawn.items[1::2], strict=True))
    won = drawn.scores.sum(1)
    assert torch.equal(won[::2], -won[1::2]) and won.any()


def test_games_take_turns_in_the_deals():
    items = KUHN.items(0, range(5), 1)
    drawn = self_play(POLICY, KUHN, items, games=GAMES, generator=noise())
    assert [item.index for item in drawn.items] == [0, 0, 2, 2, 4, 4, 1, 1, 3, 3]
    # A deal of Kuhn is the one that was given.
    assert [item.answer[:2] for item in drawn.items[:6:2]] == [item.prompt for item in items[::2]]


def test_scores_have_as_many_turns_as_the_longer_game():
    drawn = self_play(POLICY, KUHN, KUHN.items(0, range(4), 1), games=GAMES, generator=noise())
    assert drawn.scores.shape == (8, NIM.turns(9)) and drawn.longest == NIM.turns(9)


def test_one_game_alone():
    drawn = self_play(POLICY, KUHN, KUHN.items(0, range(3), 1), games={"kuhn": 1}, generator=noise())
    assert {item.task for item in drawn.items} == {"kuhn"} and len(drawn.items) == 6


def test_against_a_player_who_draws_there_are_as_many_rows():
    items = KUHN.items(0, range(4), 1)
    drawn = self_play(POLICY, KUHN, items, games=GAMES, opponent="random", generator=noise())
    assert len(drawn.items) == 8
    assert roles(drawn).tolist() == [0, 1] * 4  # either seat, in games of their own
    assert [item.index for item in drawn.items] == [0, 0, 2, 2, 1, 1, 3, 3]


def test_the_same_noise_gives_the_same_games():
    def play(seed):
        return self_play(POLICY, KUHN, KUHN.items(0, range(6), 1), games=GAMES, generator=noise(seed)).answers

    assert play(1) == play(1) != play(2)


# --- what is read off ------------------------------------------------------------------------------------------------


def test_best_moves_of_a_heap_of_two():
    # One position is won: two left, both players would take both. With one left (after 1) it is the last one.
    strategy = {"N1b": {"1": 0.25, "2": 0.75, "?": 0.0}, "N2b1a": {"1": 0.9, "?": 0.1}}
    # The first is always reached, the second by every second random player: (0.75 + 0.5 · 0.9) / 1.5.
    assert optimal(NIM, 2, strategy) == pytest.approx(0.8)


def test_lost_positions_do_not_count():
    # From four all moves lose; afterwards three, two or one are left to the second player, who takes them all.
    strategy = uniform_strategy(NIM, 4)
    for view in ("N2d1c", "N2d2b", "N2d3a"):
        strategy[view] = dict.fromkeys("123", 0.0) | {view[-1].translate({97: "1", 98: "2", 99: "3"}): 1.0}
    before = optimal(NIM, 4, strategy)
    strategy["N1d"] = {"1": 0.0, "2": 1.0, "3": 0.0}
    assert optimal(NIM, 4, strategy) == before


def test_a_random_player_finds_the_best_move_by_chance():
    # Heap of three: take all (⅓). After 1, two are left: ½. After 2, one: 1. After 1 and 1, one: 1.
    # Weights 1, ⅓, ⅓, ⅙.
    value = (1 / 3 + (1 / 3) * (1 / 2) + 1 / 3 + 1 / 6) / (1 + 1 / 3 + 1 / 3 + 1 / 6)
    assert optimal(NIM, 3, uniform_strategy(NIM, 3)) == pytest.approx(value)


def test_against_itself_randomness_wins_nothing():
    assert against_random(KUHN, 1, uniform_strategy(KUHN, 1)) == pytest.approx(0)
    assert against_random(NIM, 9, uniform_strategy(NIM, 9)) == pytest.approx(0)


def test_who_always_bets_against_random():
    always = {view: {"p": 0.0, "b": 1.0} for view in uniform_strategy(KUHN, 1)}
    # The other folds half of the time (1) and else calls: cards are even, so 0. As the second player: after a pass a
    # bet, as before; after a bet a call, 0. The other begins with either half of the time: ½ · ½. Mean of ½ and ¼.
    assert against_random(KUHN, 1, always) == pytest.approx(3 / 8)


def test_metrics_have_the_name_of_the_game():
    found = game_metrics("nim", 9, uniform_strategy(NIM, 9))
    assert found.keys() == {f"nim_{m}" for m in ("exploitability", "average", "random", "value", "illegal", "optimal")}
    assert found["nim_illegal"] == 0
    kuhn = game_metrics("kuhn", 1, uniform_strategy(KUHN, 1))
    assert kuhn.keys() == {f"kuhn_{m}" for m in ("exploitability", "average", "random", "value", "illegal")}
    assert kuhn["kuhn_average"] == kuhn["kuhn_exploitability"] == pytest.approx(0.4583, abs=1e-4)


def test_the_past_is_read_now_and_then():
    past = Past({"kuhn": 1}, 3)
    assert past.measured == {}
    for _ in range(5):
        past.learned(POLICY)
    assert past.updates == 5 and len(past.strategies["kuhn"]) == 2  # after the first and the fourth


def test_the_average_of_two_is_not_the_last():
    past, other = Past({"kuhn": 1}, 1), sharp_policy(1)
    past.learned(POLICY)
    assert past.measured["kuhn_average"] == pytest.approx(past.measured["kuhn_exploitability"])
    past.learned(other)
    assert past.measured["kuhn_exploitability"] == exploitability(KUHN, 1, strategy_of(other, KUHN, 1))
    assert past.measured["kuhn_average"] != past.measured["kuhn_exploitability"]


def test_what_is_remembered_comes_back():
    memory, other = Baselines(GAMES, 2), Baselines(GAMES, 2)
    for _ in range(3):
        memory.learned(POLICY)
    credit_of(memory=memory)
    other.load(memory.state())
    assert (other.of, other.updates, other.measured) == (memory.of, 3, memory.measured)
    assert other.strategies == memory.strategies
    assert all(isinstance(value, torch.Tensor) for value in memory.state().values())


def test_before_the_first_update_there_is_nothing_to_remember():
    other = Baselines(GAMES, 2)
    other.load(Baselines(GAMES, 2).state())
    assert (other.of, other.updates, other.measured) == ({}, 0, {})


# --- evaluation -----------------------------------------------------------------------------------------------------


def test_evaluation_is_exact_but_for_the_sums():
    items = KUHN.items(5, range(8), 1)
    one, drawn = evaluate(POLICY, KUHN, items, seed=3)
    two, _ = evaluate(POLICY, KUHN, items, seed=4)
    assert {k: v for k, v in one.metrics.items() if k != "sums"} == {
        k: v for k, v in two.metrics.items() if k != "sums"
    }
    assert len(one.items["sums"]) == 8 and one.metrics["sums"] == pytest.approx(sum(one.items["sums"]) / 8)
    assert len(drawn.items) == 16 and {item.task for item in drawn.items} == set(GAMES)


def test_what_is_learned_is_that_of_the_last_quarter():
    records = [{"kuhn_exploitability": float(i), "kuhn_spread": 2.0 * i, "kuhn_average": 9.0 - i} for i in range(8)]
    assert learning(records) == {"kuhn_late": 6.5, "kuhn_spread": 13, "kuhn_average": 2}
    # Before anything has been read there is nothing to say of strategies.
    assert learning([{"nim_spread": 1.0}]) == {"nim_spread": 1}


# --- phases and settings --------------------------------------------------------------------------------------------


def test_one_phase_with_a_memory():
    (phase,) = Spiral(shuffle_scores=True).phases(train_config(temperature=0.5))
    assert isinstance(phase, OnlinePhase) and isinstance(phase.memory, Baselines)
    assert (phase.name, phase.updates, phase.shuffle_scores) == ("self-play", 4, True)
    assert isinstance(phase.roll_out, partial)
    assert phase.roll_out.keywords == {"games": GAMES, "opponent": "self", "samples": 2, "temperature": 0.5}


def test_phases_do_not_share_a_memory():
    method = Spiral()
    assert method.phases(train_config())[0].memory is not method.phases(train_config())[0].memory


@pytest.mark.parametrize("bad", [{"samples": 4}, {"turns": 2}])
def test_a_deal_has_two_rows(bad):
    with pytest.raises(ConfigError, match=r"^train\.samples, train\.turns: .*; set them to 2 and 1$"):
        Spiral().phases(train_config(**bad))


@pytest.mark.parametrize("games", [{"chain": 2}, {"nim": 99}])
def test_games_are_games(games):
    with pytest.raises(ConfigError, match=r"^games: '(chain|nim)' at level \d+ is no game$"):
        Spiral(games=games).phases(train_config())


def test_a_mistyped_game_is_named():
    with pytest.raises(ConfigError, match=r"unknown task 'kuhm'\. Did you mean 'kuhn'\?"):
        Spiral(games={"kuhm": 1}).phases(train_config())


@pytest.mark.parametrize(
    "bad", [{"baseline": "mean"}, {"decay": 1.0}, {"opponent": "past"}, {"beta": -1}, {"watch": 0}, {"rae": True}]
)
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(Spiral, bad, "arms.self_play")


# --- training -------------------------------------------------------------------------------------------------------


def records_of(arm: str, updates: int = 2) -> list[dict]:
    experiment = load_experiment("spiral", "smoke", [f"train.updates={updates}", "train.prompts=8"])
    learner = Learner(load_policy(experiment.base, "cpu"), experiment.task, experiment.train, seed=1)
    return list(run_phases(learner, load_method(experiment, arm).phases(experiment.train)))


def test_a_smoke_run_logs_what_is_learned_from():
    one, two = records_of("self_play")
    assert one["phase"] == "self-play" and "kuhn_exploitability" not in one  # nothing is read before an update
    assert {"kuhn_exploitability", "kuhn_average", "kuhn_value", "nim_optimal"} <= two.keys()
    assert two["kuhn_average"] == two["kuhn_exploitability"]  # of a single strategy
    assert one["kuhn_spread"] > 0 and two["generated_tokens"] > one["generated_tokens"] >= 16


def test_before_anything_is_learned_arms_play_the_same_games():
    arms = [records_of(arm, 1)[0] for arm in ("self_play", "no_baseline", "shuffled")]
    assert len({record["generated_tokens"] for record in arms}) == 1
