"""Privileged context: rollouts that saw something of the reference, and what is left of them without it.

What is shown stands before the problem and ends with the task's ``MARK`` (:mod:`minirl.tasks.gaps`). Ids are those of
the from-scratch bases, one token a character.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from minirl.policy.logprobs import pad_rows
from minirl.policy.models import Policy
from minirl.rollouts.episodes import CONTEXT, Rollouts
from minirl.tasks import Item, Task
from minirl.tasks.gaps import MARK

Key = tuple[int, int, int]


def key(item: Item) -> Key:
    """What a problem is, whatever is shown before it: :meth:`minirl.tasks.Task.item` makes it of these."""
    return item.seed, item.index, item.level


def shown(item: Item) -> str:
    """What stands before the problem; "" if nothing does."""
    return item.prompt.rpartition(MARK)[0]


def pick(rollouts: Rollouts, rows: Sequence[int]) -> Rollouts:
    """Some of the rows, in the order of ``rows``; neighbours of the same group stay a group."""
    index = torch.tensor(rows, dtype=torch.long, device=rollouts.ids.device)
    group = rollouts.group[index].unique_consecutive(return_inverse=True)[1]
    return replace(
        rollouts,
        **{name: getattr(rollouts, name)[index] for name in ("ids", "turn", "logprobs", "scores")},
        group=group,
        answers=[rollouts.answers[row] for row in rows],
        items=[rollouts.items[row] for row in rows],
    )


def unsolved(rollouts: Rollouts) -> list[Item]:
    """The problems of groups in which no row scores 1, in their order."""
    best: dict[int, float] = {}
    first: dict[int, Item] = {}
    for group, item, score in zip(rollouts.group.tolist(), rollouts.items, rollouts.scores[:, 0].tolist(), strict=True):
        best[group] = max(best.get(group, 0.0), score)
        first.setdefault(group, item)
    return [first[group] for group, score in best.items() if score < 1]


def climb(
    policy: Policy,
    task: Task,
    items: list[Item],
    roll_out: Callable[..., Rollouts],
    ladder: Sequence[Callable[[Item], Item]],
    generator: torch.Generator,
) -> Rollouts:
    """Attempts at all items; where a whole group fails, as many again with what the first rung of ``ladder`` shows,
    then the second, until one succeeds or the ladder ends. All attempts are returned, because all were paid for: first
    those without a hint, then rung by rung."""
    parts = [roll_out(policy, task, items, generator=generator)]
    plain = {key(item): item for item in items}
    for rung in ladder:
        left = [plain[key(item)] for item in unsolved(parts[-1])]
        if not left:
            break
        parts.append(roll_out(policy, task, [rung(item) for item in left], generator=generator))
    return Rollouts.join(parts)


def last_tries(rollouts: Rollouts) -> Rollouts:
    """Of every problem the group that came last: on the highest rung that was climbed for it."""
    last = {key(item): group for item, group in zip(rollouts.items, rollouts.group.tolist(), strict=True)}
    kept = set(last.values())
    return pick(rollouts, [row for row, group in enumerate(rollouts.group.tolist()) if group in kept])


def unseen(rollouts: Rollouts) -> Rollouts:
    """The same answers as if nothing had been shown: without what stands before the problem. Log-probs stay those of
    sampling, after all of the context."""
    skipped = [len(shown(item)) + len(MARK) if shown(item) else 0 for item in rollouts.items]
    position = torch.arange(rollouts.ids.shape[1], device=rollouts.ids.device)
    kept = rollouts.keep(position >= torch.tensor(skipped, device=position.device)[:, None])
    plain = [replace(item, prompt=item.prompt.rpartition(MARK)[2]) for item in rollouts.items]
    return replace(kept, items=plain)


def as_written(policy: Policy, items: Sequence[Item], texts: Sequence[str], stops: bool = True) -> Rollouts:
    """``texts`` as answers to ``items``, one group each, as if the policy had written them: what it is to imitate. With
    ``stops`` they end with the stop token; a text that is only the beginning of an answer does not."""
    prompts, answers = policy.encode_prompts([item.prompt for item in items]), policy.encode_text(list(texts))
    ends = [policy.stop_id] if stops else []
    rows = [prompt + answer + ends for prompt, answer in zip(prompts, answers, strict=True)]
    ids, lengths = pad_rows(rows, policy.pad_id, policy.device)
    start = torch.tensor([len(prompt) for prompt in prompts], device=policy.device)[:, None]
    position: Tensor = torch.arange(ids.shape[1], device=policy.device)
    own = (position >= start) & (position < lengths[:, None])
    return Rollouts(
        ids=ids,
        turn=torch.where(own, 0, CONTEXT),
        logprobs=torch.zeros(ids.shape, device=policy.device),
        scores=torch.zeros(len(items), 1, device=policy.device),
        group=torch.arange(len(items), device=policy.device),
        answers=[[text] for text in texts],
        items=list(items),
        longest=max(int(lengths.max()), 1),
    )
