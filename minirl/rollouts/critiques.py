"""Critiques of attempts, and attempts that heed them: episodes of two policies, an actor and a critic.

A critique is ``+``, or ``-`` and the letter of the first wrong step. That is what located feedback says, so a critique
can be handed to an actor in its place.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from string import ascii_lowercase
from typing import Any

import torch
from torch import Tensor

from minirl.policy.logprobs import pad_rows
from minirl.policy.models import Policy, load_policy
from minirl.rollouts.episodes import CONTEXT, Rollouts, roll_out
from minirl.tasks import Item, Task
from minirl.tasks.base import MAX_ANSWER_CHARS

GRADE = "critique"  # the feedback that asks for one
LONGEST = 3  # tokens of a critique: two signs and a stop

Critique = tuple[bool, int | None]  # is it right, and if not, which step is the first wrong one


def read_critique(text: str, steps: int) -> Critique | None:
    """``"+"`` → (True, None), ``"-b"`` → (False, 1); None for what is no critique of an answer of so many steps."""
    said = text.strip() if len(text) <= MAX_ANSWER_CHARS and text.isascii() else ""
    if said == "+":
        return True, None
    letters = ascii_lowercase[:steps]
    if len(said) == 2 and said[0] == "-" and said[1] in letters:
        return False, letters.index(said[1])
    return None


def criticise(
    critic: Policy,
    task: Task,
    items: list[Item],
    attempts: Sequence[str],
    *,
    samples: int = 1,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
) -> Rollouts:
    """``samples`` critiques of one attempt at every item. The attempts are context; their rows' scores mean nothing."""
    return roll_out(
        critic,
        task,
        items,
        samples=samples,
        generator=generator,
        temperature=temperature,
        feedback=GRADE,
        max_new_tokens=LONGEST,
        given=[[attempt] for attempt in attempts],
    )


def questions(
    policy: Policy, task: Task, items: Sequence[Item], attempts: Sequence[str], grade: str = GRADE
) -> list[list[int]]:
    """Token ids of every item's prompt, an attempt at it and the feedback on that: where a critique of it begins."""
    rows = policy.encode_prompts([item.prompt for item in items])
    said = [task.feedback(item, text, grade) for item, text in zip(items, attempts, strict=True)]
    replies = policy.encode_feedback(said)
    for row, text, reply in zip(rows, policy.encode_text(list(attempts)), replies, strict=True):
        row += [*text, policy.stop_id, *reply]
    return rows


@torch.no_grad()
def plus_beside_minus(judge: Policy, contexts: list[list[int]], batch: int = 1024) -> Tensor:
    """Probability that ``+`` comes next, of ``+`` and ``-``, after each of the ``contexts`` (token ids): [B]."""
    plus, minus = (ids[0] for ids in judge.encode_text(["+", "-"]))
    found = []
    for start in range(0, len(contexts), batch):
        ids, lengths = pad_rows(contexts[start : start + batch], judge.pad_id, judge.device)
        logits = judge.logits(ids)[torch.arange(len(ids)), lengths - 1]
        found.append(logits[:, [plus, minus]].softmax(-1)[:, 0])
    return torch.cat(found)


def p_true(judge: Policy, task: Task, items: Sequence[Item], attempts: Sequence[str], batch: int = 1024) -> Tensor:
    """P(True) of an attempt at every item, [B], by :func:`plus_beside_minus`. Nothing is generated. Kadavath et al.
    2022, arXiv 2207.05221."""
    return plus_beside_minus(judge, questions(judge, task, items, attempts), batch)


def critique_and_refine(
    critic: Policy,
    task: Task,
    items: list[Item],
    *,
    actor: Policy,
    samples: int,
    generator: torch.Generator | None,
    temperature: float = 1.0,
    refinements: int = 1,
) -> Rollouts:
    """One attempt of the actor at every item, ``samples`` critiques of it, and ``refinements`` new attempts for each.

    The rows are the critic's: its tokens are own and belong to turn 1, all before them is context. ``answers`` are
    attempt, critique and refinements; ``scores`` [B, 3] are that of the attempt, 1 for the right verdict, and the mean
    over the refinements (0 if there are none). A single refinement is greedy, several are sampled. What is no critique
    leaves the attempt as it is.
    """
    tried = roll_out(actor, task, items, generator=generator, temperature=temperature)
    attempts = [texts[0] for texts in tried.answers]
    rows = criticise(critic, task, items, attempts, samples=samples, generator=generator, temperature=temperature)
    first = [text for text in attempts for _ in range(samples)]
    before = tried.scores[:, 0].repeat_interleave(samples)
    read = [read_critique(said, item.level) for item, (said,) in zip(rows.items, rows.answers, strict=True)]
    agrees = [said is not None and said[0] == (score == 1) for said, score in zip(read, before.tolist(), strict=True)]
    after = before.clone() if refinements else torch.zeros_like(before)
    answers = [[attempt, said] for attempt, (said,) in zip(first, rows.answers, strict=True)]
    told = [row for row, said in enumerate(read) if said is not None] if refinements else []
    if told:
        new = refine(
            actor,
            task,
            [rows.items[row] for row in told],
            [first[row] for row in told],
            [rows.answers[row][0] for row in told],
            samples=refinements,
            generator=generator if refinements > 1 else None,
        )
        after[told] = new.scores[:, 0].unflatten(0, (-1, refinements)).mean(1)
        for i, row in enumerate(told):
            answers[row] += [text for (text,) in new.answers[i * refinements : (i + 1) * refinements]]
    scores = torch.stack([before, torch.tensor(agrees, device=before.device).float(), after], dim=1)
    return replace(rows, turn=torch.where(rows.own, 1, CONTEXT), answers=answers, scores=scores)


load_actor = cache(load_policy)


def critic_episodes(
    policy: Policy, task: Task, items: list[Item], *, actor: str, generator: torch.Generator, **how: Any
) -> Rollouts:
    """:func:`critique_and_refine` for the base called ``actor``, frozen: the rollouts of a critic in training."""
    frozen = load_actor(actor, str(policy.device))
    return critique_and_refine(policy, task, items, actor=frozen, generator=generator, **how)


def refine(
    actor: Policy,
    task: Task,
    items: list[Item],
    attempts: Sequence[str],
    critiques: Sequence[str],
    *,
    samples: int = 1,
    generator: torch.Generator | None = None,
) -> Rollouts:
    """``samples`` new attempts at every item by an actor that has read its attempt and a critique of it, in the place
    of located feedback. Without ``generator`` decoding is greedy. Raises ValueError unless there are as many attempts
    and critiques as items."""
    if not len(items) == len(attempts) == len(critiques):
        raise ValueError(f"{len(items)} items, {len(attempts)} attempts at them and {len(critiques)} critiques")
    told: Any = _Told(task, critiques)
    return roll_out(actor, told, items, samples=samples, generator=generator, given=[[attempt] for attempt in attempts])


class _Told:
    """A task whose feedback is what critics have said, in the order of the attempts, and the problem once more."""

    def __init__(self, task: Task, critiques: Sequence[str]) -> None:
        self.task, self.critiques = task, list(critiques)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def feedback(self, item: Item, completion: str, grade: str) -> str:  # noqa: ARG002
        return f"{self.critiques.pop(0)}{item.prompt}"
