"""``minirl verify`` and its stamp, in a throw-away repository whose runs are made by hand; one run is real."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from small_project import commit, document, edit, git, lay_out_project, publish_all, run_directory

import minirl
from minirl.cli import main
from minirl.errors import RunError
from minirl.experiments import fingerprint, runner
from minirl.experiments.audit import audit
from minirl.experiments.registry import project_root, result_files, technique
from minirl.experiments.report import coverage_table, publish, regenerate
from minirl.experiments.rundir import read_json, write_json
from minirl.experiments.runner import PlainRun
from minirl.experiments.staleness import load_stamp, stale_parts, standing
from minirl.experiments.why import chain

RESULTS = Path("reproductions/score/results/tiny")
STAMP = RESULTS / "verified.json"
BASE = "minirl/policy/shipped/add-repeating"
LOOPS = "minirl/loops.py"
NUMBERS = 3 * (2 + 512 + 1)  # of three arms: two metrics, the items of one, generated tokens
MACHINE = {"hardware": {"machine": "pdp11", "cores": 2}, "python": "3.11", "packages": {"torch": "2.0"}}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Claim in one commit, results in the next, a change of shared code in the last."""
    root = tmp_path_factory.mktemp("template")
    lay_out_project(root)
    shutil.copytree(project_root() / BASE, root / BASE)
    (root / ".gitignore").write_text("runs/\n__pycache__/\n")
    git(root, "init", "-q")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minirl, "__file__", str(root / "minirl" / "__init__.py"))
        publish_all(root, commit(root, "claim"))
        commit(root, "results")
        append(root / LOOPS)
        regenerate()
    commit(root, "a change that changes nothing")
    return root


@pytest.fixture
def root(template, tmp_path, monkeypatch):
    """A copy of the template."""
    return work_in(shutil.copytree(template, tmp_path / "project"), monkeypatch)


def work_in(root, monkeypatch):
    """All functions work in ``root``, with runs that :func:`hand_made` makes, in this process."""
    monkeypatch.setattr(minirl, "__file__", str(root / "minirl" / "__init__.py"))
    in_this_process(monkeypatch)
    monkeypatch.setattr(runner, "_complete_one", hand_made())
    return root


def in_this_process(monkeypatch) -> None:
    monkeypatch.setattr(runner, "ProcessPoolExecutor", lambda limit, **_: ThreadPoolExecutor(1))
    monkeypatch.setattr(runner, "POLL_S", 0.01)


def hand_made(change=lambda data: None, made=None, **manifest):
    """Instead of training: leaves behind what a finished run does, after ``change``; notes it in ``made``."""

    def complete(run: PlainRun) -> None:
        if made is not None:
            made.append((run.variant, run.seed))
        data = document(run.seed, run.variant) | {"core_s": 7.0, "wall_s": 8.0, "peak_mb": 9}
        for scores in data["arms"].values():
            scores.update(core_s=5.0, wall_s=6.0)
        change(data)
        write_json(run.directory / "manifest.json", {"commit": "other", **MACHINE, **manifest})
        write_json(run.results, data)

    return complete


def append(path: Path, text: str = "\nx = 1\n") -> None:
    path.write_text(path.read_text() + text)


def stale() -> list[str]:
    item = technique("score")
    return stale_parts(item, "tiny", [read_json(file) for file in result_files(item, "tiny")])


def said(level: str) -> list[str]:
    return [finding.text for finding in audit().findings if finding.level == level]


def lines(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


# --- Comparing --------------------------------------------------------------------------------------------------------


def test_identical(root, capsys):
    assert main(["verify", "score"]) == 0
    assert lines(capsys) == [
        # 100 core-seconds were written into the document of seed 0
        "1 seed to compute again; training them took 2 core-minutes. Runs are kept in runs/verify",
        f"score (tiny) seed 0: identical ({NUMBERS:,} numbers)",
        "1 of 1 identical",
    ]
    assert not (root / STAMP).exists()


def one_item(data):
    """One more is right: the first item that was not, and the mean."""
    data["arms"]["score"]["items"]["delta"][96] = 1
    data["arms"]["score"]["metrics"]["delta"] = 97 / 512


def test_one_item_differs(root, capsys, monkeypatch):
    monkeypatch.setattr(runner, "_complete_one", hand_made(one_item, hardware={"machine": "pdp11", "cores": 1}))
    edit(root / RESULTS / "seed-1.json", lambda data: data["manifest"].update(packages={"torch": "2.0"}))
    assert main(["verify", "score", "--seeds", "1,0", "--stamp"]) == 1
    found = lines(capsys)
    at = found.index("score (tiny) seed 0: DIFFERS in 2 of 1,545 numbers, 1 of them scores of items")
    assert found[at + 1 : at + 4] == [
        "    largest absolute difference 1, in arms.score.items.delta[96]",
        "    arms.score.metrics.delta: committed 0.1875, now 0.189453125",
        "    arms.score.items.delta[96]: committed 0, now 1",
    ]
    # Seed 0 says nothing of its version of torch; seed 1 that it had the same. The number of cores is no matter.
    assert found[at + 4 : at + 7] == [
        "    the committed run was made elsewhere: torch unknown there, 2.0 here",
        "    there the last digits may differ, and one sampled token that tips over changes what follows:",
        "    judge by how many items differ, and how much",
    ]
    assert "    the kind of machine and the versions are those of the committed run: suspect the code" in found
    assert found[-3:-1] == ["0 of 2 identical", "not stamped: score (tiny): seed 0, 1 did not come out identical"]
    assert not (root / STAMP).exists()


def test_the_last_digit_counts(root, capsys, monkeypatch):
    change = lambda data: data["arms"]["naive"]["metrics"].update({"accuracy@1": 0.5 + 2**-53})  # noqa: E731
    monkeypatch.setattr(runner, "_complete_one", hand_made(change))
    assert main(["verify", "score"]) == 1
    assert "    largest absolute difference 1.11022e-16, in arms.naive.metrics.accuracy@1" in lines(capsys)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda data: data["arms"].pop("naive"), '    arms.naive: committed 515 numbers, now "nothing"'),
        (
            lambda data: data["arms"]["naive"]["items"]["delta"].pop(),
            "    arms.naive.items.delta: committed 512 numbers, now 511 numbers",
        ),
        (
            lambda data: data["arms"]["naive"]["metrics"].update(new=None),
            '    arms.naive.metrics.new: committed "missing", now null',
        ),
        (
            lambda data: data["arms"]["naive"].update(generated_tokens=999),
            "    arms.naive.generated_tokens: committed 1000, now 999",
        ),
        (lambda data: data["evaluation"].update(level=6), "    evaluation.level: committed 5, now 6"),
    ],
)
def test_what_is_compared(root, capsys, monkeypatch, change, line):
    monkeypatch.setattr(runner, "_complete_one", hand_made(change))
    assert main(["verify", "score"]) == 1
    assert line in lines(capsys)


def test_only_the_first_differences_are_shown(root, capsys, monkeypatch):
    change = lambda data: data["arms"]["naive"]["items"].update(delta=[2] * 512)  # noqa: E731
    monkeypatch.setattr(runner, "_complete_one", hand_made(change))
    assert main(["verify", "score"]) == 1
    found = lines(capsys)
    assert sum(": committed " in line for line in found) == 5
    assert "    … and 507 more" in found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["score", "--seeds", "0,7"],
            "score (tiny) has no committed seed 7; there are seed-0, seed-1, seed-2, seed-3, seed-4",
        ),
        (["scor"], "unknown technique 'scor'. Did you mean 'score'?"),
        (["score", "--tier", "smoke"], "score has no committed results at smoke, so there is nothing to verify"),
        (["--tier", "smoke"], "there are no committed results of smoke, so nothing to verify"),
        (
            ["score", "--variant", "ablation"],
            "score at tiny has no committed results of a variant 'ablation'.",
        ),
        (["score", "--jobs", "0"], "--jobs 0: give at least 1"),
    ],
)
def test_what_cannot_be_verified(root, capsys, arguments, message):
    assert main(["verify", *arguments]) == 1
    assert capsys.readouterr().err.strip() == f"minirl: {message}"


def test_every_directory_of_results(root, capsys, monkeypatch):
    publish("score", "tiny", [run_directory(root, seed, "ablations") for seed in range(5)], "ablations")
    made = []
    monkeypatch.setattr(runner, "_complete_one", hand_made(made=made))
    assert main(["verify"]) == 0
    assert lines(capsys)[-1] == "2 of 2 identical"
    assert made == [("", 0), ("ablations", 0)]
    assert main(["verify", "--variant", "ablations", "--seeds", "0-2"]) == 0  # seed 0 is there already
    assert lines(capsys)[1].startswith("score (tiny-ablations) seed 0: identical")
    assert made[2:] == [("ablations", 1), ("ablations", 2)]


def test_a_run_that_fails_stops_no_other(root, capsys, monkeypatch):
    made = hand_made()

    def complete(run):
        if run.seed == 0:
            raise ZeroDivisionError("a bug")
        if run.seed == 1:
            raise RunError("no\nroom")
        made(run)

    monkeypatch.setattr(runner, "_complete_one", complete)
    assert main(["verify", "score", "--seeds", "0-2", "--stamp"]) == 1
    found = "\n".join(lines(capsys))
    assert "score (tiny) seed 0: failed: ZeroDivisionError: a bug; whole trace: runs/verify/score/tiny/seed-0-" in found
    assert "score (tiny) seed 1: failed: no room\n" in found
    assert "score (tiny) seed 2: identical" in found
    assert "not stamped: score (tiny): seed 0, 1 did not come out identical" in found
    (log,) = (root / "runs" / "verify").rglob("error.txt")
    assert "in complete" in log.read_text()


def test_runs_of_other_code_are_left_alone(root, monkeypatch):
    made = []
    monkeypatch.setattr(runner, "_complete_one", hand_made(made=made))
    for _ in range(2):
        assert main(["verify", "score", "--out", str(root / "mine")]) == 0
    assert len(made) == 1
    append(root / LOOPS, "\ny = 1\n")
    assert main(["verify", "score", "--out", str(root / "mine")]) == 0
    assert len(made) == 2
    assert len(list((root / "mine" / "score" / "tiny").glob("seed-0-*/results.json"))) == 2


def test_a_killed_run_continues(template, tmp_path, monkeypatch, capsys):
    """Real training: interrupted after a checkpoint, the same command goes on from there, and the numbers are those of
    the undisturbed run."""
    root = shutil.copytree(template, tmp_path / "project")
    monkeypatch.setattr(minirl, "__file__", str(root / "minirl" / "__init__.py"))
    in_this_process(monkeypatch)
    config = root / "reproductions" / "score" / "tiny.yaml"
    data = yaml.safe_load(config.read_text())
    data["train"] |= {"updates": 4, "prompts": 4, "samples": 4, "checkpoint_every": 2}
    data["evaluation"] |= {"items": 8, "batch": 8}
    data["arms"] = {"score": {"method": "score"}}
    config.write_text(yaml.safe_dump(data))
    undisturbed = PlainRun("score", "tiny", "", 0, tmp_path / "undisturbed")
    assert [error for _, error in runner.complete([undisturbed], 1, "x")] == [None]
    shutil.copy(undisturbed.results, root / RESULTS / "seed-0.json")

    clip, calls = torch.nn.utils.clip_grad_norm_, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise OSError("power cut")
        return clip(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", interrupted)
        assert main(["verify", "score"]) == 1
    assert "score (tiny) seed 0: failed: OSError: power cut" in capsys.readouterr().out
    assert main(["verify", "score"]) == 0
    # eight metrics and items of ADD's self-correction, twice; how many exactly is no matter here
    assert "score (tiny) seed 0: identical (" in capsys.readouterr().out
    (timing,) = (root / "runs" / "verify").rglob("timing.jsonl")
    assert [json.loads(line)["update"] for line in timing.read_text().splitlines()] == [1, 2, 3, 4]  # not 1, 2, 1, 2, …


def test_sweep_raises_what_a_seed_raises_and_keeps_what_is_done(root, monkeypatch):
    made = []
    monkeypatch.setattr(runner, "_complete_one", hand_made(made=made))
    directories = runner.sweep("score", "tiny", "ablations", [0, 1])
    assert [directory.name for directory in directories] == ["seed-0", "seed-1"]
    assert all((directory / "results.json").exists() for directory in directories)
    for directory in directories:  # whose runs they are
        shutil.rmtree(directory)

    def fails(run):
        raise RunError(f"seed {run.seed} is broken")

    monkeypatch.setattr(runner, "_complete_one", fails)
    with pytest.raises(RunError, match=r"seed [23] is broken"):
        runner.sweep("score", "tiny", "ablations", [2, 3])


# --- The stamp --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stamped_template(template, tmp_path_factory):
    """Results made stale by a change of code and vouched for, all committed."""
    root = shutil.copytree(template, tmp_path_factory.mktemp("stamped") / "project")
    with pytest.MonkeyPatch.context() as patch:
        work_in(root, patch)
        assert stale() == [LOOPS]
        assert "(stale)" in coverage_table()
        assert main(["verify", "score", "--stamp"]) == 0
        assert main(["report"]) == 0
        commit(root, "verified")
    return root


@pytest.fixture
def stamped(stamped_template, tmp_path, monkeypatch):
    return work_in(shutil.copytree(stamped_template, tmp_path / "project"), monkeypatch)


def test_stamping(root, capsys):
    assert "STALE" in claimed(capsys)
    assert main(["verify", "score", "--stamp"]) == 0
    assert lines(capsys)[-3:] == [
        "1 of 1 identical",
        f"stamped: {STAMP}",
        "`minirl report` brings tables and summaries up to date.",
    ]


def claimed(capsys) -> str:
    assert main(["claims"]) == 0
    return capsys.readouterr().out


def test_a_stamp_is_honoured(stamped, capsys):
    assert stale() == []
    assert "(stale)" not in coverage_table() + (stamped / "README.md").read_text()
    assert "STALE" not in claimed(capsys)
    assert read_json(stamped / RESULTS / "summary.json")["stale"] is False
    at = git(stamped, "rev-parse", "HEAD^")
    assert (said("failure"), said("warning")) == ([], [])
    assert said("note") == [f"code changed since ({LOOPS}); seed 0 verified identical at {at[:10]}"]
    found = chain("score")
    assert (found["stale"], found["verified"]["seeds"], found["verified"]["commit"]["sha"]) == ([], [0], at)
    assert found["verified"]["changed"] == [LOOPS]
    assert main(["why", "score"]) == 0
    text = capsys.readouterr().out
    assert "STALE" not in text and "nothing of it has changed since" not in text
    assert f"code changed since: {LOOPS}" in text and "seed 0 computed again 20" in text


def test_what_a_stamp_says(stamped):
    stamp = load_stamp(technique("score"), "tiny")
    assert (stamp.seeds, stamp.python, stamp.packages) == ([0], "3.11", {"torch": "2.0"})
    assert stamp.results.keys() == {f"seed-{seed}.json" for seed in range(5)}
    assert LOOPS in stamp.code and not {"config", "base"} & stamp.code.keys()
    assert len({vouched.fingerprint for vouched in stamp.results.values()}) == 1
    assert len({vouched.document for vouched in stamp.results.values()}) == 5


def test_a_stamp_is_void_when_code_changes_again(stamped):
    append(stamped / LOOPS, "\ny = 1\n")
    assert stale() == [LOOPS]
    assert said("warning") == [f"stale, these have changed since: {LOOPS}"]
    assert standing(technique("score"), "tiny", [read_json(stamped / RESULTS / "seed-0.json")]).stamp is None
    append(stamped / "minirl/techniques/self_correction/score.py", "# reworded\n")
    (stamped / LOOPS).write_text((stamped / LOOPS).read_text().replace("\ny = 1\n", "\n# a comment\n"))
    assert stale() == []


def test_a_stamp_is_void_when_results_are_others(stamped):
    stamp = (stamped / STAMP).read_text()
    edit(stamped / RESULTS / "seed-3.json", lambda data: data.update(core_s=1.0))
    assert stale() == [LOOPS]
    assert (
        "verified.json: void, not the file that it was written for: seed-3.json; delete it, or `minirl verify --stamp`"
        in said("warning")
    )
    publish("score", "tiny", [run_directory(stamped, seed) for seed in range(5)])
    assert not (stamped / STAMP).exists()
    assert stale() == []
    (stamped / STAMP).write_text(stamp)  # put back, it speaks of files that are gone
    append(stamped / LOOPS, "\ny = 1\n")
    assert stale() == [LOOPS]


def test_a_stamp_speaks_only_for_code_that_was_tried(root, capsys):
    """Seed 3 was made by yet other code than seed 0, which was computed again."""
    edit(root / RESULTS / "seed-3.json", lambda data: data["fingerprint"].update({LOOPS: "older"}))
    assert main(["verify", "score", "--stamp"]) == 0
    assert stale() == [LOOPS]
    documents = [read_json(root / RESULTS / f"seed-{seed}.json") for seed in (0, 1, 2, 4)]
    assert standing(technique("score"), "tiny", documents).stale == ()
    assert main(["verify", "score", "--seeds", "0,3", "--stamp"]) == 0
    assert stale() == []


def change_config(root):
    path = root / "reproductions/score/tiny.yaml"
    data = yaml.safe_load(path.read_text())
    data["train"]["updates"] += 1
    path.write_text(yaml.safe_dump(data))


GIVEN = {
    "config": change_config,
    "claim": lambda root: append(
        root / "reproductions/score/claim.yaml", "notes: [{date: 2026-12-01, text: explained}]\n"
    ),
}


@pytest.mark.parametrize("part", [*GIVEN, "base"])
def test_a_stamp_never_covers_what_a_run_was_given(stamped, part, capsys, monkeypatch, tmp_path):
    if part == "base":
        (tmp_path / "model.safetensors").write_bytes(b"other weights")
        monkeypatch.setattr(fingerprint, "base_directory", lambda name: tmp_path)
    else:
        GIVEN[part](stamped)
    assert part in stale()
    commit(stamped, "changed")
    (stamped / STAMP).unlink()
    assert main(["verify", "score", "--stamp"]) == 1  # though the numbers are the same
    found = lines(capsys)
    assert found[1] == f"score (tiny): {part} changed since: a difference may be due to that"
    assert f"score (tiny) seed 0: identical ({NUMBERS:,} numbers)" in found
    assert (
        f"not stamped: score (tiny): {part} changed since, which no stamp covers; run it again: "
        "`minirl reproduce score --tier tiny --publish`"
    ) in found
    assert not (stamped / STAMP).exists()


def test_code_is_committed_before_it_vouches(root, capsys):
    append(root / LOOPS, "\ny = 1\n")
    assert main(["verify", "score", "--stamp"]) == 1
    assert (
        f"not stamped: score (tiny): commit {LOOPS} first; the same command then finds its finished runs and stamps"
        in lines(capsys)
    )
    commit(root, "now it is")
    assert main(["verify", "score", "--stamp"]) == 0
    shutil.rmtree(root / ".git")
    assert main(["verify", "score", "--stamp"]) == 1
    assert "a stamp names the commit that holds the code, and this is no git checkout" in capsys.readouterr().out


def test_code_that_changes_while_seeds_run(root, capsys, monkeypatch):
    made = hand_made()

    def complete(run):
        made(run)
        append(root / LOOPS, "\ny = 1\n")

    monkeypatch.setattr(runner, "_complete_one", complete)
    assert main(["verify", "score", "--stamp"]) == 1
    assert f"{LOOPS} changed while the seeds ran; the same command computes them anew" in capsys.readouterr().out


TAMPERED = {
    "not well formed": (
        lambda data: data.update(seeds="all"),
        "failure",
        "verified.json: key 'seeds': input should be a valid list (got 'all'); delete it, or write it again",
    ),
    "a seed that is not there": (
        lambda data: data.update(seeds=[0, 7]),
        "failure",
        "verified.json: speaks of seed-7.json, which is not there",
    ),
    "hashes of no commit": (
        lambda data: data["code"].update({LOOPS: "0123456789abcdef"}),
        "failure",
        "does not hold the code it names: minirl/loops.py",
    ),
    "a commit that is not here": (
        lambda data: data.update(commit="0" * 40),
        "note",
        "verified.json: written at commit 0000000000, which this checkout does not have",
    ),
    "hashes of a file": (
        lambda data: data["results"]["seed-2.json"].update(document="0123456789abcdef"),
        "warning",
        "verified.json: void, not the file that it was written for: seed-2.json",
    ),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_a_stamp_that_is_tampered_with(stamped, kind):
    change, level, text = TAMPERED[kind]
    edit(stamped / STAMP, change)
    assert any(text in line for line in said(level)), [said(each) for each in ("failure", "warning", "note")]
    if level != "failure":
        assert any("not committed as it lies here: verified.json" in line for line in said("warning"))
