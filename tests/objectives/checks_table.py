"""The table "objectives × checks" of the docs, made from the markers of the tests that were collected."""

from collections import defaultdict
from pathlib import Path

KINDS = {
    "hand": "value and statistics worked out by hand",
    "trl": "loss and gradient equal TRL's",
    "micro": "micro-batches equal one batch",
    "mask": "other tokens get no gradient",
    "identity": "an identity of the literature",
}
HEAD = """# Objectives and what is proved of them

Made from the tests by `python -m pytest tests/objectives --write-objectives`; a test fails when it is out of date. A
tick means that at least one test of this kind exists, and the test suite passes only if all of them do. Where the
column of TRL is empty, TRL 1.16 has no such objective. The definitions, with symbols, shapes and sources, are in the
modules.

"""
TAIL = """
Batch statistics by definition: `bnpo` is normalised over each micro-batch, so its value depends on the split. The
baseline of `kto`, the success rates of `nft` and the weights of `reward_weighted_regression` are statistics of the
whole batch too, computed once by functions of their own and passed in: these losses do not depend on the split.
"""


def checks(items) -> dict[str, dict[str, set[str]]]:
    """Family → objective → kinds of checks, from collected pytest items."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for item in items:
        for mark in item.iter_markers("checks"):
            kind, *names = mark.args
            if kind not in KINDS:
                raise ValueError(f"{item.nodeid}: unknown kind of check {kind!r}; one of {', '.join(KINDS)}")
            if not names:
                names = [_parameter(item)]
            for name in names:
                found[Path(item.path).stem.removeprefix("test_")][name].add(kind)
    return found


def _parameter(item) -> str:
    value = getattr(item, "callspec", None) and item.callspec.params.get("objective")
    if value is None:
        raise ValueError(f"{item.nodeid}: a check must name its objectives or have a parameter called 'objective'")
    return value if isinstance(value, str) else item.callspec.id.split("-")[0]


def render(found: dict[str, dict[str, set[str]]]) -> str:
    """The page, as markdown."""
    lines = ["| module | objective | " + " | ".join(KINDS.values()) + " |", "|---|---|" + ":-:|" * len(KINDS)]
    for family in sorted(found):
        for name in sorted(found[family]):
            ticks = " | ".join("✓" if kind in found[family][name] else "" for kind in KINDS)
            lines.append(f"| {family} | `{name}` | {ticks} |")
    return HEAD + "\n".join(lines) + "\n" + TAIL
