"""Sessions of rollouts, and the chances of one who reads all feedback, by hand.

``22>2=`` asks for what makes one 2 of two. ``u`` (no repetitions) is right; ``f`` (without the first) and ``l``
(without the last) fit the example, too. The tests that are not shown are 3886>386 and 6788>678: of 3886 ``u`` makes
386, ``f`` 886 and ``l`` 388.
"""

import pytest
import torch

from minirl.evaluation.sessions import reader_solves, sessions
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item
from minirl.tasks.spec import UnitTests

SPEC = UnitTests()
TWOS, OTHER = Item("spec", 0, 0, 1, "22>2=", "u"), Item("spec", 0, 1, 2, "53>64=", "i")


def rollouts(items: list[Item], answers: list[list[str]], scores: list[list[float]], samples: int = 1) -> Rollouts:
    nothing = torch.zeros(len(answers), 1)
    return Rollouts(
        ids=nothing.long(),
        turn=nothing.long(),
        logprobs=nothing,
        scores=torch.tensor(scores),
        group=torch.arange(len(answers)) // samples,
        answers=answers,
        items=items,
        longest=30,
    )


def test_sessions_are_the_turns_of_a_row_up_to_the_first_right_one():
    # Nothing is right in the second; the third ended with its first attempt.
    said = rollouts([TWOS, OTHER, TWOS], [["f", "u", "l"], ["r", "r", "d"], ["u"]], [[0, 1, 0], [0, 0, 0], [1, 0, 0]])
    assert list(sessions(said)) == [(TWOS, ["f", "u"]), (OTHER, ["r", "r", "d"]), (TWOS, ["u"])]


def test_sessions_are_the_rows_of_a_group_where_attempts_do_not_see_each_other():
    answers, scores = [["f"], ["l"], ["u"], ["i"], ["r"], ["i"]], [[0], [0], [1], [1], [0], [1]]
    said = rollouts([TWOS] * 3 + [OTHER] * 3, answers, scores, samples=3)
    assert list(sessions(said)) == [(TWOS, ["f", "l", "u"]), (OTHER, ["i"])]


@pytest.mark.parametrize(
    ("item", "grade", "chances"),
    [
        # Three programs fit. "Wrong" crosses out one of them, the failing test (386 of 3886) both of the wrong ones.
        (TWOS, "binary", [1 / 3, 2 / 3, 1]),
        (TWOS, "explain", [1 / 3, 2 / 3, 1]),
        (TWOS, "test", [1 / 3, 1, 1]),
        # 276>67 is met by fr, fs, ft and sf, which is meant: 12694>2469, 4983>489. Of 12694 fr makes 4962, ft 6942, and
        # fs 2469: it fails the second test only, and that one no other passes. So after fr or ft, fs and sf are left,
        # after fs only sf: ¼ + ¼ · (½ + ½ + 1).
        (Item("spec", 0, 0, 2, "276>67=", "sf"), "binary", [1 / 4, 2 / 4, 3 / 4]),
        (Item("spec", 0, 0, 2, "276>67=", "sf"), "test", [1 / 4, 3 / 4, 1]),
    ],
)
def test_readers_by_hand(item, grade, chances):
    assert reader_solves(SPEC, item, grade, 3) == pytest.approx(chances)


def test_readers_of_the_grades():
    few = [item for item in SPEC.items(9, range(40), 2) if len(SPEC.possible(item, [])) <= 8]  # all sessions: n² steps
    assert len(few) > 20
    for item in few:
        fit = len(SPEC.possible(item, []))
        binary = [min(t / fit, 1) for t in (1, 2, 3)]
        assert reader_solves(SPEC, item, "binary", 3) == pytest.approx(binary)
        tested = reader_solves(SPEC, item, "test", 3)
        assert tested[0] == pytest.approx(1 / fit) and tested[1] >= binary[1] - 1e-9
        assert tested[2] == pytest.approx(1)  # two tests are hidden; whoever has failed twice has seen both
