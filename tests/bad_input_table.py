"""The page "bad input × outcome" of the docs, made from the cases of ``test_bad_input.py``."""

GAP = "gap: "  # how an outcome begins that is not yet as it should be
HEAD = """# Bad input and what becomes of it

Made from the tests by `python -m pytest tests/test_bad_input.py --write-bad-input`; a test fails when it is out of
date. Whatever is wrong with an input, it must end in one error of our own that says what was wrong: `ConfigError`,
`RunError` or their parent `MinirlError`, which the command prints in one line. Never in the traceback of a library
below.

A **known gap** is a case in which it does not yet: the mend belongs in a file that committed results depend on, and
waits for the next change of these files, so that it does not make them stale by itself. The test of a known gap fails
as soon as it is closed.

## Random input

Property-based, with hypothesis: every example is either accepted or ends in one such error.

"""


def render(fuzzed, cases) -> str:
    """The page: ``fuzzed`` is (input, what is tried, examples), ``cases`` (input, case, outcome)."""
    lines = ["| input | what is tried | examples of each |", "|---|---|--:|"]
    lines += [f"| {surface} | {tried} | {examples} |" for surface, tried, examples in fuzzed]
    lines += ["", "## Single cases", "", "| input | case | outcome |", "|---|---|---|"]
    lines += [f"| {surface} | {case} | {_said(outcome)} |" for surface, case, outcome in cases]
    gaps = sum(outcome.startswith(GAP) for _, _, outcome in cases)
    lines += ["", f"{len(cases)} cases, {gaps} of them known gaps."]
    return HEAD + "\n".join(lines) + "\n"


def _said(outcome: str) -> str:
    if outcome.startswith(GAP):
        now = outcome.removeprefix(GAP)
        return f"**known gap**: {now if now == 'accepted' else f'`{now}`'}"
    return f"“{outcome}”" if outcome else "works"
