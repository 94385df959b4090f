"""Six samplers compared: what is measured along the way, and that arms differ in what they choose only."""

import math

import pytest

from minirl.errors import ConfigError
from minirl.experiments.resolve import load_experiment, load_method, load_sampler
from minirl.experiments.run import open_run
from minirl.techniques.base import OnlinePhase
from minirl.techniques.baselines import WatchedRL
from minirl.techniques.curriculum.samplers import LEVELS, area, evaluate, learning

HARDEST = f"probe/{LEVELS[-1]}"


def record(update: int, tokens: int, probe: float | None = None, hardest=0.0, informative=0.5) -> dict:
    found = {"update": update, "generated_tokens": tokens, "informative": informative}
    return found if probe is None else {**found, "probe": probe, HARDEST: hardest}


def test_area_by_hand():
    """0.2 stands for the first 100 tokens, 0.8 for the 300 after them."""
    records = [record(1, 50), record(2, 100, 0.2), record(3, 300), record(4, 400, 0.8), record(5, 500)]
    assert area(records) == pytest.approx((0.2 * 100 + 0.8 * 300) / 400)


def test_without_a_measurement_there_is_no_area():
    assert area([record(1, 50)]) == 0


def test_learning_by_hand():
    records = [
        record(1, 64, 0.5, 0.4, informative=0.2),
        record(2, 128, 0.5, 0.5, informative=0.4),
        record(3, 256, 0.5, 0.6, informative=0.6),
        record(4, 512, informative=0.8),
    ]
    found = learning(records)
    assert found == {
        "area": pytest.approx(0.5),
        "log2_tokens_to_target": math.log2(256),  # the mean of two measurements is above one half for the first time
        "informative": pytest.approx(0.5),
        "updates": 4.0,
    }


def test_all_arms_are_one_learner():
    experiment = load_experiment("samplers", "tiny")
    plain = {arm: load_method(experiment, arm).model_copy(update={"sampler": None}) for arm in experiment.arms}
    assert all(method == plain["uniform"] and type(method) is WatchedRL for method in plain.values())
    assert plain["uniform"].levels == LEVELS
    rules = {arm: load_sampler(experiment, arm) for arm in experiment.arms}
    assert {arm: rule.name for arm, rule in rules.items()} == {
        "uniform": "uniform",
        "easy_to_hard": "schedule",
        "hardest": "uniform",
        "bandit": "bandit",
        "thompson": "thompson",
        "learnability": "learnability",
        "misinformed": "bandit",
    }
    assert rules["misinformed"] == rules["bandit"].model_copy(update={"shuffled": True})
    assert {arm: rule.levels for arm, rule in rules.items() if rule.levels != LEVELS} == {"hardest": LEVELS[-1:]}


def test_a_probe_belongs_to_the_phase():
    method = WatchedRL(task="chain", levels=(1, 2), watch=3, probes=4)
    (phase,) = method.phases(load_experiment("samplers", "smoke").train)
    assert isinstance(phase, OnlinePhase) and phase.memory is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("arms.bandit.sampler.rat=1", r"arms.bandit.sampler: unknown key 'rat'. Did you mean 'rate'\?"),
        ("arms.bandit.sampler.levels=[1,99]", "arms.bandit.sampler: key 'levels': chain has levels 1 to 12, not 99"),
        ("arms.bandit.sampler=bandid", r"arms.bandit.sampler: key 'rule': unknown sampler 'bandid'. Did you mean"),
        ("arms.bandit.levels=[]", r"arms.bandit: key 'levels': tuple should have at least 1 item"),
        ("sampler=bandid", None),  # every arm has one of its own
    ],
)
def test_mistakes_are_named(settings, message):
    if message is None:
        load_experiment("samplers", "smoke", settings)
        return
    with pytest.raises(ConfigError, match=message):
        load_experiment("samplers", "smoke", settings)


def test_budgets_end_training_and_levels_are_judged_by_themselves(tmp_path):
    changes = {"train": {"tokens": 1500, "prompts": 4, "samples": 4}, "evaluation": {"items": 8}}
    run = open_run("samplers", tier="smoke", seed=0, out=tmp_path, overrides=changes)
    for arm in ("easy_to_hard", "hardest"):
        run.train(arm)
    records = {arm: run.metrics(arm) for arm in ("easy_to_hard", "hardest")}
    for some in records.values():
        assert some[-1]["generated_tokens"] >= 1500 > some[-2]["generated_tokens"]
    assert len(records["easy_to_hard"]) > len(records["hardest"])  # short problems are cheap
    assert [HARDEST in one for one in records["easy_to_hard"]][:5] == [False] * 4 + [True]
    assert all(one["chosen/12"] == 1 for one in records["hardest"])
    found, rollouts = evaluate(run.policy("hardest"), run.task, run.held_out("develop"), seed=1)
    assert set(found.metrics) == {"accuracy", *(f"accuracy/{level}" for level in LEVELS)}
    assert found.metrics["accuracy"] == pytest.approx(sum(found.metrics[f"accuracy/{level}"] for level in LEVELS) / 5)
    assert {item.level for item in rollouts.items} == {12} and len(rollouts.items) == 8
    run.close()
