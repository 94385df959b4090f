"""Every exercise of a technique's notebook has a hint and a solution, folded away, that answers what its cell asks."""

import ast
import re
from collections.abc import Iterator

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from minirl.experiments.registry import project_root, techniques

SKELETON = project_root() / "minirl" / "experiments" / "skeleton" / "notebook.ipynb"  # what new pages begin with
NOTEBOOKS = {item.slug: item.notebook for item in techniques()} | {"skeleton": SKELETON}
HEADING = re.compile(r"^#+ Exercises$", re.MULTILINE)
EXERCISE = re.compile(r"^\*\*(?:Exercise )?(\d+)\.\*\*", re.MULTILINE)
FOLD = re.compile(  # as in the foundations
    r"\S\n\n<details><summary>Hint</summary>\n\n\S.*?\n\n</details>\n<details><summary>Solution</summary>\n\n"
    r"```python\n(.+?)\n```\n\n\S.*?\n\n</details>\Z",
    re.DOTALL,
)


def names(target: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}


def assignments(tree: ast.Module) -> Iterator[tuple[ast.expr, ast.expr]]:
    """(target, value) of every assignment that is not inside of anything."""
    for node in tree.body:
        if isinstance(node, ast.Assign):
            yield from ((target, node.value) for target in node.targets)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            yield node.target, node.value


def is_blank(value: ast.AST | None) -> bool:
    """None, or a list, tuple or dictionary with None in it; ``[None] * 4``, too."""
    if isinstance(value, ast.BinOp):
        return is_blank(value.left)
    if isinstance(value, ast.Dict):
        return any(is_blank(inner) for inner in value.values)
    if isinstance(value, ast.List | ast.Tuple):
        return any(is_blank(inner) for inner in value.elts)
    return isinstance(value, ast.Constant) and value.value is None


def is_stub(function: ast.FunctionDef) -> bool:
    """Whether a function does nothing but return None."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    returns_none = [isinstance(node, ast.Return) and (node.value is None or is_blank(node.value)) for node in body]
    return all(none or isinstance(node, ast.Pass) for none, node in zip(returns_none, body, strict=True))


def unattempted(code: str) -> set[str]:
    """The names that ``code`` leaves to be filled in."""
    tree = ast.parse(code)
    blank = [names(target) for target, value in assignments(tree) if is_blank(value)]
    stubs = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and is_stub(node)}
    return stubs.union(*blank)


def answered(code: str) -> set[str]:
    """The names to which ``code`` gives something."""
    tree = ast.parse(code)
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return functions.union(*(names(target) for target, _ in assignments(tree))) - unattempted(code)


def keys(code: str) -> dict[str, set[str]]:
    """The keys of every dictionary that is written out in ``code``, by the name it is assigned to."""
    found = [(target, value) for target, value in assignments(ast.parse(code)) if isinstance(value, ast.Dict)]
    return {ast.unparse(target): {ast.unparse(key) for key in value.keys if key} for target, value in found}


def complaints(notebook: NotebookNode) -> list[str]:
    """What is wrong with the exercises of a notebook, each as ``cell: what, and what to do``."""
    sources = [cell.source if cell.cell_type == "markdown" else "" for cell in notebook.cells]
    start = next((i for i, source in enumerate(sources) if HEADING.search(source)), None)
    if start is None:
        return []
    found, numbers = [], []
    for i, source in enumerate(sources[start:], start):
        marks = list(EXERCISE.finditer(source))
        if not marks:
            continue
        where, solution = f"cell {notebook.cells[i].get('id', i)!r}", ""
        numbers += [int(mark[1]) for mark in marks]
        for mark, end in zip(marks, [*(mark.start() for mark in marks[1:]), len(source)], strict=True):
            fold = FOLD.search(source[mark.start() : end].rstrip("\n"))
            if fold and source[mark.start() : end].count("<details>") == 2:
                solution += fold[1] + "\n"
            else:
                found.append(
                    f"{where}: exercise {mark[1]} does not end with a folded hint and a folded solution in the form of "
                    f"notebooks/00_foundations (blank lines included; the solution begins with ```python)"
                )
        code = notebook.cells[i + 1] if i + 1 < len(notebook.cells) else None
        if code is None or code.cell_type != "code":
            found.append(f"{where}: no code cell follows; put the exercise's own cell right behind it")
        elif not solution:
            continue  # nothing to compare
        elif not (asked := unattempted(code.source)):
            found.append(f"{where}: the code cell behind it asks for nothing; set what is asked for to None")
        elif missing := asked - answered(solution):
            found.append(f"{where}: the solution does not assign {', '.join(sorted(missing))}, as its code cell asks")
        else:
            given = keys(solution)
            for name, wanted in keys(code.source).items():
                if name in asked and wanted != given.get(name, wanted):
                    found.append(f"{where}: the keys of {name} in the solution are not those of its code cell")
    if numbers != list(range(1, len(numbers) + 1)) or not numbers:
        found.append(f"the exercises under the heading are numbered {numbers}, not 1, 2, …")
    return found


@pytest.mark.parametrize("slug", NOTEBOOKS)
def test_exercises_have_a_hint_and_a_solution(slug):
    found = complaints(nbformat.read(NOTEBOOKS[slug], as_version=4))
    assert not found, "\n".join([f"{NOTEBOOKS[slug].relative_to(project_root())}:", *found])


TEXT = """**1.** What is one half, and what does twice?

<details><summary>Hint</summary>

Think.

</details>
<details><summary>Solution</summary>

```python
half = {"of 1": 0.5, "of 2": 1}
def twice(x):
    return 2 * x
```

Because.

</details>"""
CODE = """half = {"of 1": None, "of 2": None}

def twice(x):
    return None

if None not in half.values():
    print("right" if half["of 1"] == 0.5 and twice(1) == 2 else "not yet")"""


def page(*cells: tuple[str, str]) -> NotebookNode:
    """A notebook whose exercises are (text, code) each."""
    made = [new_markdown_cell("## Exercises")]
    for text, code in cells:
        made += [new_markdown_cell(text), new_code_cell(code)]
    return new_notebook(cells=made)


def test_nothing_to_complain_of():
    second = TEXT.replace("**1.**", "**Exercise 2.**")
    assert complaints(page((TEXT, CODE), (second, CODE))) == []
    assert complaints(page((f"{TEXT}\n\n{second}", CODE))) == []  # two of them in one cell
    assert complaints(new_notebook(cells=[new_markdown_cell("No exercises here")])) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (TEXT.partition("\n")[2], "", "a folded hint"),
        ("</details>\n<details>", "</details>\n\n<details>", "a folded hint"),
        ("Think.", "", "a folded hint"),
        ("Because.", "", "a folded hint"),
        ("```python", "```", "a folded hint"),
        ("half = {", "halves = {", "does not assign half"),
        ('{"of 1": 0.5, "of 2": 1}', "None", "does not assign half"),
        ("return 2 * x", "return None", "does not assign twice"),
        ('"of 2": 1', '"of 3": 1', "keys of half"),
        ("**1.**", "**2.**", "numbered [2]"),
    ],
)
def test_a_faulty_fold_is_named(old, new, complaint):
    assert old in TEXT
    (found,) = complaints(page((TEXT.replace(old, new, 1), CODE)))
    assert complaint in found


def test_a_cell_that_asks_for_nothing_is_named():
    (found,) = complaints(page((TEXT, "print(1)")))
    assert "asks for nothing" in found
    (found,) = complaints(new_notebook(cells=page((TEXT, CODE)).cells[:2]))
    assert "no code cell follows" in found
    (found,) = complaints(page())
    assert "numbered []" in found
