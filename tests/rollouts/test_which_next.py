"""Samplers: every rule by hand on three or four units, and a sampler at work between draws and rollouts."""

import math

import pytest
import torch
from stand_ins import written

from minirl.errors import ConfigError
from minirl.policy.models import tiny_llama
from minirl.rollouts.samplers import (
    SAMPLERS,
    Bandit,
    Learnability,
    Problems,
    Schedule,
    Seen,
    Thompson,
    Uniform,
    Variance,
    ability,
    evidence,
    level_means,
    moved,
    read_rule,
    shuffle,
    summary,
)
from minirl.tasks.add import Addition

LEVELS = torch.tensor([1, 2, 4])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seen(units: list[int], success: list[float], rollouts: int = 4) -> Seen:
    p = torch.tensor(success)
    return Seen(torch.tensor(units), torch.full((len(units),), rollouts), p, p * (1 - p), 2 * (p * (1 - p)).sqrt())


# --- Rules ----------------------------------------------------------------------------------------------------------


def test_what_a_group_says_by_hand():
    found = summary([2, 0], [torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.0, 0.0])])
    assert found.units.tolist() == [2, 0] and found.rollouts.tolist() == [4, 4]
    assert found.success.tolist() == [0.5, 0.0]
    assert found.variance.tolist() == [0.25, 0.0]
    # ±½ over the sample deviation √(4 · ¼ / 3) + 1e-4
    assert found.gain.tolist() == pytest.approx([0.5 / (math.sqrt(1 / 3) + 1e-4), 0.0])


def test_one_rollout_has_nothing_to_be_compared_with():
    assert summary([0], [torch.tensor([1.0])]).gain.tolist() == [0.0]


def test_moved_by_hand():
    """Unit 1 was seen twice, with a mean of 0.4; unit 0 never."""
    found = moved(torch.tensor([9.0, 1.0, 0.0]), torch.tensor([1, 2, 1]), torch.tensor([0.2, 1.0, 0.6]), rate=0.5)
    assert found.tolist() == pytest.approx([9.0, 0.7, 0.5])


def test_uniform_and_schedule():
    assert Uniform().weights({}, LEVELS, 0.9).tolist() == [1, 1, 1]
    rising, falling = Schedule(), Schedule(order="hard_to_easy")
    for progress, up, down in ((0.0, [1, 0, 0], [0, 0, 1]), (0.34, [0, 1, 0], [0, 1, 0]), (0.99, [0, 0, 1], [1, 0, 0])):
        assert rising.weights({}, LEVELS, progress).tolist() == up
        assert falling.weights({}, LEVELS, progress).tolist() == down


def test_a_schedule_takes_all_problems_of_its_level():
    """Four problems of a pool: units 0 and 2 are of level 1."""
    chosen = Schedule(pool=4).choose({}, torch.tensor([1, 2, 1, 2]), 2, 0.0, seeded())
    assert sorted(chosen.tolist()) == [0, 2]
    more = Schedule(pool=4).choose({}, torch.tensor([1, 2, 1, 2]), 6, 0.0, seeded())
    assert set(more.tolist()) == {0, 2} and len(more) == 6


def test_the_bandit_by_hand():
    rule = Bandit(rate=0.5, temperature=0.5)
    state = rule.start(LEVELS)
    assert rule.weights(state, LEVELS, 0.0).tolist() == pytest.approx([1 / 3] * 3)
    state = rule.learn(state, LEVELS, seen([0, 2, 2], [1.0, 0.5, 0.5]))
    assert state["value"].tolist() == [0.0, 0.0, 0.5]  # half of the way to |A| = 2 √¼
    z = 2 + math.e
    assert rule.weights(state, LEVELS, 0.0).tolist() == pytest.approx([1 / z, 1 / z, math.e / z])


def test_learnability_and_variance_by_hand():
    rule = Learnability(rate=0.5, floor=0.01)
    state = rule.learn(rule.start(LEVELS), LEVELS, seen([0, 1], [1.0, 0.5]))
    assert state["success"].tolist() == [0.75, 0.5, 0.5]
    assert rule.weights(state, LEVELS, 0.0).tolist() == pytest.approx([0.1975, 0.26, 0.26])
    other = Variance(rate=1.0, floor=0.01)
    state = other.learn(other.start(LEVELS), LEVELS, seen([0, 1], [1.0, 0.5]))
    assert other.weights(state, LEVELS, 0.0).tolist() == pytest.approx([0.01, 0.26, 0.26])


def test_learnability_is_blind_to_what_success_hides_but_variance_is_not():
    """Always half right scores as if it were solved half of the time, yet there is nothing to learn from."""
    half = summary([0], [torch.tensor([0.5, 0.5])])
    assert Learnability(rate=1.0).learn(Learnability().start(LEVELS), LEVELS, half)["success"][0] == 0.5
    assert Variance(rate=1.0).learn(Variance().start(LEVELS), LEVELS, half)["variance"][0] == 0


def test_evidence_by_hand():
    """Unit 0 got 4 rollouts, 3 right. Unit 1 is expected to get half right, of unit 2 nothing is known."""
    expected = torch.tensor([0.0, 0.5, math.nan])
    right, wrong = evidence(3, seen([0], [0.75]), expected, implicit=0.1)
    assert right.tolist() == pytest.approx([3, 0.1 * 4 * 0.5, 0]) and wrong.tolist() == pytest.approx([1, 0.2, 0])


def test_posteriors_by_hand():
    rule = Thompson(decay=0.1, implicit=0.1)
    levels = torch.tensor([1, 1, 2])
    state = rule.start(levels)
    state = rule.learn(state, levels, seen([0], [0.75]))
    assert state["right"].tolist() == pytest.approx([4, 1.3, 1])  # 0.9 + 0.1 + evidence
    assert state["wrong"].tolist() == pytest.approx([2, 1.1, 1])
    forgotten = Thompson(decay=1.0, implicit=0.0).learn(state, levels, seen([2], [0.0]))
    assert forgotten["right"].tolist() == [1, 1, 1] and forgotten["wrong"].tolist() == [1, 1, 5]


def test_level_means_by_hand():
    found = level_means(torch.tensor([1, 1, 2, 3]), seen([0, 1, 2], [0.2, 0.4, 1.0]))
    assert found.tolist()[:3] == pytest.approx([0.3, 0.3, 1.0]) and math.isnan(found[3])


def test_ability_by_hand():
    """Success of 0.4 lies half of the way from a weak policy's 0.2 to a strong one's 0.6."""
    assert ability(torch.tensor([0.1, 0.3]), torch.tensor([0.5, 0.7]), torch.tensor([0.4, 0.4])) == pytest.approx(0.5)
    assert ability(torch.tensor([0.5]), torch.tensor([0.5]), torch.tensor([0.9])) == 0


def test_with_anchors_one_level_tells_of_all():
    rule = Thompson(decay=0.0, implicit=0.5, anchors={1: (0.2, 0.6), 2: (0.0, 0.4)}, inertia=0.9)
    levels = torch.tensor([1, 2])
    first = rule.learn(rule.start(levels), levels, seen([0], [0.4]))
    assert first["ability"] == pytest.approx(0.5)  # the first one is taken whole
    assert first["right"].tolist() == pytest.approx([1 + 1.6, 1 + 0.5 * 4 * 0.2])
    second = rule.learn(first, levels, seen([0], [0.6]))
    assert second["ability"] == pytest.approx(0.9 * 0.5 + 0.1 * 1.0)


def test_thompson_prefers_what_is_near_its_target():
    """Two sure posteriors: success 0.5 and 0.99."""
    state = {"right": torch.tensor([500.0, 990.0]).double(), "wrong": torch.tensor([500.0, 10.0]).double()}
    levels = torch.tensor([1, 2])
    assert Thompson().choose(state, levels, 50, 0.0, seeded()).tolist() == [0] * 50
    assert Thompson(target=1.0).choose(state, levels, 50, 0.0, seeded()).tolist() == [1] * 50


def test_a_greedy_choice_does_not_explore():
    state = {"right": torch.tensor([5.0, 1.0]).double(), "wrong": torch.tensor([5.0, 2.0]).double()}
    levels = torch.tensor([1, 2])
    assert set(Thompson(greedy=True).choose(state, levels, 50, 0.0, seeded()).tolist()) == {0}
    assert set(Thompson().choose(state, levels, 50, 0.0, seeded()).tolist()) == {0, 1}


def test_a_pool_is_chosen_from_without_repetition():
    rule = Thompson(pool=6)
    levels = torch.tensor([1, 2] * 3)
    assert sorted(rule.choose(rule.start(levels), levels, 6, 0.0, seeded()).tolist()) == list(range(6))
    assert sorted(Uniform(pool=6).choose({}, levels, 6, 0.0, seeded()).tolist()) == list(range(6))
    assert len(Uniform(pool=2).choose({}, levels[:2], 6, 0.0, seeded())) == 6


def test_shuffled_keeps_what_was_seen_but_not_of_whom():
    given = seen([0, 1, 2], [0.1, 0.2, 0.3])
    found = shuffle(given, seeded(1))
    assert found.units is given.units and found.success.tolist() != given.success.tolist()
    assert sorted(found.success.tolist()) == sorted(given.success.tolist())
    torch.testing.assert_close(found.variance, found.success * (1 - found.success))


# --- Settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_name_is_enough(name):
    assert read_rule(name, "here") == read_rule({"rule": name}, "here") == SAMPLERS[name]()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("bandid", r"here: key 'rule': unknown sampler 'bandid'. Did you mean 'bandit'\?"),
        ({"rat": 1}, "here: key 'rule' is missing. There is: bandit, "),
        (7, "here: key 'rule' is missing"),
        ({"rule": "bandit", "rat": 1}, r"here: unknown key 'rat'. Did you mean 'rate'\?"),
        ({"rule": "bandit", "rate": 0}, "here: key 'rate': input should be greater than 0"),
        ({"rule": "uniform", "levels": []}, "here: key 'levels': tuple should have at least 1 item"),
        ({"rule": "uniform", "levels": [1, 1]}, "here: key 'levels': a level is given twice"),
        ({"rule": "uniform", "pool": 0}, "here: key 'pool': input should be greater than 0"),
        ({"rule": "thompson", "anchors": {"1": [0.5, 2]}}, "here: key 'anchors.1.1': input should be less than or"),
    ],
)
def test_mistakes_are_named(data, message):
    with pytest.raises(ConfigError, match=message):
        read_rule(data, "here")


def test_levels_are_those_of_the_task():
    assert Problems(Uniform(), Addition(), level=3, seed=0).levels.tolist() == [1, 2, 3]
    assert Problems(Uniform(levels=(2, 5)), Addition(), level=3, seed=0).levels.tolist() == [2, 5]
    with pytest.raises(ConfigError, match="key 'levels': add has levels 1 to 12, not 13"):
        Problems(Uniform(levels=(1, 13)), Addition(), level=3, seed=0)
    with pytest.raises(ConfigError, match="key 'anchors': nothing is said of level 2"):
        Problems(Thompson(levels=(1, 2), anchors={1: (0.1, 0.9)}), Addition(), level=3, seed=0)


# --- At work --------------------------------------------------------------------------------------------------------


def problems(rule, level: int = 2) -> Problems:
    return Problems(rule, Addition(), level, seed=5)


def test_fresh_problems_never_come_twice():
    sampler = problems(Uniform())
    drawn = [sampler.draw(update, 4, 0.0, seeded(update)) for update in range(3)]
    assert [[item.index for item in items] for items in drawn] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert {item.level for items in drawn for item in items} == {1, 2}
    assert {item.seed for items in drawn for item in items} == {5}
    assert drawn[1] == sampler.draw(1, 4, 0.0, seeded(1))


def test_a_pool_holds_the_same_problems_for_ever_evenly_over_levels():
    sampler = problems(Uniform(pool=5))
    drawn = [(item.level, item.index) for update in range(20) for item in sampler.draw(update, 3, 0.0, seeded(update))]
    assert set(drawn) == {(1, 0), (2, 0), (1, 1), (2, 1), (1, 2)}
    fifth = next(item for item in sampler.draw(0, 5, 0.0, seeded()) if (item.level, item.index) == (2, 1))
    assert fifth == Addition().item(5, 1, 2)


def rolled(items, scores):
    """Rollouts of ``items``, two each."""
    policy = tiny_llama(16, 1, 2)
    return written(policy, items, ["1$"] * len(scores), 2, scores)


def test_what_is_observed_and_logged_by_hand():
    sampler = problems(Learnability(rate=1.0), level=3)
    items = [Addition().item(5, index, level) for index, level in enumerate((1, 1, 3))]
    stats = sampler.observe(rolled(items, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]), seeded())
    assert sampler.state()["success"].tolist() == [0.75, 0.5, 0.0]
    third = pytest.approx(1 / 3)
    assert stats == {
        "informative": third,
        "in_band": third,
        "chosen/1": pytest.approx(2 / 3),
        "score/1": 0.75,
        "chosen/2": 0.0,
        "chosen/3": third,
        "score/3": 0.0,
    }


def test_in_a_pool_every_problem_is_known_by_itself():
    sampler = problems(Variance(pool=4, rate=1.0))
    sampler.observe(rolled([Addition().item(5, 1, 1)], [1.0, 1.0]), seeded())
    assert sampler.state()["variance"].tolist() == [0.25, 0.25, 0.0, 0.25]  # (1, 0), (2, 0), (1, 1), (2, 1)


@pytest.mark.parametrize(
    "item",
    [Addition().item(6, 0, 1), Addition().item(5, 0, 3), Addition().item(5, 9, 1)],
    ids=["seed", "level", "index"],
)
def test_problems_of_other_sources_are_passed_over(item):
    sampler = problems(Variance(pool=4))
    before = sampler.state()["variance"].clone()
    assert sampler.observe(rolled([item], [1.0, 0.0]), seeded()) == {}
    assert torch.equal(sampler.state()["variance"], before)


def test_the_control_learns_from_the_wrong_problems():
    items = [Addition().item(5, index, index + 1) for index in range(4)]
    scores = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    told, control = (problems(Learnability(rate=1.0, shuffled=shuffled), level=4) for shuffled in (False, True))
    stats = [sampler.observe(rolled(items, scores), seeded(1)) for sampler in (told, control)]
    assert stats[0] == stats[1]  # what is logged is the truth
    assert told.state()["success"].tolist() == [1.0, 0.5, 0.0, 0.0]
    assert sorted(control.state()["success"].tolist()) == [0.0, 0.0, 0.5, 1.0]
    assert control.state()["success"].tolist() != told.state()["success"].tolist()


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_state_is_all_there_is_to_know(name):
    one, two = (problems(read_rule({"rule": name, "pool": 8}, "here")) for _ in range(2))
    one.observe(rolled([Addition().item(5, 0, 1), Addition().item(5, 1, 2)], [1.0, 1.0, 1.0, 0.0]), seeded())
    two.load({key: value.clone() for key, value in one.state().items()})
    assert one.draw(3, 4, 0.5, seeded(3)) == two.draw(3, 4, 0.5, seeded(3))
