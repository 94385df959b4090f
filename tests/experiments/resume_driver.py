"""What test_resume.py runs in processes of its own, and the moments at which it kills them."""

import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minirl.experiments import run as run_module
from minirl.experiments import rundir
from minirl.experiments.run import Run, load_experiment, open_run
from minirl.loops import Learner
from minirl.objectives.preference import cream
from minirl.policy.models import Policy
from minirl.rollouts.episodes import roll_out
from minirl.tasks import Task, get
from minirl.techniques.base import Pairs, PreferencePhase
from minirl.techniques.baselines import PairSFT

ARMS = ("score", "pair_sft")  # one that acts while it learns, one that does not
TASK = type(get(load_experiment("score", "smoke").task.name))
TRAIN = {"updates": 6, "prompts": 4, "samples": 4, "temperature": 1.5, "learning_rate": 1e-3, "checkpoint_every": 2}


def overrides(**changes: Any) -> dict[str, Any]:
    others = {arm: None for arm in load_experiment("score", "smoke").arms if arm not in ARMS}
    arms = {"score": {"method": "score", "stage_1": 0.5}, "pair_sft": {"method": "pair_sft"}}
    settings = {"train": dict(TRAIN), "evaluation": {"items": 32, "batch": 32}, "arms": others | arms}
    return settings | changes


def check_parity(self: Task, item: Any, answer: str) -> bool:
    """Half of all answers are right, whatever the base can do: there is something to learn from at every problem."""
    return sum(map(ord, answer)) % 2 == 0


def prefer(log: Path) -> Any:
    """``phases`` of an arm that learns from pairs, twice: from what it writes at the beginning and after two updates.

    ``log`` gets a line with the number of updates done whenever pairs are collected."""

    def collect(learner: Learner) -> Pairs:
        with open(log, "a") as file:
            file.write(f"{learner.updates_done}\n")
        problems, noise = learner.problems(learner.updates_done, 8), learner.generator(learner.updates_done, "pairs")
        rollouts = roll_out(learner.policy, learner.task, problems, samples=2, generator=noise, temperature=1.5)
        confidence = torch.arange(8) / 8
        return Pairs(rollouts.ids, rollouts.own, confidence, rollouts.generated_tokens(), {"mean": 7 / 16})

    def phases(self: PairSFT, train: Any) -> list[PreferencePhase]:
        loss = partial(cream, beta=0.5)
        return [PreferencePhase("one", 2, collect, loss), PreferencePhase("two", train.updates - 2, collect, loss)]

    return phases


def collected(out: Path) -> list[int]:
    """After how many updates pairs were collected, by all processes together."""
    return [int(line) for line in (out / "collected.txt").read_text().splitlines()]


def drive(
    out: Path,
    arms: tuple[str, ...] = ARMS,
    moment: str = "",
    reached: Any = None,
    pairs: bool = False,
    **changes: Any,
) -> None:
    """A whole run. At ``moment`` it says so through ``reached`` and waits to be killed. With ``pairs`` the arm pair_sft
    learns from preferences."""
    TASK.check = check_parity  # type: ignore[method-assign]
    if pairs:
        PairSFT.phases = prefer(out / "collected.txt")  # type: ignore[method-assign]

    def stop_here() -> None:
        reached.send(moment)
        time.sleep(600)

    def watch(arm: str, record: dict) -> None:
        if moment == f"{arm}, update {record['update']}":
            stop_here()

    def before(module: Any, name: str, where: str) -> None:
        """Stop before the call of ``module.name`` whose arguments contain a path ending in ``where``."""
        original = getattr(module, name)

        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            if any(str(argument).endswith(where) for argument in arguments):
                stop_here()
            return original(*arguments, **keywords)

        setattr(module, name, wrapped)

    if moment == "half of a checkpoint":
        before(rundir, "write_json", "score/checkpoints/update-000004.json")
    elif moment == "checkpoint not yet named":
        before(os, "replace", "score/checkpoints/update-000004.safetensors")
    elif moment == "policy not yet named":
        save = Policy.save
        Policy.save = lambda *a: (save(*a), stop_here())  # type: ignore[method-assign, assign]
    elif moment == "evaluation":
        before(run_module, "write_checked", "pair_sft/evaluation.json")
    elif moment == "results":
        before(os, "replace", "results.json")

    run = open_run("score", tier="smoke", seed=0, out=out, overrides=overrides(**changes))
    complete(run, arms, watch)


def complete(run: Run, arms: tuple[str, ...] = ARMS, watch: Any = lambda arm, record: None) -> dict:
    run.evaluate("base")
    for arm in arms:
        run.train(arm, watch)
    for arm in arms:
        run.evaluate(arm)
    results = run.finish() if set(arms) == set(run.arms) else {}
    run.close()
    return results


def outcome(out: Path, arms: tuple[str, ...] = ARMS) -> dict[str, Any]:
    """Everything that may not depend on whether, when and how often the run was killed."""
    found: dict[str, Any] = {}
    for arm in arms:
        for name in ("metrics.jsonl", "policy/model.safetensors"):
            found[f"{arm}/{name}"] = (out / "arms" / arm / name).read_bytes()
    for arm in ("base", *arms):
        document = json.loads((out / "arms" / arm / "evaluation.json").read_text())
        found[f"{arm}/evaluation"] = {key: document[key] for key in ("metrics", "items", "generated_tokens")}
    return found


def updates_run(out: Path, arm: str) -> list[int]:
    """Numbers of the updates that were computed, in the order in which they were."""
    lines = (out / "arms" / arm / "timing.jsonl").read_text().splitlines()
    return [json.loads(line)["update"] for line in lines]
