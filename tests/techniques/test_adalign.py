"""Advantage Alignment: what a move is worth by hand, who is compared with whom, and who plays whom.

Games are scripted: a record names the moves of the first and the second player of every round in turn, so that
``cd`` is a first player who was betrayed. A round pays 3 3, 0 5, 5 0 or 1 1.
"""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import scripted, sharp_policy

from minirl.config import TaskConfig, TrainConfig, validate
from minirl.errors import ConfigError
from minirl.evaluation.dilemmas import OPPONENTS, conditional, cooperation, evaluate_dilemma, match, other_rewards
from minirl.loops import Learner, run_phases
from minirl.policy.models import load_policy
from minirl.rollouts.episodes import CONTEXT
from minirl.rollouts.opponents import Pool
from minirl.tasks import Item, get
from minirl.tasks.habits import HABITS
from minirl.techniques.base import OnlinePhase
from minirl.techniques.self_play.adalign import AdAlign, alignment, game_stats, legal_rounds, per_seat, self_play

POLICY, GAME = sharp_policy(), get("dilemma")
ROUNDS = 4  # of level 1


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 2, "prompts": 4, "samples": 2, "turns": ROUNDS, "learning_rate": 1e-3, **changes})


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def games(*records):
    """Rollouts of both players of every game, as :func:`play` would return them; ids are all alike."""
    items, scores, answers, turns = [], [], [], []
    for record in records:
        for player in (0, 1):
            rounds = [record[t : t + 2] for t in range(0, len(record), 2)]
            paid = []
            for t, moves in enumerate(rounds):
                out = tuple(i for i in (0, 1) if moves[i] == "?")
                paid.append((GAME.forfeit(out) if out else GAME.rewards("1", record[: 2 * t + 2]))[player])
            scores.append(paid + [0.0] * (ROUNDS - len(rounds)))
            answers.append([moves[player] for moves in rounds])
            items.append(Item("dilemma", 0, 0, 1, f"D{player + 1}", f"1:{record}"))
            turns.append([CONTEXT, *range(len(rounds))])
    return scripted(turns, scores, answers, items)


# --- the credit -----------------------------------------------------------------------------------------------------


def test_credit_by_hand():
    own, other = torch.tensor([[1.0, -2.0, 4.0]]), torch.tensor([[3.0, 5.0, -1.0]])
    # Past: 0; ½ · 1 = ½; ½ · (½ − 2) = −¾, which is ¼ · 1 + ½ · −2.
    # β = 2: 1; −2 + 2 · ½ · 5 = 3; 4 + 2 · −¾ · −1 = 5.5.
    assert alignment(own, other, beta=2.0, gamma=0.5).tolist() == [[1, 3, 5.5]]


def test_without_beta_everybody_is_alone():
    own, other = torch.randn(3, 5, generator=noise()), torch.randn(3, 5, generator=noise(1))
    assert torch.equal(alignment(own, other, 0.0, 0.9), own)


def test_the_first_move_has_no_past():
    own, other = torch.randn(3, 5, generator=noise()), torch.randn(3, 5, generator=noise(1))
    assert torch.equal(alignment(own, other, 7.0, 0.9)[:, 0], own[:, 0])


@pytest.mark.parametrize(
    ("past", "good_for_other", "sign"),
    [(1.0, 1.0, 1), (1.0, -1.0, -1), (-1.0, 1.0, -1), (-1.0, -1.0, 1)],
)
def test_what_is_done_to_me_comes_back(past, good_for_other, sign):
    # The second move costs me nothing. After a good past it is worth something if it is good for the other one, after
    # a bad past if it is bad.
    own, other = torch.tensor([[past, 0.0]]), torch.tensor([[0.0, good_for_other]])
    assert alignment(own, other, 1.0, 0.9)[0, 1].item() == pytest.approx(0.9 * sign)


def test_what_comes_later_does_not_count_as_past():
    own, other = torch.randn(2, 6, generator=noise()), torch.randn(2, 6, generator=noise(1))
    later = own.clone()
    later[:, 4:] += 10
    assert torch.equal(alignment(own, other, 2.0, 0.9)[:, :4], alignment(later, other, 2.0, 0.9)[:, :4])


@given(st.integers(1, 8), st.floats(0, 3), st.floats(0.1, 1))
def test_the_running_sum_is_the_sum_of_the_formula(rounds, beta, gamma):
    own, other = (torch.randn(2, rounds, generator=noise(s), dtype=torch.float64) for s in (3, 4))
    wanted = own.clone()
    for t in range(rounds):
        for k in range(t):
            wanted[:, t] += beta * gamma ** (t - k) * own[:, k] * other[:, t]
    assert torch.allclose(alignment(own, other, beta, gamma), wanted)


# --- who is compared with whom --------------------------------------------------------------------------------------


def test_advantages_compare_the_same_seat():
    # Two games, one round. First players got 3 and 1, second ones 0 and 5: each is compared with the other game's.
    rewards, alive = torch.tensor([[3.0], [0.0], [1.0], [5.0]]), torch.ones(4, 1).bool()
    assert per_seat(rewards, alive, games=2, gamma=1.0).tolist() == [[2], [-5], [-2], [5]]


def test_advantages_are_of_what_is_still_to_come():
    rewards, alive = torch.tensor([[2.0, 4.0], [0, 0], [0.0, 0.0], [0, 0]]), torch.ones(4, 2).bool()
    # The first player of game 1 gets 2 + ½ · 4 = 4 from round 1 on, 4 from round 2 on; that of game 2 nothing.
    assert per_seat(rewards, alive, games=2, gamma=0.5)[0].tolist() == [4, 4]


def test_games_against_somebody_else_are_compared_with_each_other():
    # Rows 0-3 are of one pair of policies, rows 4-7 of another: there everybody gets 9 more.
    first = torch.tensor([[3.0], [0.0], [1.0], [5.0]])
    rewards, alive = torch.cat([first, first + 9]), torch.ones(8, 1).bool()
    assert per_seat(rewards, alive, games=2, gamma=1.0).flatten().tolist() == [2, -5, -2, 5] * 2


def test_a_round_that_was_not_played_is_compared_with_nothing():
    rewards = torch.tensor([[3.0, 2.0], [0, 0], [1.0, 0.0], [0, 0], [2.0, 5.0], [0, 0]])
    alive = torch.tensor([[1, 1], [1, 1], [1, 0], [1, 1], [1, 1], [1, 1]]).bool()
    found = per_seat(rewards, alive, games=3, gamma=0.0)
    assert found[::2, 1].tolist() == [-3, 0, 3]  # 2 and 5, each against the other


# --- what is read off a game ----------------------------------------------------------------------------------------


def test_what_the_other_one_got():
    rollouts = games("cddcccdd", "ddcc")
    # In self-play it is what the neighbouring row got.
    assert other_rewards(rollouts).tolist() == [[5, 0, 3, 1], [0, 5, 3, 1], [1, 3, 0, 0], [1, 3, 0, 0]]
    assert torch.equal(other_rewards(rollouts), rollouts.scores.view(2, 2, 4).flip(1).view(4, 4))


def test_what_the_other_one_got_when_the_game_was_broken_off():
    assert other_rewards(games("ccc?")).tolist() == [[3, -5, 0, 0], [3, 0, 0, 0]]  # the second player pays 5
    assert other_rewards(games("??")).tolist() == [[-5, 0, 0, 0]] * 2


def test_rounds_without_the_one_that_broke_the_game_off():
    found = legal_rounds(games("ccddcccd", "cc?d", "??"))
    assert found.sum(1).tolist() == [4, 4, 1, 1, 0, 0]
    assert found[2].tolist() == [True, False, False, False]


def test_cooperation_and_what_it_answers():
    rollouts = games("cddcccdd", "cc")
    # Second player of game 1: d c c d. Of game 2 one round was played.
    assert cooperation(rollouts) == [0.5, 0.5, 0.25, 0.25]
    # First player: after cd d, after dc c, after cc d. Second: after dc c, after cd c, after cc d.
    assert conditional(rollouts) == {"c/cc": 0, "c/cd": 0.5, "c/dc": 1}  # dd came last: no answer to it
    assert game_stats(games("cccd")) == {"cooperation": 3 / 8, "payoff": (6 + 5) / 8, "c/cc": 0.5}


# --- arms -----------------------------------------------------------------------------------------------------------


def worth(rollouts, **settings):
    """c of every move, [B, rounds]: the advantage of its token."""
    return AdAlign(**settings).credit(rollouts).advantages[:, 1:]


def test_credit_of_the_arms_by_hand():
    # Two rounds each. First players get 3, 3 and 0, 1; second ones 3, 3 and 5, 1. γ = 1, and all divided by 5.
    rollouts = games("cccc", "cddd")
    # To come: 6, 3 and 1, 1; 6, 3 and 6, 1. Against the other game: ±5, ±2; 0, 0 and ±2.
    alone = torch.tensor([[1, 0.4], [0, 0.4], [-1, -0.4], [0, -0.4]])
    assert torch.allclose(worth(rollouts, beta=0, gamma=1.0), alone, atol=1e-6)
    # The first player's past is ±1, the other's advantage ±0.4: both games add 0.4, and centring takes the mean of
    # all four rows, 0.2, away. The second player's past is 0.
    aligned = alone + torch.tensor([[0, 0.2], [0, -0.2], [0, 0.2], [0, -0.2]])
    assert torch.allclose(worth(rollouts, beta=1, gamma=1.0), aligned, atol=1e-6)


def test_paid_by_the_sum_both_players_want_the_same():
    rollouts = games("cccc", "cddd")
    # Sums of a round: 6, 6 and 5, 2. To come: 12, 6 and 7, 2: ±5, ±4, by 5.
    found = worth(rollouts, beta=0, gamma=1.0, paid="sum")
    assert torch.allclose(found, torch.tensor([[1, 0.8], [1, 0.8], [-1, -0.8], [-1, -0.8]]), atol=1e-6)


def test_a_stranger_is_the_same_seat_of_the_game_before():
    rollouts = games("cccc", "cddd", "dddc")
    mine, theirs = (per_seat(r / 5, rollouts.alive, 3, 0.9) for r in (rollouts.scores, other_rewards(rollouts)))
    found = alignment(mine, theirs[[4, 5, 0, 1, 2, 3]], 1.0, 0.9)
    found[:, :2] -= found[:, :2].mean(0)
    assert torch.allclose(worth(rollouts, beta=1, gamma=0.9, other="stranger"), found[:, :2], atol=1e-6)


def test_a_move_that_is_none_is_no_way_to_get_even():
    # The first game went badly for its first player, who then breaks it off: that hurts the other one, too.
    rollouts = games("cd?c", "dccc")
    mine = per_seat(rollouts.scores / 5, rollouts.alive, 2, 0.9)
    found = worth(rollouts, beta=3, gamma=0.9)
    # Rows 0 and 1 are credited with their own advantage in that round, as with β = 0; up to the mean of the batch.
    assert (found[0, 1] - found[1, 1]).item() == pytest.approx((mine[0, 1] - mine[1, 1]).item())


def test_credit_is_centred_and_holds_to_the_reference():
    credit = AdAlign(beta=2.0, kl=0.25).credit(games("cccddcdd", "cddddccc", "dcccdddd"))
    assert credit.advantages[:, 1:].mean(0).abs().max() < 1e-5
    assert credit.kl.tolist() == [[0, 0.25, 0.25, 0.25, 0.25]] * 6
    assert credit.stats["shaping"] > 0
    assert AdAlign(beta=0).credit(games("cccc", "cddd")).stats == {"shaping": 0}


# --- who plays whom -------------------------------------------------------------------------------------------------


def test_without_a_pool_everybody_plays_itself():
    items = GAME.items(0, range(3), 1)
    settings = {"turns": ROUNDS, "samples": 2, "temperature": 1.0}
    rollouts = self_play(POLICY, GAME, items, generator=noise(), pool=Pool(2, 1), **settings)  # still empty
    assert [item.prompt for item in rollouts.items] == ["D1", "D2"] * 3
    assert rollouts.group.tolist() == [0] * 6 and rollouts.samples == 6
    assert [a.answer for a in rollouts.items[::2]] == [b.answer for b in rollouts.items[1::2]]


def test_with_a_pool_half_of_the_rows_meet_the_past():
    items, pool = GAME.items(0, range(4), 1), Pool(2, 1)
    pool.learned(sharp_policy(1))
    settings = {"turns": ROUNDS, "samples": 2, "temperature": 1.0}
    rollouts = self_play(POLICY, GAME, items, generator=noise(), pool=pool, **settings)
    assert [item.prompt for item in rollouts.items] == ["D1", "D2"] * 4
    assert rollouts.group.tolist() == [0] * 4 + [1] * 4 and rollouts.samples == 4
    records = [item.answer for item in rollouts.items]
    assert records[0] == records[1] and records[2] == records[3]  # two games with both players,
    assert len(rollouts.items) == 8  # and four with one: as many rows as without a pool


def test_the_game_and_the_number_of_rounds_must_fit():
    settings = {"samples": 2, "temperature": 1.0, "generator": noise()}
    for task, turns in (("dilemma", 3), ("kuhn", 4)):
        items = get(task).items(0, range(2), 1)
        with pytest.raises(
            ConfigError, match=rf"^train\.turns {turns}: set it to the rounds of the game, which has to"
        ):
            self_play(POLICY, get(task), items, turns=turns, **settings)


# --- habits and evaluation ------------------------------------------------------------------------------------------


def test_habits():
    def says(habit, moves, player):
        return HABITS[habit](GAME, "1", moves, player, None)

    assert [says("contrarian", moves, 0) for moves in ("", "cd", "dc")] == ["d", "c", "d"]
    assert [says("cooperator", "dd", 0), says("defector", "cc", 0)] == ["c", "d"]
    # Tit for tat starts with c, and plays what the other one, not itself, did last.
    assert [says("tit_for_tat", moves, 0) for moves in ("", "cd", "dc", "cdcc")] == ["c", "d", "c", "c"]
    assert [says("tit_for_tat", moves, 1) for moves in ("", "cd", "dc", "cdcc")] == ["c", "c", "d", "c"]


def test_people_with_habits_play_whole_games(monkeypatch):
    game = get("habits")
    records = [game.random_record("2", random.Random(i)) for i in range(200)]
    assert {len(record) for record in records} == {16} and set("".join(records)) == set("cd")
    monkeypatch.setattr("minirl.tasks.habits.SLIP", 0.0)
    monkeypatch.setattr("minirl.tasks.habits.HABITS", {"tit_for_tat": HABITS["tit_for_tat"]})
    assert game.random_record("1", random.Random(0)) == "cccccccc"


def test_a_match_changes_seats_and_has_fixed_noise():
    items = GAME.items(5, range(6), 1)
    first, again = (match(POLICY, GAME, items, HABITS["cooperator"], seed=3) for _ in range(2))
    assert [item.prompt for item in first.items] == ["D1", "D2"] * 3
    assert [i.answer for i in first.items] == [i.answer for i in again.items]
    records = [item.answer.partition(":")[2] for item in first.items]
    assert all(set(record[(n + 1) % 2 :: 2]) <= {"c"} for n, record in enumerate(records))  # the other one cooperates


def test_evaluation_by_hand(monkeypatch):
    """A policy that plays tit for tat, in the place of the one that is asked."""

    def scripted(policy, game, items, other, **_):
        if other is policy:
            return games(*["cccccccc"] * len(items))
        # Against a defector: betrayed once, then 1 a round. The others get the same script here.
        return games(*["cddddddd"] * len(items)).keep(torch.ones(2 * len(items), 5).bool())

    monkeypatch.setattr("minirl.evaluation.dilemmas.match", scripted)
    items = GAME.items(5, range(2), 1)
    evaluation, own = evaluate_dilemma(POLICY, GAME, items, seed=0)
    assert evaluation.items["cooperation"] == [1, 1] and evaluation.items["payoff"] == [3, 3]
    assert evaluation.items["payoff/defector"][0] == 0.75  # 0 + 1 + 1 + 1 in four rounds
    assert evaluation.metrics["c/cd"] == evaluation.metrics["c/dd"] == 0 and "c/cc" not in evaluation.metrics
    assert len(own.items) == 4


def test_evaluation_has_an_item_a_game():
    evaluation, rollouts = evaluate_dilemma(load_policy("dilemma-habits"), GAME, GAME.items(5, range(4), 4), seed=1)
    assert {"cooperation", "payoff", *(f"payoff/{name}" for name in OPPONENTS)} == evaluation.items.keys()
    for name, values in evaluation.items.items():
        assert len(values) == 4 and evaluation.metrics[name] == pytest.approx(sum(values) / 4)
    assert len(rollouts.items) == 8
    assert evaluation.metrics.keys() - evaluation.items.keys() == {"c/cc", "c/cd", "c/dc", "c/dd"}


# --- phases and settings --------------------------------------------------------------------------------------------


def test_one_phase_that_remembers_if_there_is_a_pool():
    (alone,) = AdAlign(decay=0.5).phases(train_config())
    assert isinstance(alone, OnlinePhase)
    assert (alone.name, alone.updates, alone.reference_decay, alone.memory) == ("self-play", 2, 0.5, None)
    (phase,) = AdAlign(pool=3, every=2).phases(train_config())
    assert (phase.memory.size, phase.memory.every) == (3, 2)
    assert phase.roll_out.keywords == {"pool": phase.memory, "turns": ROUNDS, "samples": 2, "temperature": 1.0}


@pytest.mark.parametrize("settings", [{}, {"pool": 2, "every": 1}, {"beta": 0, "paid": "sum"}])
def test_training_runs_and_learns_something(settings):
    learner = Learner(sharp_policy(), TaskConfig(name="dilemma", level=1), train_config(), seed=0)
    before = [p.clone() for p in learner.policy.model.parameters()]
    records = list(run_phases(learner, AdAlign(**settings).phases(train_config())))
    assert [record["update"] for record in records] == [1, 2]
    assert {"cooperation", "payoff", "shaping"} <= records[0].keys()
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.policy.model.parameters(), strict=True))


def test_there_are_no_scores_to_shuffle():
    with pytest.raises(ConfigError, match=r"^shuffle_scores: .*; the control is 'other: stranger'$"):
        AdAlign(shuffle_scores=True).phases(train_config())


@pytest.mark.parametrize("settings", [{"paid": "sum", "beta": 1}, {"other": "stranger", "beta": 0}])
def test_arms_that_contradict_themselves(settings):
    with pytest.raises(ConfigError, match=rf"^beta {settings['beta']}: 'paid: sum' goes with 0"):
        AdAlign(**settings).phases(train_config())


@pytest.mark.parametrize(
    ("settings", "train"), [({}, {"samples": 4}), ({}, {"prompts": 1}), ({"pool": 1}, {"prompts": 2}),
                            ({"pool": 1}, {"prompts": 5})]
)  # fmt: skip
def test_rows_must_fill_the_seats(settings, train):
    with pytest.raises(
        ConfigError, match=r"^train: samples must be 2, the seats; prompts at least [24], even with a pool"
    ):
        AdAlign(**settings).phases(train_config(**train))


@pytest.mark.parametrize(
    "bad",
    [{"paid": "both"}, {"other": "nobody"}, {"beta": -1}, {"gamma": 0}, {"gamma": 1.5}, {"pool": -1}, {"betas": 1}],
)
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(AdAlign, bad, "arms.adalign")
