"""From per-seed files to tables, in a repository made for the purpose; and an audit of the results in this one."""

import hashlib
import json
import math
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from scipy import stats
from small_project import CLAIM, ITEMS, README, RIGHT, document, lay_out_project, run_directory

import minirl
from minirl.cli import main
from minirl.errors import ConfigError, RunError
from minirl.experiments.audit import lost_history
from minirl.experiments.checksums import write_checked
from minirl.experiments.claims import load_claim
from minirl.experiments.history import content
from minirl.experiments.registry import (
    FRESH,
    claim_path,
    governing_claim,
    project_root,
    settles,
    technique,
    techniques,
)
from minirl.experiments.report import (
    all_entries,
    claim_entry,
    coverage_table,
    mean_metric,
    publish,
    regenerate,
    replace_generated,
    result_files,
    seed_metrics,
    seed_table,
    sweep_series,
    unsettled_claims,
    variant_table,
)
from minirl.experiments.run import load_experiment, load_method
from minirl.experiments.rundir import read_json
from minirl.experiments.staleness import stale_parts
from minirl.tasks import get
from minirl.tasks.game import Game
from minirl.techniques.base import OnlinePhase


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The small project; all functions work in it."""
    lay_out_project(tmp_path)
    monkeypatch.setattr(minirl, "__file__", str(tmp_path / "minirl" / "__init__.py"))
    return tmp_path


@pytest.fixture
def published(root):
    publish("score", "tiny", [run_directory(root, seed) for seed in range(5)])
    return root


# --- Publishing -----------------------------------------------------------------------------------------------------


def test_publish(root):
    target = publish("score", "tiny", [run_directory(root, seed) for seed in (4, 2, 0, 1, 3)])
    assert target == root / "reproductions" / "score" / "results" / "tiny"
    assert sorted(path.name for path in target.iterdir()) == [
        "figure.png",
        "notebook.ipynb",
        *(f"seed-{seed}.json" for seed in range(5)),
        "summary.json",
    ]
    assert read_json(target / "seed-3.json") == {**document(3), "manifest": {"commit": "c3"}}
    # Of the first registered seed, whatever the order they came in.
    assert (target / "figure.png").read_bytes() == b"figure of seed 0"
    notebook = read_json(target / "notebook.ipynb")
    assert notebook == {
        "cells": [{"cell_type": "code", "metadata": {"tags": ["x"]}}],
        "metadata": {"kernelspec": {"name": "python3"}},
        "nbformat_minor": 0,
    }
    summary = read_json(target / "summary.json")
    assert (summary["verdict"], summary["stale"], summary["seeds"]) == ("supported", False, [0, 1, 2, 3, 4])
    assert summary["results"] == [f"reproductions/score/results/tiny/seed-{seed}.json" for seed in range(5)]
    # Seeds differ by 88, 92, 96, 92, 92 of 512 items: mean 92 / 512.
    assert summary["conditions"][0]["effect"] == pytest.approx(92 / 512)
    assert (summary["core_s"], summary["wall_s"], summary["peak_mb"]) == (102.0, 200.0, 800)


@pytest.mark.parametrize("seeds", [[0, 1, 2, 3], [1, 2, 3, 4, 4], [0]])
def test_publish_refuses_other_seeds(root, seeds):
    directories = {seed: run_directory(root, seed) for seed in set(seeds)}
    with pytest.raises(RunError) as caught:
        publish("score", "tiny", [directories[seed] for seed in seeds])
    assert str(caught.value) == f"publishing needs exactly the registered seeds [0, 1, 2, 3, 4], got {seeds}"
    assert result_files(technique("score"), "tiny") == []


def test_publish_refuses_what_is_not_finished(root):
    directories = [run_directory(root, seed) for seed in range(5)]
    (directories[2] / "results.json").unlink()
    with pytest.raises(RunError, match=r"results.json is missing or damaged"):
        publish("score", "tiny", directories)
    assert result_files(technique("score"), "tiny") == []


def test_publish_refuses_what_is_damaged(root):
    directories = [run_directory(root, seed) for seed in range(5)]
    write_checked(directories[3], "results.json", document(3))
    path = directories[3] / "results.json"
    path.write_text(path.read_text().replace("0.5", "0.6"))
    with pytest.raises(RunError, match=r"results.json is damaged \(its checksum differs\); `minirl reproduce` or"):
        publish("score", "tiny", directories)
    assert result_files(technique("score"), "tiny") == []


@pytest.mark.parametrize("survived", [0, 3, 7])  # of five seeds, the notebook, the figure, the summary
def test_publishing_that_was_killed_is_done_again(published, monkeypatch, survived):
    """Older results are replaced by others; whatever a kill leaves is whole files, and the same command ends it."""
    folder = published / "reproductions" / "score" / "results" / "tiny"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    newer = {arm: [right - 1 for right in of_seeds] for arm, of_seeds in {**RIGHT, "shuffled": [2] * 5}.items()}
    directories = [run_directory(published, seed, arms=newer, where="newer") for seed in range(5)]
    replace, replaced = os.replace, []

    def killed(source, target):
        if len(replaced) == survived:
            raise KeyboardInterrupt
        replaced.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            publish("score", "tiny", directories)
    for path in folder.glob("*.json"):
        assert read_json(path) and (path in replaced) == (path.read_bytes() != before[path.name])
    publish("score", "tiny", directories)
    assert {path.name for path in folder.iterdir()} == before.keys() | {path.name for path in folder.glob(".*.tmp")}
    assert [read_json(folder / f"seed-{seed}.json")["arms"]["score"] for seed in range(5)] == [
        document(seed, arms=newer)["arms"]["score"] for seed in range(5)
    ]
    assert read_json(folder / "summary.json") == claim_entry(technique("score"), "tiny")


def test_files_come_in_the_order_of_seeds(root):
    folder = root / "reproductions" / "score" / "results" / "tiny"
    folder.mkdir(parents=True)
    for seed in (10, 9, 100):
        (folder / f"seed-{seed}.json").write_text("")
    assert [path.stem for path in result_files(technique("score"), "tiny")] == ["seed-9", "seed-10", "seed-100"]


# --- Stale ----------------------------------------------------------------------------------------------------------


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize(
    ("file", "text", "parts"),
    [
        ("minirl/loops.py", "\nx = 1\n", ["minirl/loops.py"]),
        ("minirl/loops.py", "\n# reworded\n", []),
        ("minirl/techniques/self_correction/score.py", "\nx = 1\n", ["minirl/techniques/self_correction/score.py"]),
        ("minirl/experiments/report.py", "\nx = 1\n", []),
        ("reproductions/score/claim.yaml", "notes: [{date: 2026-12-01, text: explained}]\n", ["claim"]),
        ("reproductions/score/tiny.yaml", "threads: 2\n", []),
    ],
)
def test_what_makes_results_stale(published, file, text, parts):
    if "threads" in text:
        path = published / file
        path.write_text("\n".join(line for line in path.read_text().splitlines() if "threads" not in line) + "\n")
    append(published / file, text)
    item = technique("score")
    assert stale_parts(item, "tiny", map(read_json, result_files(item, "tiny"))) == parts
    assert claim_entry(item, "tiny")["stale"] == bool(parts)
    assert ("(stale)" in coverage_table()) == bool(parts)


def test_another_config_makes_results_stale(published):
    path = published / "reproductions" / "score" / "tiny.yaml"
    data = yaml.safe_load(path.read_text())
    data["train"]["updates"] += 1
    path.write_text(yaml.safe_dump(data))
    item = technique("score")
    assert stale_parts(item, "tiny", map(read_json, result_files(item, "tiny"))) == ["config"]


# --- Tables ---------------------------------------------------------------------------------------------------------


def test_seed_table_before_and_after_there_are_results(root):
    before = seed_table("score", document(3, tier="tiny"))
    head, rule, first, second = before.strip().split("\n")
    assert head == "| metric | arms | registered | seed 3, tiny [95 % items] | all seeds [95 %] | verdict |"
    assert rule == "|---|---|---|---|---|---|"
    # (100 − 8) / 512 = 0.1797; 92 of 512 items differ by one, so s² = p (1 − p) n / (n − 1) and the interval is
    # p ± 1.9646 √(0.1477 / 512) = 0.1797 ± 0.0334.
    assert first == "| delta | score − naive | > 0.02 | +0.180 [+0.146, +0.213] | – | no committed results |"
    assert (
        second == "| delta | shuffled | no effect: within ±0.05 | +0.000 [+0.000, +0.000] | – | no committed results |"
    )

    publish("score", "tiny", [run_directory(root, seed) for seed in range(5)])
    after = seed_table("score", document(3)).strip().split("\n")
    entry = claim_entry(technique("score"), "tiny")
    low, high = entry["conditions"][0]["interval"]
    assert after[2].endswith(f" | +0.180 [{low:+.3f}, {high:+.3f}] | supported |")
    assert after[-1] == "Claim over seeds [0, 1, 2, 3, 4], 512 items: **supported**."

    append(root / "minirl" / "loops.py", "\nx = 1\n")
    assert (
        seed_table("score", document(3))
        .strip()
        .endswith("**supported** — **stale**, something it depends on has changed.")
    )


def test_seed_table_of_a_run_without_one_of_the_arms(root):
    results = document(0)
    del results["arms"]["shuffled"]
    *_, first, second = seed_table("score", results).strip().split("\n")
    assert "+0.172" in first
    assert second == "| delta | shuffled | no effect: within ±0.05 | arm not run | – | no committed results |"


def test_coverage_table(root):
    link = "[`score`](notebooks/self_correction/score.ipynb)"
    assert coverage_table().strip().split("\n")[2:] == [
        f"| {link} | self_correction | – | – | registered, not run | – | – |"
    ]
    assert unsettled_claims() == ["score (tiny)"]
    assert all_entries() == []
    publish("score", "tiny", [run_directory(root, seed) for seed in range(5)])
    (entry,) = all_entries()
    low, high = entry["conditions"][0]["interval"]
    assert coverage_table().strip().split("\n")[2:] == [
        f"| {link} | self_correction | tiny | delta +0.180 [{low:+.3f}, {high:+.3f}] | **supported** | 5 | 102 |"
    ]
    assert unsettled_claims() == []


def test_a_tier_with_one_seed_has_no_bounded_interval(root):
    folder = root / "reproductions" / "score"
    tiny = yaml.safe_load((folder / "tiny.yaml").read_text())
    (folder / "small.yaml").write_text(yaml.safe_dump({**tiny, "tier": "small"}))
    (folder / "claim-small.yaml").write_text(yaml.safe_dump({**CLAIM, "tier": "small", "seeds": [0]}))
    assert governing_claim(technique("score"), "small").name == "claim-small.yaml"
    assert governing_claim(technique("score"), "smoke").name == "claim.yaml"  # smoke runs the seeds of tiny
    publish("score", "small", [run_directory(root, 0, tier="small")])
    assert "| small | delta +0.172 [−∞, +∞] | **inconclusive** | 1 |" in coverage_table()
    assert read_json(folder / "results" / "small" / "summary.json")["stale"] is False


def test_replace_generated():
    text = replace_generated(README, "coverage", "| a |\n")
    assert text == README.replace("coverage -->\n\n<!--", "coverage -->\n\n| a |\n\n<!--", 1)
    assert replace_generated(text, "coverage", "| a |") == text
    assert replace_generated(text, "coverage", "") != text
    with pytest.raises(ConfigError, match=r"no markers '<!-- generated by `minirl report`: other -->' … "):
        replace_generated(README, "other", "x")
    with pytest.raises(ConfigError, match=r"no markers"):
        replace_generated(README.replace("end of", "END OF"), "coverage", "x")


def test_regenerate(published, capsys):
    readme, summary = published / "README.md", published / "reproductions/score/results/tiny/summary.json"
    good = summary.read_text()
    summary.write_text(good.replace("supported", "contradicted"))
    assert regenerate(check=True) == [readme, summary]
    assert readme.read_text() == README  # checking writes nothing
    assert main(["report", "--check"]) == 1
    said = capsys.readouterr()
    assert said.out == f"out of date: README.md in {published.name}/\nout of date: summary.json in tiny/\n"
    assert said.err == "minirl: run `minirl report` and commit\n"
    assert main(["report"]) == 0
    assert capsys.readouterr().out.count("written: ") == 2
    assert summary.read_text() == good
    assert "**supported**" in readme.read_text()
    assert main(["report", "--check"]) == 0
    assert capsys.readouterr() == ("", "")
    assert regenerate() == []


def test_results_that_do_not_belong_to_the_claim(published):
    path = published / "reproductions/score/results/tiny/seed-2.json"
    data = read_json(path)
    data["arms"]["score"]["metrics"]["delta"] += 0.1
    path.write_text(json.dumps(data))
    with pytest.raises(RunError, match=r"seed-2.json: seed 2, arm 'score': 'delta' is .* but its items have mean"):
        all_entries()


# --- Sweeps ---------------------------------------------------------------------------------------------------------

SWEPT = {"alpha_10": [256] * 5, "alpha_2": [96, 100, 104, 100, 100]}


def test_before_a_sweep(root):
    assert sweep_series("score", "tiny", "ablations", "alpha", ["delta"]) is None
    assert mean_metric("score", "tiny", "ablations", "alpha_2", "delta") is None
    assert variant_table("score", "tiny", "ablations").startswith(
        "*No committed results of ablations yet: `minirl sweep"
    )


def test_after_a_sweep(root):
    directories = [run_directory(root, seed, "ablations", arms=SWEPT) for seed in range(5)]
    target = publish("score", "tiny", directories, "ablations")
    assert sorted(path.name for path in target.iterdir()) == [f"seed-{seed}.json" for seed in range(5)]
    assert target.name == "tiny-ablations"
    assert claim_entry(technique("score"), "tiny") is None  # a sweep settles no claim

    assert seed_metrics("score", "tiny", "ablations", "alpha_2", "delta") == [x / ITEMS for x in SWEPT["alpha_2"]]
    assert mean_metric("score", "tiny", "ablations", "alpha_2", "delta") == pytest.approx(100 / ITEMS)
    xs, lines = sweep_series("score", "tiny", "ablations", "alpha", ["delta", "accuracy@1"])
    assert xs == [2.0, 10.0]  # by value, not by name
    # s² of 96, 100, 104, 100, 100 is 8; t(0.975, 4) = 2.7764; half width 2.7764 √(8 / 5) = 3.512 items.
    assert lines["delta"][0] == pytest.approx((100 / ITEMS, (100 - 3.512) / ITEMS, (100 + 3.512) / ITEMS), abs=1e-5)
    assert lines["delta"][1] == (0.5, 0.5, 0.5)
    assert lines["accuracy@1"] == [(0.5, 0.5, 0.5)] * 2

    table = variant_table("score", "tiny", "ablations", metrics=["delta"])
    assert "| alpha_2 | 0.195 [0.188, 0.202] |" in table
    assert "Mean over 5 seeds with 95 % t-interval; score at tiny, ablations." in table

    for path in target.glob("seed-*.json"):  # a metric that one arm lacks
        changed = read_json(path)
        changed["arms"]["alpha_10"]["metrics"]["late"] = 2.0
        path.write_text(json.dumps(changed))
    table = variant_table("score", "tiny", "ablations", metrics=["delta", "late"])
    assert "| alpha_2 | 0.195 [0.188, 0.202] | – |" in table
    with pytest.raises(ConfigError, match=r"no arm of score \(tiny-ablations\) has a metric 'lat'"):
        variant_table("score", "tiny", "ablations", metrics=["lat"])


def test_an_arm_added_after_the_sweep_is_left_out(root):
    publish("score", "tiny", [run_directory(root, s, "ablations", arms=SWEPT) for s in range(5)], "ablations")
    append(root / "reproductions/score/tiny-ablations.yaml", "  alpha_5: {method: score, alpha: 5}\n")
    assert sweep_series("score", "tiny", "ablations", "alpha", ["delta"])[0] == [2.0, 10.0]


# --- Fresh seeds ----------------------------------------------------------------------------------------------------

TWICE = {arm: right * 2 for arm, right in RIGHT.items()}  # seeds 5 to 9 say what 0 to 4 said


def test_a_claim_is_settled_again_on_fresh_seeds(published, capsys):
    item = technique("score")
    assert claim_entry(item, "tiny", FRESH) is None
    directories = [run_directory(published, seed, "fresh", arms=TWICE) for seed in range(5, 10)]
    with pytest.raises(RunError, match=r"exactly the registered seeds \[5, 6, 7, 8, 9\], got \[5, 6, 7, 8\]"):
        publish("score", "tiny", directories[:4], "fresh")
    target = publish("score", "tiny", directories, "fresh")
    assert sorted(path.name for path in target.iterdir()) == [*(f"seed-{s}.json" for s in range(5, 10)), "summary.json"]
    again, settled = claim_entry(item, "tiny", FRESH), claim_entry(item, "tiny")
    assert again == read_json(target / "summary.json")
    assert (again["seeds"], again["verdict"], again["stale"]) == ([5, 6, 7, 8, 9], settled["verdict"], False)
    assert [c["effect"] for c in again["conditions"]] == [c["effect"] for c in settled["conditions"]]
    assert settled["seeds"] == [0, 1, 2, 3, 4]  # which the others have not touched

    assert "| **supported**; fresh seeds: supported | 5 |" in coverage_table()
    assert main(["claims"]) == 0
    assert "The same on fresh seeds (5 after the registered ones): supported, 2 of 2." in capsys.readouterr().out
    assert main(["claims", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["claims"][0]["fresh"] == again

    (target / "summary.json").unlink()
    assert target / "summary.json" in regenerate()


def test_a_claim_is_settled_again_from_a_larger_base(published, capsys):
    (published / "reproductions/score/tiny-700k.yaml").write_text("extends: tiny.yaml\n")
    directories = [run_directory(published, seed, "700k", arms=TWICE) for seed in range(5)]
    summary = publish("score", "tiny", directories, "700k") / "summary.json"
    rung = claim_entry(technique("score"), "tiny", "700k")
    assert rung == read_json(summary) == all_entries()[0]["rungs"]["700k"]
    assert all_entries()[0]["fresh"] is None
    assert (rung["seeds"], rung["verdict"]) == ([0, 1, 2, 3, 4], "supported")
    assert "| **supported**; 700k parameters: supported | 5 |" in coverage_table()
    assert main(["claims"]) == 0
    assert "The same from a base with 700k parameters: supported, 2 of 2." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variant", "again"),
    [
        ("", True),
        ("fresh", True),
        ("bfloat16", True),
        ("700k", True),
        ("4M", True),
        ("ablations", False),
        ("k", False),
        ("700kB", False),
    ],
)
def test_which_variants_settle_the_claim(variant, again):
    assert settles(variant) is again


def test_the_config_of_fresh_seeds_is_the_one_of_the_tier(root):
    assert load_experiment("score", "tiny", variant="fresh") == load_experiment("score", "tiny")
    with pytest.raises(ConfigError, match="no config tiny-stale"):
        load_experiment("score", "tiny", variant="stale")


# --- The commands ---------------------------------------------------------------------------------------------------


def test_claims_and_list(published, capsys):
    assert main(["claims"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("score (tiny): supported\nSCoRe gains.\n\n| metric |")
    assert main(["list"]) == 0
    assert "· tiny: supported\n" in capsys.readouterr().out
    assert main(["list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["techniques"]
    assert (listed["tiers"], listed["verdicts"]) == (["tiny"], {"tiny": "supported"})
    assert main(["claims", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "claims": all_entries()}
    append(published / "minirl" / "loops.py", "\nx = 1\n")
    assert main(["claims"]) == 0
    assert capsys.readouterr().out.startswith("score (tiny): supported · STALE: rerun it\n")


def test_claims_without_results(root, capsys):
    assert main(["claims"]) == 0
    assert capsys.readouterr().out == "score (tiny): registered, no committed results yet\n"
    assert main(["claims", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "claims": []}


# --- The committed results ------------------------------------------------------------------------------------------

COMMITTED = [(item.slug, tier) for item in techniques() for tier in item.tiers() if result_files(item, tier)]
committed = pytest.mark.parametrize(
    ("slug", "tier"), COMMITTED or [pytest.param("", "", marks=pytest.mark.skip(reason="no committed results yet"))]
)
VERDICTS = {  # from the published rule: open regions, an interval inside, outside or across
    "superiority": lambda margin: (margin, math.inf),
    "trend": lambda margin: (margin, math.inf),
    "noninferiority": lambda margin: (-margin, math.inf),
    "equivalence": lambda margin: (-margin, margin),
    "null": lambda margin: (-margin, margin),
}


@committed
def test_every_number_of_a_summary_follows_from_the_files_of_its_seeds(slug, tier):
    item = technique(slug)
    claim, files = load_claim(claim_path(item, tier)), result_files(item, tier)
    documents = [read_json(path) for path in files]
    summary = read_json(item.reproduction / "results" / tier / "summary.json")
    assert summary == claim_entry(item, tier)

    assert [d["seed"] for d in documents] == sorted(claim.seeds) == summary["seeds"]
    for settled, condition in zip(summary["conditions"], claim.conditions, strict=True):
        weights = condition.weights()
        effects = [
            sum(w * d["arms"][arm]["metrics"][condition.metric] for arm, w in weights.items()) for d in documents
        ]
        mean = sum(effects) / len(effects)
        assert settled["effect"] == pytest.approx(mean, abs=1e-12)
        if len(effects) > 1:  # the reported interval is never narrower than Student's over seeds
            low, high = (
                stats.t.interval(0.95, len(effects) - 1, mean, stats.sem(effects))
                if max(effects) > min(effects)
                else (mean, mean)
            )
            assert settled["interval"][1] - settled["interval"][0] >= high - low - 1e-9
        inside, outside = VERDICTS[condition.kind](condition.margin), settled["interval"]
        low, high = (end if end is not None else math.copysign(math.inf, k - 1) for k, end in enumerate(outside))
        if inside[0] < low and high < inside[1]:
            assert settled["verdict"] == "supported"
        elif high <= inside[0] or low >= inside[1]:
            assert settled["verdict"] == "contradicted"
        else:
            assert settled["verdict"] == "inconclusive"
    verdicts = {settled["verdict"] for settled in summary["conditions"]}
    expected = "contradicted" if "contradicted" in verdicts else "inconclusive" if len(verdicts) > 1 else verdicts.pop()
    assert summary["verdict"] == expected


@committed
def test_every_seed_was_run_alike_and_within_its_budget(slug, tier):
    item = technique(slug)
    experiment = load_experiment(slug, tier)
    train = experiment.train
    attempts = train.updates * train.prompts * train.samples * train.turns
    for path in result_files(item, tier):
        results = read_json(path)
        assert list(results["arms"]) == ["base", *experiment.arms]
        assert results["core_s"] <= 1.5 * experiment.budget.core_s
        assert results["peak_mb"] <= 1.5 * experiment.budget.peak_mb
        for arm, scores_ in results["arms"].items():
            phases = [] if arm == "base" else load_method(experiment, arm).phases(train)
            if any(isinstance(phase, OnlinePhase) for phase in phases):  # others learn from what they have
                ended = isinstance(get(experiment.task.name), Game)  # by an illegal move, before the last one
                assert scores_["generated_tokens"] >= (0.9 * attempts if ended else attempts)
            for metric, values in scores_["items"].items():
                assert len(values) == results["evaluation"]["items"]
                assert math.fsum(values) / len(values) == pytest.approx(scores_["metrics"][metric], abs=1e-9)


@committed
def test_the_notebook_and_figure_are_there_and_tell_nothing_of_the_machine(slug, tier):
    folder = technique(slug).reproduction / "results" / tier
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    text = (folder / "notebook.ipynb").read_text(encoding="utf-8")
    for place in (str(project_root()), str(Path.home()) + "/", "/tmp/"):
        assert place not in text
    notebook = json.loads(text)
    assert not [part for part in (notebook, *notebook["cells"]) if {"papermill", "execution"} & part["metadata"].keys()]


def git(*arguments: str) -> str:
    command = ["git", "-C", str(project_root()), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@committed
def test_the_claim_was_registered_before_its_results(slug, tier):
    """In git: the version of the claim whose hash the results carry is older than the commit that brought them.

    Where the history is lost, that can be seen of the results on fresh seeds only.
    """
    item = technique(slug)
    lost = lost_history(item)
    files = result_files(item, tier, FRESH) if lost else result_files(item, tier)
    if not files:
        pytest.skip(str(lost))
    claim = str(claim_path(item, tier).relative_to(project_root()))
    if git("rev-parse", "--is-shallow-repository").strip() == "true":
        pytest.skip("a shallow clone has no history")
    for path in files:
        arrived = git("log", "-1", "--format=%H", "--", str(path.relative_to(project_root()))).strip()
        if not arrived:
            pytest.skip(f"{path.name} is not committed yet")
        versions = git("log", "--format=%H", f"{arrived}^", "--", claim).split()
        texts = [content(version, claim_path(item, tier)) for version in versions]  # None where it was deleted
        hashes = {hashlib.sha256(text).hexdigest() for text in texts if text is not None}
        assert read_json(path)["claim_sha256"] in hashes


@pytest.mark.skipif(not COMMITTED, reason="no committed results yet")
def test_every_table_of_this_repository_is_up_to_date():
    assert regenerate(check=True) == []
