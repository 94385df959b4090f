"""CREAM: two judges, how far they agree, and what a pair of answers weighs.

Rankings are worked out by hand. Episodes are sums of one step, whose answer is the step with its result: ``+70`` is
right at 3+7, ``$`` ends it.
"""

import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from stand_ins import encode, sharp_policy, written

from minirl.config import TaskConfig, TrainConfig, validate
from minirl.errors import ConfigError, MinirlError, TrainingError
from minirl.loops import Learner, run_phases
from minirl.policy.models import follow, load_policy
from minirl.rollouts.episodes import Rollouts, roll_out
from minirl.tasks import Item, get
from minirl.techniques.base import PreferencePhase, SupervisedPhase
from minirl.techniques.critique import cream
from minirl.techniques.critique.cream import (
    Cream,
    extremes,
    kendall_tau,
    label_stats,
    learning,
    loglikelihoods,
    weights,
)

POLICY, TALLY = sharp_policy(), get("tally")
ONE, TWO = Item("tally", 0, 0, 1, "3+7=", "+70"), Item("tally", 0, 1, 1, "4+6=", "+60")


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 6, "prompts": 2, "samples": 3, "turns": 1, "learning_rate": 1e-3, **changes})


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- Kendall's τ ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "tau"),
    [
        ([1, 2], [1, 2], 1),
        ([1, 2], [2, 1], -1),
        ([1, 2, 3], [10, 20, 21], 1),  # only the order counts
        ([1, 2, 3], [3, 2, 1], -1),
        ([1, 2, 3], [1, 3, 2], 1 / 3),  # of three pairs two are alike, one is opposite
        ([1, 2, 3], [2, 3, 1], -1 / 3),  # 1-2 alike; 1-3 and 2-3 opposite
        ([4, 3, 2, 1], [3, 4, 1, 2], 1 / 3),  # four alike, two opposite, of six
        ([1, 2, 3], [1, 1, 2], 2 / 3),  # a tie is neither: two alike of three
        ([1, 1], [1, 2], 0),
        ([-2.5, -0.1, -7.0], [0.3, 0.4, 0.1], 1),
    ],
)
def test_kendall_by_hand(a, b, tau):
    assert kendall_tau(a, b) == pytest.approx(tau)
    assert kendall_tau(b, a) == pytest.approx(tau)


def test_without_ties_it_is_that_of_scipy():
    for order in permutations(range(4)):
        assert kendall_tau([0, 1, 2, 3], order) == pytest.approx(kendalltau([0, 1, 2, 3], order).statistic)


@settings(max_examples=20)
@given(st.lists(st.integers(-9, 9), min_size=2, max_size=6, unique=True))
def test_a_ranking_agrees_with_itself_and_opposes_its_reverse(values):
    assert kendall_tau(values, values) == 1
    assert kendall_tau(values, [-value for value in values]) == -1


# --- what a pair weighs -----------------------------------------------------------------------------------------------

TAUS = torch.tensor([1.0, 0.0, -1.0, 0.5])  # C = 1, ½, 0, ¾; the mean is 9/16


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ("item", [1, 0.5, 0, 0.75]),
        ("set", [0.5625] * 4),
        (1.0, [1] * 4),
        (0.83, [0.83] * 4),
        (0, [0] * 4),
    ],
)
def test_weights_by_hand(how, wanted):
    assert weights(TAUS, how, noise()).tolist() == pytest.approx(wanted)


def test_shuffled_weights_are_those_of_others():
    found = [weights(TAUS, "shuffled", noise(seed)).tolist() for seed in range(9)]
    assert all(sorted(one) == [0, 0.5, 0.75, 1] for one in found)
    assert len({tuple(one) for one in found}) > 3  # 24 orders
    assert found[0] == weights(TAUS, "shuffled", noise(0)).tolist()


# --- the best and the worst -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "verdict", "found"),
    [
        ("abc", [1, 3, 2], (1, 0, [0, 1, 2])),
        ("aba", [1, 3, 1], (1, 0, [0, 1])),  # the second a is not ranked
        ("aab", [2, 2, 1], (0, 2, [0, 2])),
        ("abcd", [1, 2, 2, 1], (1, 0, [0, 1, 2, 3])),  # of equal ones the first
        ("aaa", [1, 1, 1], None),  # nothing to compare
        ("abc", [1, 1, 1], None),  # all are right, say
        ("a", [1], None),
    ],
)
def test_extremes_by_hand(answers, verdict, found):
    assert extremes(list(answers), verdict) == found


# --- log-likelihoods --------------------------------------------------------------------------------------------------


def test_loglikelihoods_are_those_it_was_sampled_with():
    drawn = roll_out(POLICY, TALLY, [ONE, TWO], samples=3, generator=noise())
    expected = drawn.logprobs.sum(1)
    assert torch.allclose(loglikelihoods(POLICY, drawn), expected, atol=1e-4)
    assert torch.allclose(loglikelihoods(POLICY, drawn, batch=4), expected, atol=1e-4)  # 4 rows and 2


def test_loglikelihood_of_another_policy_by_hand():
    drawn, other = written(POLICY, [ONE], ["+70$", "+7$"], 2, task=TALLY), sharp_policy(1)
    for row, text in enumerate(("+70$", "+7$")):
        ids = torch.tensor([encode(other, "3+7=" + text)])
        log_p = other.logits(ids)[0].log_softmax(-1)
        # What follows the four characters of the prompt: position 3 predicts the first own token.
        wanted = sum(log_p[3 + i, token].item() for i, token in enumerate(encode(other, text)))
        assert loglikelihoods(other, drawn)[row].item() == pytest.approx(wanted, abs=1e-4)


# --- what is logged ---------------------------------------------------------------------------------------------------


def episodes_with(scores: list[float], samples: int) -> Rollouts:
    drawn = written(POLICY, [ONE, TWO, ONE, TWO], ["+70$"] * len(scores), samples, scores, task=TALLY)
    return replace(drawn, logprobs=torch.full((len(scores), 8), -0.25), scores=drawn.scores.float())


def test_labels_by_hand():
    # Pairs: right over wrong (C = 1), wrong over right (¼), both wrong (½).
    drawn = episodes_with([1, 0, 0, 1, 0, 0, 1, 1], 2)
    stats = label_stats(drawn, [0, 1, 2, 3, 4, 5], [1.0, -0.5, 0.0])
    assert stats == {
        "accuracy@1": 0.5,
        "loglikelihood": -2.0,
        "paired": 0.75,  # three of four prompts
        "labels/right": pytest.approx(1 / 3),
        "consistency/right": 1.0,
        "labels/wrong": pytest.approx(1 / 3),
        "consistency/wrong": 0.25,
        "labels/all": 1.0,
        "consistency/all": pytest.approx(1.75 / 3),
    }


def test_what_there_is_none_of_has_no_consistency():
    stats = label_stats(episodes_with([1, 0, 1, 0], 2), [0, 1], [0.5])
    assert stats["labels/wrong"] == 0 and "consistency/wrong" not in stats
    nothing = label_stats(episodes_with([1, 1, 1, 1], 2), [], [])
    assert nothing["paired"] == nothing["labels/right"] == nothing["labels/all"] == 0
    assert nothing["accuracy@1"] == 1 and "consistency/all" not in nothing


def test_learning_by_hand():
    records = [{"loss": 1.0}]
    for accuracy in (0.5, 0.75, 0.25):
        records += [{"paired": 1.0, "accuracy@1": accuracy}, {"loss": 1.0}]
    assert learning(records) == {
        "accuracy@iteration1": 0.5,
        "accuracy@iteration2": 0.75,
        "accuracy@iteration3": 0.25,
        "drop": 0.5,  # from ¾ to ¼
    }
    assert learning(records[:4])["drop"] == 0  # still rising
    assert learning(records[:1]) == {}  # imitation alone


# --- phases and settings ----------------------------------------------------------------------------------------------


def test_imitation_and_iterations_are_equally_long():
    first, *others = Cream(iterations=2, beta=0.5).phases(train_config(updates=9))
    assert isinstance(first, SupervisedPhase) and (first.name, first.updates) == ("SFT", 3)
    assert all(isinstance(phase, PreferencePhase) for phase in others)
    assert [(phase.name, phase.updates) for phase in others] == [("iteration 1", 3), ("iteration 2", 3)]
    assert [phase.collect.keywords for phase in others] == [{"updates": 3, "t": 1}, {"updates": 3, "t": 2}]
    # At margin 0 every pair costs log 2; at βm = ½ · 2 with C = 1: log(1 + e⁻¹).
    loss, _ = others[0].loss(torch.tensor([2.0]), torch.zeros(1), torch.ones(1), normaliser=1)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_with_no_judge_imitation_goes_on():
    first, more = Cream(iterations=2, judge="none").phases(train_config(updates=9))
    assert [(phase.name, phase.updates) for phase in (first, more)] == [("SFT", 3), ("more SFT", 6)]


@pytest.mark.parametrize("changes", [{"updates": 7}, {"turns": 2}])
def test_phases_that_do_not_fit(changes):
    with pytest.raises(ConfigError, match=r"^train: 3 equal phases need updates: a multiple of 3, and turns: 1$"):
        Cream(iterations=2).phases(train_config(**changes))


def test_scores_that_nobody_sees_cannot_be_shuffled():
    with pytest.raises(ConfigError, match=r"^shuffle_scores: no judge sees them; the controls are judge: coin"):
        Cream(shuffle_scores=True).phases(train_config())


@pytest.mark.parametrize(
    "bad",
    [
        {"consistency": 1.5},
        {"consistency": "mean"},
        {"consistency": True},  # not 1
        {"judge": "nobody"},
        {"beta": 0},
        {"iterations": 0},
        {"demonstrations": 0},
        {"iteration": 2},
    ],
)
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(Cream, bad, "arms.cream")


# --- with a policy ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base on disk, from where M_0 is loaded again."""
    directory = tmp_path_factory.mktemp("base")
    POLICY.save(directory)
    return str(directory)


@pytest.fixture
def learner(base, monkeypatch):
    """Sums of one step, where right is what begins with a letter."""
    made = Learner(load_policy(base), TaskConfig(name="tally", level=1), train_config(), 0)
    monkeypatch.setattr(type(TALLY), "check", lambda _, __, answer: answer[:1].isalpha())
    return made


def test_demonstrations_are_right_answers_of_the_base_one_a_problem(learner):
    learner.train = train_config(samples=8)
    made = Cream().demonstrate(learner, updates=3)
    texts = [learner.policy.decode([ids[own].tolist()])[0] for ids, own in zip(made.ids, made.learn, strict=True)]
    drawn = cream.attempts(learner, learner.policy, range(3))  # of 2 problems in each of 3 updates
    answers = [said[0] for said in drawn.answers]
    right = [[text for text in answers[8 * g : 8 * g + 8] if text[:1].isalpha()] for g in range(6)]
    assert texts == [some[0] for some in right if some]  # the first right one
    assert max(map(len, right)) > 1
    assert not made.learn[:, :4].any()
    few = Cream(demonstrations=1).demonstrate(learner, updates=3)
    assert few.ids.tolist() == made.ids[:1].tolist()
    assert few.generated_tokens == made.generated_tokens > 0  # drawn all the same
    assert Cream().demonstrate(learner, updates=3, again=True).generated_tokens == 0


def test_a_base_that_is_never_right_has_nothing_to_show(learner, monkeypatch):
    monkeypatch.setattr(type(TALLY), "score", lambda *_: 0.0)
    with pytest.raises(TrainingError, match=r"^nothing to learn from: the base has no right answer"):
        Cream().demonstrate(learner, updates=2)


def moved(learner, seed: int, by: float = 0.05) -> None:
    """The policy, as if it had been trained."""
    with torch.no_grad():
        for parameter in learner.policy.model.parameters():
            parameter += by * torch.randn(parameter.shape, generator=noise(seed))


def rows_of(pairs, policy):
    """(prompt, chosen, rejected) of every pair, as texts."""
    found = []
    for ids, own in zip(pairs.ids.split(2), pairs.own.split(2), strict=True):
        prompts = {tuple(row[: int(mask.int().argmax())].tolist()) for row, mask in zip(ids, own, strict=True)}
        assert len(prompts) == 1  # both answer the same problem
        texts = [policy.decode([row[mask].tolist()])[0] for row, mask in zip(ids, own, strict=True)]
        found.append((prompts.pop(), *texts))
    return found


@pytest.mark.parametrize("t", [1, 2])
def test_pairs_are_the_extremes_of_the_implicit_reward(learner, base, t):
    """Worked out anew from r_t = log π_t − log π_0; before it ranks r_(t−1), or M_0 by its mean log-likelihood."""
    if t == 2:
        moved(learner, 1)
        follow(learner.reference, learner.policy, 0.0)  # M_1
    moved(learner, 2)
    learner.updates_done = 2
    made = Cream(consistency="item").collect(learner, t=t, updates=2)

    drawn = cream.attempts(learner, learner.policy, range(2, 4))
    now, past, start = (loglikelihoods(p, drawn) for p in (learner.policy, learner.reference, load_policy(base)))
    wanted, consistency = [], []
    for g in range(4):
        rows = {drawn.answers[row][0]: row for row in (3 * g + 2, 3 * g + 1, 3 * g)}
        graded = {text: (now - start)[row].item() for text, row in rows.items()}
        if len(graded) > 1:
            wanted.append((max(graded, key=graded.get), min(graded, key=graded.get)))
            earlier = [
                (past[row] / drawn.own[row].sum() if t == 1 else past[row] - start[row]).item() for row in rows.values()
            ]
            consistency.append((kendalltau(list(graded.values()), earlier).statistic + 1) / 2)
    assert [pair[1:] for pair in rows_of(made, learner.policy)] == wanted
    assert made.confidence.tolist() == pytest.approx(consistency)
    assert made.generated_tokens == drawn.generated_tokens()
    assert made.stats["paired"] == len(wanted) / 4


def test_truth_prefers_what_is_right(learner):
    learner.train = train_config(samples=8)
    made = Cream(judge="truth", consistency=1.0).collect(learner, t=1, updates=3)
    pairs = rows_of(made, learner.policy)
    assert pairs and all(chosen[0].isalpha() and not rejected[:1].isalpha() for _, chosen, rejected in pairs)
    assert made.stats["labels/right"] == 1 and made.stats["labels/wrong"] == 0
    assert made.confidence.tolist() == [1.0] * len(pairs)


def test_a_coin_does_not_look(learner):
    moved(learner, 3)
    judged, tossed = (Cream(judge=judge).collect(learner, t=1, updates=3) for judge in ("self", "coin"))
    assert judged.generated_tokens == tossed.generated_tokens  # the same answers
    assert rows_of(judged, learner.policy) != rows_of(tossed, learner.policy)
    again = Cream(judge="coin").collect(learner, t=1, updates=3)
    assert torch.equal(again.ids, tossed.ids)


def test_where_nothing_differs_an_answer_stands_against_itself(learner, monkeypatch):
    monkeypatch.setattr(type(TALLY), "score", lambda *_: 1.0)
    made = Cream(judge="truth").collect(learner, t=1, updates=1)  # all are right
    assert made.stats["paired"] == 0
    assert torch.equal(made.ids[0], made.ids[1]) and len(made.ids) == 2
    assert made.confidence.tolist() == [0.5]  # neither way round


def test_the_first_base_is_loaded_again_and_must_be_there(learner):
    learner.policy.name = "/nowhere/at/all"
    Cream().collect(learner, t=1, updates=1)  # the reference still is M_0
    with pytest.raises(MinirlError, match="cannot load a model"):
        Cream().collect(learner, t=2, updates=1)


def test_a_whole_run(learner):
    """Three phases; every iteration's pairs are of new problems, and the reference is the model that made them."""
    learner.train = train_config(updates=6, samples=4)
    records = list(run_phases(learner, Cream(iterations=2, demonstrations=4).phases(learner.train)))
    assert [record["phase"] for record in records] == ["SFT"] * 2 + ["iteration 1"] * 2 + ["iteration 2"] * 2
    assert [record["update"] for record in records if "paired" in record] == [3, 5]
    assert [record["preference/margin"] for record in (records[2], records[4])] == [0.0, 0.0]  # starts at its reference
    assert records[3]["preference/margin"] != 0
    tokens = [record["generated_tokens"] for record in records]
    assert tokens[0] == tokens[1] < tokens[2] == tokens[3] < tokens[4] == tokens[5]
    assert learning(records).keys() == {"accuracy@iteration1", "accuracy@iteration2", "drop"}


def test_the_runner_finds_an_evaluation():
    assert cream.evaluate.__module__ == "minirl.evaluation.votes"
    assert Cream().evaluation() == {}
