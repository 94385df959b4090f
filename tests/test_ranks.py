"""Several ranks that train one policy are one rank with the same batch; they resume, fail and end as one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from minirl import ranks
from minirl.errors import ConfigError, RunError
from minirl.experiments import training
from minirl.experiments.resolve import load_experiment
from minirl.experiments.run import open_run
from minirl.policy.models import load_policy

TRAIN = {"updates": 4, "prompts": 4, "samples": 4, "learning_rate": 1e-4, "checkpoint_every": 2, "micro_batches": 2}
ARMS = {"naive": None, "shuffled": None, "sft": {"method": "answer_sft"}}


def run_of(out, count, **changes):
    overrides = {"train": TRAIN, "arms": ARMS, "ranks": count, **changes}
    return open_run("score", tier="smoke", seed=0, out=out, overrides=overrides)


def records(directory, arm):
    return [json.loads(line) for line in (directory / f"arms/{arm}/metrics.jsonl").open()]


def assert_same(one, two, near_after=5e-3):
    """The same attempts, and sums in another order. What that changes in the first step, AdamW makes larger."""
    assert [record.keys() for record in one] == [record.keys() for record in two]
    for alone, shared in zip(one, two, strict=True):
        near = 1e-4 if alone["update"] == 1 else near_after
        for name, value in alone.items():
            tiny = 1e-5 if alone["update"] == 1 else near_after / 50  # of divergences that have hardly begun
            assert shared[name] == (value if isinstance(value, str) else pytest.approx(value, rel=near, abs=tiny)), name
        assert shared["generated_tokens"] == alone["generated_tokens"]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The run of three arms with one rank and with two: online, preference and supervised updates."""
    directories = []
    for count in (1, 2):
        directory = tmp_path_factory.mktemp("ranks") / str(count)
        run = run_of(directory, count)
        for arm in run.arms:
            run.train(arm)
        run.close()
        directories.append(directory)
    return directories


@pytest.mark.parametrize("arm", ["score", "pair_sft", "sft"])
def test_two_ranks_are_one_with_the_same_batch(both, arm):
    assert_same(*(records(directory, arm) for directory in both))
    before = dict(load_policy("add-repeating").model.named_parameters())
    ours, theirs = (dict(load_policy(d / f"arms/{arm}/policy").model.named_parameters()) for d in both)
    for name, parameter in ours.items():
        moved = (parameter - before[name]).norm()
        assert moved > 1e-4
        assert (parameter - theirs[name]).norm() < 0.05 * moved, name  # 1 if they had learned from other attempts


def test_two_ranks_on_engine_trl_are_one_and_resume(tmp_path):
    """Started by the config, as those of the local engine are. One rank runs the written-out forward pass, two run the
    model's own, which rounds otherwise."""
    pytest.importorskip("trl")
    arms = {**ARMS, "pair_sft": None, "sft": None}
    one = run_of(tmp_path / "one", 1, engine="trl", arms=arms)
    one.train("score")
    one.close()

    def interrupt(arm, record):
        if record["update"] == 3:
            raise KeyboardInterrupt

    two = run_of(tmp_path / "two", 2, engine="trl", arms=arms)
    with pytest.raises(KeyboardInterrupt):
        two.train("score", interrupt)
    two.close()
    assert not processes_of(tmp_path)
    run_of(tmp_path / "two", 2, engine="trl", arms=arms).train("score")
    assert_same(records(tmp_path / "one", "score"), records(tmp_path / "two", "score"), near_after=0.1)


def test_core_seconds_are_those_of_all_ranks(both):
    lines = [[json.loads(line) for line in (d / "arms/score/timing.jsonl").open()] for d in both]
    assert all(spent["core_s"] > 0 for spent in lines[1])


def test_a_run_that_was_interrupted_ends_as_the_undisturbed_one(both, tmp_path):
    """To the last bit: what two ranks add up does not depend on their order."""

    def interrupt(arm, record):
        if record["update"] == 3:
            raise KeyboardInterrupt

    run = run_of(tmp_path / "run", 2)
    with pytest.raises(KeyboardInterrupt):
        run.train("score", interrupt)
    assert not processes_of(tmp_path)
    run.close()
    run = run_of(tmp_path / "run", 2)
    run.train("score")
    for name in ("metrics.jsonl", "policy/model.safetensors"):
        assert (tmp_path / "run/arms/score" / name).read_bytes() == (both[1] / "arms/score" / name).read_bytes(), name


def processes_of(_: Path) -> list[str]:
    """Ranks that this process has started and that are still there."""
    listed = subprocess.run(["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True).stdout
    return [line for line in listed.splitlines() if "minirl.experiments.training" in line]


def test_a_rank_that_cannot_start_is_heard(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho no memory left >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(RunError, match="rank 1 ended with status 3: no memory left"):
        run_of(tmp_path / "run", 2).train("score")


def test_a_rank_that_dies_ends_the_run_at_once(tmp_path, monkeypatch):
    started = []
    real = subprocess.Popen
    monkeypatch.setattr(training.subprocess, "Popen", lambda *a, **k: started.append(real(*a, **k)) or started[-1])
    begun = []

    def kill(arm, record):
        begun.append(time.monotonic())
        started[-1].kill()

    with pytest.raises(RunError, match="rank 1 ended with status -9"):
        run_of(tmp_path / "run", 2).train("score", kill)
    assert len(begun) <= 2 and time.monotonic() - begun[0] < 30


def test_ranks_end_with_the_process_that_started_them(tmp_path):
    script = (
        "import sys, os; sys.path.insert(0, sys.argv[1]); import test_ranks;"
        "run = test_ranks.run_of(sys.argv[2], 2); run.train('score', lambda *_: os.kill(os.getpid(), 9))"
    )
    here = str(Path(__file__).parent)
    killed = subprocess.run([sys.executable, "-c", script, here, str(tmp_path / "run")], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    deadline = time.monotonic() + 60
    while any(str(tmp_path) in line or "minirl.experiments.training" in line for line in orphans()):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def orphans() -> list[str]:
    """Command lines of processes whose parent has ended."""
    return subprocess.run(["ps", "-o", "args=", "--ppid", "1"], capture_output=True, text=True).stdout.splitlines()


def test_shares_are_all_of_it():
    rows = torch.arange(7)
    shares, runs = [], []
    for rank in range(3):
        with ranks.adopted(rank, 3):
            shares.append(ranks.share(rows).tolist())
            runs.append(rows[ranks.own_run(7)].tolist())
    assert ranks.here() == ranks.Place(0, 1)
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]
    assert runs == [[0, 1], [2, 3], [4, 5, 6]]


def test_alone_nothing_is_exchanged():
    parameter = torch.nn.Parameter(torch.zeros(2))
    ranks.add_gradients([parameter])
    assert parameter.grad is None
    assert ranks.gather("x") == ["x"] and ranks.from_first("x") == "x" and ranks.add({"a": 1.0}) == {"a": 1.0}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"ranks": 17}, "key 'ranks': 17 are more than the 16 episodes"),
        ({"ranks": 0}, "key 'ranks'"),
        ({"ranks": 3, "engine": "trl", "arms.pair_sft": None}, "are not 3 × 1 equal parts"),
        ({"engine": "tlr"}, "key 'engine'"),
        ({"dtype": "bfloat16"}, "key 'dtype': what is trained must be float32"),
    ],
)
def test_what_cannot_be_is_refused_at_once(overrides, said):
    with pytest.raises(ConfigError, match=said):
        load_experiment("score", "smoke", overrides)


def test_where_a_run_computes_is_not_what_it_computes():
    from minirl.experiments.fingerprint import fingerprint

    assert fingerprint(load_experiment("score", "smoke", {"ranks": 2})) == fingerprint(
        load_experiment("score", "smoke")
    )
