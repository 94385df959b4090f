"""Imitation: texts of a teacher and of a policy, and how well they can be told apart.

============= ==========================================================================================
metric        meaning
============= ==========================================================================================
accuracy@1    share of right answers among four that were drawn
greedy        share of problems whose greedy answer is right
loglikelihood log π(y|x) of the right answer y, in nats; the mean over problems
============= ==========================================================================================
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from minirl.evaluation.attempts import Evaluation, attempt_all
from minirl.objectives.preference import sequence_logprobs
from minirl.policy.logprobs import pad_rows, token_logprobs
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, Task

Text = tuple[list[int], list[int]]  # token ids of a prompt and of an answer
SAMPLES = 4


def demonstrations(policy: Policy, items: Sequence[Item]) -> list[Text]:
    """The right answer to every item, as the policy would have written it: in its tokens, with the one that stops."""
    prompts = policy.encode_prompts([item.prompt for item in items])
    answers = policy.encode_text([item.answer for item in items])
    return [(prompt, [*answer, policy.stop_id]) for prompt, answer in zip(prompts, answers, strict=True)]


def written(rollouts: Rollouts) -> list[Text]:
    """Every row of single-turn rollouts: the prompt, and the tokens the policy wrote."""
    rows = zip(rollouts.ids, rollouts.own, strict=True)
    return [(ids[: int(own.int().argmax())].tolist(), ids[own].tolist()) for ids, own in rows]


def padded(texts: Sequence[Text], policy: Policy) -> tuple[Tensor, Tensor]:
    """Texts as token ids [N, L], right-padded, and own [N, L] bool: the tokens of answers."""
    ids, _ = pad_rows([prompt + answer for prompt, answer in texts], policy.pad_id, policy.device)
    own, _ = pad_rows([[0] * len(prompt) + [1] * len(answer) for prompt, answer in texts], 0, policy.device)
    return ids, own.bool()


@torch.no_grad()
def loglikelihoods(policy: Policy, texts: Sequence[Text], batch: int = 256) -> Tensor:
    """log π(y|x) of every text's answer, [N], at temperature 1."""
    ids, own = padded(texts, policy)
    parts = zip(ids.split(batch), own[:, 1:].split(batch), strict=True)
    return torch.cat([sequence_logprobs(token_logprobs(policy.logits(i[:, :-1]), i[:, 1:]), o) for i, o in parts])


def told_apart(margins: Tensor, tie: float = 1e-4) -> float:
    """Of pairs of data and sample with these margins [P], the share in which the data got the higher reward; a tie, as
    between equal texts, is half a success. 1: always. ½: the samples cannot be told from the data."""
    return ((margins > tie).float() + (margins.abs() <= tie).float() / 2).mean().item()


def evaluate_imitation(
    policy: Policy, task: Task, items: list[Item], *, seed: int, temperature: float = 1.0, batch: int = 256
) -> tuple[Evaluation, Rollouts]:
    """The metrics of the table above. The rollouts are the sampled ones, those at one item side by side."""
    rows = max(1, batch // SAMPLES)
    drawn = attempt_all(policy, task, items, seed=seed, samples=SAMPLES, temperature=temperature, batch=rows)
    greedy = attempt_all(policy, task, items, seed=seed, temperature=0.0, batch=batch)
    values = {
        "accuracy@1": (drawn.scores[:, 0] == 1).float().view(-1, SAMPLES).mean(1).tolist(),
        "greedy": (greedy.scores[:, 0] == 1).float().tolist(),
        "loglikelihood": loglikelihoods(policy, demonstrations(policy, items), batch).tolist(),
    }
    metrics = {name: sum(of_all) / len(of_all) for name, of_all in values.items()}
    return Evaluation(metrics, values, drawn.generated_tokens()), drawn
