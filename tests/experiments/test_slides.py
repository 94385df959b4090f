"""Slides: what an audience sees of a notebook, and in which order."""

import pytest

from minirl.cli import main
from minirl.errors import ConfigError, RunError
from minirl.experiments.slides import executed, slide_cells


def text(source):
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def code(source, *outputs, tags=()):
    return {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": source, "outputs": list(outputs)}


PRINTED, DRAWN = {"output_type": "stream", "text": "1"}, {"output_type": "display_data", "data": {"image/png": ""}}


def test_a_heading_begins_a_slide_and_outputs_lie_below_it():
    cells = [
        text("# Title"),
        text("The next cell holds the parameters."),
        code("seed = 0", tags=["parameters"]),
        code("seed = 1", tags=["injected-parameters"]),
        code("# a comment is no heading", PRINTED),
        text("## Curves"),
        code("one", DRAWN),
        code("two", PRINTED, DRAWN),
        text("And what went wrong:"),
        code("three", DRAWN),
        text("## End"),
    ]
    shown = [(cell["source"], cell["metadata"]["slideshow"]["slide_type"]) for cell in slide_cells(cells)]
    assert shown == [
        ("# Title", "slide"),
        ("## Curves", "slide"),
        ("one", "subslide"),
        ("two", "subslide"),
        ("And what went wrong:", "subslide"),
        ("three", "-"),
        ("## End", "slide"),
    ]
    assert {cell["source"]: cell["metadata"]["alt"] for cell in slide_cells(cells)}["two"] == "Figure: Curves"
    assert "slideshow" not in cells[0]["metadata"]


def test_slides_of_a_technique_and_of_the_foundations(tmp_path, capsys):
    target = tmp_path / "score.slides.html"
    assert main(["slides", "score", "--to", str(target), "--reveal", "reveal.js"]) == 0
    page = target.read_text(encoding="utf-8")
    assert capsys.readouterr().out == f"{target}\n"
    assert "<title>SCoRe: learning to correct one's own mistakes" in page
    assert "reveal.js/dist/reveal.js" in page
    assert "data:image/png;base64," in page
    assert "open_run" not in page  # the code stays in the notebook
    with pytest.raises(SystemExit):
        main(["slides"])
    assert main(["slides", "score", "--to", str(target)]) == 1
    assert "replace it with --force" in capsys.readouterr().err
    assert executed("03_preferences").parent.name == "00_foundations"


def test_slides_of_what_is_not_there(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match=r"unknown notebook 'scor'\. Did you mean 'score'"):
        executed("scor")
    monkeypatch.setattr("minirl.experiments.slides.results_directory", lambda item, tier: tmp_path)
    with pytest.raises(RunError, match="score was not run at tiny yet"):
        executed("score")
