"""What an arm may have of its own in a run: how it is evaluated, and a reference that moves and teaches."""

import json

import pytest
import torch

from minirl.errors import ConfigError
from minirl.evaluation.attempts import Evaluation
from minirl.evaluation.correction import evaluate_correction
from minirl.experiments import training
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


def asked_for(tmp_path, monkeypatch, evaluate, own=None) -> Run:
    """A run whose technique has another ``evaluate``, and whose arm naive adds settings of its ``own``."""
    monkeypatch.setattr(score, "evaluate", evaluate)
    monkeypatch.setattr(MultiTurnRL, "evaluation", lambda self: own or {})
    monkeypatch.setattr(Run, "policy", lambda self, arm: self.base())
    return opened(tmp_path)


def test_a_technique_gets_the_settings_that_it_names(tmp_path, monkeypatch):
    calls = []

    def named(policy, task, items, *, seed, batch=256, samples=2):
        calls.append({"seed": seed, "batch": batch, "samples": samples})
        return evaluate_correction(policy, task, items, seed=seed, turns=2)

    run = asked_for(tmp_path, monkeypatch, named, own={"samples": 7})
    for arm in ("base", "score", "naive"):
        run.evaluate(arm)
    run.close()
    # Nothing of turns, feedback and temperature; the arm's own beside what all share.
    shared = {"seed": calls[0]["seed"], "batch": 8}
    assert calls == [{**shared, "samples": 2}] * 2 + [{**shared, "samples": 7}]


def test_a_technique_that_names_nothing_gets_nothing(tmp_path, monkeypatch):
    def plain(policy, task, items):
        return evaluate_correction(policy, task, items, seed=5, turns=2)

    run = asked_for(tmp_path, monkeypatch, plain)
    evaluation, _ = run.evaluate("naive")
    assert stored(run, "naive")["metrics"] == evaluation.metrics
    run.close()


def test_a_technique_that_takes_anything_gets_everything(tmp_path, monkeypatch):
    calls = []

    def anything(*args, seed, **settings):
        calls.append(settings)
        return evaluate_correction(*args, seed=seed, turns=2)

    run = asked_for(tmp_path, monkeypatch, anything, own={"samples": 7, "feedback": "binary"})
    run.evaluate("base")
    run.evaluate("naive")
    run.close()
    shared = {"turns": 2, "temperature": 1.0, "batch": 8, "feedback": "nudge"}
    assert calls == [shared, {**shared, "samples": 7, "feedback": "binary"}]


def test_a_setting_of_an_arm_that_the_technique_does_not_take_is_refused_at_once(tmp_path, monkeypatch):
    def named(policy, task, items, *, seed, samples=2):
        raise AssertionError("it is refused before anything is evaluated")

    with pytest.raises(ConfigError) as caught:
        asked_for(tmp_path / "run", monkeypatch, named, own={"samples": 7, "sample": 8})
    assert str(caught.value) == (
        "reproductions/score/smoke.yaml ← tiny.yaml with overrides: key 'arms.naive': multi_turn_rl is to be evaluated "
        "with its own 'sample', but the evaluation of score takes none. Did you mean 'samples'?"
    )
    assert not (tmp_path / "run").exists()  # nothing was begun


def test_an_arm_that_asks_for_independent_attempts_where_there_are_none(tmp_path):
    # The setting is every method's; whether it means something is up to the technique. Votes are independent anyway.
    arms = {"co_reward": {"method": "co_reward", "independent": True}}
    with pytest.raises(ConfigError, match=r"key 'arms\.co_reward': .* own 'independent', but the evaluation of co-rew"):
        open_run("co-reward", tier="smoke", seed=0, out=tmp_path, overrides={"arms": arms})


def test_methods_are_evaluated_alike_unless_they_say_otherwise():
    assert MultiTurnRL().evaluation() == score.Score().evaluation() == {}


def trained(run: Run, arm: str, accuracies: list[float], monkeypatch) -> None:
    """Make it look as if ``arm`` had been trained, 100 tokens an update, without training anything."""
    monkeypatch.setattr(Run, "policy", lambda self, arm: self.base())
    run.arm_directory(arm).mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"update": i, "phase": "RL", "generated_tokens": 100 * i, "accuracy@1": value}) + "\n"
        for i, value in enumerate(accuracies, start=1)
    ]
    (run.arm_directory(arm) / "metrics.jsonl").write_text("".join(lines))


def stored(run: Run, arm: str) -> dict:
    return json.loads((run.arm_directory(arm) / "evaluation.json").read_text())


def test_what_a_technique_reads_off_the_records_of_training_is_evaluated(tmp_path, monkeypatch):
    read: list[list[dict]] = []

    def learning(records):
        read.append(list(records))
        return {"best": max(record["accuracy@1"] for record in records), "copy_rate": 0.125}

    run = opened(tmp_path)
    trained(run, "naive", [0.25, 0.75, 0.5], monkeypatch)
    plain, _ = run.evaluate("naive")
    before = stored(run, "naive")
    assert "best" not in plain.metrics and before["metrics"] == plain.metrics  # a module need not have it
    assert "copy_rate" in plain.metrics and plain.metrics["copy_rate"] != 0.125

    monkeypatch.setattr(score, "learning", learning, raising=False)
    evaluation, rollouts = run.evaluate("naive")
    assert read == [run.metrics("naive")] and [record["accuracy@1"] for record in read[0]] == [0.25, 0.75, 0.5]
    # Beside what ``evaluate`` measured, and in its place where both have a name for it; nothing else changes.
    assert evaluation.metrics == {**plain.metrics, "best": 0.75, "copy_rate": 0.125}
    assert stored(run, "naive") == {**before, "metrics": evaluation.metrics}
    assert stored(run, "naive")["generated_tokens"] == 300 and evaluation.items == plain.items
    assert len(rollouts.items) == 8

    # Also on other items, of which nothing is kept.
    developed, _ = run.evaluate("naive", purpose="develop")
    assert developed.metrics["best"] == 0.75 and stored(run, "naive") == {**before, "metrics": evaluation.metrics}
    run.close()


def test_the_base_has_learned_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(score, "learning", lambda records: 1 / 0, raising=False)
    run = opened(tmp_path)
    evaluation, _ = run.evaluate("base")
    assert stored(run, "base")["metrics"] == evaluation.metrics
    assert stored(run, "base")["generated_tokens"] == 0
    run.close()


@pytest.mark.parametrize(("per_item", "items"), [({}, "exact"), ({"x": [1.0] * 8}, 8)])
def test_what_was_computed_and_not_measured_on_items_is_called_exact(tmp_path, monkeypatch, per_item, items):
    run = opened(tmp_path)
    for arm in run.arms:
        trained(run, arm, [0.5], monkeypatch)
    monkeypatch.setattr(score, "evaluate", lambda policy, task, items: (Evaluation({"x": 1.0}, per_item, 0), None))
    for arm in ("base", *run.arms):
        run.evaluate(arm)
    assert run.finish()["evaluation"]["items"] == items
    run.close()


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
    real = training.save_checkpoint
    monkeypatch.setattr(training, "save_checkpoint", lambda *arguments: real(*arguments[:3]))
    metrics, weights = interrupted(tmp_path / "without the reference")
    assert metrics != left_behind(run)[0] and weights != left_behind(run)[1]
