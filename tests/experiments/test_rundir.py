"""Files of a run: what is left after a full disk, a kill, a second process, a damaged checkpoint."""

import errno
import hashlib
import json
import math
import os
import stat
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from minirl.config import TaskConfig, TrainConfig
from minirl.errors import RunError
from minirl.experiments import rundir
from minirl.experiments.rundir import (
    MetricsLog,
    load_newest_checkpoint,
    locked,
    read_json,
    read_metrics,
    save_checkpoint,
    write_atomically,
    write_json,
)
from minirl.loops import Learner
from minirl.policy.models import tiny_llama
from minirl.techniques.base import Pairs

TRAIN = TrainConfig(updates=4, prompts=2, samples=2, learning_rate=1e-2, weight_decay=0.1)
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(directory):
    return sorted(path.name for path in directory.iterdir())


# --- Atomic writes --------------------------------------------------------------------------------------------------


def test_write_atomically(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    write_atomically(path, "é")
    assert path.read_bytes() == "é".encode()
    write_atomically(path, b"\x00second")
    assert path.read_bytes() == b"\x00second"
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_content(tmp_path, monkeypatch, call):
    path = tmp_path / "a.txt"
    write_atomically(path, "old")

    def full(*arguments):
        raise FULL

    monkeypatch.setattr(rundir.os, call, full)
    with pytest.raises(RunError) as caught:
        write_atomically(path, "new")
    assert str(caught.value) == (
        f"cannot write {path}: No space left on device. What was complete before is untouched; make room or choose "
        "another --out, then run the same command again to resume."
    )
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_the_content_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    path, events = tmp_path / "a.txt", []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(rundir.os, "fsync", lambda file: (events.append("fsync"), fsync(file)))
    monkeypatch.setattr(rundir.os, "replace", lambda a, b: (events.append("replace"), replace(a, b)))
    write_atomically(path, "x")
    assert events == ["fsync", "replace"]


def test_a_directory_that_cannot_be_written(tmp_path):
    # Root may write where permissions forbid it; nobody can write below a file.
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"^cannot write .*file/a.txt: (Not a directory|File exists)\. What was"):
        write_atomically(tmp_path / "file" / "a.txt", "x")
    with (
        pytest.raises(RunError, match=r"^cannot write .*file: File exists; choose another --out$"),
        locked(tmp_path / "file"),
    ):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(RunError, match="Permission denied"):
        write_atomically(tmp_path / "a.txt", "x")
    with pytest.raises(RunError, match="Permission denied; choose another --out"), locked(tmp_path):
        pass


def test_json(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"b": [1, 2.5, None]}
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(tmp_path / "a.json", {"b": bad})
    assert read_json(tmp_path / "a.json") == {"b": [1, 2.5, None]}


@pytest.mark.parametrize("content", [b'{"a": 1', b"", b"\xff\xfe"])
def test_damaged_json(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(RunError, match=r"a.json is missing or damaged \(.+\); run the command that writes it again$"):
        read_json(tmp_path / "a.json")


def test_missing_json(tmp_path):
    with pytest.raises(RunError, match=r"gone.json is missing or damaged \(.*No such file"):
        read_json(tmp_path / "gone.json")


# --- The lock -------------------------------------------------------------------------------------------------------

TRY = """
import sys
from pathlib import Path
from minirl.errors import RunError
from minirl.experiments.rundir import locked

for line in sys.stdin:
    try:
        with locked(Path(line.strip())):
            answer = "got it"
    except RunError as error:
        answer = error
    print(answer, flush=True)  # when the lock is free again
"""


def test_one_process_at_a_time_but_one_process_several_times(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", TRY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:

        def ask_the_other_process():
            other.stdin.write(f"{tmp_path}\n")
            other.stdin.flush()
            return other.stdout.readline().strip()

        with locked(tmp_path):
            with locked(tmp_path):  # a cell that opens the run is executed a second time
                pass
            # The first holder still holds.
            taken = f"{tmp_path} is in use by another process ({os.getpid()}); wait for it, or choose another --out"
            assert ask_the_other_process() == taken
        assert ask_the_other_process() == "got it"
        with locked(tmp_path):  # and the other process has let go
            pass
        other.stdin.close()


# --- metrics.jsonl --------------------------------------------------------------------------------------------------


def test_metrics_are_cut_back_to_what_the_checkpoint_has_seen(tmp_path):
    path = tmp_path / "arm" / "metrics.jsonl"
    log = MetricsLog(path)
    log.append({"update": 1})
    seen = log.bytes_written
    assert seen == path.stat().st_size == len('{"update": 1}\n')  # on disk at once, not at the end
    log.append({"update": 2})
    log.close()
    log = MetricsLog(path, seen)
    assert read_metrics(path) == [{"update": 1}]
    log.append({"update": 20})
    log.close()
    assert path.read_text() == '{"update": 1}\n{"update": 20}\n'
    MetricsLog(path).close()
    assert path.read_bytes() == b""


def test_metrics_shorter_than_the_checkpoint_says(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("{}\n")
    with pytest.raises(RunError, match=r"metrics.jsonl is shorter than its checkpoint says; start over with --no-res"):
        MetricsLog(path, 4)
    assert path.read_text() == "{}\n"


def test_metrics_refuse_what_is_no_number(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.append({"loss": math.nan})
    assert log.bytes_written == 0
    log.close()


def test_a_last_line_cut_off_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"update": 1}\n{"upd')
    assert read_metrics(path) == [{"update": 1}]


# --- Checkpoints ----------------------------------------------------------------------------------------------------


def learner(seed=0):
    return Learner(tiny_llama(16, 2, 2, seed=seed), TaskConfig(name="add"), TRAIN, seed=0)


def step(made: Learner) -> None:
    ids = torch.randint(3, 80, (4, 6), generator=torch.Generator().manual_seed(made.updates_done))
    made.step(iter([made.policy.logits(ids).square().mean()]))
    made.updates_done += 1
    made.generated_tokens += 10


def state(made: Learner) -> dict:
    """Everything that an update depends on."""
    tensors = {}
    for name, parameter in made.policy.model.named_parameters():
        tensors[name] = parameter.detach().clone()
        for key, value in made.optimizer.state[parameter].items():
            tensors[f"{name}/{key}"] = value.clone()
    return tensors | {"counts": torch.tensor([made.updates_done, made.generated_tokens])}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def saved(tmp_path):
    """Checkpoints after 1, 2 and 3 updates, and the states they hold."""
    made, states = learner(), {}
    for update in (1, 2, 3):
        step(made)
        save_checkpoint(tmp_path, made, 100 * update)
        states[update] = state(made)
    return tmp_path, states


def stem(update):
    return f"update-{update:06d}"


def test_round_trip_is_exact_optimiser_included(saved):
    directory, states = saved
    fresh = learner(seed=1)
    assert load_newest_checkpoint(directory, fresh) == (300, [])
    assert same(state(fresh), states[3])
    assert any(key.endswith("/exp_avg_sq") for key in states[3])
    assert not same(states[2], states[3])
    # And the next update is the one that would have been.
    onward = learner()
    for _ in range(4):
        step(onward)
    step(fresh)
    assert same(state(fresh), state(onward))


def test_what_is_trained_after_a_load_does_not_reach_back(saved):
    directory, states = saved
    fresh = learner(seed=1)
    load_newest_checkpoint(directory, fresh)
    step(fresh)
    again = learner(seed=2)
    load_newest_checkpoint(directory, again)
    assert same(state(again), states[3])


def test_the_newest_two_are_kept(saved):
    directory, _ = saved
    assert names(directory) == sorted(f"{stem(u)}.{kind}" for u in (2, 3) for kind in ("json", "safetensors"))


def test_nothing_saved_yet(tmp_path):
    fresh = learner()
    before = state(fresh)
    assert load_newest_checkpoint(tmp_path / "none", fresh) == (0, [])
    assert same(state(fresh), before)


def damage(path, how):
    if how == "cut off":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "one bit":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["cut off", "one bit", "missing"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(saved, how):
    directory, states = saved
    damage(directory / f"{stem(3)}.safetensors", how)
    fresh = learner(seed=1)
    kept, warnings = load_newest_checkpoint(directory, fresh)
    assert (kept, len(warnings)) == (200, 1)
    assert warnings[0].startswith(f"checkpoint {stem(3)} is damaged (")
    assert warnings[0].endswith("; trying the one before")
    assert ("checksum differs" in warnings[0]) == (how != "missing")
    assert same(state(fresh), states[2])


@pytest.mark.parametrize("content", ["", '{"updates_done": 3}'])
def test_a_damaged_seal_falls_back_too(saved, content):
    directory, states = saved
    (directory / f"{stem(3)}.json").write_text(content)
    fresh = learner(seed=1)
    kept, warnings = load_newest_checkpoint(directory, fresh)
    assert (kept, len(warnings)) == (200, 1)
    assert same(state(fresh), states[2])


def test_a_checkpoint_of_another_model_is_refused(saved):
    directory, _ = saved
    other = Learner(tiny_llama(16, 3, 2), TaskConfig(name="add"), TRAIN, seed=0)
    with pytest.raises(RunError, match=r"every checkpoint in .* is damaged: checkpoint update-000003 is damaged \("):
        load_newest_checkpoint(directory, other)


def test_a_checkpoint_without_its_seal_does_not_count(saved):
    directory, states = saved
    (directory / f"{stem(3)}.json").unlink()  # killed between the two files
    fresh = learner(seed=1)
    assert load_newest_checkpoint(directory, fresh) == (200, [])
    assert same(state(fresh), states[2])


def test_all_checkpoints_damaged(saved):
    directory, _ = saved
    for update in (2, 3):
        damage(directory / f"{stem(update)}.safetensors", "one bit")
    with pytest.raises(
        RunError, match=r"^every checkpoint in .* is damaged: .* update-000003 .* update-000002 .*checksum differs\)$"
    ):
        load_newest_checkpoint(directory, learner())


def test_a_full_disk_while_saving_keeps_the_checkpoints_there_are(saved, monkeypatch):
    directory, states = saved
    made = learner(seed=1)
    load_newest_checkpoint(directory, made)
    step(made)
    before = names(directory)

    def full(*arguments):
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(rundir.os, "fsync", full)
        with pytest.raises(RunError, match="No space left on device"):
            save_checkpoint(directory, made, 400)
    assert names(directory) == before
    fresh = learner(seed=1)
    assert load_newest_checkpoint(directory, fresh) == (300, [])
    assert same(state(fresh), states[3])


def test_a_checkpoint_is_what_others_can_read(saved):
    directory, states = saved
    tensors = safetensors.torch.load_file(directory / f"{stem(3)}.safetensors")
    weights = {name.removeprefix("model/"): tensor for name, tensor in tensors.items() if name.startswith("model/")}
    assert all(torch.equal(tensor, states[3][name]) for name, tensor in weights.items())
    assert json.loads((directory / f"{stem(3)}.json").read_text())["updates_done"] == 3


def test_a_moving_reference_is_part_of_a_checkpoint(tmp_path):
    def learner():
        return Learner(tiny_llama(16, 1, 2), TaskConfig(name="add", level=1), TRAIN, 0)

    one = learner()
    one.reference = tiny_llama(16, 1, 2, seed=7).frozen_copy()
    save_checkpoint(tmp_path / "moving", one, 0, moving_reference=True)
    save_checkpoint(tmp_path / "frozen", one, 0)
    moved, fresh = learner(), learner()
    load_newest_checkpoint(tmp_path / "moving", moved)
    load_newest_checkpoint(tmp_path / "frozen", fresh)
    for theirs, ours in zip(one.reference.model.parameters(), moved.reference.model.parameters(), strict=True):
        assert torch.equal(theirs, ours)
    for base, ours in zip(learner().reference.model.parameters(), fresh.reference.model.parameters(), strict=True):
        assert torch.equal(base, ours)


def some_pairs(seed: int = 0) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 80, (6, 5), generator=generator)
    return Pairs(ids, torch.rand(6, 5, generator=generator) < 0.5, torch.rand(3, generator=generator), 70, {"a": 0.5})


def test_pairs_are_part_of_a_checkpoint(tmp_path):
    made = learner()
    made.pairs = some_pairs()
    step(made)
    save_checkpoint(tmp_path, made, 100)
    fresh = learner(seed=1)
    assert load_newest_checkpoint(tmp_path, fresh) == (100, [])
    assert same(state(fresh), state(made))
    for name in ("ids", "own", "confidence"):
        ours, theirs = getattr(fresh.pairs, name), getattr(made.pairs, name)
        assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype
    # What they cost is in the learner's count, and what is to be said of them in the records.
    assert (fresh.generated_tokens, fresh.pairs.generated_tokens, fresh.pairs.stats) == (10, 0, {})


def test_a_checkpoint_without_pairs_leaves_none(saved):
    directory, states = saved
    fresh = learner(seed=1)
    fresh.pairs = some_pairs()
    load_newest_checkpoint(directory, fresh)
    assert fresh.pairs is None and same(state(fresh), states[3])


@pytest.mark.parametrize("how", ["cut off", "one bit", "missing"])
def test_pairs_of_a_damaged_checkpoint_are_not_used(saved, how):
    # The one before has others, and the one before that none.
    directory, states = saved
    made = learner(seed=1)
    load_newest_checkpoint(directory, made)
    for update in (4, 5):
        step(made)
        made.pairs = some_pairs(update)
        save_checkpoint(directory, made, 100 * update)
        states[update] = state(made)
    damage(directory / f"{stem(5)}.safetensors", how)
    fresh = learner(seed=2)
    kept, warnings = load_newest_checkpoint(directory, fresh)
    assert (kept, len(warnings)) == (400, 1) and warnings[0].startswith(f"checkpoint {stem(5)} is damaged (")
    assert same(state(fresh), states[4])
    assert torch.equal(fresh.pairs.ids, some_pairs(4).ids)


def test_a_checkpoint_that_lacks_half_of_its_pairs_is_damaged(tmp_path):
    made = learner()
    step(made)
    save_checkpoint(tmp_path, made, 100)
    step(made)
    made.pairs = some_pairs()
    save_checkpoint(tmp_path, made, 200)
    path = tmp_path / f"{stem(2)}.safetensors"
    tensors = safetensors.torch.load_file(path)
    del tensors["pairs/confidence"]
    data = safetensors.torch.save(tensors)
    path.write_bytes(data)
    seal = read_json(path.with_suffix(".json"))
    write_json(path.with_suffix(".json"), seal | {"sha256": hashlib.sha256(data).hexdigest()})
    fresh = learner(seed=1)
    kept, warnings = load_newest_checkpoint(tmp_path, fresh)
    assert (kept, len(warnings), fresh.pairs) == (100, 1, None)
