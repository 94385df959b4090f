"""SAGE's page: its arms, where the ladder ends, and what carries over. The method itself: ``test_hinting.py``."""

import math

import pytest
import torch
from stand_ins import sharp_policy

from minirl.evaluation.attempts import attempt_all
from minirl.experiments.run import load_experiment, load_method
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.hints import as_written, climb, shown
from minirl.tasks import Item, get
from minirl.techniques.curriculum.sage import Sage, by_rung, hint_ladder, rare_steps
from minirl.techniques.hard_prompts import GroupRL

POLICY, GAPS = sharp_policy(), get("gaps")
EASY = Item("gaps", 0, 0, 3, "3+7-4+1+1=", "+70-46+17+18")
HARD = Item("gaps", 0, 1, 3, "3+7#1-4#2=", "+70#16-42#29")
GROUP = 4


def answered(item: Item, texts: list[str]) -> Rollouts:
    """A group of answers to one problem."""
    rollouts = as_written(POLICY, [item] * len(texts), texts)
    rollouts.scores = torch.tensor([[GAPS.score(item, text)] for text in texts])
    rollouts.group = torch.zeros(len(texts), dtype=torch.long)
    return rollouts


def climbed(first_success: int, rungs: list[int]) -> tuple[Rollouts, list[int]]:
    """Attempts at HARD, one of four right from ``first_success`` steps on; and how many steps each group was shown."""
    asked: list[int] = []

    def rolls(policy, task, items, generator):
        (item,) = items
        asked.append(len(shown(item)) // 3)
        successes = int(asked[-1] >= first_success)
        return answered(item, [item.answer] * successes + ["+70"] * (GROUP - successes))

    ladder = hint_ladder(GAPS, [HARD], rungs)
    return climb(POLICY, GAPS, [HARD], rolls, ladder, torch.Generator().manual_seed(0)), asked


# --- the ladder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first_success", "rungs", "asked"),
    [
        (0, [1, 2, 3], [0]),
        (1, [1, 2, 3], [0, 1]),
        (3, [1, 2, 3], [0, 1, 2, 3]),
        (4, [1, 2, 3], [0, 1, 2, 3]),  # nowhere: the ladder ends
        (1, [3], [0, 3]),  # no ladder: three steps, where one would have done
    ],
)
def test_as_far_as_needed(first_success, rungs, asked):
    attempts, found = climbed(first_success, rungs)
    assert found == asked
    assert len(attempts.items) == GROUP * len(asked)  # all are paid for


def test_one_of_four_by_hand():
    # Mean ¼; the squares (¾)² + 3 (¼)² = ¾, over three: a variance of ¼, a deviation of ½. (1 − ¼) / ½ and −¼ / ½.
    attempts, _ = climbed(2, [1, 2, 3])
    credit = Sage().credit(attempts)
    learned = credit.sequences
    assert [shown(item) for item in learned.items] == ["+70#16"] * GROUP
    worth = [credit.advantages[row][learned.own[row]].unique().tolist() for row in range(GROUP)]
    assert [value for (value,) in worth] == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-3)
    assert credit.stats == {"hinted": 1, "shown": 6}


def test_the_shown_steps_are_written_again_and_learned():
    attempts, _ = climbed(3, [1, 2, 3])
    learned = Sage().credit(attempts).sequences
    assert POLICY.decode([learned.ids[0][learned.own[0]].tolist()]) == [HARD.answer]


# --- what carries over -----------------------------------------------------------------------------------------------


def test_rare_steps_by_hand():
    # 3+7#1-4#2: the second and the fourth step are rare. #1 makes 6 of 0 and 3 of 4; #2 makes 9 of 2 and 8 of 9.
    assert rare_steps(answered(HARD, [HARD.answer]))[1::2] == [1, 1]
    assert all(math.isnan(share) for share in rare_steps(answered(HARD, [HARD.answer]))[::2])
    # The first step is wrong, and the second follows from it: the fact is known.
    assert rare_steps(answered(HARD, ["+74#13-49#28"]))[1::2] == [1, 1]
    # Right for 0, but 4 stands before it.
    assert rare_steps(answered(HARD, ["+74#16-42#29"]))[1::2] == [0, 1]
    # One of two, and none of two: the fourth step is missing, or has no digit before it.
    assert rare_steps(answered(HARD, ["+70#16-42", "+70#11-4x#29"]))[1::2] == [0.5, 0]


def test_easy_problems_have_no_rare_steps():
    assert all(math.isnan(share) for share in rare_steps(answered(EASY, [EASY.answer])))


def test_rare_steps_do_not_see_what_was_shown():
    hinted = GAPS.shown(HARD, GAPS.hint(HARD, 2))
    assert rare_steps(answered(hinted, ["+74#13"]))[1] == 1


def test_by_rung_by_hand(monkeypatch):
    asked: list[list[str]] = []

    def attempts(policy, task, items, *, samples, seed):
        asked.append([item.prompt for item in items])
        assert (samples, seed) == (2, 7)
        return answered(items[0], [HARD.answer] * len(asked) + ["+70"] * (4 - len(asked)))

    monkeypatch.setattr("minirl.evaluation.rungs.attempt_all", attempts)
    # One of four right without help, then two, three and four.
    assert by_rung(POLICY, GAPS, [HARD], samples=2, seed=7) == [0.25, 0.5, 0.75, 1]
    steps = ["", "+70!", "+70#16!", "+70#16-42!"]
    assert asked == [[f"{shown}3+7#1-4#2="] for shown in steps]


def test_by_rung_is_what_attempts_score():
    items = GAPS.items(5, range(4), 2)
    scores = attempt_all(POLICY, GAPS, items, samples=2, seed=3).scores
    assert by_rung(POLICY, GAPS, items, samples=2, seed=3)[0] == scores.mean().item()


# --- arms ------------------------------------------------------------------------------------------------------------


def test_arms_differ_in_one_thing_each():
    experiment = load_experiment("sage", "tiny")
    arms = {arm: load_method(experiment, arm) for arm in experiment.arms}
    sage = arms["sage"]
    assert isinstance(sage, Sage) and (sage.rungs, sage.of, sage.context) == ([1, 2, 3], "own", "kept")
    assert arms["last"] == sage.model_copy(update={"rungs": [3]})
    assert arms["dropped"] == sage.model_copy(update={"context": "dropped"})
    assert arms["another"] == sage.model_copy(update={"of": "another"})
    assert arms["grpo"] == GroupRL(beta=sage.beta)


def test_settings_are_those_of_the_page_that_compares_remedies_but_for_the_budget():
    here, there = load_experiment("sage", "tiny"), load_experiment("relift", "tiny")
    assert (here.base, here.task, here.evaluation) == (there.base, there.task, there.evaluation)
    longer = {"tokens": here.train.tokens, "updates": here.train.updates}
    assert here.train == there.train.model_copy(update=longer) and here.train.tokens > 3 * there.train.tokens
    assert all(here.arms[arm] == there.arms[arm] for arm in ("sage", "grpo"))
