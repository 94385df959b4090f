"""Coverage by hand: how many are right, how many different ones, and how sure the policy was of what it wrote."""

import math

import pytest
import torch
from stand_ins import Lenient, sharp_policy, written

from minirl.evaluation.coverage import coverage_metrics, evaluate_coverage
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, get

POLICY, CONSTR = sharp_policy(), get("constr")
# Two letters, the first an a: ab and ac are right, b meets one of two constraints (neither length nor… see below).
ONE, TWO = Item("constr", 0, 0, 1, "#2,<a=", "ab"), Item("constr", 0, 1, 1, "#2,<b=", "ba")


def drawn(answers: list[str], samples: int, logprobs: list[float] | None = None) -> Rollouts:
    """Answers to ONE, then to TWO; each has its log-probability, all of it at its first token."""
    made = written(POLICY, [ONE, TWO], answers, samples, task=CONSTR)
    made.logprobs = torch.zeros(made.ids.shape)
    made.logprobs[:, 6] = torch.tensor(logprobs or [0.0] * len(answers))
    return made


def test_metrics_by_hand():
    # To ONE: ab is right twice, ac once, and cb meets only the length: (1 + 1 + 1 + ½)/4. TWO: nothing is right; of
    # "ab" the length is, of "b" the first letter, of "x" nothing because it is no answer, of "aaa" nothing.
    found = coverage_metrics(drawn(["ab$", "ab$", "ac$", "cb$", "ab$", "b$", "x$", "aaa$"], 4))
    assert found["accuracy@1"] == [3 / 4, 0]
    assert found["score"] == pytest.approx([3.5 / 4, (0.5 + 0.5) / 4])
    assert found["pass@4"] == [1, 0]
    assert found["variety"] == [2, 0]  # ab and ac
    assert found["entropy"] == [0, 0]


def test_entropy_is_the_mean_surprise_of_whole_answers():
    # −log ½, −log ¼ for ONE; certain of everything at TWO.
    found = coverage_metrics(drawn(["ab$", "ac$", "ba$", "ba$"], 2, [-math.log(2), -math.log(4), 0.0, 0.0]))
    assert found["entropy"] == pytest.approx([(math.log(2) + math.log(4)) / 2, 0])


def test_surprise_adds_up_over_the_tokens_of_an_answer():
    made = drawn(["ab$", "ab$"], 2)
    made.logprobs[:, 6:9] = torch.tensor([-1.0, -0.5, -0.25])
    assert coverage_metrics(made)["entropy"] == pytest.approx([1.75])


def test_space_makes_no_other_answer():
    found = coverage_metrics(drawn(["ab$", " ab$", "ab $", "ac$"], 4))
    assert (found["accuracy@1"], found["variety"]) == ([1], [2])


@pytest.mark.parametrize(("answers", "passed"), [(["cb$", "ab$"], 1), (["cb$", "cb$"], 0), (["ab$", "ab$"], 1)])
def test_one_right_answer_is_enough_to_pass(answers, passed):
    assert coverage_metrics(drawn(answers, 2))["pass@2"] == [passed]


def test_evaluation_is_the_mean_over_items():
    task = Lenient()
    items = task.items(5, range(6), 1)
    evaluation, rollouts = evaluate_coverage(POLICY, task, items, seed=3, samples=4, batch=8)
    assert len(rollouts.items) == 24 and rollouts.samples == 4
    assert evaluation.metrics.keys() == {"accuracy@1", "score", "pass@4", "variety", "entropy"}
    for name, values in evaluation.items.items():
        assert len(values) == 6 and evaluation.metrics[name] == pytest.approx(sum(values) / 6)
    assert evaluation.metrics["entropy"] == pytest.approx(-rollouts.logprobs.sum().item() / 24, rel=1e-5)
    assert evaluation.generated_tokens == int(rollouts.own.sum())


def test_evaluation_depends_on_the_seed_and_not_on_the_batch():
    task = Lenient()
    one, same, other = (
        evaluate_coverage(POLICY, task, task.items(5, range(6), 1), seed=seed, samples=4, batch=batch)[1].answers
        for seed, batch in ((3, 8), (3, 256), (4, 8))
    )
    assert one == same != other
