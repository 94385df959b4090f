"""Votes by hand: which result wins, and what agreement is worth."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import Lenient, sharp_policy

from minirl.evaluation import votes
from minirl.evaluation.attempts import attempt_all
from minirl.evaluation.votes import borda, evaluate_votes, majority, result, vote_metrics, weighted_vote
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item

# 3+7 = 10 → 0; 0-4 = -4 → 6.
ONE, TWO = Item("tally", 0, 0, 1, "3+7=", "+70"), Item("tally", 0, 1, 2, "3+7-4=", "+70-46")


# --- the winner ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("results", "weights", "winner"),
    [
        (["4", "7", "7"], [1, 1, 1], "7"),
        (["4", "7", "7"], [3, 1, 1], "4"),  # 3 against 1+1
        (["4", "7", "7"], [2, 1, 1], "4"),  # a tie: 2 against 1+1; the 4 came first
        (["7", "4", "7"], [1, 2, 1], "7"),  # the same tie, the 7 came first
        (["7", "4", "4"], [0, 0, 0], "7"),
        (["", "", "3"], [1, 1, 1], "3"),  # no result, no vote
        (["", "3"], [9, 0], "3"),
        (["", ""], [1, 1], ""),
        ([], [], ""),
        (["12", "1", "2"], [1, 1, 1], "12"),  # a result is all of its text
    ],
)
def test_weighted_vote_by_hand(results: list[str], weights: list[float], winner: str) -> None:
    assert weighted_vote(results, weights) == winner


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0, 1.0]])
def test_every_result_has_a_weight(weights: list[float]) -> None:
    with pytest.raises(ValueError, match=r"argument 2 is (shorter|longer)"):
        weighted_vote(["4", "7"], weights)


@pytest.mark.parametrize(
    ("results", "winner"),
    [
        (["4", "7", "7"], "7"),
        (["4", "7"], "4"),  # the first
        (["7", "4", "4", "7"], "7"),
        (["", "", "", "4"], "4"),
        ([""], ""),
        ([], ""),
    ],
)
def test_majority_by_hand(results: list[str], winner: str) -> None:
    assert majority(results) == winner


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from(["", "1", "2", "3"]), max_size=9))
def test_nobody_has_more_votes_than_the_majority(results: list[str]) -> None:
    votes = Counter(name for name in results if name)
    most = [name for name in votes if votes[name] == max(votes.values())]  # in the order of their first votes
    assert majority(results) == (most[0] if most else "")
    # Who all have the same weight have no weight, and who has more than all others together decides alone.
    assert weighted_vote(results, [0.25] * len(results)) == majority(results)
    for i, name in enumerate(results):
        decisive = [len(results) if i == j else 1.0 for j in range(len(results))]
        assert not name or weighted_vote(results, decisive) == name


@pytest.mark.parametrize(
    ("scores", "power", "weights"),
    [
        ([0.2, 0.9, 0.5], 1, [1, 3, 2]),  # ranks 3, 1, 2 of 3: 3-3+1, 3-1+1, 3-2+1
        ([0.2, 0.9, 0.5], 2, [1, 9, 4]),
        ([0.2, 0.9, 0.5], 0, [1, 1, 1]),
        ([0.2, 0.9, 0.5], 0.5, [1, 3**0.5, 2**0.5]),
        ([0.5, 0.1, 0.5, 0.5], 1, [4, 1, 3, 2]),  # equal scores: the first ranks first
        ([-3.0, -1.0], 1, [1, 2]),  # log-probs will do: only their order counts
        ([7.0], 3, [1]),
        ([], 1, []),
    ],
)
def test_borda_by_hand(scores: list[float], power: float, weights: list[float]) -> None:
    assert borda(scores, power) == pytest.approx(weights)


@pytest.mark.parametrize(("power", "winner"), [(0, "7"), (1, "7"), (2, "4"), (9, "4")])
def test_the_power_decides_between_the_best_and_the_many(power: float, winner: str) -> None:
    # 4 has the best score, and the 7s those after it: 4^p against 3^p + 2^p, which is 1 : 2, 4 : 5, 16 : 13, … The
    # fourth has no result.
    assert weighted_vote(["7", "4", "7", ""], borda([0.3, 0.4, 0.2, 0.1], power)) == winner


# --- metrics ---------------------------------------------------------------------------------------------------------


def rollouts(items: list[Item], answers: list[str], scores: list[float]) -> Rollouts:
    """As many answers to each item, side by side."""
    nothing, samples = torch.zeros(len(answers), 1), len(answers) // len(items)
    return Rollouts(
        ids=nothing.long(),
        turn=nothing.long(),
        logprobs=nothing,
        scores=torch.tensor(scores)[:, None],
        group=torch.arange(len(answers)) // samples,
        answers=[[text] for text in answers],
        items=[item for item in items for _ in range(samples)],
        longest=9,
    )


@pytest.mark.parametrize(
    ("item", "text", "name"),
    [
        (TWO, "+70-46", "6"),  # of a tally the last digit
        (TWO, "+71-47", "7"),
        (TWO, "+70", ""),
        (TWO, "6", ""),
        (Item("add", 0, 0, 1, "3+4=", "07"), " 07\n", "07"),  # of tasks without steps all of it
        (Item("add", 0, 0, 1, "3+4=", "07"), "7", "7"),  # as right, and another name
        (Item("add", 0, 0, 1, "3+4=", "07"), "０７", ""),
    ],
)
def test_what_an_answer_is_counted_under(item: Item, text: str, name: str) -> None:
    assert result(item, text) == name


GROUPS = rollouts(
    [ONE, TWO, TWO, ONE, ONE],
    [
        *("+70", "+70", "+71", "x"),
        *("+71-47", "+70-46", "+70-47", ""),
        *("+70-47", "+71-46", "+70-46", "+71-47"),
        *("", "+", "0", "x"),
        *("+71", "+71", "+71", "+71"),
    ],
    [*(1, 1, 0, 0), *(0, 1, 0, 0), *(0, 1, 1, 0), *(0, 0, 0, 0), *(0, 0, 0, 0)],
)


def test_vote_metrics_by_hand() -> None:
    assert vote_metrics(GROUPS) == {
        # Results 0 0 1 –; 7 6 7 –; 7 6 6 7; – – – –; 1 1 1 1: the winners are 0, 7, 7 (a tie, and first), none, and 1.
        "accuracy@1": [2 / 4, 1 / 4, 2 / 4, 0, 0],
        "pass@4": [1, 1, 1, 0, 0],
        "majority@4": [1, 0, 0, 0, 0],
        # What is no answer agrees with nothing, not even with others of its kind.
        "agreement": [2 / 4, 2 / 4, 2 / 4, 0, 1],
        "illusion": [0, 1 / 4, 0, 0, 1],
    }


def test_the_rows_of_a_group_are_the_voters() -> None:
    # The same rows, every two of them a group: 0 0, 1 –; 7 6, 7 –; 7 6, 6 7; – –, – –; 1 1, 1 1.
    pairs = rollouts(
        [item for item in (ONE, TWO, TWO, ONE, ONE) for _ in range(2)],
        [text for (text,) in GROUPS.answers],
        GROUPS.scores[:, 0].tolist(),
    )
    values = vote_metrics(pairs)
    assert values["majority@2"] == [1, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert values["pass@2"] == [1, 0, 1, 0, 1, 1, 0, 0, 0, 0]
    assert values["agreement"] == [1, 0.5, 0.5, 0.5, 0.5, 0.5, 0, 0, 1, 1]


def test_one_voter_always_agrees() -> None:
    values = vote_metrics(rollouts([ONE, ONE, ONE], ["+70", "+71", "x"], [1, 0, 0]))
    assert values["accuracy@1"] == values["pass@1"] == values["majority@1"] == [1, 0, 0]
    assert values["agreement"] == [1, 1, 0] and values["illusion"] == [0, 1, 0]


def test_only_first_attempts_vote_and_partial_credit_is_not_right() -> None:
    group = rollouts([ONE], ["+71", "+71"], [0.5, 0.5])
    group.scores = torch.tensor([[0.5, 1.0], [0.5, 1.0]])
    group.answers = [["+71", "+70"], ["+71", "+70"]]
    values = vote_metrics(group)
    assert values == {"accuracy@1": [0], "pass@2": [0], "majority@2": [0], "agreement": [1], "illusion": [1]}


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from(["+70", "+71", "+72", "x"]), min_size=4, max_size=4))
def test_inequalities(answers: list[str]) -> None:
    scores = [float(text == "+70") for text in answers]
    (values,) = [{name: of[0] for name, of in vote_metrics(rollouts([ONE], answers, scores)).items()}]
    assert values["majority@4"] <= values["pass@4"] and values["accuracy@1"] <= values["pass@4"]
    # More agree with the most frequent result than are right: agreement never undersells.
    assert values["illusion"] >= 0 and values["agreement"] <= 1


# --- from a policy ---------------------------------------------------------------------------------------------------

POLICY, TASK = sharp_policy(), Lenient()
ITEMS = TASK.items(5, range(6), 2)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_the_batch_size_changes_nothing(temperature: float) -> None:
    whole, all_rollouts = evaluate_votes(POLICY, TASK, ITEMS, seed=3, samples=4, temperature=temperature)
    for batch in (1, 4, 9, 24):  # one item at a time, at the least, and 1, 2 and 6 of them
        part, some = evaluate_votes(POLICY, TASK, ITEMS, seed=3, samples=4, temperature=temperature, batch=batch)
        assert part == whole
        assert some.ids.tolist() == all_rollouts.ids.tolist() and some.answers == all_rollouts.answers
        assert some.group.tolist() == [group for group in range(6) for _ in range(4)]


def test_metrics_are_means_over_items_of_independent_attempts() -> None:
    evaluation, drawn = evaluate_votes(POLICY, TASK, ITEMS, seed=3, samples=4)
    by_hand = attempt_all(POLICY, TASK, ITEMS, seed=3, samples=4)
    assert drawn.ids.tolist() == by_hand.ids.tolist()
    assert evaluation.items == vote_metrics(by_hand)
    assert {name: sum(values) / 6 for name, values in evaluation.items.items()} == evaluation.metrics
    assert evaluation.generated_tokens == by_hand.generated_tokens()
    assert 0 < evaluation.metrics["accuracy@1"] < evaluation.metrics["pass@4"]
    assert evaluation.metrics["accuracy@1"] == by_hand.scores.sum().item() / 24


@pytest.mark.parametrize(("batch", "at_a_time"), [(256, 64), (9, 2), (4, 1), (3, 1)])
def test_a_batch_is_a_number_of_answers(monkeypatch, batch: int, at_a_time: int) -> None:
    asked = []

    def listening(*args, batch: int, **how) -> Rollouts:
        asked.append(batch)
        return attempt_all(*args, batch=batch, **how)

    monkeypatch.setattr(votes, "attempt_all", listening)
    evaluate_votes(POLICY, TASK, ITEMS[:2], seed=3, samples=4, batch=batch)
    assert asked == [at_a_time]  # four to an item, and never less than an item


def test_without_noise_all_say_the_same() -> None:
    evaluation, _ = evaluate_votes(POLICY, TASK, ITEMS, seed=3, samples=4, temperature=0)
    assert set(evaluation.items["agreement"]) <= {0.0, 1.0}  # 0 where what all say is no answer
    assert evaluation.items["accuracy@1"] == evaluation.items["pass@4"] == evaluation.items["majority@4"]
