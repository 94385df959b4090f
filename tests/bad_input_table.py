"""The page "bad input × outcome" of the docs, made from the cases of ``test_bad_input.py``."""

HEAD = """# Bad input and what becomes of it

Made from the tests by `python -m pytest tests/test_bad_input.py --write-bad-input`; a test fails when it is out of
date. Whatever is wrong with an input, it must end in one error of our own that says what was wrong: `ConfigError`,
`RunError` or their parent `MinirlError`, which the command prints in one line. Never in the traceback of a library
below.

## Random input

Property-based, with hypothesis: every example is either accepted or ends in one such error.

"""


def render(fuzzed, cases) -> str:
    """The page: ``fuzzed`` is (input, what is tried, examples), ``cases`` (input, case, outcome)."""
    lines = ["| input | what is tried | examples of each |", "|---|---|--:|"]
    lines += [f"| {surface} | {tried} | {examples} |" for surface, tried, examples in fuzzed]
    lines += ["", "## Single cases", "", "| input | case | outcome |", "|---|---|---|"]
    lines += [f"| {surface} | {case} | {_said(outcome)} |" for surface, case, outcome in cases]
    lines += ["", f"{len(cases)} cases."]
    return HEAD + "\n".join(lines) + "\n"


def _said(outcome: str) -> str:
    return f"“{outcome}”" if outcome else "works"
