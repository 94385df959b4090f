"""Episodes: what the policy wrote in context, which tokens were its own, and how each attempt scored."""

from dataclasses import dataclass

import torch
from torch import Tensor

from minirl.policy.logprobs import pad_rows
from minirl.policy.models import Policy
from minirl.policy.sampler import complete, make_decoder
from minirl.tasks.base import MAX_ANSWER_CHARS, Item, Task

CONTEXT = -1  # value of Rollouts.turn where a token is prompt, feedback or padding


@dataclass
class Rollouts:
    """A batch of episodes with up to ``turns`` attempts each, right-padded to a common length L.

    ========== ========== =========================================================================
    field      shape      meaning
    ========== ========== =========================================================================
    ids        [B, L]     prompt, attempt 1, feedback, attempt 2, …
    turn       [B, L]     which attempt a token belongs to (0, 1, …), or ``CONTEXT``
    logprobs   [B, L]     log-prob under which an own token was sampled; 0 elsewhere
    scores     [B, turns] score of each attempt, in [0, 1]
    group      [B]        index of the prompt; attempts at the same prompt are neighbours
    longest    int        the most own tokens a row could have had: turns × limit
    answers    B × turns  text of each attempt
    items      B          the problem each row works on
    ========== ========== =========================================================================
    """

    ids: Tensor
    turn: Tensor
    logprobs: Tensor
    scores: Tensor
    group: Tensor
    answers: list[list[str]]
    items: list[Item]
    longest: int

    @property
    def own(self) -> Tensor:
        """[B, L] bool: tokens the policy wrote, the only ones that are ever trained on."""
        return self.turn >= 0

    @property
    def shared(self) -> int:
        """Leading tokens that every attempt at a prompt has in common and that predict no own token."""
        first = self.own.int().argmax(1)  # position of the first own token; every row has one
        return max(int(first.min()) - 1, 0)

    def generated_tokens(self) -> int:
        """Number of tokens the policy wrote, the unit in which budgets are compared."""
        return int(self.own.sum())

    def records(self) -> list[dict]:
        """One dictionary per row, for ``datasets`` and for the rollout viewer."""
        return [
            {
                "prompt": item.prompt,
                "reference": item.answer,
                "attempts": answers,
                "scores": scores,
                "group": group,
            }
            for item, answers, scores, group in zip(
                self.items, self.answers, self.scores.tolist(), self.group.tolist(), strict=True
            )
        ]


@torch.no_grad()
def roll_out(
    policy: Policy,
    task: Task,
    items: list[Item],
    *,
    turns: int = 1,
    samples: int = 1,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    feedback: str = "nudge",
    max_new_tokens: int | None = None,
) -> Rollouts:
    """Let the policy attempt every item ``samples`` times, over ``turns`` turns with feedback in between.

    Without ``generator`` decoding is greedy. ``feedback`` is the grade of ``task.feedback``. The prompt is prefilled
    once per item; token ids are kept from turn to turn and never decoded and encoded again. An attempt ends with the
    stop token or after ``max_new_tokens`` (if not given: as many as the item can need); one that was cut off is closed
    by a stop token that is not its own.
    """
    device = policy.device
    batch = len(items) * samples
    limits = torch.tensor([max_new_tokens or 1 + task.max_answer_chars(item.level) for item in items], device=device)
    limits = limits.repeat_interleave(samples)
    # All noise of the episodes at once, in item order, and for every item as much as the longest answer of any task
    # needs: which numbers an item gets does not depend on the levels of its neighbours.
    noise = None
    if generator is not None:
        noise = torch.rand(batch, turns, max_new_tokens or MAX_ANSWER_CHARS + 1, generator=generator).to(device)

    contexts = policy.encode_prompts([item.prompt for item in items])
    decoder = make_decoder(policy.model, len(items))
    logits = decoder.append(*pad_rows(contexts, policy.pad_id, device))
    if samples > 1:
        decoder.expand(samples)
        logits = logits.repeat_interleave(samples, dim=0)
    row_items = [item for item in items for _ in range(samples)]
    ids = [list(context) for context in contexts for _ in range(samples)]
    turn_of = [[CONTEXT] * len(row) for row in ids]
    logprobs = [[0.0] * len(row) for row in ids]
    answers: list[list[str]] = [[] for _ in range(batch)]
    scores = torch.zeros(batch, turns)

    for turn in range(turns):
        attempt = complete(
            decoder,
            logits,
            None if noise is None else noise[:, turn],
            limits=limits,
            stop_id=policy.stop_id,
            pad_id=policy.pad_id,
            temperature=temperature,
        )
        lengths = attempt.lengths.tolist()
        written = [tokens[:length] for tokens, length in zip(attempt.ids.tolist(), lengths, strict=True)]
        texts = policy.decode(written)
        for b, (item, text, logprob) in enumerate(zip(row_items, texts, attempt.logprobs.tolist(), strict=True)):
            ids[b] += written[b]
            turn_of[b] += [turn] * lengths[b]
            logprobs[b] += logprob[: lengths[b]]
            answers[b].append(text)
            scores[b, turn] = task.score(item, text)
        if turn + 1 < turns:
            replies = policy.encode_feedback(
                [task.feedback(item, text, feedback) for item, text in zip(row_items, texts, strict=True)]
            )
            stop = policy.stop_id
            replies = [
                reply if tokens[-1] == stop else [stop, *reply] for tokens, reply in zip(written, replies, strict=True)
            ]
            # The last token of an attempt is not in the cache yet; it goes in with the reply.
            chunks = [[tokens[-1], *reply] for tokens, reply in zip(written, replies, strict=True)]
            logits = decoder.append(*pad_rows(chunks, policy.pad_id, device))
            for b, reply in enumerate(replies):
                ids[b] += reply
                turn_of[b] += [CONTEXT] * len(reply)
                logprobs[b] += [0.0] * len(reply)

    padded, _ = pad_rows(ids, policy.pad_id, device)
    width = padded.shape[1]
    return Rollouts(
        ids=padded,
        turn=torch.tensor([row + [CONTEXT] * (width - len(row)) for row in turn_of], device=device),
        logprobs=torch.tensor([row + [0.0] * (width - len(row)) for row in logprobs], device=device),
        scores=scores.to(device),
        group=torch.arange(len(items), device=device).repeat_interleave(samples),
        answers=answers,
        items=row_items,
        longest=turns * int(limits.max()),
    )
