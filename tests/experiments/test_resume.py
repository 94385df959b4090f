"""A run killed at any moment ends as the undisturbed one would have, to the last bit."""

import fcntl
import json
import multiprocessing
import shutil

import pytest
import torch
from resume_driver import (
    ARMS,
    TASK,
    TRAIN,
    check_parity,
    collected,
    complete,
    drive,
    outcome,
    overrides,
    prefer,
    updates_run,
)

from minirl.errors import ConfigError, RunError
from minirl.experiments import rundir, training
from minirl.experiments.checksums import write_checked
from minirl.experiments.run import open_run
from minirl.experiments.rundir import read_metrics
from minirl.techniques.baselines import PairSFT

# Forked from a clean process that has imported everything: a new process for every run, without seconds of imports.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["minirl.experiments.run"])
ALL = list(range(1, TRAIN["updates"] + 1))


def in_a_process(out, moment="", **changes):
    """Run ``drive`` in a process; with ``moment`` kill it there."""
    here, there = CONTEXT.Pipe()
    keywords = {"moment": moment, "reached": there, **changes}
    process = CONTEXT.Process(target=drive, args=(out,), kwargs=keywords)
    process.start()
    try:
        if moment:
            assert here.poll(120) and here.recv() == moment, f"{moment!r} was not reached"
            process.kill()
        process.join(120)
        assert process.exitcode == (-9 if moment else 0)
    finally:
        process.kill()
        process.join()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    in_a_process(out)
    return out


@pytest.fixture
def half_right(monkeypatch):
    """For runs in this process: the task that ``drive`` makes of the experiment's."""
    monkeypatch.setattr(TASK, "check", check_parity)


@pytest.fixture
def finished(undisturbed, tmp_path, half_right):
    """A copy of the undisturbed run that a test may spoil."""
    return shutil.copytree(undisturbed, tmp_path / "copy")


MOMENTS = {  # where it is killed: the updates that are computed, by both processes together
    "score, update 3": {"score": [1, 2, 3, 3, 4, 5, 6], "pair_sft": ALL},  # after the checkpoint of update 2
    "score, update 1": {"score": [1, *ALL], "pair_sft": ALL},  # before the first checkpoint
    "half of a checkpoint": {"score": [1, 2, 3, 4, 3, 4, 5, 6], "pair_sft": ALL},
    "checkpoint not yet named": {"score": [1, 2, 3, 4, 3, 4, 5, 6], "pair_sft": ALL},
    "policy not yet named": {"score": ALL, "pair_sft": ALL},
    "pair_sft, update 5": {"score": ALL, "pair_sft": [1, 2, 3, 4, 5, 5, 6]},
    "evaluation": {"score": ALL, "pair_sft": ALL},
    "results": {"score": ALL, "pair_sft": ALL},
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_is_undisturbed_byte_for_byte(undisturbed, tmp_path, moment):
    in_a_process(tmp_path, moment)
    assert not (tmp_path / "results.json").exists()
    in_a_process(tmp_path)
    assert {arm: updates_run(tmp_path, arm) for arm in ARMS} == MOMENTS[moment]  # resumed, not started over
    assert outcome(tmp_path) == outcome(undisturbed)
    assert json.loads((tmp_path / "results.json").read_text())["arms"].keys() == {"base", *ARMS}
    assert not list(tmp_path.rglob("policy.tmp")) + list(tmp_path.rglob(".policy*"))


def test_killed_again_and_again(undisturbed, tmp_path):
    for moment in ("score, update 3", "score, update 3", "half of a checkpoint", "pair_sft, update 1", "evaluation"):
        in_a_process(tmp_path, moment)
    in_a_process(tmp_path)
    assert outcome(tmp_path) == outcome(undisturbed)


def test_the_comparison_can_fail(undisturbed, tmp_path):
    in_a_process(tmp_path, train={**TRAIN, "learning_rate": 2e-3})
    ours, theirs = outcome(tmp_path), outcome(undisturbed)
    different = {name for name in ours if ours[name] != theirs[name]}
    assert {f"{arm}/{name}" for arm in ARMS for name in ("metrics.jsonl", "policy/model.safetensors")} <= different
    assert "base/evaluation" not in different


def test_damage_costs_updates_but_changes_nothing(undisturbed, tmp_path, half_right, capsys):
    in_a_process(tmp_path, "score, update 5")
    newest = tmp_path / "arms/score/checkpoints/update-000004.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    with open(tmp_path / "arms/score/timing.jsonl", "a") as timing:
        timing.write('{"update": 6, "wa')  # what a full disk leaves; the next line must not be glued to it
    complete(reopen(tmp_path))
    assert "score: checkpoint update-000004 is damaged (" in capsys.readouterr().err
    assert updates_run(tmp_path, "score") == [1, 2, 3, 4, 5, 3, 4, 5, 6]
    assert outcome(tmp_path) == outcome(undisturbed)


# --- Killed while learning from pairs -------------------------------------------------------------------------------

PAIRS = {"arms": ("pair_sft",), "pairs": True}  # two phases, of two updates and of four; a checkpoint every second


@pytest.fixture(scope="module")
def undisturbed_pairs(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed pairs") / "run"
    out.mkdir()
    in_a_process(out, **PAIRS)
    assert collected(out) == [0, 2]
    records = read_metrics(out / "arms" / "pair_sft" / "metrics.jsonl")
    assert [record["phase"] for record in records] == ["one"] * 2 + ["two"] * 4
    assert [record.get("mean") for record in records] == [7 / 16, None, 7 / 16, None, None, None]
    return out


@pytest.mark.parametrize(
    ("update", "computed", "asked"),
    [
        (1, [1, *ALL], [0, 0, 2]),  # before the first checkpoint: all of it once more
        (2, ALL, [0, 2]),  # between the two phases
        (3, [1, 2, 3, 3, 4, 5, 6], [0, 2, 2]),  # the second phase began after the last checkpoint
        (5, [1, 2, 3, 4, 5, 5, 6], [0, 2]),  # in the middle of a phase its pairs are in the checkpoint
    ],
)
def test_killed_while_learning_from_pairs(undisturbed_pairs, tmp_path, update, computed, asked):
    in_a_process(tmp_path, f"pair_sft, update {update}", **PAIRS)
    in_a_process(tmp_path, **PAIRS)
    assert updates_run(tmp_path, "pair_sft") == computed and collected(tmp_path) == asked
    assert outcome(tmp_path, PAIRS["arms"]) == outcome(undisturbed_pairs, PAIRS["arms"])


def learn_from_pairs(out, monkeypatch):
    """The rest of the run in this process."""
    monkeypatch.setattr(PairSFT, "phases", prefer(out / "collected.txt"))
    complete(reopen(out), PAIRS["arms"])


def test_a_damaged_checkpoint_of_pairs_falls_back_to_the_one_before(
    undisturbed_pairs, tmp_path, half_right, monkeypatch, capsys
):
    in_a_process(tmp_path, "pair_sft, update 5", **PAIRS)
    newest = tmp_path / "arms/pair_sft/checkpoints/update-000004.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    learn_from_pairs(tmp_path, monkeypatch)
    assert "pair_sft: checkpoint update-000004 is damaged (" in capsys.readouterr().err
    assert updates_run(tmp_path, "pair_sft") == [1, 2, 3, 4, 5, 3, 4, 5, 6] and collected(tmp_path) == [0, 2, 2]
    assert outcome(tmp_path, PAIRS["arms"]) == outcome(undisturbed_pairs, PAIRS["arms"])


@pytest.mark.parametrize("lost", ["pairs/", "reference/"])
def test_pairs_and_reference_are_what_a_resumed_phase_needs(undisturbed_pairs, tmp_path, half_right, monkeypatch, lost):
    # Without either the run ends, and ends elsewhere: pairs would be those of now, margins those to the base.
    in_a_process(tmp_path, "pair_sft, update 5", **PAIRS)
    restore = rundir.restore
    monkeypatch.setattr(
        rundir, "restore", lambda a, tensors: restore(a, {k: v for k, v in tensors.items() if not k.startswith(lost)})
    )
    learn_from_pairs(tmp_path, monkeypatch)
    ours, theirs = outcome(tmp_path, PAIRS["arms"]), outcome(undisturbed_pairs, PAIRS["arms"])
    assert ours["pair_sft/metrics.jsonl"] != theirs["pair_sft/metrics.jsonl"]
    assert ours["base/evaluation"] == theirs["base/evaluation"]
    assert collected(tmp_path) == ([0, 2, 4] if lost == "pairs/" else [0, 2])


# --- Whatever else may differ ---------------------------------------------------------------------------------------


def test_arms_do_not_depend_on_which_ran_before(undisturbed, tmp_path):
    in_a_process(tmp_path, arms=ARMS[::-1])
    assert outcome(tmp_path) == outcome(undisturbed)


def test_batches_change_memory_not_results(undisturbed, tmp_path):
    in_a_process(tmp_path, train={**TRAIN, "micro_batches": 3}, evaluation={"items": 32, "batch": 5})
    assert outcome(tmp_path)["base/evaluation"] == outcome(undisturbed)["base/evaluation"]
    for arm in ARMS:
        mine, other = (read_metrics(out / "arms" / arm / "metrics.jsonl") for out in (tmp_path, undisturbed))
        assert len(mine) == len(other) == len(ALL)
        for a, b in zip(mine, other, strict=True):
            assert [a.pop(key) for key in ("phase", "generated_tokens")] == [
                b.pop(key) for key in ("phase", "generated_tokens")
            ]
            assert a == pytest.approx(b, rel=1e-3, abs=1e-5)  # sums of floats in another order


def test_metrics_hold_every_update_once_and_no_times(undisturbed):
    for arm in ARMS:
        records = read_metrics(undisturbed / "arms" / arm / "metrics.jsonl")
        assert [record["update"] for record in records] == ALL
        assert not [key for record in records for key in record if key.endswith("_s") or "time" in key]


# --- Opening a run again --------------------------------------------------------------------------------------------


def reopen(out, seed=0, **changes):
    return open_run("score", tier="smoke", seed=seed, out=out, overrides=overrides(**changes))


def test_a_finished_run_is_not_trained_again(finished, undisturbed, monkeypatch):
    def train_again(*arguments):
        raise AssertionError("a finished arm was trained again")

    monkeypatch.setattr(training, "Learner", train_again)
    times = {path: path.stat().st_mtime_ns for path in finished.glob("arms/*/[mpt]*")}
    seen = []
    results = complete(reopen(finished), watch=lambda arm, record: seen.append((arm, record["update"])))
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert seen == [(arm, update) for arm in ARMS for update in ALL]
    assert outcome(finished) == outcome(undisturbed)
    before = json.loads((undisturbed / "results.json").read_text())
    assert {**results, "peak_mb": 0} == {**before, "peak_mb": 0}


def test_the_manifest_says_when_it_started_and_what_it_cost(finished):
    before = json.loads((finished / "manifest.json").read_text())
    assert before["started"] <= before["finished"]
    complete(reopen(finished))
    after = json.loads((finished / "manifest.json").read_text())
    assert after["started"] == before["started"]
    assert {"core_s", "wall_s", "peak_mb", "commit", "lock_sha256", "packages", "hardware", "config"} <= after.keys()
    assert (after["seed"], after["config"]["train"]["updates"]) == (0, TRAIN["updates"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "holds a run with another seed (value: there 0, here 1)"),
        ({"train": {**TRAIN, "updates": 7}}, "holds a run with another config (train.updates: there 6, here 7)"),
    ],
)
def test_a_directory_belongs_to_one_seed_and_config(finished, changes, message):
    with pytest.raises(RunError) as caught:
        reopen(finished, **changes)
    assert str(caught.value) == f"{finished} {message}; choose another --out, or start over with --no-resume"
    reopen(finished).close()  # and the refusal has not kept the lock


def test_a_directory_belongs_to_the_code_that_made_it(finished):
    path = finished / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["fingerprint"]["minirl/loops.py"] = "before"
    write_checked(finished, "manifest.json", manifest)
    with pytest.raises(RunError, match=r"holds a run of other code; changed since: minirl/loops.py; choose another"):
        reopen(finished)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_manifest_of_an_unknown_run(finished, content):
    (finished / "manifest.json").write_text(content)
    (finished / "checksums.json").unlink()
    with pytest.raises(
        RunError, match=r"manifest.json is missing or damaged, so it is not known what is there; choose"
    ):
        reopen(finished)


def test_a_cell_that_opens_the_run_can_be_executed_again(finished):
    run = reopen(finished)
    run = reopen(finished)  # while the first is still referred to
    assert len(run.metrics("score")) == len(ALL)
    run.close()


def interrupt_between_updates(monkeypatch):
    def watch(arm, record):
        if (arm, record["update"]) == ("score", 3):
            raise KeyboardInterrupt

    return watch


def interrupt_inside_an_update(monkeypatch):
    """After the gradient and before the step, in update 4."""
    clip, calls = torch.nn.utils.clip_grad_norm_, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return clip(*arguments)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", interrupted)
    return lambda arm, record: None


def interrupt_a_checkpoint(monkeypatch):
    """Its weights are written, what belongs to them is not."""
    write = rundir.write_json

    def interrupted(path, value):
        if path.name == "update-000004.json":
            raise KeyboardInterrupt
        write(path, value)

    monkeypatch.setattr(rundir, "write_json", interrupted)
    return lambda arm, record: None


INTERRUPTIONS = {  # how, and the updates of the first arm that are computed, before and after
    interrupt_between_updates: [1, 2, 3, 3, 4, 5, 6],
    interrupt_inside_an_update: [1, 2, 3, 3, 4, 5, 6],
    interrupt_a_checkpoint: [1, 2, 3, 4, 3, 4, 5, 6],
}


@pytest.mark.parametrize("interrupt", INTERRUPTIONS, ids=lambda how: how.__name__)
def test_an_interrupted_cell_can_be_executed_again(interrupt, undisturbed, tmp_path, half_right, monkeypatch):
    """The process lives on, as a notebook's kernel does: the same cells again continue, to the same bits. With the run
    closed nothing of it is held, and another process may have it."""
    run = reopen(tmp_path)
    with monkeypatch.context() as patch:
        watch = interrupt(patch)
        with pytest.raises(KeyboardInterrupt):
            complete(run, watch=watch)
    with open(tmp_path / ".lock") as other:  # another description of the file, as another process has
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        run.close()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    complete(reopen(tmp_path))
    assert updates_run(tmp_path, "score") == INTERRUPTIONS[interrupt]
    assert outcome(tmp_path) == outcome(undisturbed)


def test_an_interrupted_train_is_called_again_on_the_same_run(undisturbed, tmp_path, half_right, monkeypatch):
    run = reopen(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run.train("score", interrupt_between_updates(monkeypatch))
    complete(run)
    assert outcome(tmp_path) == outcome(undisturbed)


def test_what_is_asked_too_early_or_by_a_wrong_name(tmp_path, half_right):
    run = reopen(tmp_path)
    with pytest.raises(RunError, match=r"arm 'score' is not trained yet; call run.train\('score'\) first"):
        run.policy("score")
    with pytest.raises(
        RunError, match=r"arm 'base' has not been evaluated; call run.evaluate\('base'\) before run.fin"
    ):
        run.finish()
    for ask in (run.policy, run.train, run.metrics, run.evaluate):
        with pytest.raises(ConfigError, match=r"unknown arm 'scor'\. Did you mean 'score'\?"):
            ask("scor")
    run.close()


def test_a_full_disk_while_the_policy_is_saved(tmp_path, half_right, monkeypatch):
    run = reopen(tmp_path, train={**TRAIN, "updates": 1})

    def full(policy, directory):
        directory.mkdir()
        (directory / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("minirl.policy.models.Policy.save", full)
        with pytest.raises(RunError, match=r"cannot write .*policy: .*No space left.*; make room"):
            run.train("score")
    assert sorted(path.name for path in (tmp_path / "arms" / "score").iterdir()) == ["metrics.jsonl", "timing.jsonl"]
    run.train("score")
    assert (tmp_path / "arms/score/policy/model.safetensors").stat().st_size > 1000
    run.close()


def test_the_peak_of_memory_is_that_of_the_process_that_trained(tmp_path, monkeypatch):
    """A process that only evaluates what another one trained must not report its own, smaller peak."""
    overrides = {"train.updates": 1, "arms": {"pair_sft": None, "shuffled": None, "naive": None}}
    run = open_run("score", tier="smoke", seed=0, overrides=overrides, out=tmp_path)
    monkeypatch.setattr(training, "peak_mb", lambda: 900)
    run.train("score")
    monkeypatch.setattr(training, "peak_mb", lambda: 300)
    run.evaluate("base")
    run.evaluate("score")
    assert run.finish()["peak_mb"] == 900
