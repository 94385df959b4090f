"""``minirl audit`` and ``minirl why`` in a throw-away repository: what is tampered with is found and said in a line."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from small_project import commit, edit, git, lay_out_project, publish_all

import minirl
from minirl.cli import main
from minirl.errors import ConfigError
from minirl.experiments.audit import audit
from minirl.experiments.registry import project_root
from minirl.experiments.report import seed_table
from minirl.experiments.why import chain

RESULTS = Path("reproductions/score/results/tiny")
CLAIM_FILE = Path("reproductions/score/claim.yaml")
BASE = "minirl/policy/shipped/add-repeating"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Claim in one commit, results in the next."""
    root = tmp_path_factory.mktemp("template")
    lay_out_project(root)
    shutil.copytree(project_root() / BASE, root / BASE)
    git(root, "init", "-q")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minirl, "__file__", str(root / "minirl" / "__init__.py"))
        publish_all(root, commit(root, "claim"))
    commit(root, "results")
    return root


@pytest.fixture
def root(template, tmp_path, monkeypatch):
    return work_in(shutil.copytree(template, tmp_path / "project"), monkeypatch)


def work_in(root, monkeypatch):
    monkeypatch.setattr(minirl, "__file__", str(root / "minirl" / "__init__.py"))
    return root


def found(level="failure"):
    return [f"{finding.where}: {finding.text}" for finding in audit().findings if finding.level == level]


def edit_claim(root: Path, change) -> None:
    data = yaml.safe_load((root / CLAIM_FILE).read_text())
    change(data)
    (root / CLAIM_FILE).write_text(yaml.safe_dump(data, sort_keys=False))


def replace_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# --- Results ----------------------------------------------------------------------------------------------------------


def test_nothing_amiss(root, capsys):
    assert audit().findings == ()
    assert main(["audit"]) == 0
    assert capsys.readouterr().out == "1 verdicts recomputed from 5 files: nothing amiss\n"
    assert main(["audit", "score", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "schema": 1,
        "ok": True,
        "files": 5,
        "verdicts": {"score (tiny)": "supported"},
        "findings": [],
    }


def set_metric(value, metric="delta", arm="score"):
    return lambda data: data["arms"][arm]["metrics"].update({metric: value})


def move_an_item(data):
    """One answer more is right, and the mean says so."""
    items = data["arms"]["score"]["items"]["delta"]
    items[items.index(0)] = 1
    data["arms"]["score"]["metrics"]["delta"] = sum(items) / len(items)


TAMPERED = {
    "a metric": (
        lambda root: edit(root / RESULTS / "seed-2.json", set_metric(0.9)),
        ["score (tiny): seed-2.json: arm 'score': 'delta' is 0.9, but its items have mean 0.203125"],
    ),
    "a metric without items": (  # nobody can know which of the two is true; they differ
        lambda root: edit(root / RESULTS / "seed-2.json", set_metric(0.75, "accuracy@1")),
        ["score (tiny): summary.json: arms.score.metrics.accuracy@1 is 0.5, the files of the seeds say 0.55"],
    ),
    "a verdict": (
        lambda root: replace_text(
            root / RESULTS / "summary.json", '"verdict": "supported",\n "conditions"', '"verdict": "x",\n "conditions"'
        ),
        ['score (tiny): summary.json: verdict is "x", the files of the seeds say "supported"'],
    ),
    "the README": (
        lambda root: replace_text(root / "README.md", "**supported**", "**contradicted**"),
        ["README.md: says | [`score`](notebooks/self_correction/score.ipynb) | self_correction | tiny | delta "],
    ),
    "a missing seed": (
        lambda root: (root / RESULTS / "seed-3.json").unlink(),
        ["score (tiny): no results of the registered seed 3"],
    ),
    "a seed that is not registered": (
        lambda root: edit(root / RESULTS / "seed-3.json", lambda data: data.update(seed=7)),
        [
            "score (tiny): seed-3.json: holds seed 7",
            "score (tiny): no results of the registered seed 3",
            "score (tiny): seed 7 is not registered in the claim",
            "score (tiny): seed-3.json: its manifest is that of seed 3",
        ],
    ),
    "a list of items cut short": (
        lambda root: edit(
            root / RESULTS / "seed-0.json", lambda data: data["arms"]["shuffled"]["items"]["delta"].pop()
        ),
        ["score (tiny): seed-0.json: arm 'shuffled': 'delta' has 511 items, the evaluation had 512"],
    ),
    "a config": (
        lambda root: edit(
            root / RESULTS / "seed-1.json", lambda data: data["manifest"]["config"]["train"].update(updates=1)
        ),
        ["score (tiny): seed-1.json: the config in its manifest is not the one its fingerprint was made of"],
    ),
    "a damaged file": (
        lambda root: (root / RESULTS / "seed-1.json").write_text('{"schema": 1'),
        ["score (tiny): "],
    ),
    "no summary": (
        lambda root: (root / RESULTS / "summary.json").unlink(),
        ["score (tiny): there is no summary.json; `minirl report` writes it"],
    ),
    "no claim": (
        lambda root: (root / CLAIM_FILE).unlink(),
        ["score (tiny): there are results, but no claim.yaml; register a claim before running"],
    ),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_what_is_tampered_with_is_found(root, kind, capsys):
    tamper, expected = TAMPERED[kind]
    tamper(root)
    said = found()
    assert len(said) == len(expected)
    for line, start in zip(said, expected, strict=True):
        assert line.startswith(start)
        assert "\n" not in line
    assert main(["audit"]) == 1
    assert capsys.readouterr().out.count("FAILED  ") == len(expected)


def test_what_the_executed_notebook_says(root):
    """The table at its end: of its own seed it must be right, of all seeds it may be behind."""
    folder = root / RESULTS
    table = seed_table("score", json.loads((folder / "seed-0.json").read_text()))

    def show(text):
        cell = {"cell_type": "code", "outputs": [{"data": {"text/markdown": text.splitlines(keepends=True)}}]}
        (folder / "notebook.ipynb").write_text(json.dumps({"cells": [cell]}))
        return found(), [line for line in found("warning") if "not committed" not in line]

    assert show(table) == ([], [])
    (failed,), warned = show(table.replace("| +0.172 [", "| +0.272 ["))
    assert failed.startswith("score (tiny): notebook.ipynb: says delta | score − naive | > 0.02 | +0.272 [")
    assert warned == []
    failed, (warned,) = show(table.replace("+0.180 [", "+0.150 ["))
    assert failed == []
    assert warned.startswith("score (tiny): notebook.ipynb: says +0.150 [")
    assert "] | supported of all seeds, the results say +0.180 [" in warned


def test_a_changed_item_shows_in_what_quotes_it(root):
    edit(root / RESULTS / "seed-2.json", move_an_item)
    said = found()
    assert any(line.startswith("score (tiny): summary.json: conditions[0].effect is 0.179") for line in said)
    assert all("summary.json" in line or line.startswith("README.md: says") for line in said)
    assert found("warning") == ["score (tiny): not committed as it lies here: seed-2.json"]


def test_stale_results_are_a_warning(root, capsys):
    loops = root / "minirl" / "loops.py"
    loops.write_text(loops.read_text() + "\nx = 1\n")
    assert main(["audit"]) == 0
    assert capsys.readouterr().out == (
        "warning score (tiny): stale, these have changed since: minirl/loops.py\n"
        "1 verdicts recomputed from 5 files: 1 warning\n"
    )


def test_an_unknown_technique(root, capsys):
    assert main(["audit", "scor"]) == 1
    assert capsys.readouterr().err == "minirl: unknown technique 'scor'. Did you mean 'score'?\n"


# --- The order of things ----------------------------------------------------------------------------------------------


def lower_the_bar(data):
    data["conditions"][0]["margin"] = 0.001


@pytest.mark.parametrize("committed", [True, False])
def test_a_claim_edited_after_the_fact(root, committed):
    edit_claim(root, lower_the_bar)
    if committed:
        commit(root, "nobody will notice")
    (said,) = [line for line in found() if "claim.yaml" in line]
    assert said.startswith("score (tiny): claim.yaml: 'conditions' changed after the first results, ")
    assert ("in commit " in said and "nobody will notice" in said) == committed
    assert said.endswith("; a change of mind belongs into a dated note")


def test_an_edit_that_was_taken_back_is_still_found(root):
    text = (root / CLAIM_FILE).read_text()
    edit_claim(root, lower_the_bar)
    commit(root, "lowered")
    (root / CLAIM_FILE).write_text(text)
    commit(root, "raised")
    (said,) = found()
    assert "'conditions' changed after the first results, in commit" in said and "lowered" in said


def test_a_dated_note_is_no_edit(root):
    edit_claim(root, lambda data: data.update(notes=[{"date": "2026-12-01", "text": "explained"}]))
    commit(root, "note")
    assert found() == []


def rewrite_history(root: Path, steps) -> None:
    """The project once more with another order of commits: functions that lay something out, then commit."""
    shutil.rmtree(root / ".git")
    git(root, "init", "-q")
    for step in steps:
        step()


def test_a_claim_that_came_with_its_results(root):
    claim, results = (root / CLAIM_FILE).read_bytes(), root / RESULTS
    (root / CLAIM_FILE).unlink()
    shutil.move(results, root.parent / "kept")
    rewrite_history(root, [lambda: commit(root, "code")])
    (root / CLAIM_FILE).write_bytes(claim)
    shutil.move(root.parent / "kept", results)
    commit(root, "claim and results")
    (said,) = found()
    assert said.startswith("score (tiny): claim.yaml came with or after its first results, which are in commit ")

    # A history that was lost is told, and what happens after it is watched.
    lost = {"why": "a fire in the archive", "slugs": ["score"]}
    (root / "reproductions" / "recovered.yaml").write_text(yaml.safe_dump(lost))
    assert found() == []
    (said,) = [line for line in found("warning") if "first results" in line]
    assert said.startswith("score (tiny): claim.yaml came with its first results, in commit ")
    assert said.endswith(": a fire in the archive")
    edit_claim(root, lower_the_bar)
    commit(root, "an easier claim")
    assert any("'conditions' changed after the first results, in commit" in said for said in found())


def test_a_claim_that_was_away_for_a_while(root):
    claim, results = (root / CLAIM_FILE).read_bytes(), root / RESULTS
    shutil.move(results, root.parent / "kept")
    steps = [
        lambda: commit(root, "claim"),
        lambda: ((root / CLAIM_FILE).unlink(), commit(root, "put off")),
        lambda: ((root / CLAIM_FILE).write_bytes(claim), commit(root, "taken up again")),
        lambda: (shutil.move(root.parent / "kept", results), commit(root, "results")),
    ]
    rewrite_history(root, steps)
    assert found() == []


@pytest.fixture
def sharpened(root):
    """A history in which the claim got its present text before the results, while a branch knew the older one."""
    claim, results = (root / CLAIM_FILE).read_text(), root / RESULTS
    (root / CLAIM_FILE).unlink()
    shutil.move(results, root.parent / "kept")
    rewrite_history(root, [lambda: git(root, "checkout", "-q", "-b", "trunk"), lambda: commit(root, "code")])
    git(root, "branch", "side")
    (root / CLAIM_FILE).write_text(claim)
    edit_claim(root, lower_the_bar)
    older = (root / CLAIM_FILE).read_text()
    commit(root, "first text")
    git(root, "checkout", "-q", "side")
    (root / "page.md").write_text("a page\n")
    commit(root, "a page")
    git(root, "merge", "-q", "-m", "trunk into side", "trunk")
    git(root, "checkout", "-q", "trunk")
    (root / CLAIM_FILE).write_text(claim)
    made_at = commit(root, "sharpened, before any result")
    shutil.move(root.parent / "kept", results)
    publish_all(root, made_at)
    commit(root, "results")
    return older


def test_a_branch_that_knew_an_older_claim(root, sharpened):
    git(root, "merge", "-q", "-m", "side into trunk", "side")
    assert found() == []


def test_a_claim_set_back_to_an_older_text(root, sharpened):
    (root / CLAIM_FILE).write_text(sharpened)
    commit(root, "lowered again")
    (said,) = [line for line in found() if "claim.yaml: " in line]
    assert "'conditions' changed after the first results, back to what it had been; " in said


def test_results_made_before_the_claim_was_committed(root):
    """The claim is older than the results, but not than the runs."""
    claim = (root / CLAIM_FILE).read_bytes()
    (root / CLAIM_FILE).unlink()
    shutil.rmtree(root / RESULTS)
    shutil.rmtree(root / ".git")
    git(root, "init", "-q")
    before = commit(root, "code")
    (root / CLAIM_FILE).write_bytes(claim)
    commit(root, "claim")
    publish_all(root, before)
    commit(root, "results")
    assert found() == [
        f"score (tiny): seed-{seed}.json: made at commit {before[:10]}, "
        "which did not hold the registered claim.yaml yet"
        for seed in range(5)
    ]


def test_results_of_another_claim(root):
    edit(root / RESULTS / "seed-4.json", lambda data: data.update(claim_sha256="0" * 64))
    assert found() == [
        "score (tiny): seed-4.json: made under a claim (sha256 000000000000) that git holds no version of"
    ]


def test_code_that_its_commit_does_not_hold(root):
    def change(data):
        data["fingerprint"]["minirl/loops.py"] = "0" * 16

    edit(root / RESULTS / "seed-4.json", change)
    sha = git(root, "rev-parse", "HEAD^")[:10]
    assert found("warning")[0] == (
        f"score (tiny): seed-4.json: made by code that its commit {sha} does not hold: minirl/loops.py"
    )


def test_a_shallow_clone(root, tmp_path, monkeypatch):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--depth", "1", root.as_uri(), str(clone)], check=True)
    work_in(clone, monkeypatch)
    assert found() == []
    first, *rest = found("note")
    assert first == (
        "git: the history is shallow: whether claims came before results is not checked; `git fetch --unshallow` "
        "brings the rest"
    )
    assert all("which this checkout does not have" in line for line in rest)
    edit(clone / RESULTS / "seed-2.json", set_metric(0.9))  # all else is checked as ever
    assert len(found()) == 1


def test_without_git(root):
    shutil.rmtree(root / ".git")
    assert (found(), found("warning")) == ([], [])
    (said,) = found("note")
    assert said.startswith("git: this is no git checkout: whether claims came before results is not checked; ")
    edit_claim(root, lower_the_bar)
    assert found("note")[1] == (
        "score (tiny): claim.yaml is not the text that the results were made under; git would tell why"
    )


# --- Why --------------------------------------------------------------------------------------------------------------


def test_the_chain_of_a_registered_number(root):
    found = chain("score", "delta", ["score", "naive"])
    claimed, results = git(root, "rev-parse", "HEAD^"), git(root, "rev-parse", "HEAD")
    assert (found["verdict"], found["stale"], found["history"]) == ("supported", [], "full")
    assert (found["claim"]["commit"]["sha"], found["claim"]["first_results"]["sha"]) == (claimed, results)
    (number,) = found["numbers"]
    assert (number["condition"], number["kind"], number["margin"], number["verdict"]) == (
        *(1, "superiority", 0.02),
        "supported",
    )
    assert (number["effect"], number["items"]) == (pytest.approx(92 / 512), 512)
    assert number["seeds"][0] == {
        "seed": 0,
        "values": {"score": 96 / 512, "naive": 8 / 512},
        "effect": 88 / 512,
        "file": f"{RESULTS}/seed-0.json",
    }
    assert [file["commit"]["sha"] for file in found["files"]] == [results] * 5
    (code,) = found["code"]
    assert (code["commit"]["sha"], code["differs"], code["seeds"]) == (claimed, [], [0, 1, 2, 3, 4])
    assert found["config"]["resolved"]["evaluation"]["items"] == 512
    assert (found["base"]["name"], found["base"]["unchanged"]) == ("add-repeating", True)
    assert found["machine"][0]["hardware"] == {"machine": "pdp11", "cores": 1}
    assert found["quoted_in"][:2] == ["README.md", f"{RESULTS}/summary.json"]
    assert found["again"] == "minirl reproduce score --tier tiny --seeds 0,1,2,3,4"


def test_numbers_that_are_not_registered(root):
    (mean,) = chain("score", "delta", ["score"])["numbers"]
    assert (mean["effect"], mean["verdict"]) == (pytest.approx(100 / 512), None)
    (difference,) = chain("score", "delta", ["naive", "shuffled"])["numbers"]
    assert (difference["effect"], difference["condition"]) == (pytest.approx(8 / 512), None)
    (slope,) = chain("score", "delta", ["shuffled", "naive", "score"])["numbers"]
    assert slope["effect"] == pytest.approx(50 / 512)  # (100 − 0) / 2 a step
    everywhere = chain("score", "accuracy@1")["numbers"]
    assert [list(number["arms"]) for number in everywhere] == [["score"], ["naive"], ["shuffled"]]
    assert [number["condition"] for number in chain("score")["numbers"]] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scor",), "unknown technique 'scor'. Did you mean 'score'?"),
        (("score", "delt"), "unknown metric 'delt'. Did you mean 'delta'?"),
        (("score", "delta", ["naiv"]), "unknown arm 'naiv'. Did you mean 'naive'?"),
        (("score", "delta", ["naive", "naive"]), "an arm is named twice"),
        (("score", None, [], "tinny"), "score has no tier 'tinny'. Did you mean 'tiny'?"),
        (("score", None, [], "tiny", "x"), "score at tiny has no committed results of a variant 'x'."),
    ],
)
def test_unknown_names(root, arguments, message):
    with pytest.raises(ConfigError) as caught:
        chain(*arguments)
    assert str(caught.value).strip() == message


def test_why_as_text(root, capsys):
    assert main(["why", "score", "delta", "score", "naive"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("score (tiny): supported\nSCoRe gains.\n\ndelta: score − naive = +0.1797 [")
    assert "condition 1: superiority, holds when > 0.02: supported" in said
    assert "     0    0.1875   0.0156    +0.1719   reproductions/score/results/tiny/seed-0.json" in said
    for heading in ("claim", "files", "code", "config", "base", "machine", "quoted in", "again"):
        assert f"\n{heading}" in said
    assert "which holds all" in said and "nothing of it has changed since" in said
    assert main(["why", "score", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == chain("score")


def test_why_before_there_are_results(root, capsys):
    shutil.rmtree(root / RESULTS)
    assert main(["why", "score"]) == 0
    assert capsys.readouterr().out.startswith("score (tiny): no committed results yet\n")


# --- This repository --------------------------------------------------------------------------------------------------


def test_this_repository():
    assert found() == []
