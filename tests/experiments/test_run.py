"""What an arm may have of its own in a run: how it is evaluated, and a reference that moves and teaches."""

import torch

from minirl.evaluation.correction import evaluate_correction
from minirl.experiments import run as run_module
from minirl.experiments.run import Run, open_run
from minirl.policy.logprobs import pad_rows
from minirl.techniques.base import OnlinePhase, Teacher
from minirl.techniques.baselines import MultiTurnRL
from minirl.techniques.self_correction import score

ARMS = {"pair_sft": None, "shuffled": None, "naive": {"method": "multi_turn_rl"}}  # beside score
TRAIN = {"updates": 5, "prompts": 3, "samples": 4, "temperature": 1.5, "learning_rate": 1e-3, "checkpoint_every": 2}


def opened(out) -> Run:
    overrides = {"arms": ARMS, "train": TRAIN, "evaluation": {"items": 8, "batch": 8}}
    return open_run("score", tier="smoke", seed=0, out=out, overrides=overrides)


# --- evaluation -----------------------------------------------------------------------------------------------------


def test_an_arm_may_be_evaluated_in_its_own_way(tmp_path, monkeypatch):
    calls: dict[str, dict] = {}

    def evaluate(policy, task, items, **settings):
        calls[arm] = settings
        return evaluate_correction(policy, task, items, **settings)

    monkeypatch.setattr(score, "evaluate", evaluate)
    monkeypatch.setattr(MultiTurnRL, "evaluation", lambda self: {"turns": 3, "feedback": "binary"})
    monkeypatch.setattr(Run, "policy", lambda self, arm: self.base())  # as if all were trained
    run = opened(tmp_path)
    turns = {}
    for arm in ("base", "score", "naive"):
        _, rollouts = run.evaluate(arm)
        turns[arm] = rollouts.scores.shape[1]
    run.close()
    shared = {"turns": 2, "temperature": 1.0, "batch": 8, "feedback": "nudge"}
    assert calls["base"] == calls["score"] == {**shared, "seed": calls["base"]["seed"]}
    # What the arm says replaces what all share, and the rest stays: above all the noise, or arms could not be compared.
    assert calls["naive"] == {**calls["base"], "turns": 3, "feedback": "binary"}
    assert turns == {"base": 2, "score": 2, "naive": 3}


def test_methods_are_evaluated_alike_unless_they_say_otherwise():
    assert MultiTurnRL().evaluation() == score.Score().evaluation() == {}


# --- a reference that moves -----------------------------------------------------------------------------------------


def hint(policy, task, rollouts) -> Teacher:
    """The same attempts, read after the prompt and a letter."""
    letter = policy.encode_text(["x"])[0]
    starts = rollouts.own.int().argmax(1).tolist()
    contexts = [ids[:start].tolist() + letter for ids, start in zip(rollouts.ids, starts, strict=True)]
    attempts = [ids[own].tolist() for ids, own in zip(rollouts.ids, rollouts.own, strict=True)]
    rows = [context + attempt for context, attempt in zip(contexts, attempts, strict=True)]
    own = [[0] * len(context) + [1] * len(attempt) for context, attempt in zip(contexts, attempts, strict=True)]
    known = torch.ones(len(rows), dtype=torch.bool)
    return Teacher(pad_rows(rows, policy.pad_id)[0], pad_rows(own, 0)[0].bool(), known, beta=0.5)


class Stopped(Exception):
    pass


def stop_after(update: int):
    def watch(arm, record):
        if record["update"] == update:
            raise Stopped

    return watch


def left_behind(run: Run) -> tuple[bytes, bytes]:
    directory = run.arm_directory("naive")
    return (directory / "metrics.jsonl").read_bytes(), (directory / "policy" / "model.safetensors").read_bytes()


def interrupted(out) -> tuple[bytes, bytes]:
    """Stopped in the third update, one after a checkpoint, opened again, and trained to the end."""
    run = opened(out)
    try:
        run.train("naive", stop_after(3))
    except Stopped:
        run.close()
    run = opened(out)
    run.train("naive")
    run.close()
    return left_behind(run)


def test_a_teacher_that_moves_is_resumed_to_the_last_bit(tmp_path, monkeypatch):
    def phases(self, train):
        return [OnlinePhase("RL", train.updates, self.credit, reference_decay=0.9, teacher=hint)]

    monkeypatch.setattr(MultiTurnRL, "phases", phases)
    run = opened(tmp_path / "undisturbed")
    run.train("naive")
    run.close()
    assert all(record["loss/distillation"] > 0 for record in run.metrics("naive"))
    assert interrupted(tmp_path / "resumed") == left_behind(run)

    # A checkpoint that leaves the reference out would go on with the base as teacher, and that makes a difference.
    real = run_module.save_checkpoint
    monkeypatch.setattr(run_module, "save_checkpoint", lambda *arguments: real(*arguments[:3]))
    metrics, weights = interrupted(tmp_path / "without the reference")
    assert metrics != left_behind(run)[0] and weights != left_behind(run)[1]
