"""Polychromic objectives: how many kinds are in a set, what an answer is paid for its sets, and the rivals."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import sharp_policy

from minirl.config import TrainConfig, validate
from minirl.errors import ConfigError
from minirl.objectives.advantages import advantages
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, get
from minirl.techniques.base import OnlinePhase
from minirl.techniques.curriculum.polychromic import (
    NONE,
    Polychromic,
    different,
    entropy_advantages,
    evaluate,
    kinds_of,
    set_rewards,
)

POLICY, DOORS = sharp_policy(), get("doors")
PROBLEM = Item("doors", 0, 0, 2, "qcrh=", "q")  # by hand: only q is open


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 10, "prompts": 4, "samples": 4, "turns": 1, "learning_rate": 1e-3, **changes})


def grouped(answers, samples, problems=(PROBLEM,)):
    """Rollouts with one own token each, of log-prob −1, −2, −3, …"""
    items = [problems[row // samples] for row in range(len(answers))]
    count = len(answers)
    return Rollouts(
        ids=torch.zeros(count, 2).long(),
        turn=torch.tensor([[-1, 0]]).repeat(count, 1),
        logprobs=torch.stack([torch.zeros(count), -1.0 - torch.arange(count)], dim=1),
        scores=torch.tensor([[DOORS.score(item, text)] for item, text in zip(items, answers, strict=True)]),
        group=torch.arange(count) // samples,
        answers=[[text] for text in answers],
        items=items,
        longest=2,
    )


# --- how many kinds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "count"),
    [
        ([1], 1),
        ([1, 1], 1),
        ([1, 2], 2),
        ([2, 1, 2], 2),
        ([3, 1, 2], 3),
        ([NONE], 0),
        ([NONE, NONE, 5], 1),
        ([0, NONE], 1),
    ],
)
def test_different_by_hand(kinds, count):
    assert different(torch.tensor(kinds)) == count


@given(st.lists(st.integers(NONE, 4), min_size=1, max_size=8))
def test_different_is_the_size_of_the_set(kinds):
    assert different(torch.tensor(kinds)) == len(set(kinds) - {NONE})


def test_different_of_many_sets_at_once():
    assert different(torch.tensor([[[1, 1], [1, 2]], [[NONE, 3], [3, 3]]])).tolist() == [[1, 2], [1, 1]]


# --- what answers are paid ------------------------------------------------------------------------------------------


def pay(scores, kinds, n, **how):
    return set_rewards(torch.tensor([scores], dtype=torch.float), torch.tensor([kinds]), n, **how)[0]


def test_sets_of_two_by_hand():
    # Right: a, a, b; wrong: c. Pairs: aa 1 · ½, ab 1 · 1 (twice), ac ½ · 1 (twice), bc ½ · 1.
    # a is in aa, ab, ac: (½ + 1 + ½)/3. b in ab, ab, bc: (1 + 1 + ½)/3. c in ac, ac, bc: ½.
    assert pay([1, 1, 1, 0], [0, 0, 1, 2], 2).tolist() == pytest.approx([2 / 3, 2 / 3, 5 / 6, 1 / 2])


def test_the_rarer_of_two_right_answers_is_paid_more():
    common, _, _, rare = pay([1, 1, 1, 1], [0, 0, 0, 1], 3).tolist()
    # aaa 1 · ⅓; with b ⅔. An a is in one of the first and two of the second kind, b in the second only.
    assert (common, rare) == pytest.approx(((1 / 3 + 2 * 2 / 3) / 3, 2 / 3))


def test_a_wrong_answer_in_good_company_may_be_paid_more_than_one_of_many_equal_right_ones():
    # Right: three times a; wrong: b. aaa 1 · ⅓, aab ⅔ · ⅔: with b the set is worth more than without it.
    common, _, _, wrong = pay([1, 1, 1, 0], [0, 0, 0, 1], 3).tolist()
    assert (common, wrong) == pytest.approx(((1 / 3 + 2 * 4 / 9) / 3, 4 / 9))
    assert wrong > common


def test_sets_of_one_are_paid_the_score():
    assert pay([1, 0, 1, 0.5], [0, 1, 0, 2], 1).tolist() == [1, 0, 1, 0.5]


def test_the_whole_group_as_one_set_pays_all_alike():
    # Mean score ½, three kinds of four.
    assert pay([1, 1, 0, 0], [0, 0, 1, 2], 4).tolist() == pytest.approx([3 / 8] * 4)


def test_what_is_no_answer_is_no_kind_of_its_own():
    # As above with c no answer: ac and bc have one kind of two, ½ · ½.
    expected = [(0.5 + 1 + 0.25) / 3, (0.5 + 1 + 0.25) / 3, (1 + 1 + 0.25) / 3, 0.25]
    assert pay([1, 1, 1, 0], [0, 0, 1, NONE], 2).tolist() == pytest.approx(expected)


def test_equal_answers_are_paid_alike_and_so_nothing_is_learned():
    paid = pay([1, 1, 1, 1], [0, 0, 0, 0], 2)
    assert paid.tolist() == pytest.approx([0.5] * 4)
    assert advantages(paid[:, None], 4, "group_normalised").abs().max() < 1e-6


def test_where_all_are_right_variety_is_still_taught():
    taught = advantages(pay([1, 1, 1, 1], [0, 0, 0, 1], 2)[:, None], 4, "group_normalised").flatten()
    assert taught[3] > 0 > taught[0] == taught[1] == taught[2]
    assert advantages(torch.ones(4, 1), 4, "group_normalised").abs().max() == 0  # scores alone teach nothing


def test_variety_alone_does_not_look_at_scores():
    first, second = (pay(scores, [0, 0, 1, 2], 2, pays="variety") for scores in ([1, 1, 1, 1], [0, 0, 0, 0]))
    assert first.tolist() == second.tolist() == pytest.approx([5 / 6, 5 / 6, 1, 1])


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(NONE, 3)), min_size=3, max_size=6))
def test_the_mean_reward_is_the_mean_of_f_over_all_sets(group):
    scores, kinds = zip(*group, strict=True)
    f = [
        sum(scores[i] for i in s) / 3 * len({kinds[i] for i in s} - {NONE}) / 3
        for s in combinations(range(len(group)), 3)
    ]
    assert pay(scores, kinds, 3).mean().item() == pytest.approx(sum(f) / len(f), abs=1e-6)


def test_prompts_do_not_mix():
    scores, kinds = torch.tensor([[1.0, 1, 0], [0, 0, 1]]), torch.tensor([[0, 1, 2], [3, 3, 4]])
    both = set_rewards(scores, kinds, 2)
    assert both.tolist() == [pay([1, 1, 0], [0, 1, 2], 2).tolist(), pay([0, 0, 1], [3, 3, 4], 2).tolist()]


def test_shuffled_varieties_are_those_of_other_sets_and_say_nothing_of_an_answer():
    scores, kinds = [1.0] * 4, [0, 0, 0, 1]
    drawn = [pay(scores, kinds, 2, pays="shuffled", generator=torch.Generator().manual_seed(s)) for s in range(300)]
    # Three pairs of six have two kinds: the mean f is ¾ whatever the order.
    assert all(paid.mean().item() == pytest.approx(0.75) for paid in drawn)
    mean = torch.stack(drawn).mean(0)
    assert mean.tolist() == pytest.approx([0.75] * 4, abs=0.03)
    assert pay(scores, kinds, 2)[3] == 1  # what it would be paid if the varieties were those of its sets


# --- from rollouts to credit ----------------------------------------------------------------------------------------


def test_kinds_are_answers_to_a_prompt():
    other = Item("doors", 0, 1, 2, "rhqc=", "h")
    kinds = kinds_of(grouped(["q", " q", "c", "z", "q", "q", "", "h"], 4, (PROBLEM, other)))
    assert kinds.tolist()[0] == [0, 0, 1, NONE]  # spaces do not count, z is no door
    assert kinds.tolist()[1][0] == kinds.tolist()[1][1] != 0  # the same letter to another prompt is another kind
    assert kinds.tolist()[1][2] == NONE


def test_credit_by_hand():
    credit = Polychromic(set_size=2).credit(grouped(["q", "q", "c", "r"], 4))
    # Right: q, q. Pairs: qq 1 · ½, qc and qr ½ · 1 (twice each), cr 0. Each q: ½. c and r: (½ + ½ + 0)/3.
    paid = torch.tensor([[0.5], [0.5], [1 / 3], [1 / 3]])
    assert torch.allclose(credit.advantages[:, 1:], advantages(paid, 4, "group_normalised"))
    assert credit.advantages[:, 0].abs().max() == 0  # the prompt
    assert credit.stats["variety"] == 1 and credit.stats["tried"] == 3
    assert credit.stats["return"] == pytest.approx(5 / 12)
    assert torch.allclose(credit.kl[:, 1], torch.full((4,), 0.01))


def test_one_answer_a_set_is_grpo():
    rollouts = grouped(["q", "q", "c", "r"], 4)
    credit = Polychromic(set_size=1).credit(rollouts)
    assert torch.allclose(credit.advantages[:, 1:], advantages(rollouts.scores, 4, "group_normalised"))


def test_the_entropy_bonus_favours_what_was_improbable():
    logprobs, own = torch.tensor([[0.0, -1.0], [-7.0, -3.0]]), torch.tensor([[False, True], [False, True]])
    assert entropy_advantages(logprobs, own).tolist() == [[0, -1], [0, 1]]  # surprises 1 and 3, mean 2; no prompts


def test_the_entropy_bonus_is_the_gradient_of_entropy():
    logits = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    p = logits.softmax(0)
    (exact,) = torch.autograd.grad(-(p * p.log()).sum(), logits, retain_graph=True)
    # Every outcome as often as it is probable: the mean of advantage · ∇ log π, with any constant taken off.
    bonus = -p.log().detach() - 1.7
    (estimate,) = torch.autograd.grad((p.detach() * bonus * p.log()).sum(), logits)
    assert torch.allclose(exact, estimate, atol=1e-6)


def test_the_bonus_is_added_to_the_advantage():
    rollouts = grouped(["q", "q", "c", "r"], 4)
    plain, bonus = (Polychromic(set_size=1, entropy=alpha).credit(rollouts).advantages for alpha in (0, 0.5))
    assert torch.allclose(bonus - plain, 0.5 * entropy_advantages(rollouts.logprobs, rollouts.own))


def test_shuffling_is_the_same_for_the_same_problems():
    rollouts = grouped(["q", "q", "c", "r"], 4)
    first, second = (Polychromic(set_size=2, pays="shuffled").credit(rollouts).advantages for _ in range(2))
    assert torch.equal(first, second)


# --- the method -----------------------------------------------------------------------------------------------------


def test_one_phase_of_all_updates():
    (phase,) = Polychromic().phases(train_config())
    assert isinstance(phase, OnlinePhase) and phase.updates == 10 and not phase.shuffle_scores
    (shuffled,) = Polychromic(shuffle_scores=True).phases(train_config())
    assert shuffled.shuffle_scores


@pytest.mark.parametrize(
    ("settings", "train", "message"),
    [
        ({}, {"turns": 2}, "train.turns 2: sets are of single attempts; set it to 1"),
        ({"set_size": 5}, {}, "set_size 5: a group has train.samples, 4 answers"),
        ({"set_size": 1, "pays": "variety"}, {}, "a set of one answer has no variety"),
    ],
)
def test_settings_that_make_no_sense(settings, train, message):
    with pytest.raises(ConfigError, match=message):
        Polychromic(**settings).phases(train_config(**train))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"set_sise": 2}, "Did you mean 'set_size'"),
        ({"set_size": 0}, "set_size"),
        ({"entropy": -1}, "entropy"),
        ({"pays": "score"}, "pays"),
    ],
)
def test_settings_that_do_not_exist(settings, message):
    with pytest.raises(ConfigError, match=message):
        validate(Polychromic, settings, "arm")


def test_evaluation_counts_right_answers_and_different_ones():
    items = DOORS.items(0, range(3), 2)
    evaluation, rollouts = evaluate(POLICY, DOORS, items, seed=0, samples=4)
    assert len(rollouts.items) == 12
    assert set(evaluation.metrics) == {"accuracy@1", "score", "pass@4", "variety", "entropy"}
    assert len(evaluation.items["pass@4"]) == 3
    again, _ = evaluate(POLICY, DOORS, items, seed=0, samples=4, batch=4)
    assert again.items["variety"] == evaluation.items["variety"]
