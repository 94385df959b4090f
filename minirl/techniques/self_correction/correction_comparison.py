"""Self-correction compared: what helps, at the same price.

After Huang et al. 2023, arXiv 2310.01798, who found that large models struggle to correct their reasoning without
outside help, and that with as many answers a plain majority vote does better than a debate. Six ways to train on the
same problems, from the same base, with as many attempts; every trained policy is then used in several ways, and every
way has its price in tokens:

================ ======== =================================================== ==========================
metric           answers  the policy is asked                                 somebody else
================ ======== =================================================== ==========================
accuracy@1       1        once                                                –
accuracy@2       2        to look again, whatever it said; the last counts    –
greedy@t         t        one or two, each token the likeliest one            –
majority@k       k        k times anew; the most frequent answer counts       –
solved@2         ≤ 2      again after a wrong answer                          knows that it is wrong
pass@2           2        twice anew                                          knows which one is right
================ ======== =================================================== ==========================

The first four can be had in use. The last two are what a verifier would make of the same policy: ``solved@2`` −
``pass@2``, called ``worth``, is what a second look is worth beyond a second sample; ``look_over_vote`` is
``accuracy@2`` − ``majority@8`` of the same policy. Of two different answers the first counts, so that ``majority@2``
is ``majority@1`` at twice the price (but for empty answers): a vote begins with three.

Departures from the paper
-------------------------
1. A model of 0.1 M parameters on additions, and trained for it; the paper prompts GPT models as they are.
2. The techniques are those of this family's pages, with the settings of those pages where they suit the task. They
   differ in what they are told in training: a score, or also which digits are wrong. In use no policy is told anything.
"""

from typing import Any

from minirl.evaluation.attempts import Evaluation, attempt_all, attempt_metrics
from minirl.evaluation.correction import evaluate_correction
from minirl.evaluation.votes import majority
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, Task

__all__ = ["VOTES", "evaluate", "majority"]

VOTES = (1, 2, 3, 4, 6, 8)  # the figure begins with one answer


def evaluate(
    policy: Policy, task: Task, items: list[Item], *, seed: int, turns: int, feedback: str, **how: Any
) -> tuple[Evaluation, Rollouts]:
    """All metrics of the table above, with the tokens that each costs: ``tokens@1`` for one answer, ``tokens@2`` for an
    answer and a second look. The rollouts, to read, are those with a second look."""
    looking, rollouts = evaluate_correction(policy, task, items, seed=seed, turns=turns, feedback=feedback, **how)
    cold = {**how, "temperature": 0.0}
    greedy, _ = evaluate_correction(policy, task, items, seed=seed, turns=turns, feedback=feedback, **cold)
    anew = attempt_all(policy, task, items, seed=seed, samples=max(VOTES), **how)
    sampled = attempt_metrics(anew, independent=True)
    values = {name: looking.items[name] for name in ("accuracy@1", "accuracy@2", "delta", "copy_rate")}
    values |= {f"greedy@{t}": greedy.items[f"accuracy@{t}"] for t in (1, 2)}
    # Somebody who knows which answer is right keeps that one.
    told = [max(both) for both in zip(values["accuracy@1"], values["accuracy@2"], strict=True)]
    values |= {"solved@2": told, "pass@2": sampled.items["solved@2"]}
    values["worth"] = [a - b for a, b in zip(values["solved@2"], values["pass@2"], strict=True)]
    for k in VOTES:
        said = [anew.answers[row : row + k] for row in range(0, len(anew.answers), max(VOTES))]
        chosen = [majority([task.read(text) for (text,) in texts]) for texts in said]
        values[f"majority@{k}"] = [task.score(item, answer) for item, answer in zip(items, chosen, strict=True)]
    eight = values[f"majority@{max(VOTES)}"]
    values["look_over_vote"] = [a - b for a, b in zip(values["accuracy@2"], eight, strict=True)]
    metrics = {name: sum(per_item) / len(per_item) for name, per_item in values.items()}
    metrics["tokens@1"] = anew.generated_tokens() / len(anew.items)
    metrics["tokens@2"] = rollouts.generated_tokens() / len(items)
    return Evaluation(metrics, values, rollouts.generated_tokens()), rollouts
