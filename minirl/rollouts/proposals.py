"""Proposer and solver: one policy sets problems and solves them, and an executor says what is valid and what is right.

A round of self-play over P items (:func:`propose_and_solve`)::

    item ──ask──> proposer's prompt ──policy, G times──> proposals ──valid, new──> problems ──policy, G times──> answers

What a proposal is worth follows from k, the number of right answers among n, which is all that is known of the true
solve rate p. Papers differ in the shape of that reward:

=============== ============================== ============ ===================================================
name            reward at k of n, p̂ = k / n    at 0 and 1   used by
=============== ============================== ============ ===================================================
``ssr``         1 − 1.8 p̂                      −0.8, −0.8   SSR, arXiv 2512.18552 (α = 0.8)
``no_floor``    1 − 1.8 p̂                      1, −0.8      the same without its rule for what nobody solves
``variance``    min(p̂, 1 − p̂)                  0, 0         Agent0, arXiv 2511.16043
``learnable``   1 − p̂                          0, 0         Absolute Zero, arXiv 2505.03335; MAE, arXiv 2510.23595
``dr_zero``     (n − k) / (n − 1)              0, 0         Dr. Zero, arXiv 2601.07055
``pasodoble``   (1.1 − p̂) · 1[p̂ > 0.2]         0, 0.1       PasoDoble, arXiv 2511.11881
``ssp``         1 − p̂                          1, 0         SSP, arXiv 2510.18821
``valid``       1                              1, 1         nobody: the solver is not asked
=============== ============================== ============ ===================================================

:func:`expected` is the mean of such a reward over the binomial distribution of k. Its peak (:func:`peak`) is the solve
rate that a proposer is sent to, and it depends on n.
"""

import math
from collections.abc import Callable, Sequence

import torch

from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts, roll_out
from minirl.tasks.base import Item, Task

Shape = Callable[[int, int], float]  # (right answers, answers) → reward

ALPHA = 0.8  # of SSR

SHAPES: dict[str, Shape] = {
    "ssr": lambda k, n: -ALPHA if k in (0, n) else 1 - (1 + ALPHA) * k / n,
    "no_floor": lambda k, n: 1 - (1 + ALPHA) * k / n,
    "variance": lambda k, n: min(k / n, 1 - k / n),
    "learnable": lambda k, n: 1 - k / n if k else 0.0,
    "dr_zero": lambda k, n: (n - k) / (n - 1) if k else 0.0,
    "pasodoble": lambda k, n: 1.1 - k / n if k / n > 0.2 else 0.0,
    "ssp": lambda k, n: 1 - k / n,
    "valid": lambda k, n: 1.0,  # noqa: ARG005
}


def expected(shape: Shape, p: float, n: int) -> float:
    """E[reward] of a problem with the true solve rate ``p``, of which ``n`` answers are seen: k ~ Binomial(n, p)."""
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) * shape(k, n) for k in range(n + 1))


def peak(shape: Shape, n: int, steps: int = 1000) -> float:
    """The solve rate at which :func:`expected` is highest, on a grid; of equal ones the lowest."""
    return max((i / steps for i in range(steps + 1)), key=lambda p: round(expected(shape, p, n), 12))


def leaks(prompt: str, solution: str) -> bool:
    """Whether a problem gives its solution away: it stands in the prompt."""
    return bool(solution) and solution in prompt


def admitted(posed: Sequence[Item]) -> list[Item]:
    """Problems without those that were posed before or that leak (:func:`leaks`), in their order."""
    seen: set[str] = set()
    return [i for i in posed if not (leaks(i.prompt, i.answer) or i.prompt in seen or seen.add(i.prompt))]  # type: ignore[func-returns-value]


def failed_attempts(task: Task, solved: Rollouts) -> list[tuple[Item, str]]:
    """Answers that are wrong and yet what an answer looks like, with their problems; of each problem the first, then of
    each the second, and so on: whoever takes some from the front takes from many problems."""
    found: list[tuple[int, int, Item, str]] = []
    size = solved.samples
    for row, (item, texts) in enumerate(zip(solved.items, solved.answers, strict=True)):
        if solved.scores[row, 0] < 1 and task.admissible(item, texts[0]):
            found.append((row % size, row // size, item, task.read(texts[0])))
    return [(item, text) for _, _, item, text in sorted(found, key=lambda one: one[:2])]


@torch.no_grad()
def propose_and_solve(
    policy: Policy,
    task: Task,
    items: list[Item],
    *,
    ask: Callable[[Item], Item],
    pose: Callable[[Item, str], Item | None],
    samples: int,
    higher_order: bool = False,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
) -> Rollouts:
    """A round: ``samples`` proposals to each item, and ``samples`` answers to each problem; in this order, in groups.

    ``ask(item)`` is the proposer's problem, ``pose(item, text)`` the solver's for a proposal, or None if it is not
    valid. There are at most as many problems as there were proposals. Invalid, repeated or leaking proposals leave
    places free: with ``higher_order`` these are taken by failed answers of this round as new problems, otherwise (or if
    there are not enough of them) by the problems of the round once more. So every round costs equally many answers,
    unless nothing at all was valid.
    """
    settings = {"samples": samples, "generator": generator, "temperature": temperature}
    asked = [ask(item) for item in items]
    proposed = roll_out(policy, task, asked, **settings)  # type: ignore[arg-type]
    posed = [pose(item, task.read(texts[0])) for item, texts in zip(proposed.items, proposed.answers, strict=True)]
    problems, places = admitted([problem for problem in posed if problem]), len(proposed.items)
    if not problems:
        return proposed
    rounds = [proposed, roll_out(policy, task, problems, **settings)]  # type: ignore[arg-type]
    more: list[Item] = []
    if higher_order:
        again = [pose(item, text) for item, text in failed_attempts(task, rounds[1])]
        more = admitted([*problems, *(problem for problem in again if problem)])[len(problems) : places]
    free = places - len(problems) - len(more)
    more += [problems[i % len(problems)] for i in range(free)]
    if more:
        rounds.append(roll_out(policy, task, more, **settings))  # type: ignore[arg-type]
    return Rollouts.join(rounds)


def solve_rates(rollouts: Rollouts) -> dict[str, tuple[int, int]]:
    """Of every prompt, how many of its answers are right, and how many there are."""
    counts: dict[str, tuple[int, int]] = {}
    for item, score in zip(rollouts.items, rollouts.scores[:, 0].tolist(), strict=True):
        right, made = counts.get(item.prompt, (0, 0))
        counts[item.prompt] = (right + int(score == 1), made + 1)
    return counts
