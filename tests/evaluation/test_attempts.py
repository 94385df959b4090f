"""Several attempts at a problem: every metric counted by hand, for episodes and for attempts that know of no other."""

import pytest
import torch
from stand_ins import Lenient, sharp_policy

from minirl.evaluation.attempts import attempt_all, attempt_metrics, evaluate_attempts
from minirl.rollouts.episodes import CONTEXT, Rollouts, roll_out
from minirl.tasks import Item


def episodes(
    scores: list[list[float]], answers: list[list[str]], tokens: list[list[int]], samples: int = 1
) -> Rollouts:
    """Rollouts of which only scores, answers and lengths matter: ``tokens`` of every attempt that was made.

    A row is one token of prompt, then its attempts with one token of feedback after each.
    """
    rows = [[CONTEXT, *(t for turn, n in enumerate(row) for t in [*[turn] * n, CONTEXT])] for row in tokens]
    width = max(map(len, rows))
    turn = torch.tensor([row + [CONTEXT] * (width - len(row)) for row in rows])
    return Rollouts(
        ids=torch.zeros(turn.shape, dtype=torch.long),
        turn=turn,
        logprobs=torch.zeros(turn.shape),
        scores=torch.tensor(scores, dtype=torch.float),
        group=torch.arange(len(rows)) // samples,
        answers=answers,
        items=[Item("bucket", 0, b // samples, 3, "bkqz=", "q") for b in range(len(rows))],
        longest=9,
    )


# --- turns of an episode --------------------------------------------------------------------------------------------

FOUR = episodes(
    [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]],
    [["q"], ["b", "q"], ["b", "b", "k"], ["z", "b", "q"]],
    [[2], [2, 2], [2, 2, 3], [1, 2, 2]],
)


def test_metrics_of_episodes_by_hand():
    evaluation = attempt_metrics(FOUR)
    assert evaluation.items == {
        "accuracy@1": [1, 0, 0, 0],
        "solved@1": [1, 0, 0, 0],
        "solved@2": [1, 1, 0, 0],  # who has solved it once has solved it by every later turn
        "solved@3": [1, 1, 0, 1],
        "attempts": [1, 2, 3, 3],
        "distinct_ratio": [1, 1, pytest.approx(2 / 3), 1],  # b, b, k: two of three
        "tokens": [2, 4, 7, 5],
    }
    assert evaluation.metrics == {
        "accuracy@1": 1 / 4,
        "solved@1": 1 / 4,
        "solved@2": 2 / 4,
        "solved@3": 3 / 4,
        "attempts": 9 / 4,
        "distinct_ratio": pytest.approx((3 + 2 / 3) / 4),
        "tokens": 18 / 4,
        # Of 0 + 1 + 2 + 2 attempts after a first one, one repeats the attempt before. Over attempts, not over items:
        # an episode that ends at once has said nothing about it.
        "copy_rate": 1 / 5,
    }
    assert evaluation.generated_tokens == 2 + 4 + 7 + 5


def test_a_copy_repeats_the_attempt_right_before():
    # b, k, b says nothing new the third time, but does not repeat its neighbour.
    evaluation = attempt_metrics(episodes([[0, 0, 0]], [["b", "k", "b"]], [[1, 1, 1]]))
    assert evaluation.metrics["copy_rate"] == 0 and evaluation.metrics["distinct_ratio"] == pytest.approx(2 / 3)


def test_what_follows_the_first_right_attempt_does_not_count():
    # Episodes that go on after success, as those of two fixed turns do: nobody would have asked again.
    evaluation = attempt_metrics(
        episodes([[1, 0, 1], [0, 1, 1]], [["q", "b", "b"], ["b", "q", "q"]], [[1, 5, 5], [2, 3, 5]])
    )
    assert evaluation.items["attempts"] == [1, 2]
    assert evaluation.items["distinct_ratio"] == [1, 1]
    assert evaluation.items["tokens"] == [1, 2 + 3]
    assert evaluation.items["solved@3"] == [1, 1]
    assert evaluation.metrics["copy_rate"] == 0
    assert evaluation.generated_tokens == 21  # what was spent is spent


def test_partial_credit_is_no_solution():
    evaluation = attempt_metrics(episodes([[0.75, 0.75], [0.5, 1.0]], [["b", "b"], ["k", "q"]], [[1, 1], [1, 1]]))
    assert evaluation.items["accuracy@1"] == [0, 0] and evaluation.items["solved@2"] == [0, 1]
    assert evaluation.metrics["copy_rate"] == 1 / 2


def test_all_solved_at_once_copies_nothing():
    metrics = attempt_metrics(episodes([[1, 0], [1, 0]], [["q"], ["q"]], [[1], [1]])).metrics
    assert metrics["copy_rate"] == 0 and metrics["attempts"] == 1 and metrics["solved@2"] == 1


# --- independent attempts -------------------------------------------------------------------------------------------

# Two items of three attempts each: wrong, right, right; and wrong three times.
SIX = episodes(
    [[0], [1], [1], [0], [0], [0]],
    [["b"], ["q"], ["b"], ["k"], ["k"], ["z"]],
    [[1], [2], [3], [2], [2], [1]],
    samples=3,
)


def test_metrics_of_independent_attempts_by_hand():
    evaluation = attempt_metrics(SIX, independent=True)
    assert evaluation.items == {
        "accuracy@1": [0, 0],
        "solved@1": [0, 0],
        "solved@2": [1, 0],  # pass@2
        "solved@3": [1, 0],
        "attempts": [2, 3],  # the third attempt at the first item is one too many
        "distinct_ratio": [1, pytest.approx(2 / 3)],
        "tokens": [1 + 2, 2 + 2 + 1],
    }
    assert evaluation.metrics["copy_rate"] == 1 / 3  # of 1 + 2, the second k
    assert evaluation.metrics["attempts"] == 5 / 2 and evaluation.metrics["tokens"] == 8 / 2
    assert evaluation.generated_tokens == 11


def test_rows_are_attempts_only_if_they_are_independent():
    # The same rows read as episodes of one turn: six items, a third of them solved.
    evaluation = attempt_metrics(SIX)
    assert evaluation.items["accuracy@1"] == [0, 1, 1, 0, 0, 0] and "solved@2" not in evaluation.metrics


# --- from a policy --------------------------------------------------------------------------------------------------


POLICY, TASK = sharp_policy(), Lenient()
ITEMS = TASK.items(5, range(10), 2)


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_the_batch_size_changes_nothing(independent, temperature):
    settings = {"seed": 3, "turns": 3, "temperature": temperature, "independent": independent}
    whole, all_rollouts = evaluate_attempts(POLICY, TASK, ITEMS, **settings)
    for batch in (1, 3, 10):
        part, rollouts = evaluate_attempts(POLICY, TASK, ITEMS, batch=batch, **settings)
        assert part == whole
        assert rollouts.ids.tolist() == all_rollouts.ids.tolist() and rollouts.answers == all_rollouts.answers
        assert rollouts.group.tolist() == all_rollouts.group.tolist()  # attempts at one item stay together


def test_an_episode_ends_with_the_first_right_attempt():
    evaluation, rollouts = evaluate_attempts(POLICY, TASK, ITEMS, seed=4, turns=3, feedback="binary")
    generator = torch.Generator().manual_seed(4)
    by_hand = roll_out(POLICY, TASK, ITEMS, turns=3, generator=generator, feedback="binary", until_solved=True)
    assert rollouts.ids.tolist() == by_hand.ids.tolist()
    assert evaluation == attempt_metrics(by_hand)
    assert {len(answers) for answers in rollouts.answers} == {1, 2, 3}
    assert evaluation.generated_tokens == sum(evaluation.items["tokens"])  # nothing was written in vain


def test_independent_attempts_know_nothing_of_each_other():
    evaluation, rollouts = evaluate_attempts(POLICY, TASK, ITEMS, seed=4, turns=3, independent=True)
    by_hand = roll_out(POLICY, TASK, ITEMS, samples=3, generator=torch.Generator().manual_seed(4))
    assert rollouts.ids.tolist() == by_hand.ids.tolist()  # the prompt, an attempt, and nothing else
    assert evaluation == attempt_metrics(by_hand, independent=True)
    assert 0 < evaluation.metrics["solved@1"] < evaluation.metrics["solved@3"]
    # Without noise there is nothing to tell them apart: more greedy samples are the same sample.
    greedy, _ = evaluate_attempts(POLICY, TASK, ITEMS, seed=4, turns=3, independent=True, temperature=0)
    assert greedy.metrics["copy_rate"] == 1 and greedy.metrics["solved@3"] == greedy.metrics["solved@1"]


def test_the_settings_reach_the_rollouts():
    def answers(**settings):
        return attempt_all(POLICY, TASK, ITEMS, **{"seed": 3, "turns": 2, **settings}).answers

    assert answers() == answers()
    assert answers(seed=4) != answers()
    assert answers(temperature=0.5) != answers()
    assert answers(feedback="binary") != answers()
    assert answers(temperature=0) == answers(temperature=0, seed=4)  # greedy knows no seed
    assert [len(row) for row in answers(turns=3)] == [3] * 10
    assert len(answers(samples=2)) == 20
    assert min(len(row) for row in answers(until_solved=True)) == 1
