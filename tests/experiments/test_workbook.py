"""``minirl open``: the copy of a notebook that somebody works in."""

import os
import sys

import nbformat
import pytest

from minirl.cli import main
from minirl.errors import ConfigError
from minirl.experiments import workbook
from minirl.experiments.registry import technique, techniques
from minirl.experiments.workbook import copy_notebook, notebooks, with_parameters


def parameters(path):
    (cell,) = [c for c in nbformat.read(path, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
    return cell.source.splitlines()


def test_it_copies_and_sets_the_parameters(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["open", "score", "--tier", "smoke", "--seed", "7", "--out", "here", "--no-lab"]) == 0
    assert capsys.readouterr().out == "work/score.ipynb\n"
    copy = nbformat.read("work/score.ipynb", as_version=4)
    assert parameters("work/score.ipynb") == [
        'tier = "smoke"  # smoke | tiny',
        "seed = 7",
        "overrides = {}",
        f'out = "{tmp_path}/here"',
    ]
    source = nbformat.read(technique("score").notebook, as_version=4)
    assert [c.source for c in copy.cells if c.id != "parameters"] == [
        c.source for c in source.cells if c.id != "parameters"
    ]


def test_without_options_it_is_the_notebook(tmp_path):
    path = copy_notebook("score", tmp_path / "deep" / "mine.ipynb", {})
    assert nbformat.read(path, as_version=4) == nbformat.read(technique("score").notebook, as_version=4)


def test_what_somebody_has_written_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    mine = tmp_path / "work" / "score.ipynb"
    mine.write_text("mine")
    assert main(["open", "score", "--no-lab"]) == 1
    assert mine.read_text() == "mine"
    assert capsys.readouterr().err == (
        "minirl: work/score.ipynb is there already; go on in it with `jupyter lab work/score.ipynb`, replace it with "
        "--force, or choose another place with --to\n"
    )
    assert main(["open", "score", "--no-lab", "--to", "work/other.ipynb"]) == 0
    assert main(["open", "score", "--no-lab", "--force"]) == 0
    assert parameters(mine)[0] == 'tier = "tiny"  # smoke | tiny'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scroe"], "unknown notebook 'scroe'. Did you mean 'score'?"),
        (["score", "--tier", "smok"], "score has no config smok.yaml. Did you mean 'smoke'?"),
        (["03_preferences", "--seed", "1"], "the notebook '03_preferences' has no parameters, so seed cannot be set"),
    ],
)
def test_mistakes(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["open", *arguments, "--no-lab"]) == 1
    assert capsys.readouterr() == ("", f"minirl: {message}\n")
    assert not list(tmp_path.iterdir())


def test_every_technique_can_be_opened(tmp_path):
    assert notebooks().keys() >= {item.slug for item in techniques()}


def test_parameters_are_replaced_where_they_stand():
    source = 'tier = "tiny"  # smoke | tiny\nseed = 0\nout = None'
    assert with_parameters(source, {"out": 'a"b', "tier": "small"}) == (
        'tier = "small"  # smoke | tiny\nseed = 0\nout = "a\\"b"'
    )
    assert with_parameters(source, {}) == source
    with pytest.raises(ConfigError, match=r"no parameter 'sed'\. Did you mean 'seed'\?"):
        with_parameters(source, {"sed": 1})


def test_it_becomes_jupyterlab(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    started = []
    monkeypatch.setattr(os, "execv", lambda *command: started.append(command))
    assert main(["open", "score"]) == 0
    assert started == [(sys.executable, [sys.executable, "-m", "jupyterlab", "work/score.ipynb"])]
    monkeypatch.setattr(workbook.importlib.util, "find_spec", lambda name: None)
    assert main(["open", "score", "--force"]) == 1
    assert "JupyterLab is not installed; run `pip install -e .`" in capsys.readouterr().err
