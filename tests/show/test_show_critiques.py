"""Tables of what critics said: episodes made by hand."""

import pytest
import torch

from minirl.rollouts.episodes import CONTEXT, Rollouts
from minirl.show.critiques import NONE, said_of, show_critiques, signs
from minirl.show.tables import show_table
from minirl.tasks import Item, get

TALLY = get("tally")
TWO = Item("tally", 0, 0, 2, "3+7-4=", "+70-46")


def episodes(*rows) -> Rollouts:
    """Rows of attempt, critique, next attempts, and the three scores."""
    answers, scores = [list(row[:-1]) for row in rows], [row[-1] for row in rows]
    return Rollouts(
        ids=torch.zeros(len(rows), 1, dtype=torch.long),
        turn=torch.full((len(rows), 1), CONTEXT),
        logprobs=torch.zeros(len(rows), 1),
        scores=torch.tensor(scores, dtype=torch.float),
        group=torch.zeros(len(rows), dtype=torch.long),
        answers=answers,
        items=[TWO] * len(rows),
        longest=3,
    )


MIXED = episodes(
    ("+70-46", "+", "+70-46", (1, 1, 1)),
    ("+70-46", "-b", "+70-45", (1, 0, 0)),
    ("+71-47", "-b", "+71-47", (0, 1, 0)),  # wrong from step a: objected to, and the wrong letter
    ("+71-47", "-a", "+70-46", (0, 1, 1)),
    ("+70-45", "-c", (0, 0, 0)),  # there is no step c
    ("+70-45", " + ", "+70-45", (0, 0, 0)),
)


def test_the_signs_of_a_level():
    assert signs(1) == ["+", "-a"]
    assert signs(3) == ["+", "-a", "-b", "-c"]


def test_what_was_said_of_what_by_hand():
    found = said_of(MIXED, TALLY)
    assert found == {
        "+": {"+": 1, "-b": 1},
        "-a": {"-b": 1, "-a": 1},
        "-b": {NONE: 1, "+": 1},
        NONE: {},
    }
    assert found["+"]["-a"] == 0
    assert sum(map(sum, (counts.values() for counts in found.values()))) == 6


def test_an_error_behind_the_last_step_has_no_letter():
    # Both steps are right, and more text follows: the first error is at "step c", which no critique can name.
    found = said_of(episodes(("+70-46+1", "-b", "+70-46", (0, 1, 1))), TALLY)
    assert found[NONE] == {"-b": 1} and not found["-b"]


def test_episodes_to_read():
    text = str(show_critiques(MIXED, TALLY, rows=5))
    count, heads, *lines = (line.split("  ") for line in text.splitlines())
    assert count == ["5 of 6 episodes"]
    assert [head.strip() for head in heads if head] == [
        *("row", "problem", "attempt", "critique", "true", "next attempt", "right answer"),
    ]
    cells = [[cell.strip() for cell in line if cell] for line in lines]
    assert cells[1] == ["1", "3+7-4=", "+70-46 ✓", "-b ✗", "+", "+70-45 ✗", "+70-46"]
    assert cells[3] == ["3", "3+7-4=", "+71-47 ✗", "-a ✓", "-a", "+70-46 ✓", "+70-46"]
    assert cells[4] == ["4", "3+7-4=", "+70-45 ✗", "-c ✗", "-b", "(as before) ✗", "+70-46"]


def test_selected_episodes():
    text = str(show_critiques(MIXED, TALLY, rows=1, select=lambda rollouts: [3, 0]))
    assert text.startswith("1 of 2 selected episodes (of 6 in all)")
    assert "+71-47 ✗" in text and "+70-46 ✓  +" not in text


def test_of_several_next_attempts_the_share():
    text = str(show_critiques(episodes(("+70-45", "-b", "+70-46", "+70-45", (0, 1, 0.5))), TALLY))
    assert "+70-46 +70-45 0.5" in text


def test_what_a_model_wrote_is_escaped():
    page = show_critiques(episodes(("<b>", "-a", "+70-46", (0, 1, 1))), TALLY)._repr_html_()
    assert "&lt;b&gt;" in page and "<b>" not in page


def test_a_table_by_hand():
    table = show_table(["arm", "a", "b", "c"], [["one", 0.25, 3, float("nan")], ["`x|y`", 1.0, "", True]])
    assert str(table).splitlines() == [
        "| arm | a | b | c |",
        "| --- | --- | --- | --- |",
        "| one | 0.250 | 3 | – |",
        "| `x\\|y` | 1.000 |  | True |",
    ]
    assert table._repr_markdown_() == str(table)


def test_a_row_must_fit_its_heads():
    with pytest.raises(ValueError, match="a row of 1 cells under 2 heads"):
        show_table(["a", "b"], [["one"]])
