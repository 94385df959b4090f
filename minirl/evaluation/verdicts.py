"""How well a policy judges its own answers, and what that is worth in a vote.

Every attempt is followed by a verdict of the same policy. ``verified@n`` is the vote of n attempts in which an answer
weighs the probability that the policy gives to its being right, ``vote_gain`` what that gains over the majority. The
other metrics are those of :mod:`minirl.evaluation.votes` and :mod:`minirl.evaluation.critiques`.
"""

import torch
from torch import Tensor

from minirl.evaluation.attempts import Evaluation, attempt_all
from minirl.evaluation.critiques import before_critiques, calibration_metrics, told_apart, verdict_metrics
from minirl.evaluation.votes import result, vote_metrics, weighted_vote
from minirl.policy.models import Policy
from minirl.rollouts.critiques import plus_beside_minus
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, Task, get


def verdicts(rollouts: Rollouts) -> list[bool | None]:
    """What the second text of every row says of the first one: right, wrong, or None for what is no critique."""
    return [
        get(item.task).verdict(item, texts[1]) if len(texts) > 1 else None  # type: ignore[attr-defined]
        for item, texts in zip(rollouts.items, rollouts.answers, strict=True)
    ]


def p_accepted(policy: Policy, task: Task, rollouts: Rollouts) -> Tensor:
    """P(True): the probability that the critique behind every attempt has a ``+`` for each of its steps, [B]."""
    contexts = before_critiques(rollouts)
    ((plus,),) = policy.encode_text(["+"])
    found = torch.ones(len(contexts), device=policy.device)
    for _ in task.critique(rollouts.items[0], rollouts.items[0].answer):  # type: ignore[attr-defined]
        found = found * plus_beside_minus(policy, contexts)
        contexts = [[*ids, plus] for ids in contexts]
    return found


def evaluate_verdicts(
    policy: Policy,
    task: Task,
    items: list[Item],
    *,
    seed: int,
    turns: int,
    feedback: str,
    samples: int = 8,
    temperature: float = 1.0,
    batch: int = 256,
) -> tuple[Evaluation, Rollouts]:
    """``samples`` attempts at every item, each with a verdict behind it: what votes make of the attempts
    (:mod:`minirl.evaluation.votes`), how far the verdicts can be trusted (:mod:`minirl.evaluation.critiques`), and
    ``verified@n``, the vote in which an answer weighs what P(right) says, with its gain over the majority."""
    rollouts = attempt_all(
        policy,
        task,
        items,
        seed=seed,
        turns=turns,
        samples=samples,
        temperature=temperature,
        batch=max(1, batch // samples),
        feedback=feedback,
    )
    values = vote_metrics(rollouts)
    right, p = (rollouts.scores[:, 0] == 1).tolist(), p_accepted(policy, task, rollouts).tolist()
    verified = []
    for start in range(0, len(right), samples):
        said = [result(rollouts.items[start], texts[0]) for texts in rollouts.answers[start : start + samples]]
        chosen = weighted_vote(said, p[start : start + samples])
        verified.append(float(right[start + said.index(chosen)]))
    values[f"verified@{samples}"] = verified
    values["vote_gain"] = [a - b for a, b in zip(verified, values[f"majority@{samples}"], strict=True)]
    metrics = {name: sum(of_all) / len(of_all) for name, of_all in values.items()}
    judged = verdicts(rollouts)
    metrics |= {
        **verdict_metrics(judged, right),
        **calibration_metrics(p, right),
        "apart": told_apart(judged, right, samples),
    }
    return Evaluation(metrics, values, rollouts.generated_tokens()), rollouts
