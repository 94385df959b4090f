"""B-STaR: the balance score, what is selected, which setting is chosen, and what a round learns from."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from stand_ins import sharp_policy

from minirl.config import TaskConfig, TrainConfig, validate
from minirl.errors import ConfigError, TrainingError
from minirl.loops import Learner, run_phases
from minirl.rollouts.samplers import Uniform
from minirl.tasks import Item, get
from minirl.techniques.base import SupervisedPhase
from minirl.techniques.curriculum.b_star import (
    SAMPLES,
    TEMPERATURES,
    THRESHOLDS,
    BStar,
    balance,
    best_setting,
    judged,
    learning,
    selected,
)

POLICY, DOORS = sharp_policy(), get("doors")
PROBLEM = Item("doors", 0, 0, 2, "qcrh=", "q")


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 6, "prompts": 2, "samples": 4, "turns": 1, "learning_rate": 1e-3, **changes})


def learner(pool=None, **changes) -> Learner:
    sampler = Uniform(levels=(2,), pool=pool) if pool else None
    return Learner(sharp_policy(), TaskConfig(name="doors", level=2), train_config(**changes), 7, sampler)


# --- the balance score ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "chosen", "score"),
    [
        ([4], [4], 1),  # enough, and all of it right
        ([8], [8], 1),  # more than enough is no better
        ([2], [2], 1 / 2),  # half of what is enough
        ([4], [8], 1 / 2),  # enough, but half of the selection is wrong
        ([2], [4], 1 / 4),  # half of what is enough, and half is wrong
        ([0], [3], 0),
        ([0], [0], 0),  # nothing is selected
        ([4, 0], [4, 0], 1 / 2),  # the mean over problems
        ([4, 2, 1], [4, 4, 1], (1 + 1 / 4 + 1 / 4) / 3),
    ],
)
def test_balance_by_hand(right, chosen, score):
    assert balance(right, chosen, enough=4) == pytest.approx(score)


def test_one_more_right_answer_raises_the_score_and_one_more_wrong_answer_lowers_it():
    assert balance([3], [4], 4) > balance([2], [3], 4) > balance([2], [4], 4)


# --- what is selected -----------------------------------------------------------------------------------------------

ANSWERS = [(0.9, True, 0), (0.4, True, 1), (1.3, True, 2), (0.6, False, 3), (0.1, False, 4)]


@pytest.mark.parametrize(
    ("threshold", "enough", "rows"),
    [(0.5, 8, [2, 0, 3]), (0.5, 2, [2, 0]), (0.0, 8, [2, 0, 3, 1, 4]), (1.0, 8, [2]), (1.3, 8, []), (0.6, 8, [2, 0])],
)
def test_the_best_above_the_threshold(threshold, enough, rows):
    assert [row for _, _, row in selected(ANSWERS, threshold, enough)] == rows


def test_nothing_is_selected_of_nothing():
    assert selected([], 0.0, 4) == []


# --- which setting --------------------------------------------------------------------------------------------------


def test_the_threshold_that_keeps_wrong_answers_out():
    # Three are wanted. At 0 two of three are right: ⅔ · ⅔. At ½ both right ones alone: ⅔. At 1 one: ⅓.
    answers = [[(0.8, True, 0), (1.2, True, 1), (0.3, False, 2)]]
    assert best_setting({1.0: answers}, (0.0, 0.5, 1.0), enough=3) == (1.0, 0.5)


def test_what_is_beyond_enough_is_not_selected_and_does_not_count():
    answers = [[(0.8, True, 0), (1.2, True, 1), (0.3, False, 2)]]
    assert best_setting({1.0: answers}, (0.0, 0.5), enough=2) == (1.0, 0.0)  # both thresholds keep the same two


def test_the_temperature_that_finds_more():
    cold = [[(1.0, True, 0)], [(1.0, True, 1)]]
    hot = [[(1.0, True, 0), (1.1, True, 1)], [(1.0, True, 2), (0.9, True, 3)]]
    # Cold: one of two wanted, ½. Hot: 1.
    assert best_setting({0.5: cold, 1.5: hot}, (0.5,), enough=2) == (1.5, 0.5)


def test_heat_that_finds_more_wrong_ones_than_the_threshold_can_tell_is_not_chosen():
    cold = [[(1.0, True, 0)]]  # 1/2 · 1
    hot = [[(1.0, True, 0), (1.2, False, 1), (1.1, False, 2)]]  # whatever the threshold, at most 1/2 · 1/3
    assert best_setting({0.5: cold, 1.5: hot}, (0.5, 0.9), enough=2) == (0.5, 0.5)


def test_of_equal_settings_the_first():
    answers = [[(1.0, True, 0)]]
    assert best_setting({0.7: answers, 1.0: answers}, (0.3, 0.5), enough=1) == (0.7, 0.3)


# --- the reward model -----------------------------------------------------------------------------------------------


def test_a_reward_is_the_score_and_an_error_of_its_own():
    assert judged(PROBLEM, "q", 0.0) == 1 and judged(PROBLEM, "c", 0.0) == 0
    assert judged(PROBLEM, "q", 0.5) == judged(PROBLEM, "q", 0.5) != judged(replace(PROBLEM, prompt="cqrh="), "q", 0.5)
    assert judged(PROBLEM, "q", 0.5) - 1 == pytest.approx(5 * (judged(PROBLEM, "q", 0.1) - 1))


def test_errors_have_the_standard_deviation_that_is_asked_for():
    errors = torch.tensor([judged(item, "!", 0.3) for item in DOORS.items(0, range(2000), 4)])
    assert errors.mean().abs() < 0.03 and errors.std() == pytest.approx(0.3, abs=0.02)


def test_equal_answers_are_judged_once():
    policy_answers = ["q", "c", "q", "r", "c", "h", "h", "h"]

    scores = torch.tensor([[DOORS.score(PROBLEM, text)] for text in policy_answers])
    drawn = SimpleNamespace(items=[PROBLEM] * 8, samples=4, answers=[[text] for text in policy_answers], scores=scores)
    first, second = BStar(error=0.0).judge(drawn)
    assert first == [(1.0, True, 0), (0.0, False, 1), (0.0, False, 3)]
    assert second == [(0.0, False, 4), (0.0, False, 5)]


# --- rounds ---------------------------------------------------------------------------------------------------------

SMALL = {"rounds": 2, "problems": 8, "tries": 4, "error": 0.25}


def test_rounds_are_phases_that_start_from_the_policy():
    phases = BStar(rounds=4).phases(train_config(updates=10))
    assert all(isinstance(phase, SupervisedPhase) and phase.from_policy for phase in phases)
    assert [phase.updates for phase in phases] == [2, 3, 2, 3]
    assert [phase.name for phase in phases] == ["round 1", "round 2", "round 3", "round 4"]


def test_a_setting_is_chosen_from_the_grid_and_costs_answers():
    one = learner(pool=8)
    temperature, threshold, tried, spent = BStar(**SMALL).setting(one, one.problems(0, 8)[:4], 0)
    assert temperature in TEMPERATURES and threshold in THRESHOLDS
    assert tried == len(TEMPERATURES) * 4 * SAMPLES and spent >= tried


def test_a_fixed_setting_costs_nothing_and_half_of_one_a_part():
    one = learner(pool=8)
    items = one.problems(0, 8)[:4]
    assert BStar(temperature=1.0, threshold=0.5, **SMALL).setting(one, items, 0) == (1.0, 0.5, 0, 0)
    temperature, _, tried, _ = BStar(temperature=1.2, **SMALL).setting(one, items, 0)
    assert (temperature, tried) == (1.2, 4 * SAMPLES)
    assert BStar(threshold=0.5, **SMALL).setting(one, items, 0)[1:3] == (0.5, len(TEMPERATURES) * 4 * SAMPLES)


def test_random_settings_are_of_the_grid_and_change():
    one = learner(pool=8)
    drawn = [BStar(pick="random", **SMALL).setting(one, [], t) for t in range(20)]
    assert {temperature for temperature, *_ in drawn} == set(TEMPERATURES)
    assert {threshold for _, threshold, *_ in drawn} == set(THRESHOLDS)
    assert all(cost == [0, 0] for _, _, *cost in drawn)


class Counting(BStar):
    """Notes how many answers are judged, and finds the first to every problem right."""

    name = "counting"
    counts: list[int] = []  # noqa: RUF012 a field, which pydantic copies

    def judge(self, rollouts):
        self.counts.append(len(rollouts.items))
        return [[(1.0, True, row)] for row in range(0, len(rollouts.items), rollouts.samples)]


@pytest.mark.parametrize(
    ("settings", "judged_at_once"),
    [
        # To choose: 4 temperatures, each with 4 problems · 8 answers. To learn from: 8 problems with 4 answers.
        ({}, [32, 32, 32, 32, 32]),
        # One temperature leaves 96 answers, 12 more a problem.
        ({"temperature": 1.0}, [32, 128]),
        ({"threshold": 0.5}, [32, 32, 32, 32, 32]),
        ({"temperature": 1.0, "threshold": 0.5}, [160]),
        ({"pick": "random"}, [160]),
        ({"pick": "random", "compensate": False}, [32]),
    ],
)
def test_all_arms_draw_as_many_answers(settings, judged_at_once):
    method = Counting(**SMALL, **settings)
    method.collect(learner(pool=8), 0)
    assert method.counts == judged_at_once


def test_a_round_learns_what_it_selected():
    one = learner(pool=8)
    examples = BStar(temperature=1.0, threshold=-9.0, enough=2, **SMALL).collect(one, 0)
    assert examples.stats["temperature"] == 1.0 and examples.stats["threshold"] == -9.0
    assert examples.stats["selected"] <= 2 and len(examples.ids) == examples.stats["selected"] * 8
    assert examples.learn.any(1).all() and not examples.learn[:, 0].any()  # attempts, not prompts
    assert {"watched/accuracy@1", f"watched/pass@{SAMPLES}", "watched/variety"} <= set(examples.stats)
    again = BStar(temperature=1.0, threshold=-9.0, enough=2, **SMALL).collect(one, 0)
    assert torch.equal(examples.ids, again.ids)  # a resumed run learns from the same


def test_without_compensation_fewer_answers_are_drawn():
    one = learner(pool=8)
    fixed = {"temperature": 1.0, "threshold": -9.0, **SMALL}
    more, fewer = (BStar(compensate=c, **fixed).collect(one, 0).generated_tokens for c in (True, False))
    assert more > 3 * fewer  # 160 answers and 32


def test_a_threshold_that_nothing_exceeds_says_so():
    with pytest.raises(TrainingError, match=r"round 1: no reward is above 99\.0; lower the threshold"):
        BStar(temperature=1.0, threshold=99.0, **SMALL).collect(learner(pool=8), 0)


def test_training_runs_and_logs_every_round_once():
    one = learner(pool=8)
    records = list(run_phases(one, BStar(threshold=-9.0, **SMALL).phases(one.train)))
    assert [record["phase"] for record in records] == ["round 1"] * 3 + ["round 2"] * 3
    assert [("temperature" in record) for record in records] == [True, False, False] * 2
    assert records[-1]["generated_tokens"] > records[0]["generated_tokens"] > 0


def test_means_over_rounds_and_the_rise_of_the_temperature():
    rounds = [(0.7, 0.5, 0.2, 1, 1.0), (1.0, 0.5, 0.3, 2, 0.8), (1.3, 0.7, 0.4, 2, 0.7), (1.6, 0.3, 0.5, 3, 0.7)]
    names = ("temperature", "threshold", "balance", "selected", "precision")
    records = [record for one in rounds for record in (dict(zip(names, one, strict=True)), {"loss": 1.0})]
    found = learning(records)
    assert found["temperature"] == pytest.approx(1.15) and found["precision"] == pytest.approx(0.8)
    assert found["selected"] == 2 and found["balance"] == pytest.approx(0.35) and found["threshold"] == 0.5
    assert found["temperature_rise"] == pytest.approx((1.3 + 1.6) / 2 - (0.7 + 1.0) / 2)
    assert found["selected_rise"] == pytest.approx(1)
    assert learning(records[:1])["temperature_rise"] == 0  # one round
    assert learning(records[:5])["temperature_rise"] == pytest.approx(
        1.3 - 0.7
    )  # of three the middle one is in neither half


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "train", "message"),
    [
        ({"shuffle_scores": True}, {}, "the control is 'pick: random'"),
        ({}, {"turns": 2}, "train.turns 2: what is learned are single attempts; set it to 1"),
        ({"tries": 97}, {}, "tries 97: a round has 96 problems"),
    ],
)
def test_settings_that_make_no_sense(settings, train, message):
    with pytest.raises(ConfigError, match=message):
        BStar(**settings).phases(train_config(**train))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"round": 3}, "Did you mean 'rounds'"), ({"temperature": 0}, "temperature"), ({"pick": "best"}, "pick")],
)
def test_settings_that_do_not_exist(settings, message):
    with pytest.raises(ConfigError, match=message):
        validate(BStar, settings, "arm")
