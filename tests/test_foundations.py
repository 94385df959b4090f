"""The foundations notebooks: executed again, what they print is what they keep."""

import ast
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


def solution(notebook, exercise) -> str:
    """The code in the folded solution, which stands with its hint in the cell before the exercise."""
    text = notebook.cells[notebook.cells.index(exercise) - 1].source
    fold = r"<details><summary>Hint</summary>\n\n.+?\n\n</details>\n<details><summary>Solution</summary>\n\n"
    found = re.search(fold + r"```python\n(answer = .+?)\n```\n\n.+?\n\n</details>$", text, re.DOTALL)
    assert found, f"no folded hint and solution before {exercise.id}"
    return found[1]


def solved(notebook):
    """A copy in which after every exercise the same cell stands with its solution, and insists on being right."""
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if "exercise" in cell.metadata.get("tags", []):
            (blank,) = [node for node in ast.parse(cell.source).body if ast.unparse(node).startswith("answer = ")]
            lines = cell.source.splitlines()
            lines[blank.lineno - 1 : blank.end_lineno] = [solution(notebook, cell)]
            listen = "said = []\nprint = lambda *words: said.append(' '.join(map(str, words)))"
            insist = "del print\nassert said and all('right' in line and 'not yet' not in line for line in said), said"
            cells.append(nbformat.v4.new_code_cell("\n".join([listen, *lines, insist])))
    return nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)


@EVERY_NOTEBOOK
def test_executed_again_it_prints_what_it_keeps_and_its_solutions_are_right(path, tmp_path):
    # nbval compares the text of the cells tagged nbval-check-output, and fails on any cell that raises.
    nbformat.write(solved(nbformat.read(path, as_version=4)), tmp_path / path.name)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", str(tmp_path / path.name)]
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
