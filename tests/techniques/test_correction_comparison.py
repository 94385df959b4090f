"""The comparison: how a vote is counted, and every metric from answers that are written down here.

The problem of most tests is ``4+5=`` → ``09``. Four items, and what a policy says of each when it

===== ================= ======================================= ==========================================
item  answers, looks    is asked anew, eight times              so that
===== ================= ======================================= ==========================================
0     09, then 09       09 eight times                          it knows
1     08, then 09       08 09 09 08 10 09 08 09                 rescued by a second look; 4 × 09, 3 × 08
2     09, then 08       09 08 08 08 09 09 09 08                 spoiled by a second look; 4 × 09, 4 × 08
3     08, then 08       07 06 05 09 08 09 04 03                 repeats; 2 × 09 and six others once each
===== ================= ======================================= ==========================================
"""

import pytest
import torch

from minirl.errors import ConfigError
from minirl.evaluation import attempts, votes
from minirl.experiments.run import load_experiment, load_method
from minirl.policy.models import tiny_llama
from minirl.rollouts.episodes import CONTEXT, Rollouts
from minirl.tasks import Item, get
from minirl.tasks.add import Addition
from minirl.techniques.base import OnlinePhase, episodes
from minirl.techniques.self_correction.correction_comparison import VOTES, evaluate, majority

ADD = get("add")
ITEMS = [Item("add", 0, index, 1, "4+5=", "09") for index in range(4)]
LOOKS = ["09 09", "08 09", "09 08", "08 08"]
ANEW = ["09 09 09 09 09 09 09 09", "08 09 09 08 10 09 08 09", "09 08 08 08 09 09 09 08", "07 06 05 09 08 09 04 03"]

# --- the vote -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "chosen"),
    [
        ("a", "a"),
        ("a b", "a"),  # two cannot outvote each other
        ("b a", "b"),
        ("a b b", "b"),
        ("a b c", "a"),  # all differ: the first
        ("a b b a", "a"),  # two each: the one that came first
        ("b a a b", "b"),
        ("c a b a b", "a"),  # of the two most frequent the earlier one, though c came before both
        ("c a b b a", "a"),
        ("a b c b c c", "c"),  # three of six are enough
        ("9 09 09", "09"),  # votes are for what was written: 9 and 09 are not the same
    ],
)
def test_majority_by_hand(answers, chosen):
    assert majority(answers.split()) == chosen


def test_the_vote_is_that_of_all_pages():
    assert majority is votes.majority


def test_an_empty_answer_has_no_vote():
    assert majority(["", "", "a"]) == "a"
    assert majority(["", "a", "b"]) == "a"
    assert majority(["", ""]) == ""
    assert majority([]) == ""


def test_a_vote_of_two_is_the_first_answer():
    for first in "abc":
        for second in "abc":
            assert majority([first, second]) == majority([first]) == first


# --- every metric ---------------------------------------------------------------------------------------------------


def scripted(looks: list[list[str]], anew: list[list[str]]):
    """In place of ``roll_out``: what is written above. A row is a token of prompt, then three tokens an attempt with
    one of feedback after each."""

    def roll_out(policy, task, items, *, turns=1, samples=1, until_solved=False, **_) -> Rollouts:
        said = []
        for item in items:
            rows = [looks[item.index]] if turns == 2 else [[text] for text in anew[item.index][:samples]]
            said += [row[:1] if until_solved and task.score(item, row[0]) == 1 else row for row in rows]
        own = [[CONTEXT, *(t for turn in range(len(row)) for t in (turn, turn, turn, CONTEXT))] for row in said]
        turn = torch.tensor([row + [CONTEXT] * (9 - len(row)) for row in own])
        every = [item for item in items for _ in range(samples)]
        scores = [
            [task.score(item, text) for text in row] + [0.0] * (turns - len(row))
            for item, row in zip(every, said, strict=True)
        ]
        return Rollouts(
            ids=torch.zeros(turn.shape, dtype=torch.long),
            turn=turn,
            logprobs=torch.zeros(turn.shape),
            scores=torch.tensor(scores),
            group=torch.arange(len(items)).repeat_interleave(samples),
            answers=said,
            items=every,
            longest=3 * turns,
        )

    return roll_out


@pytest.fixture
def found(monkeypatch):
    monkeypatch.setattr(attempts, "roll_out", scripted([row.split() for row in LOOKS], [row.split() for row in ANEW]))
    return evaluate(None, ADD, ITEMS, seed=0, turns=2, feedback="nudge")


@pytest.mark.parametrize(
    ("metric", "by_item"),
    [
        ("accuracy@1", [1, 0, 1, 0]),
        ("accuracy@2", [1, 1, 0, 0]),
        ("delta", [0, 1, -1, 0]),
        ("copy_rate", [1, 0, 0, 1]),
        # Asked again only after a wrong answer: item 2 is not spoiled.
        ("solved@2", [1, 1, 1, 0]),
        # One of the first two asked anew: 08 09 and 09 08 are solved, 07 06 is not.
        ("pass@2", [1, 1, 1, 0]),
        ("worth", [0, 0, 0, 0]),
        ("majority@1", [1, 0, 1, 0]),
        ("majority@2", [1, 0, 1, 0]),  # the first one again
        ("majority@3", [1, 1, 0, 0]),  # 08 09 09 · 09 08 08 · 07 06 05
        ("majority@4", [1, 0, 0, 0]),  # 08 09 09 08 is a tie, 08 came first · 09 08 08 08
        ("majority@6", [1, 1, 1, 1]),  # 3 × 09 of 08 09 09 08 10 09 · a tie, 09 first · 09 twice, all else once
        ("majority@8", [1, 1, 1, 1]),  # 4 × 09, 3 × 08 · a tie, 09 first · as before
        ("look_over_vote", [0, 0, -1, -1]),  # accuracy@2 − majority@8
    ],
)
def test_metrics_by_hand(found, metric, by_item):
    evaluation, _ = found
    assert evaluation.items[metric] == by_item
    assert evaluation.metrics[metric] == sum(by_item) / 4


def test_prices_by_hand(found):
    evaluation, rollouts = found
    # Three tokens an answer. A second look is a second answer; the feedback before it is read, not written.
    assert evaluation.metrics["tokens@1"] == 3  # 4 items × 8 answers × 3 tokens, for each of the 32 answers
    assert evaluation.metrics["tokens@2"] == 6
    assert evaluation.generated_tokens == rollouts.generated_tokens() == 4 * 6


def test_the_rollouts_to_read_are_those_with_a_second_look(found):
    assert found[1].answers == [looks.split() for looks in LOOKS]


def test_there_is_nothing_that_the_table_does_not_name(found):
    evaluation, _ = found
    votes = {f"majority@{k}" for k in (1, 2, 3, 4, 6, 8)}
    asked = {"accuracy@1", "accuracy@2", "greedy@1", "greedy@2", "delta", "copy_rate"}
    named = {*asked, "solved@2", "pass@2", "worth", "look_over_vote", *votes}
    assert set(evaluation.items) == named
    assert set(evaluation.metrics) == named | {"tokens@1", "tokens@2"}


def test_worth_counts_what_a_second_sample_solves_and_a_second_look_does_not(monkeypatch):
    # Item 0 repeats its wrong answer and would have been right anew; item 1 is mended and would have been wrong anew.
    anew = [["08", "09", *["0"] * 6], ["08", "07", *["0"] * 6]]
    monkeypatch.setattr(attempts, "roll_out", scripted([["08", "08"], ["08", "09"]], anew))
    evaluation, _ = evaluate(None, ADD, ITEMS[:2], seed=0, turns=2, feedback="nudge")
    assert (evaluation.items["solved@2"], evaluation.items["pass@2"]) == ([0, 1], [1, 0])
    assert evaluation.items["worth"] == [-1, 1]


def test_votes_are_for_answers_as_the_task_reads_them(monkeypatch):
    # "09" with and without space is one answer; a blank is none. 08 · 08 09 · 08 09 09 and so on.
    anew = [["08", "09 ", " 09", "08", "", " ", " ", "08"]]
    monkeypatch.setattr(attempts, "roll_out", scripted([["09", "09"]], anew))
    evaluation, _ = evaluate(None, ADD, ITEMS[:1], seed=0, turns=2, feedback="nudge")
    # One, two: 08. Three: 09. Four, and six with two blanks: a tie, 08 came first. Eight: 08 thrice, blanks as often.
    assert [evaluation.items[f"majority@{k}"] for k in VOTES] == [[0], [0], [1], [0], [0], [0]]
    anew[0][7] = "09"
    evaluation, _ = evaluate(None, ADD, ITEMS[:1], seed=0, turns=2, feedback="nudge")
    assert evaluation.items["majority@8"] == [1]  # and now 09 thrice


# --- with a policy that samples -------------------------------------------------------------------------------------


class Lenient(Addition):
    """An untrained policy hardly ever adds right; here every other answer is right, by its last digit."""

    def check(self, item, answer):
        return answer[-1] in "02468"


@pytest.fixture(scope="module")
def policy():
    return tiny_llama(32, 1, 2)


def measured(policy, **how):
    task = Lenient()
    return evaluate(policy, task, task.items(7, range(24), 2), seed=3, turns=2, feedback="nudge", **how)[0]


def test_identities(policy):
    scores = measured(policy).items
    first, last = scores["accuracy@1"], scores["accuracy@2"]
    assert 0 < sum(first) < 24
    # The second looks are the same ones with and without a verifier: it only lets right answers stand.
    assert scores["solved@2"] == [max(a, b) for a, b in zip(first, last, strict=True)]
    assert scores["delta"] == [b - a for a, b in zip(first, last, strict=True)]
    assert all(two >= one for one, two in zip(scores["majority@1"], scores["pass@2"], strict=True))


def test_it_is_deterministic_and_independent_of_the_batch(policy):
    assert measured(policy) == measured(policy) == measured(policy, batch=5)


def test_greedily_all_answers_are_equal_and_a_vote_is_one_answer(policy):
    scores = measured(policy, temperature=0.0).items
    assert all(scores[f"majority@{k}"] == scores["accuracy@1"] == scores["pass@2"] for k in VOTES)


# --- the config -----------------------------------------------------------------------------------------------------

EXPERIMENT = load_experiment("correction-comparison", "tiny")


@pytest.mark.parametrize("arm", EXPERIMENT.arms)
def test_every_arm_makes_equally_many_attempts(arm):
    for phase in load_method(EXPERIMENT, arm).phases(EXPERIMENT.train):
        assert isinstance(phase, OnlinePhase)
        settings = (phase.roll_out or episodes(EXPERIMENT.train)).keywords
        assert settings["turns"] * settings["samples"] == 2 * 8


@pytest.mark.parametrize("arm", EXPERIMENT.arms)
def test_in_use_no_arm_is_told_anything(arm):
    assert EXPERIMENT.train.feedback == "nudge"
    assert load_method(EXPERIMENT, arm).evaluation() == {}


def test_who_hears_more_than_a_score_in_training():
    grades = {arm: getattr(load_method(EXPERIMENT, arm), "grade", None) for arm in EXPERIMENT.arms}
    assert {arm for arm, grade in grades.items() if grade} == {"rltf", "sdpo"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"arms.sdpo.grade": "locatd"}, "arms.sdpo.grade.*has no grade 'locatd'.*located"),
        ({"arms.score.alfa": 1}, "alfa"),
        ({"train.feedback": "shout"}, "has no grade 'shout'"),
        ({"train.turns": 3}, "two attempts, not 3"),
    ],
)
def test_settings_that_make_no_sense(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_experiment("correction-comparison", "tiny", overrides)
