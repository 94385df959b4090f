"""How far critiques can be trusted.

============== =======================================================================================
metric         meaning
============== =======================================================================================
accepts_right  of the right attempts, the share that is called right (sensitivity)
rejects_wrong  of the wrong attempts, the share that is called wrong (specificity)
balanced       the mean of both: 0.5 for whoever says the same of everything
apart          over problems with attempts of both kinds, the mean of (right ones accepted − wrong ones accepted):
               0 for whoever judges the problem and not the attempt
located        of the wrong attempts that are called wrong, the share whose first wrong step is named
auroc          the chance that a right attempt gets a higher P(right) than a wrong one: ranking, not level
within         the same among attempts at one problem, mean over problems with both kinds: 0.5 for whoever judges the
               problem and not the attempt
brier          mean of (P(right) − right)²: 0.25 for whoever always says one half
calibration    mean |P(right) − share that is right| over ten bins of P(right), by their size (ECE)
============== =======================================================================================

What is no critique at all neither accepts nor rejects. Where there is no attempt of a kind, its shares are 0.

:func:`evaluate_critic` adds what a critic does for an actor: ``refined``, the accuracy of the actor's next attempt,
greedy, after the critique; ``fixed`` and ``broken``, the shares of attempts that it turns from wrong to right and back;
``filtered@n``, a majority vote among those of n attempts that the critic accepts, beside ``majority@n``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from minirl.evaluation.attempts import Evaluation
from minirl.evaluation.votes import majority, result, vote_metrics
from minirl.policy.logprobs import pad_rows
from minirl.policy.models import Policy, load_policy
from minirl.rollouts.critiques import Critique, critique_and_refine, plus_beside_minus, read_critique
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item, Task

BINS = 10


def verdict_metrics(verdicts: Sequence[bool | None], right: Sequence[bool]) -> dict[str, float]:
    """``accepts_right``, ``rejects_wrong`` and ``balanced`` of verdicts (None for what is none) on attempts."""
    of_right = [said for said, good in zip(verdicts, right, strict=True) if good]
    of_wrong = [said for said, good in zip(verdicts, right, strict=True) if not good]
    accepts = of_right.count(True) / max(1, len(of_right))
    rejects = of_wrong.count(False) / max(1, len(of_wrong))
    return {"accepts_right": accepts, "rejects_wrong": rejects, "balanced": (accepts + rejects) / 2}


def told_apart(verdicts: Sequence[bool | None], right: Sequence[bool], samples: int) -> float:
    """``apart``: of groups of ``samples`` attempts at one problem. 0 if no problem has attempts of both kinds."""
    gaps = []
    for start in range(0, len(right), samples):
        accepted: dict[bool, list[bool]] = {True: [], False: []}
        for said, good in zip(verdicts[start : start + samples], right[start : start + samples], strict=True):
            accepted[good].append(said is True)
        if all(accepted.values()):
            of_right, of_wrong = (sum(some) / len(some) for some in accepted.values())
            gaps.append(of_right - of_wrong)
    return sum(gaps) / max(1, len(gaps))


def before_critiques(rollouts: Rollouts) -> list[list[int]]:
    """Token ids of every row up to where its critique, turn 1, begins."""
    starts = (rollouts.turn == 1).int().argmax(1)
    return [ids[:start] for ids, start in zip(rollouts.ids.tolist(), starts.tolist(), strict=True)]


def p_right(policy: Policy, rollouts: Rollouts, batch: int = 1024) -> Tensor:
    """P(True) where the policy has written a critique in turn 1: what it gave to ``+`` beside ``-`` there, [B]."""
    return plus_beside_minus(policy, before_critiques(rollouts), batch)


@torch.no_grad()
def states_at_end(policy: Policy, contexts: list[list[int]], batch: int = 512) -> Tensor:
    """Last hidden states [B, C] at the end of ``contexts`` (token ids): what the next token is predicted from."""
    states = []
    for start in range(0, len(contexts), batch):
        ids, lengths = pad_rows(contexts[start : start + batch], policy.pad_id, policy.device)
        out = policy.model(input_ids=ids, output_hidden_states=True, use_cache=False, logits_to_keep=1)
        states.append(out.hidden_states[-1][torch.arange(len(ids), device=policy.device), lengths - 1].float())
    return torch.cat(states)


def auroc(scores: Sequence[float], right: Sequence[bool]) -> float:
    """The chance that a right one has a higher score than a wrong one; equal scores count half. ½ if either kind is
    missing. By ranks (Mann and Whitney 1947)."""
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    ranks, start = [0.0] * len(scores), 0
    while start < len(order):
        stop = start
        while stop < len(order) and scores[order[stop]] == scores[order[start]]:
            stop += 1
        for i in order[start:stop]:
            ranks[i] = (start + 1 + stop) / 2  # ties share the mean of their ranks
        start = stop
    positive = sum(right)
    pairs = positive * (len(right) - positive)
    above = sum(rank for rank, good in zip(ranks, right, strict=True) if good) - positive * (positive + 1) / 2
    return above / pairs if pairs else 0.5


def auroc_within(scores: Sequence[float], right: Sequence[bool], samples: int) -> float:
    """``within``: the AUROC among the ``samples`` attempts at one problem, mean over the problems with attempts of both
    kinds. ½ for whoever judges the problem and not the attempt, and if there is no such problem."""
    found = []
    for start in range(0, len(right), samples):
        some = right[start : start + samples]
        if any(some) and not all(some):
            found.append(auroc(scores[start : start + samples], some))
    return sum(found) / len(found) if found else 0.5


def agreement(results: Sequence[str], samples: int) -> list[float]:
    """For each of the results, ``samples`` a problem, the share of the *others* there that are the same; 0 for none."""
    shares = []
    for start in range(0, len(results), samples):
        some = list(results[start : start + samples])
        shares += [(some.count(name) - 1) / max(1, samples - 1) if name else 0.0 for name in some]
    return shares


def reliability(p: Sequence[float], right: Sequence[bool]) -> list[tuple[float, float, int]]:
    """``(mean P, share that is right, how many)`` of every bin of P that is not empty, the lowest first."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for value, good in zip(p, right, strict=True):
        bins[min(int(value * BINS), BINS - 1)].append((value, good))
    return [
        (sum(value for value, _ in some) / len(some), sum(good for _, good in some) / len(some), len(some))
        for some in bins
        if some
    ]


def calibration_metrics(p: Sequence[float], right: Sequence[bool]) -> dict[str, float]:
    """``auroc``, ``brier`` and ``calibration`` of probabilities that attempts are right."""
    return {
        "auroc": auroc(p, right),
        "brier": sum((value - good) ** 2 for value, good in zip(p, right, strict=True)) / len(right),
        "calibration": sum(abs(mean - share) * n for mean, share, n in reliability(p, right)) / len(right),
    }


def located(critiques: Sequence[Critique | None], truth: Sequence[Critique | None]) -> float:
    """``located``: of the objections to wrong attempts, the share that names the step that the true critique names."""
    steps = [
        said[1] == true[1]
        for said, true in zip(critiques, truth, strict=True)
        if said is not None and true is not None and not said[0] and not true[0]
    ]
    return sum(steps) / max(1, len(steps))


def filtered_majority(results: Sequence[str], accepted: Sequence[bool]) -> str:
    """The majority among the results that were accepted; among all, if none was."""
    return majority([name for name, fine in zip(results, accepted, strict=True) if fine] or results)


def evaluate_critic(
    policy: Policy,
    task: Task,
    items: list[Item],
    *,
    seed: int,
    actor: str | None = None,
    samples: int = 8,
    temperature: float = 1.0,
    batch: int = 256,
) -> tuple[Evaluation, Rollouts]:
    """``samples`` attempts at every item by the ``actor`` (a base; if not given, the policy itself), a critique by the
    policy of each, and a greedy refinement: all metrics of this module and those of :mod:`minirl.evaluation.votes` for
    the attempts. ``batch`` rows at a time, on which the noise depends."""
    acting = load_policy(actor, str(policy.device)) if actor else policy
    generator = torch.Generator().manual_seed(seed) if temperature > 0 else None
    rows = [item for item in items for _ in range(samples)]
    how: dict[str, Any] = {"actor": acting, "samples": 1, "generator": generator, "temperature": temperature or 1.0}
    parts = [
        critique_and_refine(policy, task, rows[start : start + batch], **how) for start in range(0, len(rows), batch)
    ]
    rollouts = Rollouts.join(parts)
    rollouts.group = torch.arange(len(items), device=rollouts.group.device).repeat_interleave(samples)
    values = vote_metrics(rollouts)
    before, after = ((rollouts.scores[:, turn] == 1).tolist() for turn in (0, 2))
    read = [read_critique(said[1], item.level) for item, said in zip(rows, rollouts.answers, strict=True)]
    filtered = []
    for start in range(0, len(rows), samples):
        some = range(start, start + samples)
        results = [result(rows[row], rollouts.answers[row][0]) for row in some]
        accepted = [critique is not None and critique[0] for critique in read[start : start + samples]]
        filtered.append(float(before[start + results.index(filtered_majority(results, accepted))]))
    turned = {
        "refined": after,
        "fixed": [b and not a for a, b in zip(before, after, strict=True)],
        "broken": [a and not b for a, b in zip(before, after, strict=True)],
    }
    for name, flags in turned.items():
        values[name] = [sum(flags[start : start + samples]) / samples for start in range(0, len(rows), samples)]
    values["delta"] = [b - a for a, b in zip(values["accuracy@1"], values["refined"], strict=True)]
    values[f"filtered@{samples}"] = filtered
    values["filter_gain"] = [a - b for a, b in zip(filtered, values[f"majority@{samples}"], strict=True)]
    metrics = {name: sum(of_all) / len(of_all) for name, of_all in values.items()}
    said = zip(rows, rollouts.answers, strict=True)
    truth = [read_critique(task.critique(item, texts[0]), item.level) for item, texts in said]  # type: ignore[attr-defined]
    verdicts = [said and said[0] for said in read]
    metrics |= {**verdict_metrics(verdicts, before), "apart": told_apart(verdicts, before, samples)}
    metrics |= calibration_metrics(p_right(policy, rollouts).tolist(), before)
    metrics["located"] = located(read, truth)
    return Evaluation(metrics, values, rollouts.generated_tokens()), rollouts
