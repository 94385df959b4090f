"""The rules of every game: what may be done, what it brings, and what a player gets to see."""

import random

import pytest

from minirl.policy.tokenizer import ALPHABET
from minirl.tasks import get, names
from minirl.tasks.game import Game, role

GAMES = {name: get(name) for name in names() if isinstance(get(name), Game)}
EVERY_GAME = pytest.mark.parametrize("game", GAMES.values(), ids=GAMES.keys())
KUHN, NIM, TTT, DILEMMA = (GAMES[name] for name in ("kuhn", "nim", "tictactoe", "dilemma"))
ZERO_SUM = {"kuhn", "nim", "tictactoe"}


def records(game, count=60):
    """Random games: ``(deal, moves)``."""
    rng = random.Random(0)
    for level in (game.levels.start, game.levels.stop - 1):
        for item in game.items(0, range(count // 2), level):
            yield level, item.prompt, game.random_record(item.prompt, rng)


# --- what every game promises -----------------------------------------------------------------------------------------


@EVERY_GAME
def test_deals_are_a_distribution_and_items_are_drawn_from_it(game):
    for level in game.levels:
        deals = game.deals(level)
        assert sum(deals.values()) == pytest.approx(1)
        drawn = game.items(5, range(200), level)
        assert {item.prompt for item in drawn} <= deals.keys()
        if len(deals) <= 6:
            assert {item.prompt for item in drawn} == deals.keys()
        assert game.items(5, range(200), level) == drawn


@EVERY_GAME
def test_games_end_and_nobody_moves_more_often_than_said(game):
    for level, deal, record in records(game):
        assert not game.to_move(deal, record)
        made = [len(list(game.decisions(deal, record, player))) for player in range(game.players)]
        assert 0 < max(made) <= game.turns(level) and sum(made) == len(record)


@EVERY_GAME
def test_a_view_only_grows_and_own_moves_are_in_it(game):
    for _, deal, record in records(game):
        for player in range(game.players):
            text = ""
            for new, move in game.decisions(deal, record, player):
                text += new + move
            assert game.view(deal, record, player).startswith(text)
            assert set(text) <= set(ALPHABET)  # every character is a token
            if text:  # else the game was over before it could move
                assert text[0].isupper() and text[1] == str(player + 1)


@EVERY_GAME
def test_players_who_draw_at_random_keep_to_the_rules(game):
    for _, deal, record in records(game):
        moves = ""
        while movers := game.to_move(deal, moves):
            made = record[len(moves) : len(moves) + len(movers)]
            assert len(made) == len(movers) and set(made) <= set(game.legal(deal, moves))
            moves += made
        assert moves == record


@EVERY_GAME
def test_views_before_a_move_differ_from_every_other_players(game):
    _, deal, _ = next(records(game))
    first = [game.view(deal, "", player) for player in range(game.players)]
    assert [
        role(type(item)(**{**vars(item), "prompt": view}))
        for item, view in zip(game.items(0, range(game.players), game.levels.start), first, strict=True)
    ] == list(range(game.players))


@EVERY_GAME
def test_payoffs_come_when_they_are_due(game):
    for _, deal, record in records(game):
        paid = [game.rewards(deal, record[:end]) for end in range(1, len(record) + 1)]
        assert all(len(one) == game.players for one in paid)
        if game.name in ZERO_SUM:
            assert all(sum(one) == 0 for one in paid)
            assert all(one == (0, 0) for one in paid[:-1])  # at the end only


@EVERY_GAME
@pytest.mark.parametrize("offenders", [(0,), (1,), (0, 1)])
def test_nobody_gains_by_a_move_that_is_none(game, offenders):
    brought = game.forfeit(offenders)
    assert all(brought[player] == -game.stake for player in offenders)
    if game.name in ZERO_SUM:
        assert len(offenders) == 2 or sum(brought) == 0
        paid = [game.rewards(deal, record)[player] for _, deal, record in records(game) for player in offenders]
        assert -game.stake == min(paid)  # the worst that can happen to anybody who plays


# --- Kuhn poker -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deal", "moves", "won"),
    [
        ("KQ", "pp", 1),  # both check: the higher card takes the ante
        ("JQ", "pp", -1),
        ("JQ", "bp", 1),  # a bluff that works
        ("QK", "bb", -2),
        ("KJ", "bb", 2),
        ("KQ", "pbp", -1),  # the first folds
        ("QJ", "pbb", 2),
        ("QK", "pbb", -2),
        ("QK", "pb", 0),  # not over
    ],
)
def test_kuhn(deal, moves, won):
    assert KUHN.rewards(deal, moves) == (won, -won)
    assert bool(KUHN.to_move(deal, moves)) == (moves == "pb")


def test_a_player_of_kuhn_sees_one_card():
    assert KUHN.view("KQ", "pb", 0) == "K1Kpb" and KUHN.view("KQ", "pb", 1) == "K2Qpb"


# --- NIM --------------------------------------------------------------------------------------------------------------


def test_nim_by_hand():
    # Five matches: 1, 3, 1. The first player takes the last one.
    assert [NIM.to_move("e", "131"[:n]) for n in range(4)] == [(0,), (1,), (0,), ()]
    assert [NIM.legal("e", "131"[:n]) for n in range(3)] == ["123", "123", "1"]
    assert NIM.rewards("e", "13") == (0, 0) and NIM.rewards("e", "131") == (1, -1) and NIM.rewards("e", "23") == (-1, 1)
    assert NIM.view("e", "13", 0) == "N1e13a"  # took 1, the other took 3, one (a) is left
    assert NIM.view("e", "1", 1) == "N2e1d"
    assert NIM.view("e", "131", 1) == "N2e1d31"  # nothing is left to be told


def test_the_best_moves_of_nim_win():
    """Against any play: whoever leaves a multiple of four has the last word."""
    for left in range(1, 13):
        for move in "123"[:left]:
            wins = (left - int(move)) % 4 == 0
            assert (move in NIM.best(left)) == (wins or left % 4 == 0)


# --- tic-tac-toe ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deal", "moves", "won"),
    [
        ("", "adbec", 1),  # the upper row
        ("", "adbeif", -1),  # the middle row, by the second player
        ("", "aebgcdf", 1),  # a, b, c in spite of e, g, d
        ("", "abcedgfih", 0),  # a draw
        ("ad", "bec", 1),  # a game that began with two drawn moves
        ("", "adbe", 0),
    ],
)
def test_tic_tac_toe(deal, moves, won):
    assert TTT.rewards(deal, moves) == (won, -won)


def test_perfect_play_of_tic_tac_toe():
    assert TTT.best("ab") == "deg"  # an answer on the edge loses
    assert TTT.best("a") == "e"  # only the centre draws against a corner
    assert TTT.best("abed") == "ci" or set(TTT.best("abed")) >= {"i"}  # a and e are mine: i wins
    made = ""
    while TTT.to_move("", made):
        made += TTT.best(made)[0]
    assert TTT.rewards("", made) == (0, 0)


def test_taken_cells_are_not_legal():
    assert TTT.legal("a", "ei") == "bcdfgh" and TTT.to_move("a", "ei") == (1,)


# --- the dilemma ------------------------------------------------------------------------------------------------------


def test_the_dilemma_by_hand():
    assert DILEMMA.to_move("1", "cd" * 3) == (0, 1) and DILEMMA.to_move("1", "cd" * 4) == ()
    assert [DILEMMA.rewards("1", pair) for pair in ("cc", "cd", "dc", "dd")] == [(3, 3), (0, 5), (5, 0), (1, 1)]
    assert DILEMMA.view("1", "cddd", 0) == "D1cddd" and DILEMMA.view("1", "cddd", 1) == "D2dcdd"  # own move first
    assert list(DILEMMA.decisions("1", "cd" * 4, 1)) == [("D2", "d"), ("c", "d"), ("c", "d"), ("c", "d")]
