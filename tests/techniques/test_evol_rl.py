"""EVOL-RL: how unlike the others an answer is, what that is worth within its band, and which ways answers take."""

import random
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import sharp_policy, written

from minirl.config import TrainConfig, validate
from minirl.errors import ConfigError
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, get
from minirl.techniques.base import OnlinePhase
from minirl.techniques.critique.evol_rl import (
    INVALID,
    LOWER,
    UPPER,
    EvolRL,
    evaluate,
    evol_rewards,
    novelties,
    route_metrics,
    similarity,
)

POLICY, ROUTES = sharp_policy(), get("routes")
# 3+7-4 = 6, in two orders; and wrong: 0-4 taken for 5, which shares the first step with the first.
PROBLEM = Item("routes", 0, 0, 2, "3+7-4=", "+70-46")
GIVEN, OTHER, WRONG = "+70-46", "-49+76", "+70-45"


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 10, "prompts": 4, "samples": 4, "turns": 1, "learning_rate": 1e-3, **changes})


def grouped(answers, samples, problems=(PROBLEM,)):
    """What :func:`route_metrics` reads of rollouts."""
    items = [problems[row // samples] for row in range(len(answers))]
    nothing = torch.zeros(len(answers), 1)
    return Rollouts(
        ids=nothing.long(),
        turn=nothing.long(),
        logprobs=nothing,
        scores=torch.tensor([[ROUTES.score(item, text)] for item, text in zip(items, answers, strict=True)]),
        group=torch.arange(len(answers)) // samples,
        answers=[[text] for text in answers],
        items=items,
        longest=8,
    )


# --- how unlike the others ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        (GIVEN, GIVEN, 1),
        (GIVEN, WRONG, 1 / 2),  # the first step is the same, the result of the second is not
        (GIVEN, OTHER, 0),
        ("+70-46", "-46+70", 0),  # the same steps at other places
        ("+70-46", "+70", 1 / 2),  # one of the two steps of the longer one
        ("+70-46+17", "+70-46+1", 2 / 3),  # a step that lacks its result is another one
        ("", GIVEN, 0),
        ("", "", 0),
    ],
)
def test_similarity_by_hand(first, second, share):
    assert similarity(first, second) == similarity(second, first) == pytest.approx(share)


def test_novelty_in_one_band_by_hand():
    # GIVEN: the others are like it by 1 and 0. Mean ½, most 1: 1 − ¼ − ½. OTHER is like nobody.
    assert novelties([GIVEN, GIVEN, OTHER], [UPPER] * 3) == [0.25, 0.25, 1]


def test_novelty_over_two_bands_by_hand():
    # GIVEN: in its band OTHER, like it by 0; in the group WRONG, by ½: 1 − 0 − ¼. OTHER is like nobody.
    # WRONG is alone in its band, and like GIVEN by ½: 1 − 0 − ¼.
    assert novelties([GIVEN, OTHER, WRONG], [UPPER, UPPER, LOWER]) == [0.75, 1, 0.75]
    # In one band: GIVEN's mean is ¼, so 1 − ⅛ − ¼, and WRONG's too.
    assert novelties([GIVEN, OTHER, WRONG], [UPPER] * 3) == [0.625, 1, 0.625]


def test_the_mean_is_over_the_band_and_the_maximum_over_the_group():
    # The two WRONG are each other's equal, 1 − ½ − ½. GIVEN is like both by ½, but they are not of its band.
    assert novelties([GIVEN, WRONG, WRONG], [UPPER, LOWER, LOWER]) == [0.75, 0, 0]


def test_what_is_no_answer_is_compared_with_nobody():
    # "+70-4" would be like GIVEN by ½.
    assert novelties([GIVEN, "+70-4", OTHER], [UPPER, INVALID, UPPER]) == [1, 1, 1]


def test_alone_there_is_nobody_to_be_like():
    assert novelties([GIVEN], [UPPER]) == [1]
    assert novelties([], []) == []


def test_equally_novel_is_equal_whatever_the_order_of_the_others():
    # Every answer is like one other by 1, by ⅔ or by ⅓; sums of such shares depend on their order in the last digit.
    steps = [["+70", "-46", "+17"], ["+70", "-46", "+18"], ["+70", "-45", "+17"], ["+71", "-46", "+17"]]
    answers = ["".join(answer) for answer in steps]
    for seed in range(20):
        drawn = random.Random(seed).sample(answers * 4, 16)
        by_text = {}
        for text, value in zip(drawn, novelties(drawn, [UPPER] * 16), strict=True):
            by_text.setdefault(text, set()).add(value)
        assert all(len(values) == 1 for values in by_text.values())


# --- what that is worth ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("novelty", "bands", "rewards"),
    [
        # 0.2, 0.6, 0.4 are scaled to 0, 1, ½; half of that is laid on ½, or on −1.
        ([0.2, 0.6, 0.4], "UUU", [0.5, 1, 0.75]),
        ([0.2, 0.6, 0.4], "LLL", [-1, -0.5, -0.75]),
        # Each band for itself: 0.1 and 0.3, 0.8 and 0.9.
        ([0.1, 0.8, 0.3, 0.9], "ULUL", [0.5, -1, 1, -0.5]),
        # All equal: the middle. Alone: the top.
        ([0.3, 0.3], "UU", [0.75, 0.75]),
        ([0.3, 0.3], "LL", [-0.75, -0.75]),
        ([0.3, 0.9], "UL", [1, -0.5]),
        # What is no answer gets −1, however novel, and sets no scale.
        ([0.2, 1, 0.4], "U_U", [0.5, -1, 1]),
        ([1, 1], "__", [-1, -1]),
        ([], "", []),
    ],
)
def test_rewards_by_hand(novelty, bands, rewards):
    of = {"U": UPPER, "L": LOWER, "_": INVALID}
    assert evol_rewards(novelty, [of[band] for band in bands]) == pytest.approx(rewards)


groups = st.lists(st.tuples(st.floats(0, 1), st.sampled_from([UPPER, LOWER, INVALID])), min_size=1, max_size=12)


@given(groups)
def test_the_bands_do_not_touch(group):
    novelty, bands = zip(*group, strict=True)
    for reward, band in zip(evol_rewards(novelty, bands), bands, strict=True):
        low, high = {UPPER: (0.5, 1), LOWER: (-1, -0.5), INVALID: (-1, -1)}[band]
        assert low <= reward <= high


@given(groups)
def test_within_a_band_the_more_novel_gets_no_less(group):
    novelty, bands = zip(*group, strict=True)
    rows = list(zip(novelty, bands, evol_rewards(novelty, bands), strict=True))
    assert all(r >= s for n, b, r in rows for m, c, s in rows if b == c != INVALID and n >= m)


# --- arms: selection, variation, and chance -------------------------------------------------------------------------

# Two ways to 6, one of them twice, an outvoted 5, and something without its last result.
FIVE = [GIVEN, GIVEN, OTHER, WRONG, "+70-4"]
SAID = ["6", "6", "6", "5", ""]


@pytest.mark.parametrize(
    ("settings", "rewards"),
    [
        # GIVEN: mean ½, most 1: ¼. OTHER: 1. WRONG is alone with its result.
        ({}, [0.5, 0.5, 1, -0.5, -1]),
        ({"novelty": "none"}, [1, 1, 1, 0, 0]),
        # One band. GIVEN: like the others by 1, 0, ½: 1 − ¼ − ½ = ¼. OTHER: 1. WRONG: by ½, ½, 0: 1 − ⅙ − ¼ = 7/12.
        # Scaled from ¼ … 1: 7/12 is 4/9 of the way, so ½ + 2/9.
        ({"vote": False}, [0.5, 0.5, 1, 0.5 + 2 / 9, -1]),
    ],
)
def test_rewards_of_the_arms_by_hand(settings, rewards):
    assert EvolRL(**settings).rewards(PROBLEM, FIVE, SAID) == pytest.approx(rewards)


def test_who_goes_another_way_to_a_wrong_majority_is_paid_as_well():
    # Nobody knows that 5 is wrong.
    assert EvolRL().rewards(PROBLEM, [WRONG, WRONG, "-49+75", GIVEN], list("5556")) == [0.5, 0.5, 1, -0.5]


def test_shuffled_rewards_are_those_of_evol_within_each_band():
    answers, said = [GIVEN, GIVEN, OTHER, WRONG, WRONG, "-49+75", "+7"], ["6", "6", "6", "5", "5", "5", ""]
    paid, seen = EvolRL().rewards(PROBLEM, answers, said), set()
    assert paid == [0.5, 0.5, 1, -1, -1, -0.5, -1]
    for index in range(40):
        item = Item("routes", 0, index, 2, PROBLEM.prompt, PROBLEM.answer)
        dealt = EvolRL(novelty="shuffled").rewards(item, answers, said)
        assert dealt == EvolRL(novelty="shuffled").rewards(item, answers, said)  # a run that resumes deals the same
        assert [sorted(dealt[:3]), sorted(dealt[3:6]), dealt[6:]] == [[0.5, 0.5, 1], [-1, -1, -0.5], [-1]]
        seen.add((dealt.index(1), dealt.index(-0.5)))
    assert seen == {(i, j) for i in (0, 1, 2) for j in (3, 4, 5)}  # everybody can be lucky, in both bands


def test_shuffled_chances_are_even():
    lucky = Counter(
        EvolRL(novelty="shuffled")
        .rewards(Item("routes", 0, index, 2, PROBLEM.prompt, ""), [GIVEN, GIVEN, OTHER], ["6"] * 3)
        .index(1)
        for index in range(900)
    )
    assert all(250 < lucky[row] < 350 for row in range(3))  # 300 and three standard deviations of 14


# --- credit ---------------------------------------------------------------------------------------------------------

# 3+7 = 4+6 = 0. Said of ONE: 0, 0, 1; of TWO: 5, 5, 5. The vote on TWO is wrong.
ONE, TWO = Item("routes", 0, 0, 1, "3+7=", "+70"), Item("routes", 0, 1, 1, "4+6=", "+60")
ANSWERS = ["+70$", "+70$", "+71$", "+65$", "+65$", "+65$"]


def rollouts(answers=ANSWERS, scores=None):
    return written(POLICY, [ONE, TWO], list(answers), 3, scores, task=ROUTES)


def test_credit_by_hand():
    credit = EvolRL().credit(rollouts())
    # ONE: both 0 are the same, ¾ each; the 1 is alone, −½. Mean ⅓, deviations 5/12, 5/12, −10/12; squares add up to
    # 150/144, and half of that is the variance: 0.7217². TWO: all ¾, nothing to compare.
    worth = [5 / 12 / 0.7217, 5 / 12 / 0.7217, -10 / 12 / 0.7217, 0, 0, 0]
    assert credit.advantages[:, 4].tolist() == pytest.approx(worth, abs=1e-3)
    assert not credit.advantages[:, :4].any()  # the problem
    # Half of the votes are right. Of three answers two are different at ONE, one at TWO.
    assert credit.stats == pytest.approx(
        {"return": (0.75 + 0.75 - 0.5 + 3 * 0.75) / 6, "label_accuracy": 0.5, "distinct": 0.5}
    )


def test_a_group_that_agrees_teaches_to_go_another_way():
    # With novelty whoever stands out gets more; without it all get the same, and nothing is taught.
    assert EvolRL().rewards(PROBLEM, [GIVEN, GIVEN, OTHER], ["6"] * 3) == [0.5, 0.5, 1]
    assert EvolRL(novelty="none").rewards(PROBLEM, [GIVEN, GIVEN, OTHER], ["6"] * 3) == [1, 1, 1]


def test_without_novelty_credit_is_that_of_the_vote():
    credit = EvolRL(novelty="none").credit(rollouts())
    # ONE: 1, 1, 0. Mean ⅔, deviations ⅓, ⅓, −⅔, variance ⅓: the same advantages as above.
    assert credit.advantages[:, 4].tolist() == pytest.approx([0.5773, 0.5773, -1.1547, 0, 0, 0], abs=1e-3)
    assert credit.stats["return"] == pytest.approx(5 / 6)


@pytest.mark.parametrize("settings", [{}, {"novelty": "none"}, {"novelty": "shuffled"}, {"vote": False}])
def test_nobody_looks_at_the_scores(settings):
    credits = [EvolRL(**settings).credit(rollouts(scores=[float(s)] * 6)) for s in (0, 1)]
    assert torch.equal(credits[0].advantages, credits[1].advantages)
    assert credits[0].stats == credits[1].stats


def test_kl_coefficients():
    credit = EvolRL(beta=0.25).credit(rollouts())
    assert credit.kl[0].tolist() == [0, 0, 0, 0, 0.25, 0.25, 0.25, 0.25]
    assert not EvolRL(beta=0.0).credit(rollouts()).kl.any()


def test_space_around_an_answer_is_not_novel():
    # " +70" is read as "+70": all three the same, all of them ¾.
    assert not EvolRL().credit(rollouts([" +70", "+70$", "+70$", "+60$", "+60$", "+60$"])).advantages.any()


def test_groups_that_say_nothing_have_no_right_label():
    credit = EvolRL().credit(rollouts(["+7$", "$", "x$", "+60$", "+60$", "+61$"]))
    assert not credit.advantages[:3].any()  # −1 each
    assert credit.stats["label_accuracy"] == 0.5  # that of TWO
    assert credit.stats["distinct"] == pytest.approx((0 + 2 / 3) / 2)


# --- evaluation -----------------------------------------------------------------------------------------------------


def test_routes_by_hand():
    # Four right answers, a wrong one, and none. Then six as given.
    answers = [GIVEN, GIVEN, OTHER, "-40+76", WRONG, "+7", *[GIVEN] * 6]
    assert [ROUTES.score(PROBLEM, text) for text in answers[:6]] == [1, 1, 1, 1, 0, 0]
    found = route_metrics(grouped(answers, 6, [PROBLEM, PROBLEM]))
    # "-40+76" has a wrong step on the way, and the order of OTHER: two routes. As given: GIVEN twice, and WRONG.
    assert found == {"routes": [2, 1], "as_given": [3 / 6, 1]}


def test_a_wrong_answer_takes_no_route():
    assert route_metrics(grouped([WRONG, "-49+75", "-49"], 3)) == {"routes": [0], "as_given": [1 / 3]}


def test_equal_operations_are_one_route():
    twice = Item("routes", 0, 0, 2, "3+4+4=", "+47+41")
    assert route_metrics(grouped(["+47+41"] * 2, 2, [twice])) == {"routes": [1], "as_given": [1]}


def test_evaluation_has_votes_and_routes():
    items = ROUTES.items(5, range(6), 2)
    evaluation, drawn = evaluate(POLICY, ROUTES, items, seed=3, samples=4, batch=8)
    assert len(drawn.items) == 24 and drawn.samples == 4
    assert evaluation.metrics.keys() == {
        "accuracy@1", "pass@4", "majority@4", "agreement", "illusion", "routes", "as_given",
    }  # fmt: skip
    for name, values in evaluation.items.items():
        assert len(values) == 6 and evaluation.metrics[name] == pytest.approx(sum(values) / 6)
    assert {name: evaluation.items[name] for name in ("routes", "as_given")} == route_metrics(drawn)


def test_evaluation_depends_on_the_seed_and_not_on_the_batch():
    items = ROUTES.items(5, range(6), 2)
    one, same, other = (
        evaluate(POLICY, ROUTES, items, seed=seed, samples=4, batch=batch)[1].answers
        for seed, batch in ((3, 8), (3, 256), (4, 8))
    )
    assert one == same != other


# --- phases and settings --------------------------------------------------------------------------------------------


def test_one_phase_of_policy_gradient():
    method = EvolRL(novelty="shuffled")
    (phase,) = method.phases(train_config())
    assert isinstance(phase, OnlinePhase)
    assert (phase.name, phase.updates, phase.shuffle_scores) == ("RL", 10, False)
    assert phase.credit == method.credit and phase.roll_out is None and phase.teacher is None


@pytest.mark.parametrize("turns", [2, 3])
def test_a_vote_is_on_single_attempts(turns):
    with pytest.raises(ConfigError, match=rf"^train\.turns {turns}: a vote is on single attempts; set it to 1$"):
        EvolRL().phases(train_config(turns=turns))


def test_there_is_no_score_to_shuffle():
    with pytest.raises(ConfigError, match=r"^shuffle_scores: .*; the control is 'novelty: shuffled'$"):
        EvolRL(shuffle_scores=True).phases(train_config())


def test_something_must_be_paid_for():
    with pytest.raises(ConfigError, match=r"^novelty: without a vote and without novelty there is nothing"):
        EvolRL(novelty="none", vote=False).phases(train_config())


@pytest.mark.parametrize("bad", [{"novelty": "random"}, {"beta": -1}, {"votes": True}, {"vote": "maybe"}])
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(EvolRL, bad, "arms.evol")
