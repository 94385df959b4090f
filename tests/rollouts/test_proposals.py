"""Proposals: what they are worth, which are admitted, and a round of proposing and solving."""

from dataclasses import replace

import pytest
import torch
from stand_ins import Lenient, sharp_policy, written

from minirl.rollouts.proposals import (
    SHAPES,
    admitted,
    expected,
    failed_attempts,
    leaks,
    peak,
    propose_and_solve,
    solve_rates,
)
from minirl.tasks import Item


class AnyText(Lenient):
    """What begins with a lower-case letter is right, and everything but digits and nothing is an answer."""

    def admissible(self, item, completion):
        return bool(self.read(completion)) and not completion.isdigit()


POLICY, TASK = sharp_policy(), AnyText()


def problem(prompt: str, answer: str = "a") -> Item:
    return Item("add", 0, 0, 1, prompt, answer)


# --- what a proposal is worth ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "at_none", "at_one", "at_half", "at_all"),
    [
        # Of 8 answers 0, 1, 4 and 8 are right: p̂ = 0, 1/8, 1/2, 1.
        ("ssr", -0.8, 1 - 1.8 / 8, 0.1, -0.8),
        ("no_floor", 1, 1 - 1.8 / 8, 0.1, -0.8),  # the line itself ends at −0.8: only its other end has a rule
        ("variance", 0, 1 / 8, 1 / 2, 0),
        ("learnable", 0, 7 / 8, 1 / 2, 0),
        ("dr_zero", 0, 1, 4 / 7, 0),  # a single right one is the best there is
        ("pasodoble", 0, 0, 0.6, 0.1),  # 1/8 is too little to believe in
        ("ssp", 1, 7 / 8, 1 / 2, 0),
        ("valid", 1, 1, 1, 1),
    ],
)
def test_shapes_by_hand(name, at_none, at_one, at_half, at_all):
    assert [SHAPES[name](k, 8) for k in (0, 1, 4, 8)] == pytest.approx([at_none, at_one, at_half, at_all])


def test_every_shape_has_its_test():
    assert set(SHAPES) == {"ssr", "no_floor", "variance", "learnable", "dr_zero", "pasodoble", "ssp", "valid"}


def test_expectation_by_hand():
    # n = 2, p = ½: none, one and both of two are right with probability ¼, ½, ¼.
    assert expected(SHAPES["ssr"], 0.5, 2) == pytest.approx(0.25 * -0.8 + 0.5 * 0.1 + 0.25 * -0.8)
    assert expected(SHAPES["variance"], 0.5, 2) == pytest.approx(0.5 * 0.5)
    assert expected(SHAPES["ssp"], 0.3, 7) == pytest.approx(0.7)  # linear in p̂, so what p̂ is on average decides
    assert expected(SHAPES["ssr"], 0.0, 8) == expected(SHAPES["ssr"], 1.0, 8) == pytest.approx(-0.8)


@pytest.mark.parametrize(
    ("name", "peaks"),
    [
        ("ssr", (0.37, 0.26, 0.17)),
        ("learnable", (0.37, 0.26, 0.17)),
        ("dr_zero", (0.37, 0.26, 0.17)),
        ("variance", (0.5, 0.5, 0.5)),
        ("pasodoble", (0.39, 0.41, 0.40)),
        ("ssp", (0, 0, 0)),
        ("no_floor", (0, 0, 0)),
    ],
)
def test_the_peak_is_a_dial_and_so_is_the_number_of_answers(name, peaks):
    found = [peak(SHAPES[name], n, steps=100) for n in (4, 8, 16)]
    assert found == pytest.approx(list(peaks), abs=0.011)


def test_the_peak_of_the_floored_line_by_calculus():
    # 1 − p̂ with 0 at p̂ = 0 has the mean 1 − p − (1 − p)^n; its slope −1 + n (1 − p)^(n − 1) is 0 at 1 − n^(−1/(n−1)).
    for n in (4, 8, 16):
        assert peak(SHAPES["learnable"], n) == pytest.approx(1 - n ** (-1 / (n - 1)), abs=6e-4)


# --- which are admitted ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "solution", "leak"),
    [("Mabc:12>21=", "abd", False), ("Mabc:12>21=", "ab", True), ("M:abc=", "abc", True), ("Mabc=", "", False)],
)
def test_leaks(prompt, solution, leak):
    assert leaks(prompt, solution) is leak


def test_neither_repeated_nor_leaking_problems_are_admitted():
    one, two, leaking = problem("1="), problem("2="), problem("3a=")
    assert admitted([two, one, two, leaking, replace(one, index=5)]) == [two, one]
    assert admitted([]) == []


def test_failed_attempts_come_from_many_problems():
    # Two problems, four answers each. "b" is right; a digit and nothing are no answers.
    texts = ["A$", "b$", "B$", "7$", "C$", "$", "D$", "E$"]
    one, two = problem("1+1="), problem("1+2=")
    found = failed_attempts(TASK, written(POLICY, [one, two], texts, 4, task=TASK))
    # The first answers of both, then the second (right, and nothing), the third, the fourth.
    assert found == [(one, "A"), (two, "C"), (one, "B"), (two, "D"), (two, "E")]


def test_solve_rates_add_up_over_groups():
    one, two = problem("1+1="), problem("1+2=")
    rollouts = written(POLICY, [one, two, one], ["b$", "1$", "c$", "d$", "2$", "e$"], 2, task=TASK)
    assert solve_rates(rollouts) == {"1+1=": (2, 4), "1+2=": (2, 2)}


# --- a round ---------------------------------------------------------------------------------------------------------


def play(pose, items=("1+1=", "1+2="), samples=4, higher_order=False, seed=0):
    return propose_and_solve(
        POLICY,
        TASK,
        [problem(prompt) for prompt in items],
        ask=lambda item: replace(item, prompt=f"B{item.prompt}"),
        pose=pose,
        samples=samples,
        higher_order=higher_order,
        generator=torch.Generator().manual_seed(seed),
    )


def numbered(prefix: str, allowed=lambda text: True):
    """A pose function that makes a different problem of every call, of those proposals that are ``allowed``."""
    count = iter(range(1000))
    return lambda item, text: problem(f"{prefix}{next(count)}=", "~") if allowed(text) else None


def test_a_round_has_proposals_first_and_as_many_problems():
    rollouts = play(numbered("M"))
    prompts = [item.prompt for item in rollouts.items]
    assert prompts[:8] == ["B1+1="] * 4 + ["B1+2="] * 4
    assert prompts[8:] == [f"M{i}=" for i in range(8) for _ in range(4)]
    assert rollouts.samples == 4 and rollouts.group.tolist() == [row // 4 for row in range(40)]


def test_the_executor_sees_the_proposals():
    seen = []
    rollouts = play(lambda item, text: seen.append((item.prompt, text)))  # nothing is valid
    assert seen == [
        (f"B{p}", TASK.read(t[0])) for p, t in zip(["1+1="] * 4 + ["1+2="] * 4, rollouts.answers, strict=True)
    ]
    assert len(rollouts.items) == 8  # only the proposals


def test_free_places_are_taken_by_the_same_problems_again():
    rollouts = play(lambda item, text: problem(f"M{item.prompt}", "~"))  # two different problems, eight places
    prompts = [item.prompt for item in rollouts.items[8::4]]
    assert prompts == ["MB1+1=", "MB1+2="] * 4


def test_or_by_failed_answers():
    pose, made = numbered("M"), []

    def two_then_more(item, text):
        made.append(text)
        return problem(f"M{item.prompt}", "~") if item.prompt.startswith("B") else pose(item, text)

    rollouts = play(two_then_more, higher_order=True)
    prompts = [item.prompt for item in rollouts.items[8::4]]
    wrong = [
        TASK.read(texts[0])
        for item, texts in zip(rollouts.items[8:16], rollouts.answers[8:16], strict=True)
        if TASK.score(item, texts[0]) < 1 and TASK.admissible(item, texts[0])
    ]
    assert wrong and sorted(made[8:]) == sorted(wrong)  # of the first answers, only those that are wrong
    assert prompts[:2] == ["MB1+1=", "MB1+2="]
    assert prompts[2 : 2 + len(wrong)] == [f"M{i}=" for i in range(len(wrong))][: len(prompts) - 2]
    assert len(prompts) == 8


def test_a_round_costs_the_same_with_and_without_higher_order():
    shared = lambda item, text: problem(f"M{item.prompt[:4]}{text[:1]}=", "~")  # noqa: E731
    assert len(play(shared).items) == len(play(shared, higher_order=True).items) == 40


def test_rounds_depend_on_the_generator_alone():
    first, again, other = play(numbered("M")), play(numbered("M")), play(numbered("M"), seed=1)
    assert first.answers == again.answers != other.answers
