"""Stand-ins that several test files use: a policy, a task and attempts that cost nothing to make."""

import torch

from minirl.policy.logprobs import pad_rows
from minirl.policy.models import Policy, tiny_llama
from minirl.rollouts.episodes import CONTEXT, Rollouts
from minirl.tasks import Item, Task
from minirl.tasks.add import Addition


class Lenient(Addition):
    """An untrained policy gets some of these right: what begins with a lower-case letter."""

    def check(self, item, answer):
        return answer[:1].islower()


def sharp_policy(seed: int = 0) -> Policy:
    """A small untrained policy whose logits differ widely, so that what it samples depends on what it has read."""
    policy = tiny_llama(16, 2, 4, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter += 0.4 * torch.randn(parameter.shape, generator=generator)
    return policy


def scripted(
    turns: list[list[int]], scores: list[list[float]], answers: list[list[str]], items: list[Item]
) -> Rollouts:
    """Rows of one group that nobody sampled, with what is known of each; ids are all alike."""
    turn = pad_rows(turns, CONTEXT)[0]
    return Rollouts(
        ids=torch.zeros_like(turn),
        turn=turn,
        logprobs=torch.zeros(turn.shape),
        scores=torch.tensor(scores),
        group=torch.zeros(len(items), dtype=torch.long),
        answers=answers,
        items=items,
        longest=len(scores[0]),
    )


def encode(policy: Policy, text: str) -> list[int]:
    """Token ids; ``$`` stands for the stop token."""
    return policy.tokenizer.convert_tokens_to_ids(["<eos>" if c == "$" else c for c in text])


def written(
    policy: Policy, problems: list[Item], answers: list[str], samples: int, scores=None, *, task: Task | None = None
) -> Rollouts:
    """Single-turn episodes in groups of ``samples`` at additions of one digit each, as :func:`roll_out` would return
    them; ``$`` ends an answer that was not cut off. ``scores`` are those of the ``task`` (ADD) unless given."""
    items = [problems[row // samples] for row in range(len(answers))]
    texts = [answer.removesuffix("$") for answer in answers]
    task = task or Addition()
    scores = scores or [task.score(item, text) for item, text in zip(items, texts, strict=True)]
    ids = [encode(policy, item.prompt + answer) for item, answer in zip(items, answers, strict=True)]
    return Rollouts(
        ids=pad_rows(ids, policy.pad_id)[0],
        turn=pad_rows([[CONTEXT] * 4 + [0] * len(answer) for answer in answers], CONTEXT)[0],
        logprobs=torch.zeros(1),
        scores=torch.tensor(scores)[:, None],
        group=torch.arange(len(answers)) // samples,
        answers=[[text] for text in texts],
        items=items,
        longest=8,
    )
