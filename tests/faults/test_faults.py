"""Faults injected into the real runner: nothing complete is lost, resuming gives the same bytes, and it says so."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import nbformat
import pytest
from fault_driver import (
    BAD_DISK_STAGES,
    CONTEXT,
    DAMAGES,
    SPEC,
    Hands,
    counted,
    flip_a_bit,
    killed_after,
    little_soak,
    on_a_bad_disk,
    paused,
    reopen,
    struck,
    updates_run,
    whole,
)
from faults_table import render

from benchmarks.soak import SIGNALS, STAGES, Tally, complete, lost, outcome, overrides, work
from minirl import cli
from minirl.errors import RunError
from minirl.experiments import run as run_module
from minirl.experiments import rundir, runner
from minirl.experiments.registry import Technique, project_root
from minirl.experiments.rundir import clear, read_json, write_json
from minirl.experiments.runner import Job, PlainRun, finished, reproduce

PAGE = project_root() / "book" / "reference" / "faults.md"
SOAK = project_root() / "benchmarks" / "results" / "soak.json"
ALL = list(range(1, SPEC["train"]["updates"] + 1))
ROWS: list[tuple[str, str, str]] = []  # of the page, in the order of this file


def row(fault: str, where: str, what_becomes: str) -> str:
    """A row of the page; the fault."""
    ROWS.append((fault, where, what_becomes))
    return fault


@pytest.fixture(scope="module")
def hands():
    made = Hands()
    yield made
    made.close()


@pytest.fixture(scope="module")
def twin(hands, tmp_path_factory):
    """The undisturbed run: its directory, its outcome, the calls it makes in each stage."""
    out = tmp_path_factory.mktemp("faults") / "undisturbed"
    assert hands.do(counted, out) == 0, out.with_suffix(".log").read_text()
    return out, outcome(out), json.loads(out.with_suffix(".counts").read_text())


@pytest.fixture(scope="module")
def half(hands, twin):
    """A run killed after update 5 of its second arm: it has one trained arm, and of the other two checkpoints."""
    out = twin[0].with_name("half")
    assert hands.do(killed_after, out, "pair_sft", 5) == -signal.SIGKILL
    checkpoints = sorted(path.name for path in (out / "arms/pair_sft/checkpoints").iterdir())
    assert checkpoints == [f"update-00000{u}.{kind}" for u in (2, 4) for kind in ("json", "safetensors")]
    return out


@pytest.fixture
def copy(tmp_path):
    """Copies a directory that a test may spoil."""
    return lambda out: shutil.copytree(out, tmp_path / out.name)


def test_the_undisturbed_run_learns_and_is_complete(twin):
    out, found, calls = twin
    assert {path.rsplit("/", 1)[-1] for path in found} >= {"metrics.jsonl", "model.safetensors", "evaluation.json"}
    assert "results.json" in found and calls.keys() == STAGES.keys()
    weights = [found[f"arms/{arm}/policy/model.safetensors"] for arm in SPEC["arms"]]
    assert weights[0] != weights[1]
    assert [updates_run(out, arm) for arm in SPEC["arms"]] == [ALL, ALL]


def test_the_comparison_can_fail(twin, copy):
    out = copy(twin[0])
    flip_a_bit(out / "arms/score/metrics.jsonl")
    assert lost(twin[1], out) == ["arms/score/metrics.jsonl"]


# --- Kills ----------------------------------------------------------------------------------------------------------

for stage in STAGES:
    row("SIGKILL, SIGTERM, SIGINT", f"any call while {stage}", "the same call continues from the newest checkpoint")
ORDER = ("opening", "evaluating", "training", "checkpointing", "saving the policy", "aggregating")


@pytest.mark.parametrize("turn", range(3))
def test_killed_in_every_stage(turn, hands, twin, tmp_path):
    """One run, killed in one stage after the other; three turns try every signal in every stage."""
    out, chance = tmp_path / "run", random.Random(turn)
    for number, stage in enumerate(ORDER):
        before, how = complete(out), SIGNALS[(number + turn) % 3]
        few = 200 if stage == "training" else twin[2][stage] // 4  # what is left of a stage gets less
        status = hands.do(struck, out, stage, chance.randint(1, few), how)
        assert status == (130 if how == signal.SIGINT else -how), f"{stage} was not reached"
        assert lost(before, out) == []
        assert not finished(out)
    assert hands.do(whole, out) == 0
    assert outcome(out) == twin[1]
    assert "damaged" not in out.with_suffix(".log").read_text()
    assert not list(out.rglob(".*.tmp")) + list(out.rglob("checkpoints"))


def test_killed_when_it_is_finished_already(hands, twin, copy):
    out = copy(twin[0])
    for stage in ("evaluating", "aggregating"):
        assert hands.do(struck, out, stage, twin[2][stage] // 4, signal.SIGKILL) == -signal.SIGKILL
        assert lost(twin[1], out) == [] and finished(out)


row(
    "SIGTERM", "the command `minirl`", "as Ctrl-C: it ends what it started; “the same command continues where it stood”"
)


def test_the_command_takes_sigterm_for_an_interrupt(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cli, "list_techniques", lambda options: os.kill(os.getpid(), signal.SIGTERM))
    assert cli.main(["list"]) == 130
    assert "interrupted; the same command continues where it stood" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


# --- Batches of runs ------------------------------------------------------------------------------------------------


@pytest.fixture
def batch(tmp_path, monkeypatch):
    """Two seeds without notebook. Processes are forked from one that has imported everything, not spawned."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: CONTEXT)
    monkeypatch.setattr(runner, "POLL_S", 0.02)
    values = overrides({**SPEC, "arms": ["score"], "train": {**SPEC["train"], "updates": 2}})
    settings = tuple(f"{part}.{key}={json.dumps(value)}" for part in values for key, value in values[part].items())

    def runs(name: str) -> list[PlainRun]:
        return [PlainRun("score", "smoke", "", seed, tmp_path / name / str(seed), settings) for seed in (0, 1)]

    return runs


def holders(runs: list[PlainRun]) -> list[int]:
    """The processes that work on ``runs``, once both do."""
    deadline = time.monotonic() + 120
    while not all((run.directory / ".lock").exists() and (run.directory / ".lock").read_text() for run in runs):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return [int((run.directory / ".lock").read_text()) for run in runs]


def gone(process: int) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


row("`--jobs 2` in place of `--jobs 1`", "a batch", "no fault: the same bytes")
row("SIGKILL", "a process of a batch", "“ended from outside (was memory short?)”; the same command continues")
row("an interrupt", "a batch", "its processes end; the same command continues")


def test_jobs_side_by_side_and_what_ends_them(batch, monkeypatch):
    one_by_one, side_by_side, killed = map(batch, ("one", "two", "killed"))
    assert [error for _, error in runner.complete(one_by_one, 1, "")] == [None, None]
    assert [error for _, error in runner.complete(side_by_side, 2, "")] == [None, None]
    expected = [outcome(run.directory) for run in one_by_one]
    assert [outcome(run.directory) for run in side_by_side] == expected
    assert expected[0]["results.json"] != expected[1]["results.json"]

    wait, processes = runner.wait, []

    def meddle(act):
        """What happens the first time that the batch waits."""

        def waiting(*arguments, **keywords):
            if not processes:
                act()
            return wait(*arguments, **keywords)

        monkeypatch.setattr(runner, "wait", waiting)

    def kill():
        processes[:] = holders(killed)
        os.kill(processes[0], signal.SIGKILL)

    meddle(kill)
    errors = [error for _, error in runner.complete(killed, 2, "")]
    assert all(isinstance(error, RunError) for error in errors)
    assert re.search(r"was ended from outside .* the same command continues where they stood$", str(errors[0]))
    assert all(map(gone, processes))

    def interrupt():
        processes[:] = holders(killed)
        raise KeyboardInterrupt

    processes.clear()
    for run in killed:
        (run.directory / ".lock").unlink()  # which names those that are gone
    meddle(interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(runner.complete(killed, 2, ""))
    assert all(map(gone, processes))
    monkeypatch.setattr(runner, "wait", wait)
    assert [error for _, error in runner.complete(killed, 1, "")] == [None, None]
    assert [outcome(run.directory) for run in killed] == expected


row("SIGKILL", "the command that runs a batch", "its processes end too")


def test_the_processes_of_a_batch_end_with_its_parent():
    theirs, ours = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=stay, args=(theirs,))
    process.start()
    theirs.close()
    process.join(0.5)
    assert process.is_alive()
    ours.close()  # as the system does when the parent is killed
    process.join(30)
    assert process.exitcode == 1


def stay(alive) -> None:
    runner._end_with_parent(alive)
    time.sleep(600)


# --- Disks ----------------------------------------------------------------------------------------------------------

FULL = "“cannot write …: No space left on device. What was complete before is untouched; make room …”"
NO_WRITING = "“cannot write …: Read-only file system; choose another --out”"
for stage in BAD_DISK_STAGES:
    row("the disk is full", stage, FULL)
row("a read-only disk", "opening", NO_WRITING)


def test_a_full_disk_and_one_that_cannot_be_written(hands, twin, tmp_path):
    """On a disk of its own, which is full, or read-only, when a stage of the run begins."""
    disk, report = tmp_path / "disk", tmp_path / "results" / "said.json"
    disk.mkdir()
    report.parent.mkdir()
    assert hands.do(on_a_bad_disk, disk, report) == 0, disk.with_suffix(".log").read_text()
    said = json.loads(report.read_text())
    if "skip" in said:
        pytest.skip(said["skip"])
    assert re.fullmatch(r"cannot write \S+/run: Read-only file system; choose another --out", said.pop("read-only"))
    assert said.keys() == set(BAD_DISK_STAGES)
    for text in said.values():
        assert re.match(
            r"cannot write \S+: .*No space left on device.*\. What was complete before is untouched; make", text
        )
    assert outcome(report.parent / "run") == twin[1]


# --- Damaged files --------------------------------------------------------------------------------------------------

AGAIN = "training {} again, which gives the same bytes"
ONE_BEFORE, FROM_THE_START = "trying the one before", "this arm begins again"
OF_A_FINISHED_RUN = {  # file → what is done about it, as it is said
    "arms/score/policy/model.safetensors": AGAIN.format("score"),
    "arms/score/policy/config.json": AGAIN.format("score"),
    "arms/pair_sft/metrics.jsonl": AGAIN.format("pair_sft"),
    "arms/pair_sft/evaluation.json": "evaluating pair_sft again",
    "results.json": "it is made again",
    "manifest.json": "it is made again",
}
STRUCK_BY = {file: list(DAMAGES) for file in OF_A_FINISHED_RUN} | {
    "arms/score/policy/model.safetensors": ["cut short", "gone"],  # one file of the policy for each
    "arms/score/policy/config.json": ["one bit"],
}
for file, said in OF_A_FINISHED_RUN.items():
    row(", ".join(STRUCK_BY[file]), f"`{file.split('/', 2)[-1]}` of a finished run", f"“… is damaged (…); {said}”")


@pytest.mark.parametrize("how", DAMAGES)
def test_a_finished_run_is_damaged(how, twin, copy, capsys):
    """All files one after the other, in one directory that is mended each time."""
    out = copy(twin[0])
    for file, said in OF_A_FINISHED_RUN.items():
        if how not in STRUCK_BY[file]:
            continue
        DAMAGES[how](out / file)
        if file in ("results.json", "manifest.json"):
            assert not finished(out)
            if how == "gone" and file == "results.json":
                said = ""  # it looks like a run that has not ended, and goes on like one
        mend(out, file)
        err = capsys.readouterr().err
        assert said in err and (not said or file in err), err
        assert outcome(out) == twin[1]
        assert finished(out)
    assert updates_run(out, "score").count(1) + updates_run(out, "pair_sft").count(1) == 4  # each trained once more
    capsys.readouterr()
    work(SPEC, out)
    assert capsys.readouterr().err == ""


def mend(out: Path, file: str) -> None:
    """What the rest of a run does about a damaged file, with no more evaluating than that takes."""
    run = reopen(out)
    for arm in run.arms if "arms" in file and "evaluation" not in file else ():
        run.train(arm)
    run.finish()
    run.close()


OF_HALF_A_RUN = [  # file, what it is, how it is damaged, what is said, the updates that are computed once more
    (
        "arms/pair_sft/checkpoints/update-000004.safetensors",
        "the newest checkpoint",
        list(DAMAGES),
        ONE_BEFORE,
        [3, 4, 5, 6],
    ),
    ("arms/pair_sft/checkpoints/update-000004.json", "its seal", ["cut short", "one bit"], ONE_BEFORE, [3, 4, 5, 6]),
    ("arms/pair_sft/metrics.jsonl", "records that all checkpoints have seen", ["one bit", "gone"], FROM_THE_START, ALL),
    (
        "arms/score/policy/model.safetensors",
        "a policy, while another arm trains",
        ["one bit"],
        AGAIN.format("score"),
        [5, 6],
    ),
    (
        "manifest.json",
        "the manifest",
        list(DAMAGES),
        "the rest of the directory is of this run, so it is written again",
        [5, 6],
    ),
    (
        "checksums.json",
        "the checksums",
        ["cut short"],
        "the other files are taken as they are, without a check",
        [5, 6],
    ),
]
for _, what, hows, said, _ in OF_HALF_A_RUN:
    row(", ".join(hows), f"{what} of an unfinished run", f"“… is damaged (…); {said}”")
row(
    "cut short, in the middle of a line",
    "records after the checkpoint before the newest",
    f"“… is damaged (…); {ONE_BEFORE}”",
)
row("one bit", "both checkpoints", f"“… is damaged (…); {FROM_THE_START}”")
row("a line that is no JSON", "`timing.jsonl`", "the line is left out: seconds are no results")


@pytest.mark.parametrize(
    ("file", "how", "said", "again"),
    [(file, how, said, again) for file, _, hows, said, again in OF_HALF_A_RUN for how in hows],
)
def test_a_run_is_damaged_while_it_stands(file, how, said, again, half, twin, copy, capsys):
    out = copy(half)
    if file.endswith("metrics.jsonl") and how == "one bit":  # in its first line
        data = bytearray((out / file).read_bytes())
        data[11] ^= 1
        (out / file).write_bytes(data)
    else:
        DAMAGES[how](out / file)
    work(SPEC, out)
    err = capsys.readouterr().err
    assert said in err and ("is damaged" in err or how == "gone")
    assert updates_run(out, "pair_sft") == [1, 2, 3, 4, 5, *again]
    assert updates_run(out, "score") == (ALL * 2 if "score" in file else ALL)
    assert outcome(out) == twin[1]


def test_the_records_are_damaged_after_the_checkpoint_before_the_newest(half, twin, copy, capsys):
    out = copy(half)
    metrics = out / "arms/pair_sft/metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join(lines[:2]) + b'{"update": 3, "ph')
    with open(out / "arms/pair_sft/timing.jsonl", "ab") as timing:
        timing.write(b'{"update": "six"}\nnonsense\n\xff')
    work(SPEC, out)
    err = capsys.readouterr().err
    assert "update-000004 is damaged (metrics.jsonl is shorter than it says); trying the one before" in err
    assert "begins again" not in err
    assert outcome(out) == twin[1]


def test_both_checkpoints_are_damaged(half, twin, copy, capsys):
    out = copy(half)
    for update in (2, 4):
        flip_a_bit(out / f"arms/pair_sft/checkpoints/update-00000{update}.safetensors")
    run = reopen(out)
    run.train("pair_sft")
    run.close()
    err = capsys.readouterr().err
    assert err.count("checksum differs") == 2 and "this arm begins again" in err
    assert updates_run(out, "pair_sft") == [1, 2, 3, 4, 5, *ALL] and updates_run(out, "score") == ALL
    ours = outcome(out)
    assert {name: twin[1][name] for name in ours} == ours and "arms/pair_sft/policy/model.safetensors" in ours


# --- Two processes on one directory ---------------------------------------------------------------------------------

row("a second process", "a run in training", "“… is in use by another process (its number); wait for it, or choose …”")
row("`--no-resume`", "a run in training by another process", "the same message, and nothing is removed")
row("`--no-resume`, and a kill", "while a run is removed", "what is left still says of which run it is")
row(
    "another seed, config or code",
    "a directory that is in use already",
    "“holds a run with another …: there …, here …”",
)


def test_two_processes_on_one_directory(hands, twin, tmp_path, monkeypatch):
    out = tmp_path / "seed-0"
    process = hands.start(paused, out)
    deadline = time.monotonic() + 120
    while not out.with_suffix(".paused").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    taken = rf"seed-0 is in use by another process \({process}\); wait for it, or choose another --out$"
    before = sorted(path for path in out.rglob("*"))
    with pytest.raises(RunError, match=taken):
        reopen(out)
    for resume in (True, False):
        with pytest.raises(RunError, match=taken):
            reproduce("score", "smoke", [0], out=tmp_path, resume=resume)
    assert sorted(path for path in out.rglob("*")) == before
    out.with_suffix(".go on").touch()
    assert hands.wait(process) == 0
    assert outcome(out) == twin[1]


def test_what_is_left_of_a_run_that_is_being_removed_still_says_whose_it_is(half, copy, monkeypatch):
    out = copy(half)
    remove, removed = shutil.rmtree, []

    def broken(path):
        removed.append(path)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(rundir.shutil, "rmtree", broken)
    with pytest.raises(RunError, match=r"cannot clear .*Input/output error; choose another --out"):
        clear(out)
    assert removed and (out / "manifest.json").exists()
    with pytest.raises(RunError, match=r"holds a run with another seed \(value: there 0, here 1\)"):
        reopen(out, seed=1)
    monkeypatch.setattr(rundir.shutil, "rmtree", remove)
    clear(out)
    assert os.listdir(out) == [".lock"]
    reopen(out, seed=1).close()
    clear(out / "what is not there")
    assert not (out / "what is not there").exists()


# --- Time, and older versions ---------------------------------------------------------------------------------------

row("the clock goes back a year", "between a kill and the rest", "nothing: no decision depends on the time of day")
row("a directory of an older version", "without checksums", "it is continued; what has no checksum is taken as it is")
row("a directory of another version", "another schema", "“holds a run of another version of minirl (schema …)”")
row("the manifest is gone", "a directory without checksums", "“… so it is not known what is there; choose …”")


def test_the_clock_goes_backwards(half, twin, copy, monkeypatch, capsys):
    out = copy(half)
    year = 365 * 24 * 3600
    for number, path in enumerate(sorted(out.rglob("*"))):  # the older a file is the newer it looks
        os.utime(path, (time.time() + year - number,) * 2)
    monkeypatch.setattr(run_module, "now", lambda: "2025-11-22T00:00:00+00:00")
    clock = iter(range(10**9, 0, -1))
    monkeypatch.setattr(time, "time", lambda: next(clock))
    work(SPEC, out)
    assert capsys.readouterr().err == ""
    assert updates_run(out, "pair_sft") == [1, 2, 3, 4, 5, 5, 6]
    assert outcome(out) == twin[1]
    manifest = read_json(out / "manifest.json")
    assert manifest["finished"] < manifest["started"]  # told as it was


def as_before_checksums(out: Path) -> None:
    """What version 0.8 has left: no checksums, and seals of checkpoints that say nothing of the records."""
    (out / "checksums.json").unlink()
    manifest = read_json(out / "manifest.json")
    del manifest["dtype"]
    write_json(out / "manifest.json", manifest)
    for seal in out.glob("arms/*/checkpoints/*.json"):
        content = read_json(seal)
        del content["metrics_sha256"]
        write_json(seal, content)


def test_a_directory_of_an_older_version(half, twin, copy, capsys):
    out = copy(half)
    as_before_checksums(out)
    work(SPEC, out)
    assert capsys.readouterr().err == ""
    assert updates_run(out, "pair_sft") == [1, 2, 3, 4, 5, 5, 6] and updates_run(out, "score") == ALL
    assert outcome(out) == twin[1]


def test_a_finished_run_of_an_older_version_stays_finished(twin, copy):
    out = copy(twin[0])
    as_before_checksums(out)
    assert finished(out)


def test_a_directory_of_another_version_is_refused(half, copy):
    out = copy(half)
    as_before_checksums(out)
    write_json(out / "manifest.json", {**read_json(out / "manifest.json"), "schema": 2})
    with pytest.raises(
        RunError, match=r"holds a run of another version of minirl \(schema 2, here 1\); choose another --out, or start"
    ):
        reopen(out)
    (out / "manifest.json").unlink()
    with pytest.raises(RunError, match=r"missing or damaged, so it is not known what is there; choose another --out"):
        reopen(out)


row("another torch, Python, thread count, dtype, instruction set", "between a kill and the rest", "“last digits may …”")


def test_what_else_could_matter_is_recorded_and_told(half, copy, capsys):
    out = copy(half)
    manifest = read_json(out / "manifest.json")
    assert {"packages", "python", "threads", "dtype", "hardware"} <= manifest.keys()
    assert manifest["dtype"] == "float32" and {"machine", "capability", "device"} <= manifest["hardware"].keys()
    as_before_checksums(out)
    manifest["hardware"] |= {"capability": "NEON", "cores": 96}
    write_json(out / "manifest.json", manifest | {"threads": 7})
    reopen(out).close()
    said = "minirl: the run was begun with other hardware, threads (see manifest.json): last digits may differ\n"
    assert capsys.readouterr().err == said
    manifest["hardware"]["capability"] = run_module.torch.backends.cpu.get_cpu_capability()
    write_json(out / "manifest.json", manifest)
    reopen(out).close()
    assert capsys.readouterr().err == ""  # how many cores there are does not matter


# --- Notebooks ------------------------------------------------------------------------------------------------------

row(
    "SIGKILL",
    "the kernel of a notebook",
    "“the notebook's kernel died (was memory short …); the same command continues …”",
)
row("SIGKILL", "papermill", "“papermill was ended by SIGKILL (was memory short …); the same command continues …”")

DIES_ONCE = """
import os, signal
from pathlib import Path
before = Path(out, "before")
if not before.exists():
    before.touch()
    os.kill(os.getppid() if seed else os.getpid(), signal.SIGKILL)
Path(out, "results.json").write_text("{}")
"""


def test_the_kernel_dies_inside_papermill(tmp_path, monkeypatch):
    parameters = nbformat.v4.new_code_cell(
        "tier = ''\nseed = 0\noverrides = {}\nout = ''", metadata={"tags": ["parameters"]}
    )
    notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(DIES_ONCE)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "fake.ipynb")
    monkeypatch.setattr(Technique, "notebook", tmp_path / "fake.ipynb")
    with pytest.raises(RunError) as caught:
        reproduce("score", "smoke", [0, 1], jobs=2, out=tmp_path)
    kernel, papermill = str(caught.value).split("\nseed 1 failed: ")
    ending = "(was memory short, or did someone end it?); the same command continues where it stood\n  executed so far"
    assert kernel.startswith(f"seed 0 failed: the notebook's kernel died {ending}")
    assert papermill.startswith(f"papermill was ended by SIGKILL {ending}")
    assert not Job(0, tmp_path / "seed-0").done()
    (job,) = reproduce("score", "smoke", [0], out=tmp_path, resume=True)
    assert job.done() and job.process is not None


def test_a_damaged_result_is_not_passed_off_as_done(twin, copy, capsys):
    out = copy(twin[0])
    (out / "notebook.html").touch()
    assert Job(0, out).done()
    flip_a_bit(out / "results.json")
    assert not Job(0, out).done()
    assert "results.json is damaged (its checksum differs); it is made again" in capsys.readouterr().err


# --- The soak -------------------------------------------------------------------------------------------------------


def test_a_little_soak(hands, tmp_path):
    out = tmp_path / "soak"
    assert hands.do(little_soak, out) == 0, out.with_suffix(".log").read_text()
    log = read_json(out / "log.json")["library"]
    assert log["kills"] >= 2 and log["runs"] >= 1
    assert log["differing"] == log["lost"] == log["failed"] == []
    assert [sum(log[key].values()) for key in ("kills_by", "struck_in", "struck_at")] == [log["kills"]] * 3
    assert len(log["each"]) == log["kills"] and log["updates"] == 12 * log["runs"]


def test_the_soak_tells_what_differs_and_what_is_lost(tmp_path):
    tally = Tally()
    tally.compare("run 0", {"a": b"1", "b": b"2"}, {"a": b"1", "b": b"3", "c": b""})
    assert (tally.runs, tally.files_compared, tally.bytes_compared) == (1, 3, 2)
    assert tally.differing == ["run 0: b", "run 0: c"]
    (tmp_path / "results.json").write_text('{"core_s":1.5,"x":1}')
    before = complete(tmp_path)
    (tmp_path / "results.json").write_text('{"core_s":27.0,"x":1}')
    assert lost(before, tmp_path) == []
    (tmp_path / "results.json").write_text('{"core_s":27.0,"x":2}')
    assert lost(before, tmp_path) == ["results.json"]
    (tmp_path / "results.json").unlink()
    assert lost(before, tmp_path) == ["results.json"]


# --- The page -------------------------------------------------------------------------------------------------------


def test_the_page_is_current(request):
    text = render(ROWS, read_json(SOAK))
    if request.config.getoption("--write-faults"):
        PAGE.write_text(text, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == text, "rewrite it: pytest tests/faults --write-faults"


def test_the_soak_struck_everywhere_and_nothing_differed():
    log = read_json(SOAK)
    assert log["library"]["kills"] >= 200 and log["notebooks"]["kills"] >= 10
    assert log["library"]["struck_in"].keys() >= STAGES.keys()
    assert log["library"]["kills_by"].keys() >= {"SIGKILL", "SIGTERM"}
    for part in (log["library"], log["notebooks"]):
        assert part["differing"] == part["lost"] == part["failed"] == []
        assert part["kills"] == sum(part["kills_by"].values()) == len(part["each"]) and part["bytes_compared"] > 10**6
