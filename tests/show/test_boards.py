"""Games as boards: what is on them is what happened, as text and as HTML that is well formed and safe."""

import re
from html.parser import HTMLParser

import pytest

from minirl.evaluation.games import uniform_strategy
from minirl.evaluation.players import values_along
from minirl.show.boards import show_game
from minirl.tasks import get

KUHN, NIM, TTT, DILEMMA = (get(name) for name in ("kuhn", "nim", "tictactoe", "dilemma"))


class Balance(HTMLParser):
    """Raises if tags do not close in order; keeps all text."""

    def __init__(self):
        super().__init__()
        self.open, self.said = [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)


def read(view) -> list[str]:
    parser = Balance()
    parser.feed(view.html)
    assert not parser.open and "<script" not in view.html and "http" not in view.html
    return parser.said


def test_a_game_of_kuhn():
    strategy = {"K1Q": {"p": 0.25, "b": 0.75}, "K2Jp": {"p": 0.5, "b": 0.5}}
    view = show_game(KUHN, "QJ:pbb", strategy, [(0.5, -0.5), (0.25, -0.25), (1.0, -1.0), (0.0, 0.0)])
    assert repr(view).splitlines() == [
        "kuhn QJ:pbb",
        "1. player 1: p  (p 0.25 b 0.75)",
        "2. player 2: b  (p 0.50 b 0.50)",
        "3. player 1: b",  # the strategy says nothing of this view
        "payoffs: +2, -2",
    ]
    said = read(view)
    assert said.count("Q") == said.count("J") == 4  # three boards and the end
    assert "can expect +0.50, -0.50" in said and "1 passes, 2 bets, 1 bets" in said and "payoffs: +2, -2" in said
    assert "0.75" in said


def test_the_heap_shrinks():
    view = show_game(NIM, "e:131", uniform_strategy(NIM, 5))
    said = read(view)
    assert [word for word in said if re.fullmatch(r"[0-9]", word)].count("5") == 1
    assert view.html.count("background:#8a6d3b") == 5 + 4 + 1 + 0  # matches before every move and at the end
    assert "payoffs: +1, -1" in said and "can expect" not in view.html


def test_tic_tac_toe_has_its_probabilities_on_the_board():
    view = show_game(TTT, ":ae", {"T1": {cell: 0.2 if cell == "a" else 0.1 for cell in "abcdefghi"}})
    said = read(view)
    assert said.count("0.20") == 1 and said.count("0.10") == 8
    assert said.count("X") == 2 and said.count("O") == 1  # X after the first move; both at the end
    assert view.html.count("outline:2px") == 2


def test_both_players_of_the_dilemma_move_at_once(monkeypatch):
    monkeypatch.setattr("minirl.tasks.dilemma.ROUNDS", 2)
    view = show_game(DILEMMA, "1:cdcc", uniform_strategy(DILEMMA, 1))
    assert "1. player 1 and player 2: cd  (c 0.50 d 0.50; c 0.50 d 0.50)" in repr(view)
    assert "payoffs: +3, +8" in repr(view)


def test_a_move_that_is_none_ends_the_show():
    view = show_game(KUHN, "QJ:p?", {})
    assert "ended by a move that is not legal" in repr(view) and read(view)


def test_text_of_a_model_is_escaped():
    view = show_game(KUHN, "QJ:<", {"K1Q": {"<b>": 1.0}})
    assert "<b>:" not in view.html and "&lt;b&gt;" in view.html


@pytest.mark.parametrize(
    ("moves", "values"),
    [
        # 1 of two matches: the other takes the last one. 2: over at once.
        ("11", [(0.5, -0.5), (-1.0, 1.0), (0.0, 0.0)]),
        ("2", [(0.5, -0.5), (0.0, 0.0)]),
    ],
)
def test_what_players_can_expect_along_a_game(moves, values):
    strategy = {"N1b": {"1": 0.25, "2": 0.75}, "N2b1a": {"1": 1.0}}
    assert values_along(NIM, "b", moves, [strategy, strategy]) == values


def test_a_game_that_is_not_over_says_who_is_to_move():
    view = show_game(NIM, "e:1", {})
    assert repr(view).endswith("player 2 is to move: 1, 2, 3") and "now" in read(view)
