"""A small project to publish results in: the package's code, SCoRe, a claim of three arms, five seeds."""

import json
import shutil
import subprocess
from datetime import date
from pathlib import Path

import yaml

from minirl.experiments.claims import sha256_of
from minirl.experiments.fingerprint import fingerprint
from minirl.experiments.registry import claim_path, project_root, technique
from minirl.experiments.report import BEGIN, END, publish, regenerate
from minirl.experiments.run import load_experiment

ITEMS = 512
RIGHT = {"score": [96, 100, 104, 100, 100], "naive": [8] * 5, "shuffled": [0] * 5}  # of 512, by seed
CLAIM = {
    "slug": "score",
    "tier": "tiny",
    "statement": "SCoRe gains.",
    "registered": date(2026, 11, 21),
    "paper": {"numbers": "none"},
    "arms": {"score": "treatment", "naive": "baseline", "shuffled": "control"},
    "seeds": [0, 1, 2, 3, 4],
    "evaluation": {"items": ITEMS},
    "budget": "equal attempts",
    "conditions": [
        {"metric": "delta", "treatment": "score", "comparator": "naive", "kind": "superiority", "margin": 0.02},
        {"metric": "delta", "treatment": "shuffled", "kind": "null", "margin": 0.05},
    ],
}
README = f"# x\n\n{BEGIN.format(name='coverage')}\n\n{END.format(name='coverage')}\n\nbelow\n"


def left_out(folder, names):
    """The weights of the bases, and every technique but SCoRe: how many there are is no matter here."""
    one_of_many = Path(folder).parent.name == "techniques"
    return {name for name in names if name == "shipped" or (one_of_many and name not in ("score.py", "__init__.py"))}


def lay_out_project(root):
    """A repository with the package's code, one technique, its claim and configs, and no results."""
    shutil.copytree(project_root() / "minirl", root / "minirl", ignore=left_out)
    folder = root / "reproductions" / "score"
    folder.mkdir(parents=True)
    tiny = load_experiment("score", "tiny").model_dump(mode="json")
    tiny["arms"] = {arm: {"method": "score"} for arm in RIGHT}
    tiny["evaluation"]["items"] = ITEMS
    ablations = {"extends": "tiny.yaml", "arms": dict.fromkeys(RIGHT)}
    ablations["arms"] |= {f"alpha_{x}": {"method": "score", "alpha": x} for x in (10, 2)}
    for name, data in (("tiny", tiny), ("tiny-ablations", ablations), ("claim", CLAIM)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    (root / "README.md").write_text(README)


def scores(right):
    """Results of an arm that has corrected ``right`` of all items."""
    return {
        "metrics": {"delta": right / ITEMS, "accuracy@1": 0.5},
        "items": {"delta": [1] * right + [0] * (ITEMS - right)},
        "generated_tokens": 1000,
        "core_s": 1.0,
        "wall_s": 2.0,
    }


def document(seed, variant="", tier="tiny", arms=RIGHT):
    return {
        "schema": 1,
        "slug": "score",
        "tier": tier,
        "variant": variant,
        "seed": seed,
        "claim_sha256": sha256_of(claim_path(technique("score"), tier)),
        "fingerprint": fingerprint(load_experiment("score", tier, variant=variant)),
        "evaluation": {"items": ITEMS, "seed": 9, "level": 5},
        "arms": {arm: scores(right[seed]) for arm, right in arms.items()},
        "core_s": 100.0 + seed,
        "wall_s": 200.0,
        "peak_mb": 800,
    }


NOTEBOOK = {
    "cells": [
        {"cell_type": "code", "metadata": {"tags": ["x"], "papermill": {"duration": 3}, "execution": {"at": "noon"}}}
    ],
    "metadata": {"papermill": {"output_path": "out.ipynb"}, "kernelspec": {"name": "python3"}},
}


def run_directory(root, seed, variant="", where="", **changes):
    """What a finished run leaves behind."""
    directory = root / "runs" / f"{where}{variant}-{seed}"
    directory.mkdir(parents=True)
    (directory / "results.json").write_text(json.dumps(document(seed, variant, **changes)))
    (directory / "manifest.json").write_text(json.dumps({"commit": f"c{seed}", "fingerprint": {}}))
    if not variant:
        (directory / "notebook.ipynb").write_text(json.dumps(NOTEBOOK | {"nbformat_minor": seed}))
        (directory / "figure.png").write_bytes(f"figure of seed {seed}".encode())
    return directory


def git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(root), *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def commit(root: Path, message: str) -> str:
    git(root, "add", "-A")
    git(root, "commit", "-q", "--allow-empty", "-m", message)
    return git(root, "rev-parse", "HEAD")


def run_seeds(root: Path, made_at: str) -> list[Path]:
    """Finished runs of the five seeds, made at a commit."""
    directories = [run_directory(root, seed) for seed in range(5)]
    config = load_experiment("score", "tiny").model_dump(mode="json")
    for seed, directory in enumerate(directories):
        manifest = {"commit": made_at, "config": config, "seed": seed, "threads": 1, "python": "3.11", "packages": {}}
        manifest |= {"hardware": {"machine": "pdp11", "cores": 1}, "lock_sha256": "ab" * 32}
        (directory / "manifest.json").write_text(json.dumps(manifest))
    return directories


def publish_all(root: Path, made_at: str) -> None:
    publish("score", "tiny", run_seeds(root, made_at))
    shutil.rmtree(root / "runs")
    regenerate()


def edit(path: Path, change) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
