"""How fast something was learned, read off the records of training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


def tokens_to(records: Sequence[Mapping[str, Any]], target: float, metric: str = "accuracy@1", smooth: int = 5) -> int:
    """Tokens generated until the mean of ``metric`` over the last ``smooth`` updates first reached ``target``.

    ``records`` are those of ``metrics.jsonl``; those without the metric do not count. If the target was never reached,
    all tokens that were generated: a lower bound.
    """
    having = [record for record in records if metric in record]
    values = [record[metric] for record in having]
    for done in range(smooth, len(values) + 1):
        if sum(values[done - smooth : done]) / smooth >= target:
            return having[done - 1]["generated_tokens"]
    return records[-1]["generated_tokens"]


def log2_tokens_to(records: Sequence[Mapping[str, Any]], target: float, **how: Any) -> float:
    """Binary logarithm of :func:`tokens_to`: a difference of 1 between two arms is a factor of 2."""
    return math.log2(tokens_to(records, target, **how))
