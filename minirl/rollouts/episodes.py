"""Episodes: what the policy wrote in context, which tokens were its own, and how each attempt scored."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minirl import ranks
from minirl.policy.logprobs import pack, pad_rows
from minirl.policy.models import Policy
from minirl.policy.sampler import complete, make_decoder
from minirl.tasks.base import MAX_ANSWER_CHARS, Item, Task

CONTEXT = -1  # value of Rollouts.turn where a token is prompt, feedback or padding


@dataclass
class Rollouts:
    """A batch of episodes with up to ``turns`` attempts each, right-padded to a common length L.

    An episode may have ended before its last turn: then it has no tokens of the later attempts, their scores are 0,
    and ``answers`` has fewer entries (:attr:`alive`).

    ========== ========== =========================================================================
    field      shape      meaning
    ========== ========== =========================================================================
    ids        [B, L]     prompt, attempt 1, feedback, attempt 2, …
    turn       [B, L]     which attempt a token belongs to (0, 1, …), or ``CONTEXT``
    logprobs   [B, L]     log-prob under which an own token was sampled; 0 elsewhere
    scores     [B, turns] score of each attempt, in [0, 1]
    group      [B]        index of the prompt; attempts at the same prompt are neighbours
    longest    int        the most own tokens a row could have had: turns × limit
    answers    B × turns  text of each attempt that was made
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
    def alive(self) -> Tensor:
        """[B, turns] bool: the attempt was made. Each has at least one token, if only the one that ends it."""
        return torch.stack([(self.turn == t).any(1) for t in range(self.scores.shape[1])], dim=1)

    @property
    def samples(self) -> int:
        """Rows per prompt, if all prompts have equally many, else 1."""
        counts = self.group.unique_consecutive(return_counts=True)[1]
        return int(counts[0]) if (counts == counts[0]).all() else 1

    @property
    def shared(self) -> int:
        """Leading tokens that are equal in all rows of a group, wherever in the batch, and predict no own token."""
        grouped = self.ids.unflatten(0, (-1, self.samples))  # [P, G, L]
        equal = (grouped == grouped[:, :1]).all(0).all(0) & ~self.own.any(0)  # [L]
        return max(int(equal.int().cumprod(0).sum()) - 1, 0)

    def to(self, device: torch.device | str) -> "Rollouts":
        """The same episodes with their tensors on ``device``."""
        tensors: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                tensors[name] = value.to(device)
        return replace(self, **tensors)

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

    def keep(self, mask: Tensor, turn: Tensor | None = None) -> "Rollouts":
        """The same episodes without the tokens outside ``mask`` [B, L]: other sequences to learn from.

        ``turn`` [B, L] replaces the statement of which tokens are own. Log-probs stay those of sampling, after the
        whole context.
        """
        turn = self.turn if turn is None else turn
        # What padding holds does not matter: nothing sees it.
        ids, turn, logprobs = pack(mask, (self.ids, 0), (turn, CONTEXT), (self.logprobs, 0.0))
        return replace(self, ids=ids, turn=turn, logprobs=logprobs)

    @staticmethod
    def join(parts: Sequence["Rollouts"]) -> "Rollouts":
        """Batches with the same number of turns as one, in their order."""
        width = max(part.ids.shape[1] for part in parts)
        prompts = [0]
        for part in parts:
            prompts.append(prompts[-1] + int(part.group.max()) + 1)

        def padded(name: str, value: float) -> Tensor:
            return torch.cat([F.pad(getattr(p, name), (0, width - p.ids.shape[1]), value=value) for p in parts])

        return Rollouts(
            ids=padded("ids", 0),
            turn=padded("turn", CONTEXT),
            logprobs=padded("logprobs", 0.0),
            scores=torch.cat([part.scores for part in parts]),
            group=torch.cat([part.group + first for part, first in zip(parts, prompts, strict=False)]),
            answers=[answers for part in parts for answers in part.answers],
            items=[item for part in parts for item in part.items],
            longest=max(part.longest for part in parts),
        )


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
    until_solved: bool = False,
    max_new_tokens: int | None = None,
    given: Sequence[Sequence[str]] | None = None,
) -> Rollouts:
    """Let the policy attempt every item ``samples`` times, over ``turns`` turns with feedback in between.

    Without ``generator`` decoding is greedy. ``feedback`` is the grade of ``task.feedback``; with ``until_solved`` an
    episode ends with the first attempt that scores 1. The prompt is prefilled once per item; token ids are kept from
    turn to turn and never decoded and encoded again. An attempt ends with the stop token or after ``max_new_tokens``
    (if not given: as many as the item can need); one that was cut off is closed by a stop token that is not its own.

    ``given`` [items] are attempts put into the policy's mouth: they and the feedback on them stand in the context
    before its first own one.

    Several ranks (:mod:`minirl.ranks`) have to ask for the same: each makes the episodes of its own share of
    the items, and gets all of them.
    """
    device = policy.device
    item_limits = [max_new_tokens or 1 + task.max_answer_chars(item.level) for item in items]
    # All noise of the episodes at once, in item order, and for every item as much as the longest answer of any task
    # needs: which numbers an item gets does not depend on the levels of its neighbours, nor on the number of ranks.
    noise = None
    if generator is not None:
        width = max([max_new_tokens or MAX_ANSWER_CHARS + 1, *item_limits])
        noise = torch.rand(len(items), samples, turns, width, generator=generator)
    several = 1 < ranks.here().count <= len(items)
    if several:
        mine = ranks.own_run(len(items))
        items, item_limits = items[mine], item_limits[mine]
        noise = None if noise is None else noise[mine]
        given = None if given is None else given[mine]
    noise = None if noise is None else noise.flatten(0, 1).to(device)
    row_items = [item for item in items for _ in range(samples)]
    batch = len(row_items)
    limits = torch.tensor(item_limits, device=device).repeat_interleave(samples)

    contexts = policy.encode_prompts([item.prompt for item in items])
    for context, item, said in zip(contexts, items, given or [], strict=given is not None):
        for text in said:
            context += [*policy.encode_text([text])[0], policy.stop_id]
            context += policy.encode_feedback([task.feedback(item, text, feedback)])[0]
    prompts, lengths = pad_rows(contexts, policy.pad_id, device)
    decoder = make_decoder(policy.model, len(items))
    logits = decoder.append(prompts, lengths)
    if samples > 1:
        decoder.expand(samples)
        logits = logits.repeat_interleave(samples, dim=0)
    # The episode in pieces side by side, each padded to its longest row: (ids [B, W], real tokens of it [B], turn).
    pieces = [(prompts.repeat_interleave(samples, dim=0), lengths.repeat_interleave(samples), CONTEXT)]
    sampled = [torch.zeros(pieces[0][0].shape, device=device)]  # log-probs of the pieces
    answers: list[list[str]] = [[] for _ in range(batch)]
    scores = torch.zeros(batch, turns)
    alive = torch.ones(batch, dtype=torch.bool)

    for turn in range(turns):
        attempt = complete(
            decoder,
            logits,
            None if noise is None else noise[:, turn],
            limits=limits * alive.to(device),
            stop_id=policy.stop_id,
            pad_id=policy.pad_id,
            temperature=temperature,
        )
        pieces.append((attempt.ids, attempt.lengths, turn))
        sampled.append(attempt.logprobs)
        live = alive.nonzero().flatten().tolist()
        written = [
            row[:length] for row, length in zip(attempt.ids.tolist(), attempt.lengths.tolist(), strict=True) if length
        ]
        texts = policy.decode(written)
        for b, text in zip(live, texts, strict=True):
            answers[b].append(text)
            scores[b, turn] = task.score(row_items[b], text)
        if until_solved:
            alive &= scores[:, turn] < 1
        if turn + 1 == turns or not alive.any():
            break
        going_on = [i for i, b in enumerate(live) if alive[b]]
        encoded = policy.encode_feedback([task.feedback(row_items[live[i]], texts[i], feedback) for i in going_on])
        replies: list[list[int]] = [[] for _ in range(batch)]
        last = torch.zeros(batch, 1, dtype=torch.long)
        for i, reply in zip(going_on, encoded, strict=True):
            cut_off = written[i][-1] != policy.stop_id
            replies[live[i]] = [policy.stop_id, *reply] if cut_off else reply
            last[live[i]] = written[i][-1]
        # The last token of an attempt is not in the cache yet; it goes in with the reply.
        reply_ids, counts = pad_rows(replies, policy.pad_id, device)
        logits = decoder.append(torch.cat([last.to(device), reply_ids], dim=1), counts + alive.to(device))
        pieces.append((reply_ids, counts, CONTEXT))
        sampled.append(torch.zeros(reply_ids.shape, device=device))

    real = [torch.arange(ids.shape[1], device=device) < count[:, None] for ids, count, _ in pieces]
    ids, turn_of, logprobs = pack(
        torch.cat(real, dim=1),
        (torch.cat([ids for ids, _, _ in pieces], dim=1), policy.pad_id),
        (torch.cat([torch.full_like(ids, turn) for ids, _, turn in pieces], dim=1), CONTEXT),
        (torch.cat(sampled, dim=1), 0.0),
    )
    rollouts = Rollouts(
        ids=ids,
        turn=turn_of,
        logprobs=logprobs,
        scores=scores.to(device),
        group=torch.arange(len(items), device=device).repeat_interleave(samples),
        answers=answers,
        items=row_items,
        longest=turns * int(limits.max()),
    )
    if not several:
        return rollouts
    return Rollouts.join([part.to(device) for part in ranks.gather(rollouts.to("cpu"))])
