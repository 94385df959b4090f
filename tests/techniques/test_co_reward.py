"""Co-Reward: who is paid by which vote, what that is worth token by token, and how both phrasings are answered."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import sharp_policy, written

from minirl.config import TrainConfig, validate
from minirl.errors import ConfigError
from minirl.evaluation.votes import result
from minirl.rollouts.episodes import roll_out
from minirl.tasks import Item, get
from minirl.techniques.base import OnlinePhase
from minirl.techniques.critique.co_reward import CoReward, both_phrasings, evaluate, vote_rewards

POLICY, TALLY = sharp_policy(), get("tally")
ITEMS = TALLY.items(5, range(10), 3)


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 10, "prompts": 4, "samples": 3, "turns": 1, "learning_rate": 1e-3, **changes})


# --- who is paid ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "other", "cross", "own"),
    [
        # Labels 4 and 7: the vote on x' pays the one who was outvoted at x, and the other way round.
        ("447", "774", [[0, 0, 1], [0, 0, 1]], [[1, 1, 0], [1, 1, 0]]),
        ("444", "444", [[1, 1, 1], [1, 1, 1]], [[1, 1, 1], [1, 1, 1]]),
        # Labels 4 and 7 again: a wrong label that nobody meets pays nobody.
        ("445", "776", [[0, 0, 0], [0, 0, 0]], [[1, 1, 0], [1, 1, 0]]),
        # Labels 4 and 7: the first of equally many.
        ("47", "74", [[0, 1], [0, 1]], [[1, 0], [1, 0]]),
        # Labels 3 and 3: an empty result (_) has no vote and is never paid.
        ("3__", "33_", [[1, 0, 0], [1, 1, 0]], [[1, 0, 0], [1, 1, 0]]),
        # Labels none and 3: an empty majority pays nobody, not even those who said nothing.
        ("__", "33", [[0, 0], [0, 0]], [[0, 0], [1, 1]]),
        ("__", "3_", [[0, 0], [0, 0]], [[0, 0], [1, 0]]),
        ("__", "__", [[0, 0], [0, 0]], [[0, 0], [0, 0]]),
    ],
)
def test_vote_rewards_by_hand(x, other, cross, own):
    said = [[digit.strip("_") for digit in digits] for digits in (x, other)]
    assert vote_rewards(said, cross=True).tolist() == cross
    assert vote_rewards(said, cross=False).tolist() == own


def test_every_problem_has_a_vote_of_its_own():
    # Labels 1, 2 and 3, 1. Nobody of the first problem is paid for the 3, nobody of the second for the 2.
    said = [["1", "1", "3"], ["2", "2", "1"], ["3", "3", "2"], ["1", "1", "3"]]
    assert vote_rewards(said, cross=True).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1]]
    assert vote_rewards(said, cross=False).tolist() == [[1, 1, 0]] * 4


def test_a_result_is_all_of_its_text():
    assert vote_rewards([["12", "1"], ["12", "2"]], cross=True).tolist() == [[1, 0], [1, 0]]


def test_rewards_are_numbers_to_compute_with():
    rewards = vote_rewards([["1", "2", "3"], ["1", "1", "1"]], cross=True)
    assert rewards.dtype == torch.float32 and rewards.shape == (2, 3)


def test_one_and_the_same_result_everywhere_is_paid_in_full():
    # The hole that no other phrasing closes.
    assert vote_rewards([["0"] * 4] * 6, cross=True).mean() == 1


pairs = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.lists(st.sampled_from(["", "1", "2", "3"]), min_size=n, max_size=n), min_size=2, max_size=2)
)


@given(pairs)
def test_no_label_pays_more_than_ones_own_majority(said):
    own, cross = vote_rewards(said, cross=False), vote_rewards(said, cross=True)
    assert (cross.sum(1) <= own.sum(1)).all()


@given(pairs)
def test_the_cross_vote_is_symmetric_in_the_phrasings(said):
    assert vote_rewards(said[::-1], cross=True).tolist() == vote_rewards(said, cross=True).flip(0).tolist()


@given(pairs)
def test_where_both_votes_agree_cross_and_self_pay_the_same(said):
    said[1] = said[0]
    assert vote_rewards(said, cross=True).tolist() == vote_rewards(said, cross=False).tolist()


# --- what that is worth ---------------------------------------------------------------------------------------------

# A sum of one step has no other order. But all that a pair must share is its result: 3+7 = 4+6 = 0 modulo ten.
ONE, TWO = Item("tally", 0, 0, 1, "3+7=", "+70"), Item("tally", 0, 1, 1, "4+6=", "+60")
# What is said of ONE: 0, 1, 1 (the last answer was cut off before its end), of TWO: 0, 0, 5. Labels 1 and 0.
ANSWERS = ["+70$", "+71$", "+71", "+60$", "+60$", "+65$"]


def rollouts(answers=ANSWERS, problems=(ONE, TWO), samples=3, scores=None):
    return written(POLICY, list(problems), list(answers), samples, scores, task=TALLY)


@pytest.mark.parametrize(
    ("label", "worth", "paid"),
    [
        # ONE is paid for a 0, TWO for a 1: rewards 1 0 0 and 0 0 0.
        # Less the mean of the other two: 1 − 0, 0 − ½, 0 − ½, and nothing where nobody is paid.
        ("cross", [1, -0.5, -0.5, 0, 0, 0], 1 / 6),
        # ONE for a 1, TWO for a 0: rewards 0 1 1 and 1 1 0. 0 − 1, 1 − ½, 1 − ½; 1 − ½, 1 − ½, 0 − 1.
        ("self", [-1, 0.5, 0.5, 0.5, 0.5, -1], 4 / 6),
    ],
)
def test_credit_by_hand(label, worth, paid):
    credit = CoReward(label=label).credit(rollouts())
    # Four tokens of the problem, three of the answer and the one that ends it; the third answer has none.
    own = [[0, 0, 0, 0, 1, 1, 1, 1]] * 2 + [[0, 0, 0, 0, 1, 1, 1, 0]] + [[0, 0, 0, 0, 1, 1, 1, 1]] * 3
    expected = [worth[row] * token for row in range(6) for token in own[row]]
    assert credit.advantages.flatten().tolist() == pytest.approx(expected)
    # The vote on ONE is wrong, the one on TWO right.
    assert credit.stats == pytest.approx({"return": paid, "label_accuracy": 0.5})


def test_kl_coefficients_by_hand():
    credit = CoReward(beta=0.25).credit(rollouts())
    assert credit.kl.tolist()[2:4] == [[0, 0, 0, 0, 0.25, 0.25, 0.25, 0], [0, 0, 0, 0, 0.25, 0.25, 0.25, 0.25]]
    assert not CoReward(beta=0.0).credit(rollouts()).kl.any()


@pytest.mark.parametrize("label", ["cross", "self"])
def test_nobody_looks_at_the_scores(label):
    credits = [CoReward(label=label).credit(rollouts(scores=[float(s)] * 6)) for s in (0, 1)]
    assert torch.equal(credits[0].advantages, credits[1].advantages)
    assert credits[0].stats == credits[1].stats


def test_what_is_no_answer_has_no_vote():
    # ONE: nothing ("+7" lacks its result), nothing ("+60" restates another operation), 0. Its label is 0.
    # TWO: 0, 5, 5: its label is 5. Cross: nobody at ONE has a 5; at TWO the 0 is paid.
    credit = CoReward().credit(rollouts(["+7$", "+60$", "+70$", "+60$", "+65$", "+65$"]))
    assert credit.advantages[:, 4].tolist() == pytest.approx([0, 0, 0, 1, -0.5, -0.5])
    assert credit.stats["label_accuracy"] == 0.5


def test_votes_that_say_nothing_are_no_right_labels():
    credit = CoReward().credit(rollouts(["+7$", "+$", "$", "+60$", "+60$", "+60$"]))
    assert not credit.advantages.any()
    assert credit.stats == {"return": 0.0, "label_accuracy": 0.5}


@pytest.mark.parametrize(
    ("answers", "accuracy"),
    [
        ("+70$ +70$ +60$ +60$", 1),
        ("+71$ +70$ +60$ +65$", 0.5),  # of equally many the first: 1 is wrong, 0 right
        ("+71$ +71$ +61$ +61$", 0),  # the labels confirm each other and are wrong
    ],
)
@pytest.mark.parametrize("label", ["cross", "self"])
def test_label_accuracy_is_the_share_of_right_votes(answers, accuracy, label):
    credit = CoReward(label=label).credit(rollouts(answers.split(), samples=2))
    assert credit.stats["label_accuracy"] == accuracy


def test_a_group_is_as_large_as_the_rollouts_say():
    # Two problems of two answers to each phrasing: results 0 1, 1 1 and 0 0, 5 0; labels 0, 1 and 0, 5.
    answers = ["+70$", "+71$", "+61$", "+61$", "+70$", "+70$", "+65$", "+60$"]
    credit = CoReward().credit(rollouts(answers, (ONE, TWO, ONE, TWO), samples=2))
    # Paid: a 1 at the first, a 0 at the second (nobody), a 5 at the third (nobody), a 0 at the fourth.
    assert credit.advantages[:, 4].tolist() == [-1, 1, 0, 0, 0, 0, -1, 1]
    assert credit.stats == {"return": 2 / 8, "label_accuracy": 0.5}


# --- both phrasings, side by side -----------------------------------------------------------------------------------


def ask(items, correlation, seed=0, samples=2, temperature=1.0):
    noise = torch.Generator().manual_seed(seed)
    settings = {"samples": samples, "temperature": temperature, "correlation": correlation}
    return both_phrasings(POLICY, TALLY, items, generator=noise, **settings)


def test_half_of_the_problems_in_both_phrasings():
    drawn = ask(ITEMS[:6], correlation=0.0)
    expected = []
    for item in ITEMS[:3]:
        other = TALLY.rephrased(item)
        assert other.prompt != item.prompt and other.answer[-1] == item.answer[-1]
        expected += [item, item, other, other]  # two samples of each
    assert drawn.items == expected
    assert drawn.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert drawn.samples == 2 and len(drawn.answers) == 6 * 2  # as many as of six problems in one phrasing


def test_of_an_odd_number_the_smaller_half():
    assert ask(ITEMS[:5], correlation=0.0).items == ask(ITEMS[:4], correlation=0.0).items


def test_with_correlation_one_the_second_phrasing_is_the_first():
    drawn = ask(ITEMS[:6], correlation=1.0)
    assert drawn.items == [item for item in ITEMS[:3] for _ in range(4)]
    # Yet it is another group, with samples of its own.
    assert drawn.samples == 2 and drawn.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert drawn.answers[:2] != drawn.answers[2:4]


def test_in_between_a_draw_decides_for_every_problem():
    # random.Random(0) draws 0.84, 0.76, 0.42, 0.26, 0.51: the third and the fourth are below ½.
    rng = random.Random(0)
    assert [round(rng.random(), 2) for _ in range(5)] == [0.84, 0.76, 0.42, 0.26, 0.51]
    first, second = (ask(ITEMS, correlation=0.5).items[start::4] for start in (0, 2))
    assert first == ITEMS[:5]
    assert [a == b for a, b in zip(first, second, strict=True)] == [False, False, True, True, False]
    # A dial turned further leaves the same problems as they were, and takes more: now the fifth and the second.
    second = ask(ITEMS, correlation=0.8).items[2::4]
    assert [a == b for a, b in zip(first, second, strict=True)] == [False, True, True, True, True]


def test_the_same_noise_gives_the_same_answers():
    one, again, other = ask(ITEMS, 0.5), ask(ITEMS, 0.5), ask(ITEMS, 0.5, seed=1)
    assert one.items == again.items and one.answers == again.answers and torch.equal(one.ids, again.ids)
    assert one.answers != other.answers


def test_the_dial_does_not_touch_the_first_phrasing():
    apart, same = ask(ITEMS, 0.0), ask(ITEMS, 1.0)
    first = [row for row in range(len(apart.items)) if row % 4 < 2]
    assert [apart.answers[row] for row in first] == [same.answers[row] for row in first]


def test_they_are_rollouts_of_the_prompts_in_this_order():
    prompts = [phrasing for item in ITEMS[:3] for phrasing in (item, TALLY.rephrased(item))]
    noise = torch.Generator().manual_seed(7)
    plain = roll_out(POLICY, TALLY, prompts, samples=3, generator=noise, temperature=0.7)
    drawn = ask(ITEMS[:6], 0.0, seed=7, samples=3, temperature=0.7)
    assert torch.equal(drawn.ids, plain.ids) and torch.equal(drawn.logprobs, plain.logprobs)


@pytest.mark.parametrize("name", ["add", "chain"])
def test_a_task_that_cannot_be_rephrased(name):
    task = get(name)
    with pytest.raises(ConfigError, match=rf"^task '{name}' cannot be rephrased; 'tally' can$"):
        both_phrasings(
            POLICY, task, task.items(0, range(2), 1), generator=torch.Generator(), samples=2, temperature=1.0,
            correlation=1.0,
        )  # fmt: skip


# --- phases and settings --------------------------------------------------------------------------------------------


def test_one_phase_of_policy_gradient():
    (phase,) = CoReward(correlation=0.25).phases(train_config(temperature=0.5))
    assert isinstance(phase, OnlinePhase)
    assert (phase.name, phase.updates, phase.shuffle_scores) == ("RL", 10, False)
    assert phase.roll_out.func is both_phrasings
    assert phase.roll_out.keywords == {"samples": 3, "temperature": 0.5, "correlation": 0.25}
    assert phase.teacher is None and phase.reference_decay == 1


@pytest.mark.parametrize("label", ["cross", "self"])
def test_the_phase_pays_what_it_has_rolled_out(label):
    (phase,) = CoReward(label=label).phases(train_config())
    drawn = phase.roll_out(POLICY, TALLY, ITEMS[:4], generator=torch.Generator().manual_seed(3))
    assert len(drawn.items) == 4 * 3
    said = [result(item, texts[0]) for item, texts in zip(drawn.items, drawn.answers, strict=True)]
    rewards = vote_rewards([said[start : start + 3] for start in (0, 3, 6, 9)], label == "cross")
    assert phase.credit(drawn).stats["return"] == rewards.mean().item()


def test_there_are_no_scores_to_shuffle():
    message = r"^shuffle_scores: Co-Reward sees no scores; the control is a correlation of 1$"
    with pytest.raises(ConfigError, match=message):
        CoReward(shuffle_scores=True).phases(train_config())


@pytest.mark.parametrize("prompts", [1, 3, 25])
def test_prompts_come_in_pairs(prompts):
    message = rf"^train\.prompts {prompts} is odd: every problem is asked in two phrasings$"
    with pytest.raises(ConfigError, match=message):
        CoReward().phases(train_config(prompts=prompts))


@pytest.mark.parametrize("turns", [2, 3])
def test_a_vote_is_on_single_attempts(turns):
    with pytest.raises(ConfigError, match=rf"^train\.turns {turns}: a vote is on single attempts; set it to 1$"):
        CoReward().phases(train_config(turns=turns))


@pytest.mark.parametrize(
    "bad", [{"label": "other"}, {"correlation": -0.1}, {"correlation": 1.1}, {"beta": -1}, {"corelation": 0.5}]
)
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(CoReward, bad, "arms.co_reward")


def test_the_runner_finds_an_evaluation():
    assert evaluate.__module__ == "minirl.evaluation.votes"
    assert CoReward().evaluation() == {}
