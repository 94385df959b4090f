"""The correction matrix against five and three episodes counted by hand."""

import pytest
import torch
from stand_ins import Lenient, sharp_policy

from minirl.evaluation.correction import correction_metrics, evaluate_correction, matrix
from minirl.rollouts.episodes import CONTEXT, Rollouts, roll_out
from minirl.tasks import Item


def episodes(scores: list[list[float]], answers: list[list[str]]) -> Rollouts:
    """Rollouts of which only scores and answers matter; every row has one context token and two own ones."""
    rows = len(scores)
    return Rollouts(
        ids=torch.zeros(rows, 3, dtype=torch.long),
        turn=torch.tensor([[CONTEXT, 0, 1]] * rows),
        logprobs=torch.zeros(rows, 3),
        scores=torch.tensor(scores),
        group=torch.arange(rows),
        answers=answers,
        items=[Item("add", 0, i, 1, "3+4=", "07") for i in range(rows)],
        longest=2,
    )


FIVE = episodes(
    [[1, 1], [1, 0], [0, 1], [0, 1], [0, 0]],  # kept, spoiled, rescued twice, stayed wrong
    [["07", "07"], ["07", "17"], ["8", "07"], ["0", "7"], ["1", "1"]],
)


def test_metrics_by_hand():
    evaluation = correction_metrics(FIVE)
    assert evaluation.metrics == {
        "accuracy@1": 2 / 5,
        "accuracy@2": 3 / 5,
        "delta": pytest.approx(1 / 5),
        "incorrect_to_correct": 2 / 5,
        "correct_to_incorrect": 1 / 5,
        "copy_rate": 2 / 5,  # the first and the last episode
        "distinct_answers": 8 / 5,  # 1 + 2 + 2 + 2 + 1
        "confidence_level": 1 / 2,  # one of two right ones kept
        "critique_level": 2 / 3,  # two of three wrong ones rescued
        "copy_rate_wrong": 1 / 3,  # one of three wrong ones repeated
    }
    assert evaluation.items == {
        "accuracy@1": [1, 1, 0, 0, 0],
        "accuracy@2": [1, 0, 1, 1, 0],
        "delta": [0, -1, 1, 1, 0],
        "incorrect_to_correct": [0, 0, 1, 1, 0],
        "correct_to_incorrect": [0, 1, 0, 0, 0],
        "copy_rate": [1, 0, 0, 0, 1],
        "distinct_answers": [1, 2, 2, 2, 1],
    }
    assert evaluation.generated_tokens == 5 * 2


def test_matrix_by_hand():
    # accuracy@1 = 0.4 of which 0.2 spoiled; 0.6 wrong of which 0.4 rescued
    assert matrix(correction_metrics(FIVE).metrics) == pytest.approx(
        {"correct_correct": 0.2, "correct_incorrect": 0.2, "incorrect_correct": 0.4, "incorrect_incorrect": 0.2}
    )


def test_three_turns_by_hand():
    # First and last attempt count, the middle one does not; a copy repeats the attempt before the last.
    evaluation = correction_metrics(
        episodes(
            [[1, 0, 1], [0, 1, 0], [0, 0, 1]],
            [["07", "6", "07"], ["1", "7", "2"], ["9", "07", "07"]],
        )
    )
    assert evaluation.items["accuracy@1"] == [1, 0, 0]
    assert evaluation.items["accuracy@2"] == [1, 0, 1]
    assert evaluation.items["copy_rate"] == [0, 0, 1]
    assert evaluation.items["distinct_answers"] == [2, 3, 2]
    assert evaluation.metrics["confidence_level"] == 1.0 and evaluation.metrics["critique_level"] == 0.5
    assert evaluation.metrics["copy_rate_wrong"] == 0.5


def test_conditions_that_never_occur():
    all_right = correction_metrics(episodes([[1, 1], [1, 0]], [["a", "a"], ["a", "b"]])).metrics
    assert all_right["critique_level"] == all_right["copy_rate_wrong"] == 0.0
    assert all_right["confidence_level"] == 0.5
    all_wrong = correction_metrics(episodes([[0, 1], [0, 0]], [["a", "b"], ["a", "a"]])).metrics
    assert all_wrong["confidence_level"] == 0.0
    assert all_wrong["critique_level"] == all_wrong["copy_rate_wrong"] == 0.5


@pytest.mark.parametrize("seed", range(20))
def test_identities(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 2, (6, 2), generator=generator).float()
    metrics = correction_metrics(episodes(scores.tolist(), [["a", "b"]] * 6)).metrics
    first = metrics["accuracy@1"]
    total = first * metrics["confidence_level"] + (1 - first) * metrics["critique_level"]
    assert metrics["accuracy@2"] == pytest.approx(total)
    assert metrics["delta"] == pytest.approx(metrics["accuracy@2"] - first)
    assert metrics["delta"] == pytest.approx(metrics["incorrect_to_correct"] - metrics["correct_to_incorrect"])
    cells = matrix(metrics)
    assert sum(cells.values()) == pytest.approx(1.0) and min(cells.values()) >= -1e-12
    assert cells["correct_correct"] + cells["incorrect_correct"] == pytest.approx(metrics["accuracy@2"])
    both_wrong = int((scores.sum(1) == 0).sum())
    assert cells["incorrect_incorrect"] == pytest.approx(both_wrong / 6)


def test_single_turns_have_no_correction():
    with pytest.raises(ValueError, match="at least two attempts"):
        correction_metrics(episodes([[1], [0]], [["a"], ["b"]]))


POLICY, TASK = sharp_policy(), Lenient()
ITEMS = TASK.items(5, range(10), 2)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_the_batch_size_changes_nothing(temperature):
    whole, all_rollouts = evaluate_correction(POLICY, TASK, ITEMS, seed=3, temperature=temperature, batch=256)
    assert len(all_rollouts.items) == 10
    for batch in (1, 3, 10):
        part, rollouts = evaluate_correction(POLICY, TASK, ITEMS, seed=3, temperature=temperature, batch=batch)
        assert part == whole
        # The rollouts of all items come back, to read, as if they had been one batch.
        assert rollouts.items == ITEMS and rollouts.answers == all_rollouts.answers
        assert rollouts.ids.tolist() == all_rollouts.ids.tolist()
        assert rollouts.group.tolist() == list(range(10))


def test_the_evaluation_is_that_of_its_rollouts():
    evaluation, rollouts = evaluate_correction(POLICY, TASK, ITEMS, seed=4, turns=3)
    by_hand = roll_out(POLICY, TASK, ITEMS, turns=3, generator=torch.Generator().manual_seed(4))
    assert rollouts.ids.tolist() == by_hand.ids.tolist()
    assert evaluation == correction_metrics(by_hand)
    assert 0 < evaluation.metrics["accuracy@1"] < 1
    assert evaluation.generated_tokens == int((by_hand.turn >= 0).sum())


def test_the_settings_reach_the_rollouts():
    def answers(**settings):
        return evaluate_correction(POLICY, TASK, ITEMS, **{"seed": 3, **settings})[1].answers

    assert answers() == answers()
    assert answers(seed=4) != answers()
    assert answers(temperature=0.5) != answers()
    assert answers(feedback="binary") != answers()
    assert answers(temperature=0) == answers(temperature=0, seed=4)  # greedy knows no seed
