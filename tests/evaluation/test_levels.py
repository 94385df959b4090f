"""Accuracy by level, and a policy watched along the way."""

import pytest
import torch
from stand_ins import Lenient, sharp_policy

from minirl.evaluation import levels
from minirl.evaluation.levels import PROBE_SEED, Probe, evaluate_levels

POLICY = sharp_policy(1)


def test_levels_by_hand():
    """The same seeds and indices at every level; the mean is that of an index over levels."""
    task = Lenient()
    items = task.items(9, range(6), 3)
    found, rollouts = evaluate_levels(POLICY, task, items, seed=0, levels=(1, 2))
    assert set(found.metrics) == {"accuracy/1", "accuracy/2", "accuracy"}
    right = [found.items["accuracy/1"], found.items["accuracy/2"]]
    assert found.items["accuracy"] == [(a + b) / 2 for a, b in zip(*right, strict=True)]
    assert found.metrics["accuracy/2"] == sum(right[1]) / 6
    assert right[1] == [
        float(task.score(item, said) == 1) for item, (said,) in zip(rollouts.items, rollouts.answers, strict=True)
    ]
    assert [(item.seed, item.index, item.level) for item in rollouts.items] == [(9, index, 2) for index in range(6)]
    assert 0 < sum(right[0]) + sum(right[1]) < 12  # there is something to tell apart
    assert found.generated_tokens > rollouts.generated_tokens()


@pytest.fixture
def probe(monkeypatch):
    monkeypatch.setattr(levels, "get", lambda name: Lenient())
    return Probe("add", (1, 2), items=8, every=3)


def test_a_probe_looks_every_third_update(probe):
    seen = [probe.learned(POLICY) for _ in range(6)]
    assert [set(one) for one in seen] == [set(), set(), {"probe/1", "probe/2", "probe"}] * 2
    assert seen[2] == seen[5]  # the same problems and noise: the policy has not changed
    problems = Lenient().items(PROBE_SEED, range(8), 1)
    truth, _ = evaluate_levels(POLICY, Lenient(), problems, seed=PROBE_SEED, levels=(1, 2))
    assert seen[2]["probe/1"] == truth.metrics["accuracy/1"] and seen[2]["probe"] == truth.metrics["accuracy"]


def test_a_resumed_probe_goes_on_counting(probe):
    probe.learned(POLICY)
    other = Probe("add", (1, 2), items=8, every=3)
    other.load({name: value.clone() for name, value in probe.state().items()})
    assert other.learned(POLICY) == {} and other.learned(POLICY) != {}


def test_watching_draws_from_no_other_noise(probe):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for _ in range(3):
        probe.learned(POLICY)
    assert torch.equal(torch.get_rng_state(), before)
