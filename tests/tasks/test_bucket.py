"""Buckets: every candidate is right equally often, and what each way to guess reaches is counted out."""

import random
from collections import Counter
from collections.abc import Callable
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirl.tasks import Item
from minirl.tasks.bucket import Bucket, enumeration, independent, repeating

BUCKET = Bucket()
ITEM = Item("bucket", 0, 0, 3, "bkqz=", "q")
SMALL = [(m, t) for m in range(1, 5) for t in range(6)]  # at most 4^5 sequences of attempts


@pytest.mark.parametrize("level", BUCKET.levels)
def test_candidates(level: int) -> None:
    for item in BUCKET.items(0, range(200), level):
        candidates = item.prompt.removesuffix("=")
        assert len(set(candidates)) == len(candidates) == level + 1
        assert candidates.isalpha() and candidates.islower()
        assert sum(BUCKET.score(item, candidate) for candidate in candidates) == 1.0  # one is right


@pytest.mark.parametrize("level", [1, 4, 9])
def test_neither_place_nor_letter_tells_which_is_right(level: int) -> None:
    items, m = BUCKET.items(1, range(2000), level), level + 1
    places = Counter(item.prompt.index(item.answer) for item in items)
    alphabetical = Counter(sorted(item.prompt).index(item.answer) for item in items)  # place 0 is the "="
    deviation = (2000 * (m - 1)) ** 0.5 / m
    assert len(places) == len(alphabetical) == m
    for count in (*places.values(), *alphabetical.values()):
        assert abs(count - 2000 / m) < 4 * deviation
    assert len({item.answer for item in items}) == 26


def test_the_same_prompt_has_another_answer_under_another_index() -> None:
    answers: dict[str, set[str]] = {}
    for item in BUCKET.items(2, range(3000), 1):  # 650 prompts, four or five draws of each
        answers.setdefault(item.prompt, set()).add(item.answer)
    assert sum(len(seen) == 2 for seen in answers.values()) > 400


@pytest.mark.parametrize(
    ("answer", "score", "admissible"),
    [
        ("q", 1.0, 1),
        (" q\n", 1.0, 1),
        ("b", 0.0, 1),
        ("a", 0.0, 0),  # no candidate
        ("Q", 0.0, 0),
        ("=", 0.0, 0),  # in the prompt, but no candidate
        ("", 0.0, 0),
        ("qq", 0.0, 0),
        ("kq", 0.0, 0),  # two candidates at once
        ("bkqz", 0.0, 0),
        ("q=", 0.0, 0),
        ("ｑ", 0.0, 0),
        ("q\xa0", 0.0, 0),  # not ASCII, though strip() takes it for space
        (" " * 256 + "q", 0.0, 0),  # too long
    ],
)
def test_scores_and_what_counts_as_a_try(answer: str, score: float, admissible: int) -> None:
    assert BUCKET.score(ITEM, answer) == score
    assert BUCKET.admissible(ITEM, answer) is bool(admissible)
    assert BUCKET.feedback(ITEM, answer, "binary") == ("+" if score else "-") + "bkqz="
    assert BUCKET.feedback(ITEM, answer) == "?bkqz="


def test_corruption_is_any_other_candidate() -> None:
    wrong = Counter(BUCKET.corrupt(ITEM, random.Random(i)) for i in range(600))
    assert set(wrong) == {"b", "k", "z"}
    assert all(150 <= count <= 250 for count in wrong.values())  # 200 each, give or take four deviations


def test_a_careless_attempt_is_any_candidate() -> None:
    # Nobody can know better, so neither the rate nor the right answer makes a difference.
    for rate in (0.0, 1.0):
        said = Counter(BUCKET.careless(ITEM, random.Random(i), rate) for i in range(600))
        assert set(said) == set("bkqz")
        assert all(107 <= count <= 193 for count in said.values())  # 150 each, give or take four deviations


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ([("b", "-")], "kqz"),
        ([("b", "-"), ("k", "-")], "qz"),
        ([("b", "-"), ("k", "-"), ("b", "-")], "qz"),
        ([("b", "-"), ("k", "-"), ("z", "-")], "q"),  # then there is only one left
        ([("b", "?"), ("k", "?")], "qz"),  # a nudge says nothing of them, but something else is still worth a try
        ([("b", "?"), ("k", "?"), ("q", "?"), ("z", "?")], "bkqz"),  # until nothing is left
        ([("b", "-"), ("q", "+")], "q"),  # what was called right is repeated
        ([("x", "-")], "bkqz"),  # a slip of the pen, which rules nothing out
    ],
)
def test_a_revised_attempt_is_one_not_made_before(history: list[tuple[str, str]], said: str) -> None:
    episode = [(attempt, f"{sign}bkqz=") for attempt, sign in history]
    assert {BUCKET.revise(ITEM, episode, random.Random(i), 0.0) for i in range(100)} == set(said)


def test_nine_turns_with_ten_candidates_fit_into_a_context() -> None:
    item = BUCKET.item(0, 0, 9)
    turn = BUCKET.max_answer_chars(9) + 1  # and the token that ends it
    feedback = len(BUCKET.feedback(item, "", "binary"))
    assert len(item.prompt) + 9 * turn + 8 * feedback == 125 <= 128  # 11 + 9 · 2 + 8 · 12


# --- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "t"), SMALL)
def test_success_of_each_player_by_counting(m: int, t: int) -> None:
    """Candidate 0 is right. Every sequence of attempts that a player may produce is equally likely."""
    players = {
        independent: list(product(range(m), repeat=t)),
        enumeration: list(permutations(range(m), min(t, m))),
        repeating: [(first,) * t for first in range(m)],
    }
    for closed_form, sequences in players.items():
        found = sum(0 in attempts for attempts in sequences) / len(sequences)
        assert closed_form(m, t) == pytest.approx(found, abs=1e-12)


def test_success_by_hand() -> None:
    # UFO's setting, eight candidates and five turns: 1 - 16807/32768, 5/8 and 1/8.
    assert independent(8, 5) == pytest.approx(15961 / 32768)
    assert enumeration(8, 5) == 0.625
    assert repeating(8, 5) == 0.125
    assert enumeration(8, 9) == 1.0


@pytest.mark.parametrize(("m", "t"), [(m, t) for m, t in SMALL if t])
def test_unique_answers_of_the_independent_player(m: int, t: int) -> None:
    # A candidate is right with probability 1/m, so success is the mean number of distinct candidates over m.
    tried = [len(set(attempts)) for attempts in product(range(m), repeat=t)]
    assert sum(tried) / len(tried) / m == pytest.approx(independent(m, t))


@pytest.mark.parametrize("closed_form", [independent, enumeration, repeating])
def test_impossible_games_are_refused(closed_form: Callable[[int, int], float]) -> None:
    with pytest.raises(ValueError, match="there must be a candidate, not 0"):
        closed_form(0, 1)
    with pytest.raises(ValueError, match="turns -1 is negative"):
        closed_form(2, -1)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=3) | st.sampled_from("bkqza="))
def test_what_is_admissible_would_be_right_of_some_item(completion: str) -> None:
    # The same prompt with each of its candidates as the answer.
    twins = [Item("bucket", 0, index, 3, "bkqz=", answer) for index, answer in enumerate("bkqz")]
    assert BUCKET.admissible(ITEM, completion) == any(BUCKET.score(twin, completion) for twin in twins)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 30), st.integers(0, 40))
def test_players_are_ranked(m: int, t: int) -> None:
    repeats, draws, enumerates = repeating(m, t), independent(m, t), enumeration(m, t)
    assert 0 <= repeats <= draws + 1e-12 and draws <= enumerates + 1e-12 and enumerates <= 1
    if t == 1:
        assert repeats == pytest.approx(draws) == pytest.approx(enumerates)  # one turn tells nobody apart
