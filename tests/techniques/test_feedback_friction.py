"""Friction: the most that feedback makes possible, which attempts agree with it, and games that refuse repeats."""

import random
from types import SimpleNamespace

import pytest
import torch

from minirl.errors import ConfigError
from minirl.evaluation.attempts import attempt_metrics
from minirl.policy.models import tiny_llama
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, get
from minirl.techniques.self_correction import feedback_friction
from minirl.techniques.self_correction.feedback_friction import (
    TRIES,
    agreeing,
    ceiling,
    evaluate,
    first_new,
    solved_without_repeats,
)

GUESS = get("guess")
ITEM = Item("guess", 0, 0, 1, "#2,abcd=", "bc")  # two places, four letters, 16 codes
OTHER = Item("guess", 0, 1, 1, "#2,abcd=", "dd")


# --- the most that can be reached -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turns", "feedback", "codes"),
    [
        (1, "located", 1),
        # After a wrong ``ab``: -+. -.+ -** -*. -.* -.. but never -+* or -*+, for b is not elsewhere if a is in place.
        # One code for each of the six, and the hit.
        (2, "located", 7),
        (3, "located", 16),
        (5, "binary", 5),  # a code an attempt
        (5, "nudge", 5),  # that the game goes on says as much
        (20, "binary", 16),
    ],
)
def test_ceiling_by_hand(turns, feedback, codes):
    assert ceiling(1, turns, feedback) == codes / 16


def test_nothing_is_found_without_attempts():
    assert ceiling(2, 0, "located") == ceiling(2, 0, "binary") == 0


# --- which attempts agree with what was said ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "agrees"),
    [
        ("bc", []),  # nothing was said before the first attempt
        # To ``ab`` feedback says -.*: no a, and b in the code but not second. That leaves bc and bd.
        ("ab bc", [True]),
        ("ab bd", [True]),  # wrong, and yet nobody could know
        ("ab bd bc", [True, True]),
        ("ab ab", [False]),  # a repeat contradicts the remark on itself
        ("ab cb", [False]),  # b is not second
        ("ab bb", [False]),  # the same
        ("ab ad", [False]),  # a was ruled out
        ("cb bc", [True]),  # -**: both letters, the other way round
        ("cb ab bc", [False, True]),  # one attempt that does not listen, and one that does
        # To ``cd`` feedback says -*.: c second, no d. Alone it leaves ac and bc, but a was ruled out before.
        ("ab cd ac", [False, False]),
        ("cd ac", [True]),
        # What is no code gets - alone, which rules nothing out.
        ("xyz bc", [True]),
        ("xyz xyz", [False]),  # and agrees with nothing
        ("ab zz", [False]),
    ],
)
def test_agreeing_with_located_feedback(said, agrees):
    assert agreeing(GUESS, ITEM, said.split(), "located") == agrees


def test_answers_are_what_the_scorer_reads():
    assert agreeing(GUESS, ITEM, [" ab\n", "bd ", " ab"], "located") == [True, False]


@pytest.mark.parametrize(
    ("feedback", "agrees"),
    [
        ("binary", [True, True, False]),  # ab is out, then cd: only a repeat contradicts
        ("nudge", [True, True, True]),  # nothing was said
    ],
)
def test_less_feedback_is_easier_to_agree_with(feedback, agrees):
    assert agreeing(GUESS, ITEM, ["ab", "cd", "aa", "cd"], feedback) == agrees


def test_whoever_heeds_every_remark_agrees_with_all_of_them():
    for item in GUESS.items(3, range(30), 2):
        history, rng = list[tuple[str, str]](), random.Random(item.index)
        while len(history) < 5:
            attempt = GUESS.revise(item, history, rng, 1.0) if history else GUESS.careless(item, rng, 1.0)
            history.append((attempt, GUESS.feedback(item, attempt, "located")))
        assert agreeing(GUESS, item, [attempt for attempt, _ in history], "located") == [True] * 4


# --- refusing repeats -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidates", "made", "taken"),
    [
        ("ab cd", "", "ab"),
        ("ab cd", "ab", "cd"),
        ("ab ab cd ca", "ab", "cd"),  # the first new one, not the best
        ("ab cd ab", "ab cd", "ab"),  # none is new: the last draw stands
        ("xyz ab", "ab", "xyz"),  # what is no code is new, too
    ],
)
def test_the_first_new_one(candidates, made, taken):
    assert first_new(GUESS, candidates.split(), made.split()) == taken


def test_space_makes_no_new_answer_and_the_text_stays_as_it_was():
    assert first_new(GUESS, ["ab ", " cd"], ["ab"]) == " cd"


@pytest.fixture
def scripted(monkeypatch):
    """Makes roll_out draw from a script: for every answer to find, the draws at each turn. Returns the calls it got."""
    calls: list[SimpleNamespace] = []

    def use(script: dict[str, list[str]]) -> list[SimpleNamespace]:
        def roll_out(policy, task, items, *, samples, generator, temperature, feedback, given):
            seed = None if generator is None else generator.initial_seed()
            context = [list(one) for one in given]
            calls.append(SimpleNamespace(seed=seed, temperature=temperature, feedback=feedback, given=context))
            draws = [script[item.answer][len(made)].split(",") for item, made in zip(items, given, strict=True)]
            assert all(len(texts) == samples == TRIES for texts in draws)
            return SimpleNamespace(answers=[[text] for texts in draws for text in texts])

        monkeypatch.setattr(feedback_friction, "roll_out", roll_out)
        return calls

    return use


def refused(items: list[Item], turns: int, batch: int = 8, temperature: float = 1.0) -> list[bool]:
    return solved_without_repeats(
        tiny_llama(16, 1, 2),
        GUESS,
        items,
        seed=7,
        turns=turns,
        temperature=temperature,
        batch=batch,
        feedback="located",
    )


def test_a_repeat_is_drawn_again(scripted):
    # bc: first ab; then ab, ab, which are refused, and bc. dd: first cc, then cc four times, of which the last stands.
    calls = scripted({"bc": ["ab,aa,aa,aa", "ab,ab,bc,ca"], "dd": ["cc,dd,dd,dd", "cc,cc,cc,cc"]})
    assert refused([ITEM, OTHER], turns=2) == [True, False]
    assert [call.given for call in calls] == [[[], []], [["ab"], ["cc"]]]


def test_a_right_draw_behind_a_new_one_does_not_count(scripted):
    # The draws are not a choice of four: dd was drawn for the first attempt, but not first.
    scripted({"dd": ["cc,dd,dd,dd", "ab,dd,dd,dd"]})
    assert refused([OTHER], turns=2) == [False]


def test_what_was_solved_stays_solved(scripted):
    scripted({"bc": ["bc,bc,bc,bc", "ab,ab,ab,ab", "bc,ca,ca,ca"]})
    assert refused([ITEM], turns=1) == refused([ITEM], turns=2) == refused([ITEM], turns=3) == [True]


def test_the_policy_reads_its_own_text(scripted):
    calls = scripted({"bc": [" ab,ab,ab,ab", "ab,bc,bc,bc"]})
    assert refused([ITEM], turns=2) == [True]
    assert calls[1].given == [[" ab"]]  # as it was written; that ab is the same answer is known all the same
    assert calls[0].feedback == calls[1].feedback == "located"


def test_every_turn_has_noise_of_its_own_and_batches_share_it(scripted):
    calls = scripted({"bc": ["ab,ab,ab,ab", "ac,ac,ac,ac"], "dd": ["cc,cc,cc,cc", "ca,ca,ca,ca"]})
    refused([ITEM, OTHER], turns=2, batch=1)
    assert [call.seed for call in calls] == [7, 7, 8, 8]  # one generator a turn, which goes on from batch to batch
    assert [call.given for call in calls] == [[[]], [[]], [["ab"]], [["cc"]]]


def test_temperature_is_handed_on_and_zero_is_greedy(scripted):
    calls = scripted({"bc": ["ab,ab,ab,ab"]})
    refused([ITEM], turns=1, temperature=0.5)
    refused([ITEM], turns=1, temperature=0.0)
    assert [(call.seed, call.temperature) for call in calls] == [(7, 0.5), (None, 1.0)]


def test_the_attempts_at_an_item_do_not_depend_on_the_batch(monkeypatch):
    taken: list[str] = []

    def spy(task, candidates, made):
        taken.append(first_new(task, candidates, made))
        return taken[-1]

    monkeypatch.setattr(feedback_friction, "first_new", spy)
    items = GUESS.items(0, range(5), 1)
    for batch in (5, 2):
        policy = tiny_llama(16, 1, 2)
        settings = {"seed": 1, "turns": 3, "temperature": 1.0, "batch": batch, "feedback": "located"}
        solved_without_repeats(policy, GUESS, items, **settings)
    assert len(taken) == 2 * 3 * 5
    assert taken[:15] == taken[15:]
    assert len(set(taken)) > 10  # or this would say nothing


# --- evaluate -------------------------------------------------------------------------------------------------------


def episodes(*said: str) -> Rollouts:
    """An episode of at most three attempts a text, all at ITEM; an attempt is one token, after one token of context."""
    answers = [row.split() for row in said]
    return Rollouts(
        ids=torch.zeros(len(said), 6, dtype=torch.long),
        turn=torch.tensor([[t // 2 if t % 2 and t < 2 * len(row) else -1 for t in range(6)] for row in answers]),
        logprobs=torch.zeros(len(said), 6),
        scores=torch.tensor([[float(row[t : t + 1] == ["bc"]) for t in range(3)] for row in answers]),
        group=torch.arange(len(said)),
        answers=answers,
        items=[ITEM] * len(said),
        longest=6,
    )


def test_metrics_by_hand(monkeypatch):
    rollouts = episodes("ab bc", "ab ab ab", "bc", "cb ab bc")
    seen: list[dict] = []

    def attempts(policy, task, items, **settings):
        seen.append(settings)
        return attempt_metrics(rollouts), rollouts

    def without_repeats(policy, task, items, **settings):
        seen.append(settings)
        return [True, True, True, True]

    monkeypatch.setattr(feedback_friction, "evaluate_attempts", attempts)
    monkeypatch.setattr(feedback_friction, "solved_without_repeats", without_repeats)
    settings = {"seed": 3, "turns": 3, "temperature": 0.7, "batch": 2, "feedback": "located"}
    evaluation, read = evaluate(tiny_llama(16, 1, 2), GUESS, [ITEM] * 4, **settings)
    assert read is rollouts
    assert seen == [settings, settings]
    # Within three attempts the best player finds all codes, this one three of four.
    assert evaluation.metrics["solved@3"] == 0.75
    assert evaluation.metrics["friction"] == 0.25
    assert evaluation.items["friction"] == [0, 1, 0, 0]
    assert evaluation.metrics["without_repeats"] == 1
    assert evaluation.items["without_repeats"] == [1, 1, 1, 1]
    # yes · no, no · – · no, yes: an attempt counts once, however many its game has
    assert evaluation.metrics["consistent"] == 2 / 5
    assert "consistent" not in evaluation.items


def test_friction_may_be_negative_by_luck(monkeypatch):
    # Found with the first attempt: the best player does so for one code in 16.
    rollouts = episodes("bc")
    rollouts.scores = rollouts.scores[:, :1]
    monkeypatch.setattr(feedback_friction, "evaluate_attempts", lambda *_, **__: (attempt_metrics(rollouts), rollouts))
    monkeypatch.setattr(feedback_friction, "solved_without_repeats", lambda *_, **__: [True])
    evaluation, _ = evaluate(tiny_llama(16, 1, 2), GUESS, [ITEM], seed=0, turns=1)
    assert evaluation.metrics["friction"] == 1 / 16 - 1
    assert evaluation.metrics["consistent"] == 0  # no later attempt


def test_a_model_that_has_read_nothing():
    # Random weights name no codes: nothing is found, nothing agrees, and friction is all that could be had.
    items = GUESS.items(1, range(6), 1)
    evaluation, rollouts = evaluate(tiny_llama(16, 1, 2), GUESS, items, seed=0, turns=3, batch=4)
    expected = {"solved@3": 0, "friction": 1, "without_repeats": 0, "consistent": 0}
    assert {name: evaluation.metrics[name] for name in expected} == expected
    assert [len(answers) for answers in rollouts.answers] == [3] * 6
    for name, values in evaluation.items.items():
        assert evaluation.metrics[name] == pytest.approx(sum(values) / 6, abs=1e-12)


def test_another_task_has_no_best_player_here():
    bucket = get("bucket")
    with pytest.raises(ConfigError, match="best player of 'guess', and the task is 'bucket'"):
        evaluate(tiny_llama(16, 1, 2), bucket, bucket.items(0, range(2), 3), seed=0, turns=2, feedback="binary")
