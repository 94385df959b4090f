"""Self-Debug: what each arm reads between two programs, how its sessions are counted, and what a reader could know.

The problem that most is worked out on asks for what makes one 2 of two. ``u`` (no repetitions) is right. ``f`` (without
the first) and ``l`` (without the last) fit the example, too. The tests that are not shown are 3886>386 and 6788>678::

    program   22>2   3886>386   6788>678
    u         2      386        678        right
    f         2      886        788
    l         2      388        678        passes the second test
    r         22     6883       8876       does not even fit the example
"""

import pytest
import torch

from minirl.config import TaskConfig, TrainConfig, validate
from minirl.errors import ConfigError
from minirl.evaluation.attempts import attempt_metrics, evaluate_attempts
from minirl.loops import Learner, run_phases
from minirl.policy.models import tiny_llama
from minirl.rollouts.episodes import CONTEXT, Rollouts
from minirl.tasks import Item, get
from minirl.tasks.spec import UnitTests
from minirl.techniques.self_correction.self_debug import SelfDebug, evaluate

SPEC = get("spec")
TWOS = Item("spec", 0, 0, 1, "22>2=", "u")
TURNS = 3
ARMS = {
    "simple": SelfDebug(grade="binary"),
    "explain": SelfDebug(grade="explain"),
    "unit_test": SelfDebug(grade="test"),
    "placebo": SelfDebug(grade="placebo"),
    "resample": SelfDebug(independent=True),
}


def sessions(*said: str, independent: bool = False) -> Rollouts:
    """One session at TWOS a string, programs separated by spaces; each costs a token a letter and one for its end.

    ``independent``: every program a row of its own, those of a session side by side.
    """
    answers = [attempts.split(" ") for attempts in said]
    group = torch.arange(len(answers)).repeat_interleave(
        torch.tensor([len(row) if independent else 1 for row in answers])
    )
    if independent:
        answers = [[text] for row in answers for text in row]
    turns = 1 if independent else TURNS
    turn = [[t for t, text in enumerate(row) for _ in range(len(text) + 1)] for row in answers]
    width = max(map(len, turn))
    return Rollouts(
        ids=torch.zeros(len(answers), width, dtype=torch.long),
        turn=torch.tensor([row + [CONTEXT] * (width - len(row)) for row in turn]),
        logprobs=torch.zeros(len(answers), width),
        scores=torch.tensor([[SPEC.score(TWOS, text) for text in row] + [0.0] * (turns - len(row)) for row in answers]),
        group=group,
        answers=answers,
        items=[TWOS] * len(answers),
        longest=30,
    )


# --- arms -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        (SelfDebug(), {}),  # what the shared settings say
        (ARMS["simple"], {"feedback": "binary"}),
        (ARMS["explain"], {"feedback": "explain"}),
        (ARMS["unit_test"], {"feedback": "test"}),
        (ARMS["placebo"], {"feedback": "placebo"}),
        (ARMS["resample"], {"independent": True}),
    ],
)
def test_an_arm_is_a_way_to_ask(method, arguments):
    assert method.evaluation() == arguments


def test_the_runner_finds_an_evaluation():
    assert evaluate is evaluate_attempts


def test_nothing_is_trained():
    train = TrainConfig(updates=2, prompts=1, samples=2, turns=TURNS, feedback="binary", learning_rate=1e-3)
    learner = Learner(tiny_llama(16, 1, 2), TaskConfig(name="spec", level=2), train, 0)
    before = [parameter.clone() for parameter in learner.parameters]
    for method in ARMS.values():
        assert method.phases(train) == []
        assert list(run_phases(learner, method.phases(train))) == []
    assert learner.generated_tokens == 0
    assert all(torch.equal(old, new) for old, new in zip(before, learner.parameters, strict=True))


# --- what is read between two programs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arm", "program", "said"),
    [
        ("simple", "f", "-22>2="),
        ("simple", "r", "-22>2="),
        ("explain", "f", "-?22>2="),
        ("explain", "2!f", "-?22>2="),  # asked again, whatever was explained
        ("unit_test", "f", "-3886>386;886!22>2="),
        ("unit_test", "l", "-3886>386;388!22>2="),
        ("unit_test", "r", "-22>2;22!22>2="),  # the example comes first
    ],
)
def test_feedback_by_hand(arm, program, said):
    assert SPEC.feedback(TWOS, program, ARMS[arm].evaluation()["feedback"]) == said


class Lenient(UnitTests):
    """An untrained policy never writes a right program; here many of its attempts are right."""

    def check(self, item, answer):
        return answer[:1].isdigit() or answer[:1].islower()


@pytest.fixture(scope="module")
def found() -> dict[str, Rollouts]:
    """Sessions of an untrained policy in all the arms: one model, the same problems and noise."""
    task, policy = Lenient(), tiny_llama(16, 1, 2)
    items = task.items(3, range(24), 2)
    shared = {"seed": 5, "turns": TURNS, "feedback": "binary"}
    return {arm: evaluate(policy, task, items, **shared | method.evaluation())[1] for arm, method in ARMS.items()}


def context(rollouts: Rollouts, row: int) -> str:
    """What the policy read before its second program, without the problem at the beginning."""
    ids, turn = rollouts.ids[row], rollouts.turn[row]
    second = int((turn == 1).int().argmax())
    policy = tiny_llama(16, 1, 2)
    read = ids[:second][turn[:second] == CONTEXT].tolist()
    text = "".join(policy.tokenizer.convert_ids_to_tokens(read))
    return text[len(rollouts.items[row].prompt) :].removeprefix("<eos>")  # put in after a program that was cut off


@pytest.mark.parametrize("arm", ["simple", "explain", "unit_test", "placebo"])
def test_the_words_of_the_arm_stand_in_the_context(found, arm):
    rollouts, task = found[arm], Lenient()
    again = [row for row, said in enumerate(rollouts.answers) if len(said) > 1]
    assert again
    for row in again:
        item, first = rollouts.items[row], rollouts.answers[row][0]
        assert context(rollouts, row) == task.feedback(item, first, ARMS[arm].grade)


def test_a_session_ends_with_the_first_right_program(found):
    for arm in ("simple", "explain", "unit_test", "placebo"):
        made = found[arm].alive.sum(1).tolist()
        assert set(made) >= {1, TURNS}
        for count, scores in zip(made, found[arm].scores.tolist(), strict=True):
            assert sum(scores) <= 1 and count == (scores.index(1) + 1 if 1 in scores else TURNS)


def test_nothing_is_said_before_the_first_program(found):
    # With equal noise the arms that talk begin with equal programs. That pairs them: what differs is what was said.
    first = {arm: [said[0] for said in rollouts.answers] for arm, rollouts in found.items() if arm != "resample"}
    assert all(programs == first["simple"] for programs in first.values())


def test_the_rival_writes_as_many_programs_and_reads_nothing(found):
    rollouts = found["resample"]
    assert rollouts.samples == TURNS and len(rollouts.items) == 24 * TURNS
    assert all(len(said) == 1 for said in rollouts.answers)
    for row, item in enumerate(rollouts.items):
        assert (rollouts.turn[row][: len(item.prompt)] == CONTEXT).all()
        assert (rollouts.turn[row] == 0).sum() + len(item.prompt) == (rollouts.turn[row] == 0).nonzero().max() + 1


def test_all_arms_use_one_budget_of_programs(found):
    evaluations = {arm: attempt_metrics(rollouts, arm == "resample") for arm, rollouts in found.items()}
    for evaluation in evaluations.values():
        assert {f"solved@{t}" for t in range(1, TURNS + 1)} <= evaluation.metrics.keys()
        assert max(evaluation.items["attempts"]) <= TURNS


# --- sessions, counted ------------------------------------------------------------------------------------------------

SAID = ("f l u", "u", "f r f", "f f u")  # right with the third; at once; never; with the third, f said twice


def test_sessions_by_hand():
    # 3 + 1 + 3 + 3 programs of two tokens each. Of the six later ones, one repeats the one right before. Different:
    # 3 of 3, 1 of 1, 2 of 3, 2 of 3.
    metrics = attempt_metrics(sessions(*SAID)).metrics
    assert [metrics[f"solved@{t}"] for t in (1, 2, 3)] == [1 / 4, 1 / 4, 3 / 4]
    assert (metrics["accuracy@1"], metrics["attempts"], metrics["tokens"]) == (1 / 4, 10 / 4, 20 / 4)
    assert metrics["distinct_ratio"] == pytest.approx((1 + 1 + 2 / 3 + 2 / 3) / 4)
    assert metrics["copy_rate"] == 1 / 6


def test_independent_programs_count_up_to_the_first_right_one():
    # "u f l" is solved by its first program, and the others, drawn all the same, do not count: as if it had ended.
    drawn = attempt_metrics(sessions("f l u", "u f l", "f r f", "f f u", independent=True), independent=True).metrics
    assert drawn == attempt_metrics(sessions(*SAID)).metrics


def test_an_explanation_does_not_make_another_program():
    # f, f again after an explanation, then u: two different programs in three attempts; of the two later ones the first
    # repeats the one before it. The explanations cost tokens: 2 for f, 4 each for 2!f and 2!u, ends included.
    metrics = attempt_metrics(sessions("f 2!f 2!u")).metrics
    assert (metrics["solved@2"], metrics["solved@3"]) == (0, 1)
    assert (metrics["distinct_ratio"], metrics["copy_rate"], metrics["tokens"]) == (2 / 3, 1 / 2, 10)


def test_a_wrong_explanation_does_not_spoil_a_right_program():
    assert attempt_metrics(sessions("f 99!u")).metrics["solved@2"] == 1
    assert attempt_metrics(sessions("f 2! l")).metrics["solved@3"] == 0  # an explanation alone is no program


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [{"grade": 1}, {"grades": "test"}, {"independent": "perhaps"}, {"feedback": "test"}, {"turns": 3}],
)
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(SelfDebug, bad, "arms.unit_test")


def test_a_grade_that_the_task_does_not_have():
    policy, items = tiny_llama(16, 1, 2), SPEC.items(3, range(2), 2)
    with pytest.raises(ValueError, match="task 'spec' has no feedback grade 'tests'; one of: nudge, binary, explain"):
        evaluate(policy, SPEC, items, seed=0, turns=TURNS, **SelfDebug(grade="tests").evaluation())
