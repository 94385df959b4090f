"""The foundations notebooks: executed again, what they print is what they keep."""

import os
import re
import subprocess
import sys

import nbformat
import pytest

from minirl.experiments.registry import project_root

FOLDER = project_root() / "notebooks" / "00_foundations"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
EVERY_NOTEBOOK = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def test_there_are_four():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


@EVERY_NOTEBOOK
def test_executed_again_it_prints_what_it_keeps(path, tmp_path):
    # nbval compares the text of the cells tagged nbval-check-output, and fails on any cell that raises.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=project_root(), env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@EVERY_NOTEBOOK
def test_it_compares_something_and_asks_something(path):
    notebook = nbformat.read(path, as_version=4)
    checked, exercises = tagged(notebook, "nbval-check-output"), tagged(notebook, "exercise")
    assert len(checked) >= 3 and all(cell.outputs for cell in checked)
    assert len(exercises) >= 2
    for cell in exercises:
        assert re.search(r"\bNone\b", cell.source), "an exercise starts unanswered"


@EVERY_NOTEBOOK
def test_its_outputs_are_clean(path):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            assert output.get("name") != "stderr", f"{path.name}: {output.text[:200]}"
            assert str(project_root()) not in str(output)
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})


@EVERY_NOTEBOOK
def test_numbers_in_checked_outputs_are_rounded(path):
    # More digits than this would differ on the next machine.
    for cell in tagged(nbformat.read(path, as_version=4), "nbval-check-output"):
        for output in cell.outputs:
            text = output.get("text", "") or output.get("data", {}).get("text/plain", "")
            long = re.findall(r"\d\.\d*[1-9]\d*", text)
            long = [number for number in long if len(number.split(".")[1]) > 4]
            assert not long, f"{path.name}: {long}"
