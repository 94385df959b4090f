"""SDPO: reinforcement learning via self-distillation.

Hübotter et al. 2026, arXiv 2601.20802. A reward says how good a whole attempt was; GRPO gives every token of it the
same credit. But the model itself knows more once it has seen a right answer, or has been told what went wrong. So let
it read that first, look at its own attempt again, and say token by token what it would have written now:

1. Sample a group of attempts at each problem.
2. Re-prompt the same model (a slow average of it) with the problem and what the group has learned about it: a sibling's
   right answer, the feedback on the attempt itself, or both. This is the **teacher**.
3. Move the student's distribution at each of its own tokens towards the teacher's. No advantage, no critic.

Departures from the paper
-------------------------
1. A model of 0.2 M parameters that learns facts, or one of 0.3 M on modular arithmetic. What the paper's models
   understand from a template these have read in their bases' texts: what is called right is repeated, what is corrected
   is mended.
2. The demonstration is the next right sibling in the group, never the attempt itself (the paper's code can do either).
3. The whole distribution is compared: the vocabulary is small. No importance ratio: every batch is used once.
4. The teacher is the base and stays so. The paper's follows the student, by 0.05 an update (``decay`` 0.95). Here such
   a teacher forgets how to read feedback, since nothing but first attempts is trained; an arm shows it.
5. Half-way between the two directions of the divergence, where the paper's loss has KL(p_S ‖ p_T): at this size the
   latter settles on a few codes. The paper's code offers both ends and the middle.

========== ============= ===================================================================
symbol     config        meaning
========== ============= ===================================================================
p_S        –             student: next-token distributions after the problem
p_T        –             teacher: the same tokens after problem, demonstration, feedback
β          beta          1: KL(p_S ‖ p_T); 0: KL(p_T ‖ p_S); between: generalised Jensen–Shannon
decay      decay         of the moving average that the teacher is
========== ============= ===================================================================
"""

from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from minirl.config import TrainConfig
from minirl.evaluation.attempts import evaluate_attempts as evaluate
from minirl.evaluation.learning import log2_tokens_to
from minirl.objectives.policy_gradient import OBJECTIVES
from minirl.policy.logprobs import pad_rows
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Task
from minirl.techniques.base import Credit, Method, OnlinePhase, Phase, Teacher, episodes
from minirl.techniques.baselines import prompt_and_attempt

__all__ = ["SDPO", "another_problem", "evaluate", "learning", "right_siblings"]

TARGET = 0.25  # accuracy whose price in generated tokens is measured


def right_siblings(scores: Tensor, samples: int) -> list[int | None]:
    """For every row the next right attempt at the same problem, cyclically and never the row itself; None if there is
    none. ``scores`` [B] of groups of ``samples`` neighbouring rows."""
    right = (scores == 1).tolist()
    siblings: list[int | None] = []
    for row in range(len(right)):
        first = row - row % samples
        others = (first + (row + step) % samples for step in range(1, samples))
        siblings.append(next((other for other in others if right[other]), None))
    return siblings


def another_problem(rollouts: Rollouts, row: int) -> int:
    """The row that has the place of ``row`` in the next group of the batch, cyclically, with another prompt; ``row``
    itself if there is none."""
    size, prompt = len(rollouts.items), rollouts.items[row].prompt
    others = ((row + step) % size for step in range(rollouts.samples, size, rollouts.samples))
    return next((other for other in others if rollouts.items[other].prompt != prompt), row)


class SDPO(Method):
    """SDPO's hyper-parameters: what the teacher reads of an attempt, and how the student follows it.

    ``demonstration``: a right answer by a sibling. ``feedback``: a failed attempt itself and the feedback on it, of the
    arm's own ``grade`` or that of the shared settings. ``foreign`` takes both from another problem of the batch: the
    control, as informative in form and not at all in content.
    """

    name: ClassVar[str] = "sdpo"
    demonstration: bool = True
    feedback: bool = False
    grade: str | None = None
    foreign: bool = False
    beta: float = Field(default=0.5, ge=0, le=1)
    decay: float = Field(default=1.0, ge=0, le=1)

    def phases(self, train: TrainConfig) -> list[Phase]:
        return [
            OnlinePhase(
                "SDPO",
                train.updates,
                self.credit,
                self.shuffle_scores,
                OBJECTIVES["grpo"],
                self.decay,
                episodes(train, turns=1, samples=train.samples * train.turns),
                partial(self.teacher, grade=self.grade or train.feedback),
            )
        ]

    def credit(self, rollouts: Rollouts) -> Credit:
        """No reward reaches a token but through the teacher."""
        nothing = torch.zeros_like(rollouts.logprobs)
        return Credit(nothing, nothing)

    def teacher(self, policy: Policy, task: Task, rollouts: Rollouts, grade: str) -> Teacher:
        """What the teacher reads of every attempt: the problem; a right answer and praise for it; the attempt and what
        is wrong with it; and then the attempt to be judged. Attempts of which nothing is known have no teacher."""
        scores, size = rollouts.scores[:, 0], len(rollouts.items)
        siblings = right_siblings(scores, rollouts.samples)
        prompts, attempts = zip(*(prompt_and_attempt(rollouts, row) for row in range(size)), strict=True)
        said = [
            task.feedback(item, text, grade) for item, (text,) in zip(rollouts.items, rollouts.answers, strict=True)
        ]

        def attempt_and_remark(source: int, row: int) -> list[int]:
            """The attempt of row ``source`` with the feedback on it, before the problem of ``row`` once more."""
            closing = [policy.stop_id] * (attempts[source][-1] != policy.stop_id)  # of one that was cut off
            remark = said[source].removesuffix(rollouts.items[source].prompt) + rollouts.items[row].prompt
            return [*attempts[source], *closing, *policy.encode_feedback([remark])[0]]

        contexts = []
        for row in range(size):
            context, source = list(prompts[row]), another_problem(rollouts, row) if self.foreign else row
            if self.demonstration and (sibling := siblings[source]) is not None:
                context += attempt_and_remark(sibling, row)
            if self.feedback and scores[source] < 1:
                context += attempt_and_remark(source, row)
            contexts.append(context)
        ids, lengths = pad_rows([c + a for c, a in zip(contexts, attempts, strict=True)], policy.pad_id, policy.device)
        starts = torch.tensor([len(context) for context in contexts], device=policy.device)
        position = torch.arange(ids.shape[1], device=policy.device)
        own = (position >= starts[:, None]) & (position < lengths[:, None])
        known = starts > torch.tensor([len(prompt) for prompt in prompts], device=policy.device)
        return Teacher(ids, own, known, self.beta)


def learning(records: list[dict[str, Any]]) -> dict[str, float]:
    """How many tokens had been generated, in powers of two, when ``TARGET`` was first reached in training."""
    return {"log2_tokens_to_target": log2_tokens_to(records, TARGET)}
