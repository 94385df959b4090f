"""BOTS: how sure its beliefs get, what they choose, and what is measured. The rule itself is tested in
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
from minirl.rollouts.samplers import Problems, Seen, Thompson, Uniform, read_rule
from minirl.tasks import get
from minirl.techniques.base import OnlinePhase
from minirl.techniques.baselines import WatchedRL
from minirl.techniques.curriculum.bots import (
    EARLY,
    LEVELS,
    TARGET,
    Bots,
    evaluate,
    learning,
    phase_means,
    settled_count,
)

POLICY, CHAIN = sharp_policy(), get("chain")


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 3, "prompts": 4, "samples": 4, "turns": 1, "learning_rate": 1e-3, **changes})


def seen(unit: int, right: int, made: int) -> Seen:
    p = torch.tensor([right / made])
    return Seen(torch.tensor([unit]), torch.tensor([made]), p, p * (1 - p), 2 * (p * (1 - p)).sqrt())


# --- How sure a belief gets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evidence", "decay", "count"),
    [
        (0.0, 0.1, 2.0),  # nothing seen, nothing guessed: back to the prior, one and one
        (0.8, 0.1, 10.0),  # guesses of weight 0.1 for eight rollouts: as sure as after one look
        (8.0, 0.1, 82.0),
        (8.0, 1.0, 10.0),  # what forgets everything knows the last update, and the prior
    ],
)
def test_settled_count_by_hand(evidence, decay, count):
    assert settled_count(evidence, decay) == pytest.approx(count)


@pytest.mark.parametrize(("weight", "tried"), [(0.0, False), (0.1, False), (1.0, False), (0.1, True)])
def test_the_rule_settles_there(weight, tried):
    """Two problems; the first is tried in every update, six of eight right. Both have the same anchors."""
    rule, levels = Thompson(implicit=weight, anchors={1: (0.0, 1.0)}, pool=2), torch.tensor([1, 1])
    state = rule.start(levels)
    for _ in range(200):
        state = rule.learn(state, levels, seen(0, 6, 8))
    unit = 0 if tried else 1
    evidence = 8.0 if tried else weight * 8
    total = (state["right"] + state["wrong"])[unit].item()
    assert total == pytest.approx(settled_count(evidence, rule.decay))
    # α is 1 + 0.75 · evidence / λ: where the guess is right, so is the belief.
    assert state["right"][unit].item() == pytest.approx(1 + 0.75 * evidence / rule.decay)


def test_a_belief_without_evidence_fades_but_does_not_move():
    rule, levels = Thompson(implicit=0.0, pool=2), torch.tensor([1, 1])
    state = rule.learn(rule.start(levels), levels, seen(1, 4, 8))  # Beta(5, 5) of the second
    for _ in range(10):
        state = rule.learn(state, levels, seen(0, 8, 8))
    assert state["right"][1].item() == state["wrong"][1].item() == pytest.approx(1 + 4 * 0.9**10)


def test_with_full_weight_guesses_outdo_a_look():
    rule, levels = Thompson(implicit=1.0, pool=2), torch.tensor([1, 1])
    state = rule.learn(rule.start(levels), levels, seen(1, 0, 8))
    for _ in range(10):
        state = rule.learn(state, levels, seen(0, 8, 8))
    assert (state["right"] / (state["right"] + state["wrong"]))[1].item() > 0.9


# --- The method -------------------------------------------------------------------------------------------------------


def test_the_method_is_watched_at_every_level():
    method = Bots()
    assert method_class("bots") is Bots and isinstance(method, WatchedRL)
    assert (method.task, method.levels, method.baseline) == ("chain", LEVELS, "group_normalised")
    (phase,) = method.phases(train_config())
    assert isinstance(phase, OnlinePhase) and phase.memory.levels == LEVELS


def test_strict_settings():
    with pytest.raises(ConfigError, match="unknown key 'implicit'"):
        validate(Bots, {"implicit": 1.0}, "arms.bots")  # it belongs to the sampler
    with pytest.raises(ConfigError, match="implicit"):
        read_rule({"rule": "thompson", "implicit": 2.0}, "sampler")


def test_arms_differ_in_nothing_but_the_sampler():
    experiment = load_experiment("bots", "tiny")
    rules = {arm: load_sampler(experiment, arm) for arm in experiment.arms}
    assert {(rule.pool, rule.levels) for rule in rules.values()} == {(128, (1, 2, 3, 4, 6, 8, 10, 12))}
    bots = rules["bots"]
    assert isinstance(bots, Thompson) and (bots.decay, bots.implicit, bots.target) == (0.1, 0.1, 0.5)
    changed = {"greedy": {"greedy": True}, "heavy": {"implicit": 1.0}, "explicit": {"implicit": 0.0, "anchors": None}}
    for arm, change in changed.items():
        assert rules[arm] == bots.model_copy(update=change)
    assert rules["shuffled"] == rules["explicit"].model_copy(update={"shuffled": True})
    assert isinstance(rules["uniform"], Uniform)
    assert experiment.train.tokens  # equal for all


def test_anchors_rise_with_skill_and_fall_with_length():
    anchors = load_sampler(load_experiment("bots", "tiny"), "bots").anchors
    assert list(anchors) == sorted(anchors)
    assert all(weak < strong for weak, strong in anchors.values())
    for column in zip(*anchors.values(), strict=True):
        assert list(column) == sorted(column, reverse=True)


def test_the_pool_has_equally_many_of_every_level():
    rule = load_sampler(load_experiment("bots", "tiny"), "bots")
    counts = Problems(rule, CHAIN, 12, seed=0).levels.unique(return_counts=True)[1]
    assert counts.tolist() == [16] * 8


# --- What is measured -------------------------------------------------------------------------------------------------


def test_accuracy_at_every_level():
    found, rollouts = evaluate(POLICY, CHAIN, CHAIN.items(5, range(3), 12), seed=0)
    assert list(found.metrics) == [*(f"accuracy/{level}" for level in LEVELS), "accuracy"]
    assert all(len(values) == 3 for values in found.items.values())
    assert {item.level for item in rollouts.items} == {LEVELS[-1]}


def test_phase_means_by_hand():
    made = [{"in_band": value} for value in (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)]
    assert EARLY == 0.25  # so two of eight
    assert phase_means(made, "in_band") == pytest.approx((0.3, 4.5 / 6, 5.1 / 8))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_phase_means_are_means_of_something(values):
    early, late, always = phase_means([{"x": value} for value in values], "x")
    assert all(min(values) - 1e-9 <= mean <= max(values) + 1e-9 for mean in (early, late, always))


def records(probes: list[float | None]) -> list[dict]:
    made = []
    for update, value in enumerate(probes, 1):
        probe = {} if value is None else {"probe": value, "probe/12": 0.0}
        made.append({"generated_tokens": 50 * update, "informative": 0.5, "in_band": update / 10, **probe})
    return made


def test_learning_by_hand():
    found = learning(records([None, TARGET - 0.1, None, TARGET]))
    assert found["log2_tokens"] == math.log2(200)
    assert found["informative"] == 0.5
    assert found["in_band/early"] == pytest.approx(0.1)  # one of four
    assert found["in_band/late"] == pytest.approx(0.3)
    assert found["in_band"] == pytest.approx(0.25)


def test_what_was_never_reached_takes_all_tokens():
    assert learning(records([None, 0.0, None]))["log2_tokens"] == math.log2(150)


# --- Training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{}, {"greedy": True}, {"implicit": 0.0}, {"shuffled": True}])
def test_training_says_what_was_chosen_and_beliefs_move(change):
    anchors = {1: (0.1, 0.9), 2: (0.0, 0.8)}
    sampler = read_rule({"rule": "thompson", "pool": 6, "levels": [1, 2], "anchors": anchors, **change}, "sampler")
    train = train_config()
    learner = Learner(sharp_policy(), TaskConfig(name="chain", level=2), train, 0, sampler)
    made = list(run_phases(learner, Bots(levels=(1, 2), watch=2, probes=4).phases(train)))
    assert [record["update"] for record in made] == [1, 2, 3]
    assert all(record["chosen/1"] + record["chosen/2"] == pytest.approx(1) for record in made)
    assert ["probe" in record for record in made] == [False, True, False]
    counts = learner.sampler.state()["right"] + learner.sampler.state()["wrong"]
    assert counts.max() > 4  # four rollouts of each that was tried, on top of the prior
    assert set(learning(made)) == {"in_band", "in_band/early", "in_band/late", "informative", "log2_tokens"}
