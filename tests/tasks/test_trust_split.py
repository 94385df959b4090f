"""Trust-and-Split: its rules by hand, that it is a dilemma, and the people who play it."""

import itertools
import random

import pytest

from minirl.rollouts.games import random_mover
from minirl.tasks import get
from minirl.tasks.splitting_habits import HABITS, fair, grabber, let, tit_for_tat, truth
from minirl.tasks.trust_split import BEATS, hands, share

GAME = get("trust_split")
PAIRS = ("RP", "PS", "SR", "SP")  # who wins: second, second, second, first


@pytest.fixture
def four(monkeypatch):
    """A deal of four rounds in which the players hold :data:`PAIRS`."""
    for module in ("trust_split", "splitting_habits"):
        monkeypatch.setattr(f"minirl.tasks.{module}.hands", lambda _: PAIRS)
    return "1-000"


def whole(deal, first, second, seed=0):
    """The record of a game of two habits."""
    rng, moves = random.Random(seed), ""
    while GAME.to_move(deal, moves):
        moves += "".join([habit(GAME, deal, moves, player, rng) for player, habit in enumerate((first, second))])
    return moves


def gains(deal, moves):
    """What both players got in every round."""
    return [GAME.rewards(deal, moves[: 4 * n]) for n in range(1, len(moves) // 4 + 1)]


# --- the rules ------------------------------------------------------------------------------------------------------


def test_hands_never_tie_and_everybody_wins_half_of_the_time():
    dealt = [pair for deal in GAME.deals(2) for pair in hands(deal)]
    assert {len(hands(deal)) for deal in GAME.deals(2)} == {8} and all(one != two for one, two in dealt)
    for hand in "RPS":  # one's own hand says nothing about who wins
        wins = [BEATS[one] == two for one, two in dealt if one == hand]
        assert len(wins) > 2500 and sum(wins) / len(wins) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("claims", "coins"),
    [((2, 0), (2, 0)), ((0, 2), (0, 2)), ((1, 1), (1, 1)), ((0, 0), (0, 0)), ((1, 0), (1, 0)), ((2, 2), (1, 1)),
     ((2, 1), (4 / 3, 2 / 3)), ((1, 2), (2 / 3, 4 / 3))],
)  # fmt: skip
def test_coins_are_shared_in_proportion_if_too_many_are_claimed(claims, coins):
    assert share(claims) == pytest.approx(coins)


def test_a_round_by_hand(four):
    assert GAME.to_move(four, "") == (0, 1) and GAME.to_move(four, "rp02" * 4) == ()
    assert (GAME.legal(four, ""), GAME.legal(four, "rp"), GAME.legal(four, "rp02")) == ("rps", "012", "rps")
    # Nothing for words; then paper has beaten rock, and gets 3 a coin, whatever was said.
    assert GAME.rewards(four, "") == GAME.rewards(four, "rp") == GAME.rewards(four, "rp02ps") == (0, 0)
    assert GAME.rewards(four, "rp02") == (0, 6) and GAME.rewards(four, "ss20") == (2, 0)
    assert GAME.rewards(four, "rp22") == (1, 3) and GAME.rewards(four, "rp21") == pytest.approx((4 / 3, 2))
    assert GAME.rewards(four, "rp02" * 3 + "sp20") == (6, 0)  # scissors beat paper
    assert GAME.forfeit((0,)) == (-6, 0)


def test_a_player_reads_its_own_hand_what_was_said_and_what_it_earned(four):
    assert (GAME.view(four, "", 0), GAME.view(four, "", 1)) == ("S1R", "S2P")
    assert (GAME.view(four, "rs", 0), GAME.view(four, "rs", 1)) == ("S1Rrs", "S2Psr")  # own word first
    # The second player's scissors were a lie, and nobody says so. 0 and 6 are what both have earned.
    assert GAME.view(four, "rs02", 0) == "S1Rrs020P" and GAME.view(four, "rs02", 1) == "S2Psr206S"
    assert list(GAME.decisions(four, "rs02pp", 1)) == [("S2P", "s"), ("r", "2"), ("06S", "p")]
    assert GAME.view(four, "rp22" * 4, 0) == "S1Rrp221Prp221Srp221Srp223"


# --- a dilemma --------------------------------------------------------------------------------------------------------


def average(first, second, deals=200):
    """Reward a round of both."""
    got = [pair for n in range(deals) for pair in gains(f"2-{n:03}", whole(f"2-{n:03}", first, second))]
    return tuple(sum(column) / len(got) for column in zip(*got, strict=True))


def test_the_dilemma_by_hand(four):
    # In the first three rounds the second player holds the winning hand, in the last the first one.
    assert gains(four, whole(four, fair, fair)) == [(0, 6), (0, 6), (0, 6), (6, 0)]
    assert gains(four, whole(four, grabber, grabber)) == [(1, 3), (1, 3), (1, 3), (3, 1)]
    # Who grabs from the fair loses nothing with the winning hand, and gets 1 with the other.
    assert gains(four, whole(four, grabber, fair)) == [(1, 3), (1, 3), (1, 3), (6, 0)]


def test_it_is_a_dilemma():
    # Each wins half of the rounds. Fair to each other: (6 + 0) / 2 = 3. Grabbing both: (3 + 1) / 2 = 2. A grabber among
    # the fair: (6 + 1) / 2 = 3.5; its victim: (3 + 0) / 2 = 1.5.
    both_fair, both_grab, (tempted, sucker) = (
        average(*pair) for pair in ((fair, fair), (grabber,) * 2, (grabber, fair))
    )
    assert sum(both_fair) / 2 == pytest.approx(3) and sum(both_grab) / 2 == pytest.approx(2)
    assert tempted == pytest.approx(3.5, abs=0.1) and sucker == pytest.approx(1.5, abs=0.1)
    assert tempted > 3 > 2 > sucker  # T > R > P > S: grabbing is better against the fair and against grabbers,
    assert tempted + sucker < 2 * 3  # and taking turns in being robbed is no way out


def test_words_help_only_those_who_are_believed():
    # Fair to each other, but one of them says anything. It hears the truth; the other one hears, a third of the
    # rounds each, what beats its hand (then it leaves the coins), its own hand, and what loses to it (then it claims
    # all).
    def chatter(game, deal, moves, player, rng):
        return fair(game, deal, moves, player, rng) if len(moves) % 4 else rng.choice("rps")

    babble, _ = average(chatter, fair, deals=600)
    # Winning: the other leaves the coins when it hears what beats it, which is the truth: (6 + 3 + 3) / 3 = 4. Losing:
    # it leaves them itself, and so both do in a third: 0. (4 + 0) / 2 = 2.
    assert babble == pytest.approx(2, abs=0.1)


def test_a_lie_pays_less_than_the_truth():
    # To be left the coins with a losing hand, say what beats the hand that beats one's own.
    def liar(game, deal, moves, player, rng):
        if len(moves) % 4:
            return "2"
        mine = truth(deal, moves, player).upper()
        return next(hand for hand in "RPS" if BEATS[hand] == next(h for h in "RPS" if BEATS[h] == mine)).lower()

    # Losing: the other believes it and leaves 2. Winning: the other hears its own hand and claims all: 3. Together 2.5,
    # and a truthful grabber gets 3.5.
    assert average(liar, fair)[0] == pytest.approx(2.5, abs=0.1)


# --- people -----------------------------------------------------------------------------------------------------------


def test_habits_by_hand(four):
    # The first player has rock, then paper, and loses both times.
    for name in HABITS:
        assert HABITS[name](GAME, four, "", 0, None) == "r"  # all tell the truth
        assert HABITS[name](GAME, four, "rp02", 1, None) == "s"
    assert [fair(GAME, four, said, 0, None) for said in ("rp", "rr", "rs")] == ["0", "2", "2"]
    assert [grabber(GAME, four, said, 0, None) for said in ("rp", "rr", "rs")] == ["2", "2", "2"]


def test_tit_for_tat_remembers_when_the_other_last_had_to_yield(four):
    # In rounds 1 to 3 the first player loses. Nobody knows anything of the second one, so it counts as fair.
    assert let(four, "", 0) and let(four, "rp22", 1)
    assert let(four, "rp02", 0) and not let(four, "rp02ps22", 0) and let(four, "rp22ps02", 0)
    # Round 4: the second player holds paper and hears scissors.
    assert tit_for_tat(GAME, four, "rp02ps02sr02sp", 1, None) == "0"
    assert tit_for_tat(GAME, four, "rp02ps02sr22sp", 1, None) == "2"
    assert HABITS["contrarian"](GAME, four, "rp02ps02sr02sp", 1, None) == "2"
    assert HABITS["contrarian"](GAME, four, "rp02ps02sr22sp", 1, None) == "0"


def test_people_with_habits_play_whole_games(monkeypatch):
    game = get("splitting_habits")
    records = [game.random_record("2-000", random.Random(i)) for i in range(300)]
    assert {len(record) for record in records} == {32}
    held = hands("2-000")
    said = [record[4 * n + p] == held[n][p].lower() for record in records for n in range(8) for p in (0, 1)]
    # 19 in 20 mean the truth, the others say it in a third of the cases; three in a hundred words are anything.
    wanted = 0.97 * (0.95 + 0.05 / 3) + 0.03 / 3
    assert sum(said) / len(said) == pytest.approx(wanted, abs=0.04)
    monkeypatch.setattr("minirl.tasks.splitting_habits.SLIP", 0.0)
    monkeypatch.setattr("minirl.tasks.splitting_habits.HONEST", 1.0)
    monkeypatch.setattr("minirl.tasks.splitting_habits.HABITS", {"fair": fair})
    assert game.random_record("2-000", random.Random(0)) == whole("2-000", fair, fair)


def test_any_two_habits_get_along():
    for first, second in itertools.product([*HABITS.values(), random_mover], repeat=2):
        assert len(whole("1-001", first, second)) == 16
