"""Sharpening: which of its own answers a model imitates, and what is measured before and after.

Most is worked out on sums of one step. 3+7 = 0 has no misconception; ``MISLED``, 3+4 = 7, has one: 9. An answer is the
step with its result, ``$`` the token that ends it.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import encode, sharp_policy, written

from minirl.config import TaskConfig, TrainConfig, validate
from minirl.errors import ConfigError
from minirl.evaluation.votes import vote_metrics
from minirl.loops import Learner
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, get
from minirl.tasks.chain import misconception
from minirl.techniques.base import SupervisedPhase
from minirl.techniques.critique import sharpening
from minirl.techniques.critique.sharpening import Sharpening, evaluate, likeliest

POLICY, TALLY = sharp_policy(), get("tally")
ONE, TWO = Item("tally", 0, 0, 1, "3+7=", "+70"), Item("tally", 0, 1, 1, "4+6=", "+60")
MISLED = Item("tally", 0, 2, 1, "3+4=", "+47")


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 3, "prompts": 2, "samples": 4, "turns": 1, "learning_rate": 1e-3, **changes})


def rollouts(problems: list[Item], answers: list[str], samples: int, logprobs: list[float]) -> Rollouts:
    """Answers with the log-likelihood that each is to have, all of it at its second token."""
    made = written(POLICY, problems, answers, samples, task=TALLY)
    made.logprobs = torch.zeros(made.ids.shape)
    made.logprobs[:, 5] = torch.tensor(logprobs)
    return made


# --- the likeliest ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loglikelihood", "samples", "rows"),
    [
        ([-3.0, -1.0, -2.0], 3, [1]),
        ([-3.0, -1.0, -2.0, -0.5], 2, [1, 3]),  # one of each prompt, as rows of the whole batch
        ([-1.0, -2.0, -9.0, -8.0], 2, [0, 3]),  # a prompt all of whose answers are unlikely has one, too
        ([-1.0, -1.0, -1.0], 3, [0]),  # of equal ones the first
        ([-2.0, -1.0, -1.0, -4.0, -4.0, -4.0], 3, [1, 3]),
        ([-5.0, -1.0], 1, [0, 1]),  # nothing to choose among
        ([0.0, 0.0, 0.0, 0.0], 2, [0, 2]),
    ],
)
def test_likeliest_by_hand(loglikelihood, samples, rows):
    assert likeliest(torch.tensor(loglikelihood), samples).tolist() == rows


@given(st.lists(st.lists(st.integers(-9, 0), min_size=3, max_size=3), min_size=1, max_size=4))
def test_nobody_of_its_group_is_likelier(groups):
    found = likeliest(torch.tensor(groups, dtype=torch.float32).flatten(), 3).tolist()
    for g, (row, group) in enumerate(zip(found, groups, strict=True)):
        assert 0 <= row - 3 * g < 3
        assert group[row - 3 * g] == max(group)
        assert max(group) not in group[: row - 3 * g]  # the first of equal ones


# --- what is imitated -------------------------------------------------------------------------------------------------

ANSWERS = ["+71$", "+70$", "+7$", "+60$", "+65$", "+66$"]
LOGPROBS = [-0.5, -1.0, -4.0, -2.0, -1.5, -1.6]


def examples(method: Sharpening, logprobs: list[float] = LOGPROBS) -> list[tuple[list[int], list[int]]]:
    return method.examples(None, rollouts([ONE, TWO], ANSWERS, 3, logprobs), 0)


def texts(*pairs: tuple[str, str]) -> list[tuple[list[int], list[int]]]:
    return [(encode(POLICY, prompt), encode(POLICY, answer)) for prompt, answer in pairs]


def test_the_likeliest_is_imitated_right_or_wrong():
    # The right answers, +70 and +60, are there. Nobody asks: 1 and 5 are likelier.
    assert examples(Sharpening()) == texts(("3+7=", "+71$"), ("4+6=", "+65$"))


def test_what_is_no_answer_is_imitated_too_if_it_is_likeliest():
    assert examples(Sharpening(), [-3.0, -2.0, -1.0, -1.0, -2.0, -3.0]) == texts(("3+7=", "+7$"), ("4+6=", "+60$"))


def test_any_takes_the_first():
    assert examples(Sharpening(pick="any")) == texts(("3+7=", "+71$"), ("4+6=", "+60$"))


def test_likelihood_is_that_of_the_whole_answer_with_its_end():
    drawn = rollouts([ONE], ["+70$", "+71$"], 2, [-1.0, -1.2])
    drawn.logprobs[0, 7] = -0.5  # the end of the first is improbable: -1.5 in all, against -1.2
    assert Sharpening().examples(None, drawn, 0) == texts(("3+7=", "+71$"))


def test_an_answer_that_was_cut_off_is_imitated_as_it_is():
    drawn = rollouts([ONE], ["+70$", "+700"], 2, [-2.0, -1.0])
    assert Sharpening().examples(None, drawn, 0) == texts(("3+7=", "+700"))


def test_nobody_looks_at_the_scores():
    for pick in ("likeliest", "any"):
        drawn = rollouts([ONE, TWO], ANSWERS, 3, LOGPROBS)
        before = Sharpening(pick=pick).examples(None, drawn, 0)
        drawn.scores = 1 - drawn.scores
        assert Sharpening(pick=pick).examples(None, drawn, 0) == before


# --- phases -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pick", ["likeliest", "any"])
def test_one_phase_of_imitation(pick):
    (phase,) = Sharpening(pick=pick).phases(train_config(updates=7))
    assert isinstance(phase, SupervisedPhase)
    assert (phase.name, phase.updates) == ("SFT", 7)


def test_both_picks_cost_the_same_answers():
    learner = Learner(POLICY, TaskConfig(name="tally", level=1), train_config(), 0)
    found = {}
    for pick in ("likeliest", "any"):
        (phase,) = Sharpening(pick=pick).phases(learner.train)
        found[pick] = phase.collect(learner)
        assert len(found[pick].ids) == 3 * 2  # one a problem: 2 problems in each of 3 updates
    assert found["likeliest"].generated_tokens == found["any"].generated_tokens
    # The problems are the same, what is imitated is not.
    assert torch.equal(found["likeliest"].ids[:, :4], found["any"].ids[:, :4])
    assert found["likeliest"].ids.tolist() != found["any"].ids.tolist()


@pytest.mark.parametrize("pick", ["likeliest", "any"])
def test_scores_that_nobody_sees_cannot_be_shuffled(pick):
    with pytest.raises(ConfigError, match=r"^shuffle_scores: sharpening sees no scores; the control is 'pick: any'$"):
        Sharpening(pick=pick, shuffle_scores=True).phases(train_config())


@pytest.mark.parametrize("bad", [{"pick": "best"}, {"pick": None}, {"picks": "any"}, {"beta": 0.1}])
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(Sharpening, bad, "arms.sharpened")


def test_evaluation_needs_no_settings_of_its_own():
    assert Sharpening().evaluation() == Sharpening(pick="any").evaluation() == {}


# --- what is measured -------------------------------------------------------------------------------------------------


def test_the_misled_problem_is_misled():
    assert misconception(3, "+4") == 9
    assert [TALLY.misleading(item) for item in (ONE, TWO, MISLED)] == [False, False, True]


@pytest.fixture
def scripted(monkeypatch):
    """Two answers each to ONE and MISLED, as if drawn, and one each as if decoded greedily."""
    drawn = rollouts([ONE, MISLED], ["+70$", "+71$", "+47$", "+49$"], 2, [-1.0, -2.0, -1.5, -0.5])
    greedy = rollouts([ONE, MISLED], ["+70$", "+49$"], 1, [-1.0, -0.5])
    asked = []

    def attempt_all(policy, task, items, *, seed, samples=1, temperature=1.0, batch):
        asked.append((seed, samples, temperature, batch))
        return greedy if temperature == 0 else drawn

    monkeypatch.setattr(sharpening, "attempt_all", attempt_all)
    return asked, drawn


def test_metrics_by_hand(scripted):
    _, drawn = scripted
    evaluation, returned = evaluate(POLICY, TALLY, [ONE, MISLED], seed=5, samples=2)
    assert returned is drawn
    # ONE: right, wrong; the right one is likelier. MISLED: right, wrong; the wrong one is likelier.
    items = {
        "accuracy@1": [0.5, 0.5],
        "pass@2": [1, 1],
        "majority@2": [1, 1],  # of two different results the first
        "agreement": [0.5, 0.5],
        "illusion": [0, 0],
        "greedy": [1, 0],
        "likeliest@2": [1, 0],
        "loglikelihood": [-1.5, -1.0],  # the means of -1 and -2, of -1.5 and -0.5
    }
    assert evaluation.items == items
    means = {name: sum(values) / 2 for name, values in items.items()}
    assert evaluation.metrics == {**means, "misled": 0.5, "unmisled": 0.5}
    assert evaluation.generated_tokens == 4 * 4  # four answers of three characters and their end


def test_misled_and_unmisled_are_parts_of_accuracy(scripted):
    _, drawn = scripted
    drawn.scores = torch.tensor([[1.0], [1.0], [0.0], [1.0]])
    metrics = evaluate(POLICY, TALLY, [ONE, MISLED], seed=5, samples=2)[0].metrics
    assert (metrics["unmisled"], metrics["misled"], metrics["accuracy@1"]) == (1.0, 0.5, 0.75)


def test_how_it_asks(scripted):
    asked, _ = scripted
    evaluate(POLICY, TALLY, [ONE, MISLED], seed=5, samples=2, temperature=0.7, batch=9)
    # As many problems at once as make 9 answers at most; and once greedily.
    assert asked == [(5, 2, 0.7, 4), (5, 1, 0.0, 9)]


def test_a_kind_of_which_there_is_none_is_zero(monkeypatch):
    drawn = rollouts([ONE], ["+70$"], 1, [-1.0])
    monkeypatch.setattr(sharpening, "attempt_all", lambda *_, **__: drawn)
    metrics = evaluate(POLICY, TALLY, [ONE], seed=0, samples=1)[0].metrics
    assert (metrics["unmisled"], metrics["misled"]) == (1.0, 0.0)


def test_metrics_of_a_policy_are_those_of_what_it_wrote():
    items = TALLY.items(3, range(6), 2)
    evaluation, drawn = evaluate(POLICY, TALLY, items, seed=1, samples=4)
    assert drawn.samples == 4 and drawn.items[::4] == items
    for name, values in vote_metrics(drawn).items():
        assert evaluation.items[name] == values
    assert all(len(values) == 6 for values in evaluation.items.values())
    assert max(evaluation.items["loglikelihood"]) < 0
    again, _ = evaluate(POLICY, TALLY, items, seed=1, samples=4)
    assert again.metrics == evaluation.metrics
