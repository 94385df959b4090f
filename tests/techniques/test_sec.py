"""SEC: what a bandit is paid for a level, what it makes of it, and what is measured. The rule itself is tested in
tests/rollouts/test_which_next.py."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import sharp_policy

from minirl.config import TaskConfig, TrainConfig, validate
from minirl.errors import ConfigError
from minirl.experiments.registry import method_class
from minirl.experiments.resolve import load_experiment, load_sampler
from minirl.loops import Learner, run_phases
from minirl.rollouts.samplers import Bandit, Schedule, Uniform, read_rule, summary
from minirl.tasks import get
from minirl.techniques.base import OnlinePhase
from minirl.techniques.baselines import WatchedRL
from minirl.techniques.curriculum.sec import LEVELS, TARGET, Sec, evaluate, expected_gain, learning, standing_choice

POLICY, CHAIN = sharp_policy(), get("chain")
SHARE = st.floats(0.0, 1.0)


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 3, "prompts": 4, "samples": 4, "turns": 1, "learning_rate": 1e-3, **changes})


# --- What a level pays ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("success", "samples", "gain"),
    [
        # Of two rollouts exactly one is right with probability 2 · ½ · ½; then |score − mean| is ½, the unbiased
        # deviation √½, and the advantage ½ / √½ = √½.
        (0.5, 2, 0.5 * math.sqrt(0.5)),
        (0.1, 2, 0.18 * math.sqrt(0.5)),
        # Of three: one or two with probability ⅜ each; 2 · ⅓ · ⅔ over √(⅓ · ⅔ · 3/2).
        (0.5, 3, 0.75 * (4 / 9) / math.sqrt(1 / 3)),
        (0.0, 8, 0.0),
        (1.0, 8, 0.0),
    ],
)
def test_expected_gain_by_hand(success, samples, gain):
    assert expected_gain(success, samples) == pytest.approx(gain)


@pytest.mark.parametrize("right", [0, 1, 2, 3, 4])
def test_a_group_pays_what_the_sampler_says(right):
    """One group of four with certainty: what the formula adds up is what ``summary`` measures."""
    group = torch.tensor([1.0] * right + [0.0] * (4 - right))
    share = right / 4
    paid = 2 * math.sqrt(share * (1 - share) * 3 / 4)
    assert summary([0], [group]).gain.item() == pytest.approx(paid, abs=1e-3)


@given(SHARE, st.integers(2, 12))
def test_gain_is_symmetric_and_less_than_in_large_groups(success, samples):
    gain = expected_gain(success, samples)
    assert gain == pytest.approx(expected_gain(1 - success, samples), abs=1e-9)
    assert -1e-12 <= gain <= 2 * math.sqrt(success * (1 - success)) + 1e-9


@given(st.integers(2, 12), st.floats(0.0, 0.49), st.floats(0.001, 0.5))
def test_nearer_to_one_half_pays_more(samples, success, nearer):
    closer = min(0.5, success + nearer)
    assert expected_gain(closer, samples) > expected_gain(success, samples) - 1e-12


def test_large_groups_pay_the_formula():
    assert expected_gain(0.2, 600) == pytest.approx(2 * math.sqrt(0.16), rel=0.01)


def test_small_groups_miss_rare_success():
    # One success in fifty: most groups of eight have none, and pay nothing.
    assert expected_gain(0.02, 8) < 0.5 * expected_gain(0.02, 512)


# --- What is chosen in the long run -----------------------------------------------------------------------------------


def test_standing_choice_by_hand():
    # The first pays √½ / 2, the second nothing: e^(0.3536 / τ) to 1.
    paid = math.exp(0.5 * math.sqrt(0.5) / 0.5)
    assert standing_choice([0.5, 1.0], 2, 0.5) == pytest.approx([paid / (paid + 1), 1 / (paid + 1)])


@given(st.lists(SHARE, min_size=1, max_size=5))
def test_shares_add_up_and_a_high_temperature_is_uniform(successes):
    assert sum(standing_choice(successes, 8, 0.2)) == pytest.approx(1)
    assert standing_choice(successes, 8, 1e6) == pytest.approx([1 / len(successes)] * len(successes), abs=1e-5)


def test_a_low_temperature_takes_the_level_nearest_to_one_half():
    assert standing_choice([0.9, 0.6, 0.1], 8, 0.01)[1] > 0.99


def test_the_bandit_settles_where_it_is_said_to():
    """Paid the expected gain every time, Q converges to it, and the choice to ``standing_choice``."""
    rule, levels = Bandit(temperature=0.2), torch.tensor([1, 2, 4])
    state = rule.start(levels)
    paid = [expected_gain(success, 8) for success in (0.9, 0.5, 0.1)]
    seen = summary([0, 1, 2], [torch.tensor([1.0, 0.0])] * 3)
    for _ in range(40):
        state = rule.learn(state, levels, type(seen)(seen.units, seen.rollouts, seen.success, seen.variance,
                                                      torch.tensor(paid)))  # fmt: skip
    weights = rule.weights(state, levels, 0.0)
    assert (weights / weights.sum()).tolist() == pytest.approx(standing_choice([0.9, 0.5, 0.1], 8, 0.2), abs=1e-5)


# --- The method -------------------------------------------------------------------------------------------------------


def test_the_method_is_watched_at_every_level():
    method = Sec()
    assert method_class("sec") is Sec and isinstance(method, WatchedRL)
    assert (method.task, method.levels, method.baseline) == ("chain", LEVELS, "group_normalised")
    (phase,) = method.phases(train_config())
    assert isinstance(phase, OnlinePhase) and phase.updates == 3
    assert phase.memory.levels == LEVELS


def test_strict_settings():
    with pytest.raises(ConfigError, match="unknown key 'temprature'"):
        validate(Sec, {"temprature": 1.0}, "arms.sec")
    with pytest.raises(ConfigError, match="levels"):
        validate(Sec, {"levels": []}, "arms.sec")
    with pytest.raises(ConfigError, match="watch"):
        validate(Sec, {"watch": 0}, "arms.sec")


def test_arms_differ_in_nothing_but_the_sampler():
    experiment = load_experiment("sec", "tiny")
    assert {tuple(sorted(set(arm) - {"sampler"})) for arm in experiment.arms.values()} == {("method",)}
    rules = {arm: load_sampler(experiment, arm) for arm in experiment.arms}
    assert {rule.levels for rule in rules.values()} == {LEVELS}
    assert isinstance(rules["sec"], Bandit) and not rules["sec"].shuffled
    assert rules["shuffled"] == rules["sec"].model_copy(update={"shuffled": True})
    assert isinstance(rules["uniform"], Uniform)
    assert [rules[name].order for name in ("easy_to_hard", "hard_to_easy")] == ["easy_to_hard", "hard_to_easy"]
    assert isinstance(rules["easy_to_hard"], Schedule)
    assert experiment.train.tokens  # equal for all


# --- What is measured -------------------------------------------------------------------------------------------------


def test_accuracy_at_every_level():
    items = CHAIN.items(5, range(3), 12)
    found, rollouts = evaluate(POLICY, CHAIN, items, seed=0)
    assert list(found.metrics) == [*(f"accuracy/{level}" for level in LEVELS), "accuracy"]
    assert all(len(values) == 3 for values in found.items.values())
    assert {item.level for item in rollouts.items} == {LEVELS[-1]}


def records(hardest: list[float | None]) -> list[dict]:
    """An update of 100 tokens each; ``hardest`` is what a probe found after it, if there was one."""
    made = []
    for update, value in enumerate(hardest, 1):
        probe = {} if value is None else {"probe/2": 0.9, "probe/12": value, "probe": 0.5}
        made.append({"generated_tokens": 100 * update, "informative": update / 10, **probe})
    return made


def test_learning_by_hand():
    found = learning(records([None, TARGET - 0.1, None, TARGET + 0.1]))
    assert found["log2_tokens"] == math.log2(400)  # level 12 counts, not level 2
    assert found["informative"] == pytest.approx((0.1 + 0.2 + 0.3 + 0.4) / 4)
    assert found["tokens/update"] == 100


def test_what_was_never_reached_takes_all_tokens():
    assert learning(records([None, 0.0, None]))["log2_tokens"] == math.log2(300)


# --- Training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["bandit", {"rule": "bandit", "shuffled": True}, "uniform", "schedule"])
def test_training_says_what_was_chosen(rule):
    settings = {"rule": rule} if isinstance(rule, str) else rule
    sampler = read_rule({**settings, "levels": [1, 2]}, "sampler")
    train = train_config()
    learner = Learner(sharp_policy(), TaskConfig(name="chain", level=2), train, 0, sampler)
    made = list(run_phases(learner, Sec(levels=(1, 2), watch=2, probes=4).phases(train)))
    assert [record["update"] for record in made] == [1, 2, 3]
    assert all(record["chosen/1"] + record["chosen/2"] == pytest.approx(1) for record in made)
    assert ["probe/2" in record for record in made] == [False, True, False]
    if rule == "schedule":  # the easier level for the first half of the updates, as they are not split evenly
        assert [record["chosen/1"] for record in made] == [1, 1, 0]
    assert learning(made)["informative"] >= 0
