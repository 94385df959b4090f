"""Privileged context: who climbs how far, what is left without a hint, and texts to imitate."""

from dataclasses import replace

import pytest
import torch
from stand_ins import encode, sharp_policy

from minirl.rollouts.episodes import Rollouts, roll_out
from minirl.rollouts.hints import as_written, climb, key, last_tries, pick, shown, unseen, unsolved
from minirl.tasks import Item, get

POLICY, GAPS = sharp_policy(), get("gaps")
ONE, TWO, THREE = (Item("gaps", 0, i, 1, f"{i}+1+1+1+1=", f"+1{i + 1}+1{i + 2}+1{i + 3}+1{i + 4}") for i in range(3))


def group(item: Item, scores: list[float]) -> Rollouts:
    """Answers ``a``, ``b``, … to one problem, with these scores."""
    texts = "abcdefgh"[: len(scores)]
    rollouts = as_written(POLICY, [item] * len(scores), texts)
    return replace(rollouts, scores=torch.tensor(scores)[:, None], group=torch.zeros(len(scores), dtype=torch.long))


def hint(rung: int):
    return lambda item: GAPS.shown(item, GAPS.hint(item, rung))


def test_a_problem_is_the_same_whatever_is_shown():
    assert key(hint(1)(ONE)) == key(ONE) == (0, 0, 1) != key(TWO)
    assert (shown(ONE), shown(hint(1)(ONE)), shown(hint(2)(ONE))) == ("", "+11", "+11+12")


def test_unsolved_are_groups_without_a_success():
    rollouts = Rollouts.join([group(ONE, [0, 0]), group(TWO, [0, 1]), group(THREE, [0, 0.5])])
    assert unsolved(rollouts) == [ONE, THREE]


def test_picking_rows():
    rollouts = Rollouts.join([group(ONE, [0, 0]), group(TWO, [0, 1]), group(THREE, [1, 0])])
    found = pick(rollouts, [4, 5, 2, 3])
    assert found.items == [THREE, THREE, TWO, TWO]
    assert found.answers == [["a"], ["b"], ["a"], ["b"]]
    assert found.scores.flatten().tolist() == [1, 0, 0, 1]
    assert found.group.tolist() == [0, 0, 1, 1] and found.samples == 2
    assert torch.equal(found.ids, rollouts.ids[[4, 5, 2, 3]])


# --- climbing --------------------------------------------------------------------------------------------------------


def climber(solved: dict[str, str]):
    """Rolls out groups of two; the second attempt at a problem succeeds if what ``solved`` says is shown."""
    asked = []

    def roll(policy, task, items, generator):
        asked.append([item.prompt for item in items])
        parts = [group(item, [0, float(solved.get(item.prompt[-10], "?") == shown(item))]) for item in items]
        return Rollouts.join(parts)

    return roll, asked


def test_only_those_who_fail_climb():
    # ONE needs nothing, TWO the first two steps, and THREE finds no help on the ladder.
    roll, asked = climber({"0": "", "1": "+12+13", "2": "x"})
    rollouts = climb(POLICY, GAPS, [ONE, TWO, THREE], roll, [hint(1), hint(2), hint(3)], torch.Generator())
    assert asked == [
        [ONE.prompt, TWO.prompt, THREE.prompt],
        [f"+12!{TWO.prompt}", f"+13!{THREE.prompt}"],
        [f"+12+13!{TWO.prompt}", f"+13+14!{THREE.prompt}"],
        [f"+13+14+15!{THREE.prompt}"],
    ]
    # All attempts are there, because all were paid for: 3 + 2 + 2 + 1 groups of two.
    assert len(rollouts.items) == 16 and rollouts.samples == 2


def test_the_last_tries():
    roll, _ = climber({"0": "", "1": "+12+13", "2": "x"})
    tries = last_tries(climb(POLICY, GAPS, [ONE, TWO, THREE], roll, [hint(1), hint(2), hint(3)], torch.Generator()))
    assert [shown(item) for item in tries.items[::2]] == ["", "+12+13", "+13+14+15"]
    assert tries.scores.flatten().tolist() == [0, 1, 0, 1, 0, 0]


def test_nobody_climbs_who_need_not():
    roll, asked = climber({"0": "", "1": ""})
    climb(POLICY, GAPS, [ONE, TWO], roll, [hint(1)], torch.Generator())
    assert len(asked) == 1


def test_without_a_ladder_there_is_one_attempt():
    roll, asked = climber({})
    assert len(climb(POLICY, GAPS, [ONE], roll, [], torch.Generator()).items) == 2 and len(asked) == 1


# --- without what was shown ------------------------------------------------------------------------------------------


def test_unseen_rows_are_what_they_would_be_without_the_hint():
    rollouts = as_written(POLICY, [hint(2)(ONE), hint(1)(TWO), THREE], ["+11", "+12", "+13"])
    plain = unseen(rollouts)
    expected = as_written(POLICY, [ONE, TWO, THREE], ["+11", "+12", "+13"])
    width = expected.ids.shape[1]  # what follows is padding
    assert torch.equal(plain.ids[:, :width], expected.ids) and torch.equal(plain.turn[:, :width], expected.turn)
    assert not plain.own[:, width:].any()
    assert plain.items == [ONE, TWO, THREE] and plain.answers == rollouts.answers


def test_unseen_log_probs_are_those_of_sampling():
    noise = torch.Generator().manual_seed(0)
    rollouts = roll_out(POLICY, GAPS, [hint(1)(ONE), hint(3)(TWO)], samples=2, generator=noise)
    plain = unseen(rollouts)
    for row in range(4):
        assert torch.equal(plain.ids[row][plain.own[row]], rollouts.ids[row][rollouts.own[row]])
        assert torch.equal(plain.logprobs[row][plain.own[row]], rollouts.logprobs[row][rollouts.own[row]])
    assert plain.generated_tokens() == rollouts.generated_tokens()


# --- texts to imitate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stops", "end"), [(True, "$"), (False, "")])
def test_texts_as_the_policy_would_have_written_them(stops, end):
    rollouts = as_written(POLICY, [ONE, hint(1)(TWO)], ["+11", "+1"], stops)
    for row, text in enumerate((f"{ONE.prompt}+11{end}", f"+12!{TWO.prompt}+1{end}")):
        ids = encode(POLICY, text)
        assert rollouts.ids[row, : len(ids)].tolist() == ids
    own = [rollouts.ids[row][rollouts.own[row]].tolist() for row in range(2)]
    assert own == [encode(POLICY, f"+11{end}"), encode(POLICY, f"+1{end}")]
    assert rollouts.group.tolist() == [0, 1] and rollouts.answers == [["+11"], ["+1"]]
