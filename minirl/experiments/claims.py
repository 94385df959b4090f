"""Claims: what was registered before the runs, and the verdict once they are in.

A ``claim.yaml`` lists conditions; each names a metric, the arms it compares and the margin it must beat. Its effect is
a weighted sum of one metric over arms (:meth:`Condition.weights`), computed per seed and, where the metric is a mean
over items, per seed and item. The interval of that effect is the wider of a t-interval over seeds and a crossed
bootstrap over seeds and items (:mod:`minirl.evaluation.intervals`).

Verdict of a condition, with the open region of effects that satisfy it (:meth:`Condition.region`): **supported** when
every value of the interval lies in the region, **contradicted** when none does, otherwise **inconclusive**. A claim
is supported when all its conditions are, contradicted when one of them is, otherwise inconclusive.

Two files feed the verdict and both are checked: the claim (:class:`~minirl.errors.ConfigError`) and one JSON document
per seed (:class:`~minirl.errors.RunError`), whose metrics must equal the means of the item scores stored beside them.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator, model_validator

from minirl.config import Strict, Tier, load_model, nearest
from minirl.errors import RunError
from minirl.evaluation.intervals import Interval, crossed_bootstrap, t_interval, wider

Kind = Literal["superiority", "noninferiority", "equivalence", "null", "trend"]
Role = Literal["treatment", "baseline", "control", "ablation", "reference"]
Verdict = Literal["supported", "contradicted", "inconclusive"]

MIN_SEEDS = 5  # at tier tiny; below it the t-interval is too wide to settle anything
MIN_ITEMS = 512
MEAN_TOLERANCE = 1e-9  # between a stored metric and the mean of its items: rounding, not editing


# --- The registered claim -------------------------------------------------------------------------------------------


class Condition(Strict):
    """One condition on one metric.

    | kind | effect | holds when |
    |---|---|---|
    | ``superiority`` | treatment - comparator | effect > margin |
    | ``noninferiority`` | treatment - comparator | effect > -margin |
    | ``equivalence`` | treatment - comparator | -margin < effect < margin |
    | ``null`` | treatment - comparator | as equivalence; a predicted absence of effect, such as that of a control |
    | ``trend`` | slope over ``order`` | effect > margin |

    Without ``comparator`` the effect is the treatment's metric itself. For a metric where less is better, swap
    treatment and comparator. ``trend`` names at least three arms in ``order``; its effect is the least-squares slope
    of the metric per step along them, a linear contrast. A positive slope is not monotonicity (of three arms the
    middle one has weight zero): to claim that, register one condition for each pair of neighbours.
    """

    metric: str = Field(min_length=1)
    treatment: str | None = None
    comparator: str | None = None
    order: list[str] | None = None
    kind: Kind
    margin: float = Field(ge=0)

    @model_validator(mode="after")
    def _arms_fit_the_kind(self) -> "Condition":
        if self.kind == "trend":
            order = self.order or []
            if self.treatment or self.comparator or len(set(order)) < 3:
                raise ValueError("kind 'trend' needs 'order', at least three arms, instead of treatment and comparator")
            if len(set(order)) < len(order):
                raise ValueError("'order' names an arm twice")
        elif self.order is not None:
            raise ValueError(f"'order' belongs to kind 'trend', not to {self.kind!r}")
        elif self.treatment is None:
            raise ValueError(f"kind {self.kind!r} needs 'treatment'")
        elif self.treatment == self.comparator:
            raise ValueError("treatment and comparator are the same arm")
        if self.kind in ("equivalence", "null") and self.margin == 0:
            raise ValueError(f"kind {self.kind!r} with margin 0 can never be supported")
        return self

    def weights(self) -> dict[str, float]:
        """Arm → weight; the effect is the weighted sum of the arms' metrics."""
        if self.order:
            steps = [k - (len(self.order) - 1) / 2 for k in range(len(self.order))]  # centred: they sum to zero
            return {arm: step / sum(s * s for s in steps) for arm, step in zip(self.order, steps, strict=True)}
        assert self.treatment is not None  # checked above for every kind but trend
        return {self.treatment: 1.0} | ({self.comparator: -1.0} if self.comparator else {})

    def region(self) -> Interval:
        """The open interval of effects that satisfy the condition."""
        return {
            "superiority": Interval(self.margin, math.inf),
            "trend": Interval(self.margin, math.inf),
            "noninferiority": Interval(-self.margin, math.inf),
            "equivalence": Interval(-self.margin, self.margin),
            "null": Interval(-self.margin, self.margin),
        }[self.kind]

    def verdict(self, interval: Interval) -> Verdict:
        """What ``interval``, that of the effect, says about the condition."""
        region = self.region()
        if region.low < interval.low and interval.high < region.high:
            return "supported"
        if interval.high <= region.low or region.high <= interval.low:
            return "contradicted"
        return "inconclusive"


class Paper(Strict):
    """Where the technique comes from, and the paper's own numbers, in words, for comparison."""

    arxiv: str | None = None
    numbers: str


class Note(Strict):
    """A dated change of mind. The registered text stays as it was."""

    date: date
    text: str = Field(min_length=1)


class ClaimEvaluation(Strict):
    """Held-out items, the same for every seed and arm, or ``exact`` for metrics computed without sampling items."""

    items: int | Literal["exact"]

    @field_validator("items", mode="before")
    @classmethod
    def _enough(cls, items: Any) -> Any:
        if items != "exact" and (isinstance(items, bool) or not isinstance(items, int) or items < MIN_ITEMS):
            raise ValueError(f"expected a number of items, at least {MIN_ITEMS}, or 'exact'")
        return items


class Claim(Strict):
    """A ``claim.yaml``: a falsifiable statement about arms, registered before its results exist."""

    slug: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    tier: Tier
    statement: str = Field(min_length=1)
    registered: date
    paper: Paper
    arms: dict[str, Role] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    evaluation: ClaimEvaluation
    budget: str = Field(min_length=1)
    conditions: list[Condition] = Field(min_length=1)
    notes: list[Note] = Field(default_factory=list)

    # Validators of single fields, not of the whole: the error then names the key. Fields above are already checked.

    @field_validator("evaluation", mode="before")
    @classmethod
    def _exact_in_short(cls, evaluation: Any) -> Any:
        return {"items": "exact"} if evaluation == "exact" else evaluation

    @field_validator("seeds")
    @classmethod
    def _enough_seeds(cls, seeds: list[int], info: ValidationInfo) -> list[int]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("seeds must be different and not negative")
        if info.data.get("tier") == "tiny" and len(seeds) < MIN_SEEDS:
            raise ValueError(f"tier tiny needs at least {MIN_SEEDS} seeds")
        return seeds

    @field_validator("conditions")
    @classmethod
    def _known_arms_and_a_control(cls, conditions: list[Condition], info: ValidationInfo) -> list[Condition]:
        arms = info.data.get("arms")
        if arms is None:  # already reported
            return conditions
        for index, condition in enumerate(conditions):
            for arm in condition.weights():
                if arm not in arms:
                    raise ValueError(f"conditions.{index} names the unknown arm {arm!r}.{nearest(arm, arms)}")
        used = {arm for condition in conditions for arm in condition.weights()}
        if info.data.get("tier") == "tiny" and not any(arms[arm] == "control" for arm in used):
            raise ValueError("at tier tiny at least one condition must involve an arm with the role 'control'")
        return conditions


def load_claim(path: Path) -> Claim:
    """The claim in the YAML file ``path``. Raises :class:`ConfigError` naming file, key and nearest valid name."""
    return load_model(path, Claim)


def on_fresh_seeds(claim: Claim) -> Claim:
    """The same claim about as many seeds, those that follow the registered ones: nobody chooses them either."""
    after = max(claim.seeds) + 1
    return claim.model_copy(update={"seeds": list(range(after, after + len(claim.seeds)))})


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of the bytes of ``path``; results store that of their claim."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


# --- Results of single seeds ----------------------------------------------------------------------------------------


class ArmScores(BaseModel):
    """One arm of one seed. A metric is null where it is undefined, such as a correction rate with nothing to correct.

    ``items`` holds, for each metric that is a plain mean over the held-out items, the N scores in item order.
    """

    metrics: dict[str, float | None]
    items: dict[str, list[float]] = {}


class SeedResult(BaseModel):
    """The part of a per-seed results document that a verdict needs; other keys are ignored."""

    schema_: Literal[1] = Field(alias="schema")
    slug: str
    tier: Tier
    seed: int
    evaluation: dict[str, Any]
    arms: dict[str, ArmScores]
    core_s: float
    wall_s: float
    peak_mb: float


# --- The verdict ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConditionResult:
    """A condition with its mean effect over seeds, the interval of that effect and the verdict."""

    condition: Condition
    effect: float
    interval: Interval
    verdict: Verdict
    effects: tuple[float, ...]  # one per seed, in the claim's order


@dataclass(frozen=True)
class ClaimResult:
    """A claim with its verdict.

    ``metrics`` is arm → metric → mean over seeds (None where a seed lacks the metric). ``core_s`` and ``wall_s`` are
    seconds of one seed with all its arms, mean over seeds; ``core_s`` adds up the cores. ``peak_mb`` is the largest
    over seeds. ``paths`` are the results files, in the order of the claim's seeds.
    """

    claim: Claim
    verdict: Verdict
    conditions: tuple[ConditionResult, ...]
    metrics: dict[str, dict[str, float | None]]
    core_s: float
    wall_s: float
    peak_mb: float
    paths: tuple[str, ...]


def evaluate_claim(
    claim: Claim, results: Sequence[Mapping[str, Any]], paths: Sequence[Path | str] | None = None
) -> ClaimResult:
    """The verdict on ``claim`` from ``results``, one document per registered seed, read from ``paths`` (for messages).

    Raises :class:`RunError`, naming the file or seed and what to do, when a seed, arm or metric is missing, a seed
    comes twice or was not registered, a document belongs to another claim or tier, the items are not the registered
    ones or differ between seeds, or a metric is not the mean of its items.
    """
    names = [str(path) for path in paths] if paths is not None else [f"results[{i}]" for i in range(len(results))]
    parsed = [parse_seed_result(document, name, claim) for document, name in zip(results, names, strict=True)]
    by_seed: dict[int, tuple[SeedResult, str]] = {}
    for result, name in zip(parsed, names, strict=True):
        if result.seed not in claim.seeds:
            raise RunError(f"{name}: seed {result.seed} is not registered in the claim; leave its results out")
        if result.seed in by_seed:
            raise RunError(f"{name}: seed {result.seed} is also in {by_seed[result.seed][1]}; keep one of them")
        by_seed[result.seed] = (result, name)
    missing = [seed for seed in claim.seeds if seed not in by_seed]
    if missing:
        raise RunError(
            f"claim {claim.slug!r} at tier {claim.tier}: no results of seed {', '.join(map(str, missing))}; "
            f"run {_command(claim, missing)}"
        )
    seeds = [by_seed[seed] for seed in claim.seeds]
    for result, name in seeds:
        _check_scores(claim, result, name)
        if result.evaluation != seeds[0][0].evaluation:
            raise RunError(
                f"{name}: evaluation {result.evaluation} differs from {seeds[0][0].evaluation} in {seeds[0][1]}; all "
                f"seeds must be scored on the same items: rerun {_command(claim, [result.seed])}"
            )
    conditions = tuple(evaluate_condition(claim, condition, seeds) for condition in claim.conditions)
    verdicts = {condition.verdict for condition in conditions}
    worst_first: tuple[Verdict, ...] = ("contradicted", "inconclusive", "supported")
    verdict = next(v for v in worst_first if v in verdicts)
    documents = [result for result, _ in seeds]
    return ClaimResult(
        claim=claim,
        verdict=verdict,
        conditions=conditions,
        metrics={arm: _mean_metrics([document.arms[arm].metrics for document in documents]) for arm in claim.arms},
        core_s=float(np.mean([document.core_s for document in documents])),
        wall_s=float(np.mean([document.wall_s for document in documents])),
        peak_mb=max(document.peak_mb for document in documents),
        paths=tuple(name for _, name in seeds) if paths is not None else (),
    )


def evaluate_condition(claim: Claim, condition: Condition, seeds: Sequence[tuple[SeedResult, str]]) -> ConditionResult:
    """Effect, interval and verdict of one condition from ``seeds``, each with the name of its file (for messages).

    Raises :class:`RunError` if a seed lacks the metric, or its items are not as many as registered.
    """
    weights, metric = condition.weights(), condition.metric
    for result, name in seeds:
        for arm in weights:
            _check_metric(claim, metric, arm, result, name)
    # _check_metric has refused metrics that are None.
    effects = np.array(
        [sum(w * (result.arms[arm].metrics[metric] or 0.0) for arm, w in weights.items()) for result, _ in seeds]
    )
    interval = t_interval(effects)  # [S]

    with_items = {(result.seed, arm): metric in result.arms[arm].items for result, _ in seeds for arm in weights}
    if any(with_items.values()):
        if not all(with_items.values()):
            seed, arm = next(key for key, present in with_items.items() if not present)
            raise RunError(
                f"seed {seed}, arm {arm!r}: no items for {metric!r}, though other seeds or arms have them; "
                f"rerun {_command(claim, [seed])}"
            )
        values = np.array(
            [sum(w * np.array(result.arms[arm].items[metric]) for arm, w in weights.items()) for result, _ in seeds]
        )  # [S, N]
        interval = wider(interval, crossed_bootstrap(values))
    return ConditionResult(
        condition=condition,
        effect=float(effects.mean()),
        interval=interval,
        verdict=condition.verdict(interval),
        effects=tuple(effects.tolist()),
    )


def parse_seed_result(document: Mapping[str, Any], name: str, claim: Claim) -> SeedResult:
    """A per-seed document of ``claim``. Raises :class:`RunError` if it is none, or belongs to another claim or tier."""
    try:
        result = SeedResult.model_validate(document)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"])) or "(whole file)"
        raise RunError(f"{name}: not a results document: key {key!r}: {problem['msg']}; rerun this seed") from error
    if (result.slug, result.tier) != (claim.slug, claim.tier):
        raise RunError(
            f"{name}: belongs to {result.slug!r} at tier {result.tier}, not to {claim.slug!r} at tier {claim.tier}"
        )
    return result


def _check_scores(claim: Claim, result: SeedResult, name: str) -> None:
    """Registered arms are there, the number of items is the registered one, and each metric is its items' mean."""
    again = f"rerun {_command(claim, [result.seed])}"
    items = result.evaluation.get("items", "exact")
    if items != claim.evaluation.items:
        raise RunError(f"{name}: evaluated on {items} items, the claim registers {claim.evaluation.items}; {again}")
    for arm in claim.arms:
        if arm not in result.arms:
            raise RunError(
                f"{name}: seed {result.seed} lacks arm {arm!r}.{nearest(arm, result.arms)} To add it, {again}"
            )
        scores = result.arms[arm]
        for metric, stored, mean in wrong_means(scores):
            raise RunError(
                f"{name}: seed {result.seed}, arm {arm!r}: {metric!r} is {stored} but its items have mean {mean}; "
                f"the file was edited or is broken: {again}"
            )


def wrong_means(scores: ArmScores) -> Iterator[tuple[str, float | None, float]]:
    """``(metric, stored, mean of its items)`` for every metric of an arm that is not the mean of its items."""
    for metric, values in scores.items.items():
        stored = scores.metrics.get(metric)
        mean = math.fsum(values) / len(values) if values else math.nan
        if stored is None or not abs(mean - stored) <= MEAN_TOLERANCE:  # not >: NaN must not pass
            yield metric, stored, mean


def _check_metric(claim: Claim, metric: str, arm: str, result: SeedResult, name: str) -> None:
    """A metric that a condition needs is there, defined, and on the registered number of items."""
    where, again = f"{name}: seed {result.seed}, arm {arm!r}", f"rerun {_command(claim, [result.seed])}"
    scores = result.arms[arm]
    if metric not in scores.metrics:
        raise RunError(f"{where} lacks metric {metric!r}.{nearest(metric, scores.metrics)} Correct it, or {again}")
    value = scores.metrics[metric]
    if value is None or not math.isfinite(value):
        raise RunError(f"{where}: metric {metric!r} is undefined ({value}), so it settles no claim")
    if metric in scores.items and len(scores.items[metric]) != claim.evaluation.items:
        raise RunError(
            f"{where}: {metric!r} has {len(scores.items[metric])} items, the claim registers "
            f"{claim.evaluation.items}; {again}"
        )


def _mean_metrics(seeds: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Metric → mean over seeds; None where it is missing or undefined in a seed, because then there is no such mean."""
    means: dict[str, float | None] = {}
    for metric in dict.fromkeys(metric for seed in seeds for metric in seed):
        values = [value for seed in seeds if (value := seed.get(metric)) is not None and math.isfinite(value)]
        means[metric] = float(np.mean(values)) if len(values) == len(seeds) else None
    return means


def _command(claim: Claim, seeds: Iterable[int]) -> str:
    return f"`minirl reproduce {claim.slug} --tier {claim.tier} --seeds {','.join(map(str, seeds))}`"


# --- Output ---------------------------------------------------------------------------------------------------------


def to_json(result: ClaimResult, *, stale: bool) -> dict[str, Any]:
    """``result`` as an entry of ``minirl claims --json``; JSON-ready.

    ``arms`` is arm → ``role`` and ``metrics`` (means over seeds, null where undefined); ``core_s``, ``wall_s`` and
    ``peak_mb`` are as in :class:`ClaimResult`. An infinite end of an interval (one seed) is null, as JSON has no
    infinity. A trend has null treatment and comparator, and lists its arms in an additional key ``order``.
    ``stale`` is the caller's finding that code, config or base have changed since the runs.
    """
    claim = result.claim
    return {
        "slug": claim.slug,
        "tier": claim.tier,
        "statement": claim.statement,
        "verdict": result.verdict,
        "conditions": [_condition_json(condition) for condition in result.conditions],
        "arms": {arm: {"role": role, "metrics": result.metrics[arm]} for arm, role in claim.arms.items()},
        "seeds": list(claim.seeds),
        "items": claim.evaluation.items,
        "core_s": result.core_s,
        "wall_s": result.wall_s,
        "peak_mb": result.peak_mb,
        "results": list(result.paths),
        "stale": stale,
    }


def _condition_json(result: ConditionResult) -> dict[str, Any]:
    condition = result.condition
    entry = {
        "metric": condition.metric,
        "treatment": condition.treatment,
        "comparator": condition.comparator,
        "kind": condition.kind,
        "margin": condition.margin,
        "effect": result.effect,
        "interval": [end if math.isfinite(end) else None for end in (result.interval.low, result.interval.high)],
        "verdict": result.verdict,
    }
    return entry | ({"order": list(condition.order)} if condition.order else {})


_SIGNS = {
    "superiority": "> ",
    "noninferiority": "> −",
    "equivalence": "within ±",
    "null": "no effect: within ±",
    "trend": "slope > ",
}


def holds_when(kind: str, margin: float) -> str:
    """The region of effects that satisfies a condition, in symbols."""
    return f"{_SIGNS[kind]}{margin:g}"


def render_verdict_table(entry: Mapping[str, Any]) -> str:
    """The conditions of ``entry``, as :func:`to_json` returns it, as a Markdown table ending in a newline."""
    lines = ["| metric | arms | registered | effect [95 % interval] | verdict |", "|---|---|---|---|---|"]
    for condition in entry["conditions"]:
        if condition["kind"] == "trend":
            arms = " → ".join(condition["order"])
        else:
            arms = " vs ".join(filter(None, (condition["treatment"], condition["comparator"])))
        low, high = condition["interval"]
        ends = f"[{'-∞' if low is None else f'{low:+.4f}'}, {'+∞' if high is None else f'{high:+.4f}'}]"
        holds = holds_when(condition["kind"], condition["margin"])
        lines.append(
            f"| {condition['metric']} | {arms} | {holds} | {condition['effect']:+.4f} {ends} | {condition['verdict']} |"
        )
    return "\n".join(lines) + "\n"
