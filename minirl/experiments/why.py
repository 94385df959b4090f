"""``minirl why``: from a number in README, notebook or book back to everything that made it.

The chain: number → condition → claim (registered when, in which commit) → seeds → values and files → commits of the
code → config → base and its recipe → machine. Everything is read from the committed files and from git; what is shown
as checked is checked here, by the functions of :mod:`minirl.experiments.audit`.
"""

import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from minirl.config import nearest
from minirl.errors import ConfigError
from minirl.experiments import history
from minirl.experiments.audit import (
    code_commit,
    code_differs,
    manifest_of,
    registration,
)
from minirl.experiments.claims import (
    Claim,
    Condition,
    SeedResult,
    evaluate_claim,
    evaluate_condition,
    holds_when,
    load_claim,
    parse_seed_result,
    sha256_of,
)
from minirl.experiments.fingerprint import code_parts, short_hash
from minirl.experiments.registry import (
    Technique,
    claim_path,
    config_path,
    governing_claim,
    label,
    project_root,
    result_files,
    results_directory,
    technique,
    to_register,
)
from minirl.experiments.rundir import read_json
from minirl.experiments.staleness import Standing, fingerprint_of, standing

Seeds = list[tuple[SeedResult, str]]
WIDTH = 110  # columns of the text


def chain(
    slug: str, metric: str | None = None, arms: Sequence[str] = (), tier: str = "tiny", variant: str = ""
) -> dict[str, Any]:
    """The chain behind ``metric`` of ``arms`` as a JSON-ready document, documented in README.md.

    Without ``metric``, that behind every registered condition; without ``arms``, behind every condition on ``metric``,
    or its mean in every arm if there is none. One arm asks for its mean, two for the first minus the second, more for
    the trend along them. Raises :class:`ConfigError` for unknown names, with the nearest one, and :class:`RunError` if
    the results are damaged.
    """
    item = technique(slug)
    if tier not in item.tiers():
        raise ConfigError(f"{slug} has no tier {tier!r}.{nearest(tier, item.tiers())}")
    claim_file = governing_claim(item, tier) if variant else claim_path(item, tier)
    if not claim_file.exists():
        raise ConfigError(to_register(item) if tier == "tiny" else f"{slug} has no claim at tier {tier}")
    claim = load_claim(claim_file)
    directory = results_directory(item, tier, variant)
    files = result_files(item, tier, variant)
    if variant and not files:
        known = [path.name.partition("-")[2] for path in directory.parent.glob(f"{tier}-*")]
        raise ConfigError(
            f"{slug} at {tier} has no committed results of a variant {variant!r}.{nearest(variant, known)}"
        )
    registered, first = registration(claim_file, directory)
    found: dict[str, Any] = {
        "schema": 1,
        "slug": slug,
        "tier": tier,
        "variant": variant,
        "statement": claim.statement,
        "verdict": None,
        "claim": {
            "file": _shown(claim_file),
            "sha256": sha256_of(claim_file),
            "registered": str(claim.registered),
            "commit": _commit(registered),
            "first_results": _commit(first),
            "notes": [{"date": str(note.date), "text": note.text} for note in claim.notes],
        },
        "history": history.reach(),
        "numbers": [],
        "again": _again(claim, slug, tier, variant),
    }
    if not files:
        return found
    documents = [read_json(file) for file in files]
    ours = claim.model_copy(update={"tier": tier})
    seeds = [
        (parse_seed_result(document, _shown(file), ours), _shown(file))
        for document, file in zip(documents, files, strict=True)
    ]
    if not variant:
        found["verdict"] = evaluate_claim(claim, documents, files).verdict
    found["numbers"] = [
        _number(claim, condition, index, seeds) for condition, index in _asked_for(claim, variant, seeds, metric, arms)
    ]
    now = standing(item, tier, documents, variant)
    found["stale"] = list(now.stale)
    found["verified"] = _verified(now)
    found["files"] = [
        {
            "seed": result.seed,
            "file": name,
            "sha256": sha256_of(file),
            "commit": _commit(history.last_change(file)),
        }
        for (result, name), file in zip(seeds, files, strict=True)
    ]
    found["code"] = _grouped((_code(document), document["seed"]) for document in documents)
    found["config"] = _config(item, tier, variant, documents[0])
    found["base"] = _base(documents[0])
    found["machine"] = _grouped((_machine(document), document["seed"]) for document in documents)
    found["quoted_in"] = _quoted_in(item, tier, variant)
    return found


# --- Which number ---------------------------------------------------------------------------------------------------


def _asked_for(
    claim: Claim, variant: str, seeds: Seeds, metric: str | None, arms: Sequence[str]
) -> list[tuple[Condition, int | None]]:
    """Conditions to explain, each with its place in the claim; None for one that the claim does not register."""
    # The claim speaks of the tier's own results; those of a variant are a display.
    registered: list[tuple[Condition, int | None]] = []
    if not variant:
        registered = [(condition, index) for index, condition in enumerate(claim.conditions)]
    if metric is None:
        if variant:
            raise ConfigError(f"the claim registers nothing about {variant!r}: name a metric, and arms if you like")
        return registered
    result = seeds[0][0]
    metrics = {name for scores in result.arms.values() for name in scores.metrics}
    if metric not in metrics:
        raise ConfigError(f"unknown metric {metric!r}.{nearest(metric, metrics)}")
    for arm in arms:
        if arm not in result.arms:
            raise ConfigError(f"unknown arm {arm!r}.{nearest(arm, result.arms)}")
    if not arms:
        those = [(condition, index) for condition, index in registered if condition.metric == metric]
        return those or [
            (_mean(metric, arm), None) for arm, s in result.arms.items() if s.metrics.get(metric) is not None
        ]
    if len(set(arms)) < len(arms):
        raise ConfigError("an arm is named twice")
    for condition, index in registered:
        if condition.metric == metric and _order(condition) == list(arms):
            return [(condition, index)]
    if len(arms) == 1:
        return [(_mean(metric, arms[0]), None)]
    if len(arms) == 2:
        difference = Condition(metric=metric, treatment=arms[0], comparator=arms[1], kind="superiority", margin=0)
        return [(difference, None)]
    return [(Condition(metric=metric, order=list(arms), kind="trend", margin=0), None)]


def _mean(metric: str, arm: str) -> Condition:
    return Condition(metric=metric, treatment=arm, kind="superiority", margin=0)


def _order(condition: Condition) -> list[str]:
    """The arms of a condition in the order in which they are written."""
    return list(condition.order or filter(None, (condition.treatment, condition.comparator)))


def _number(claim: Claim, condition: Condition, index: int | None, seeds: Seeds) -> dict[str, Any]:
    """A number with its interval and what each seed contributes; a verdict only where one was registered."""
    settled = evaluate_condition(claim, condition, seeds)
    weights, metric = condition.weights(), condition.metric
    items = {len(result.arms[arm].items.get(metric, ())) for result, _ in seeds for arm in weights}
    return {
        "metric": metric,
        "arms": weights,
        "effect": settled.effect,
        "interval": [end if math.isfinite(end) else None for end in (settled.interval.low, settled.interval.high)],
        "items": items.pop() if len(items) == 1 and 0 not in items else None,
        "condition": None if index is None else index + 1,
        "kind": None if index is None else condition.kind,
        "margin": None if index is None else condition.margin,
        "verdict": None if index is None else settled.verdict,
        "seeds": [
            {
                "seed": result.seed,
                "values": {arm: result.arms[arm].metrics[metric] for arm in weights},
                "effect": effect,
                "file": name,
            }
            for (result, name), effect in zip(seeds, settled.effects, strict=True)
        ],
    }


# --- Where it comes from --------------------------------------------------------------------------------------------


def _code(document: Mapping[str, Any]) -> dict[str, Any]:
    sha, differs = code_commit(document), code_differs(document)
    files = len(code_parts(fingerprint_of(document)))
    known = history.commit(sha) if sha else None
    return {"commit": _commit(known) or ({"sha": sha} if sha else None), "files": files, "differs": differs}


def _verified(now: Standing) -> dict[str, Any] | None:
    """What vouches for results of older code: which seeds were computed again, identical, at which commit."""
    if now.stamp is None:
        return None
    known = history.commit(now.stamp.commit)
    return {
        "seeds": now.stamp.seeds,
        "commit": _commit(known) or {"sha": now.stamp.commit},
        "date": now.stamp.date,
        "changed": list(now.changed),
    }


def _config(item: Technique, tier: str, variant: str, document: Mapping[str, Any]) -> dict[str, Any]:
    path = config_path(item, tier, variant)
    return {
        "file": _shown(path),
        "commit": _commit(history.last_change(path)),
        "resolved": manifest_of(document).get("config"),
    }


def _base(document: Mapping[str, Any]) -> dict[str, Any]:
    name = str(manifest_of(document).get("config", {}).get("base", ""))
    directory, then = project_root() / "minirl" / "policy" / "shipped" / name, fingerprint_of(document).get("base")
    if then is None:
        return {"name": name, "shipped": False}
    weights = directory / "model.safetensors"
    return {
        "name": name,
        "shipped": True,
        "weights": _shown(weights),
        "sha256": then,
        "unchanged": short_hash(weights.read_bytes()) == then,
        "commit": _commit(history.last_change(weights)),
        "recipe": _shown(directory / "recipe.yaml"),
        "card": read_json(directory / "card.json"),
    }


def _machine(document: Mapping[str, Any]) -> dict[str, Any]:
    manifest = manifest_of(document)
    return {key: manifest.get(key) for key in ("hardware", "threads", "python", "packages", "lock_sha256")}


def _quoted_in(item: Technique, tier: str, variant: str) -> list[str]:
    """Files that show these results."""
    folder = results_directory(item, tier, variant)
    shown = [folder / name for name in ("summary.json", "notebook.ipynb", "figure.png")]
    if variant:  # the notebook of the tier itself shows the tables of its variants
        shown.append(results_directory(item, tier) / "notebook.ipynb")
    return ([] if variant else ["README.md"]) + [_shown(path) for path in shown if path.exists()]


def _again(claim: Claim, slug: str, tier: str, variant: str) -> str:
    seeds = ",".join(map(str, claim.seeds))
    if variant:
        return f"minirl sweep {slug} --tier {tier} --variant {variant} --seeds {seeds}"
    return f"minirl reproduce {slug} --tier {tier} --seeds {seeds}"


def _grouped(pairs: Iterable[tuple[dict[str, Any], int]]) -> list[dict[str, Any]]:
    """Equal descriptions once, each with the ``seeds`` it holds for."""
    groups: dict[str, dict[str, Any]] = {}
    for described, seed in pairs:
        key = json.dumps(described, sort_keys=True)
        groups.setdefault(key, {**described, "seeds": []})["seeds"].append(seed)
    return list(groups.values())


def _commit(commit: history.Commit | None) -> dict[str, str] | None:
    return None if commit is None else {"sha": commit.sha, "date": commit.date, "subject": commit.subject}


def _shown(path: Any) -> str:
    return str(path.resolve().relative_to(project_root()))


# --- As text --------------------------------------------------------------------------------------------------------


def render(found: Mapping[str, Any]) -> str:
    """``found``, as :func:`chain` returns it, as text to read from top to bottom."""
    claim, name = found["claim"], label(found["tier"], found["variant"])
    settled = found["verdict"] or ("a display, settles no claim" if found["variant"] else "no committed results yet")
    stale = " · STALE" if found.get("stale") else ""
    lines = [f"{found['slug']} ({name}): {settled}{stale}", *textwrap.wrap(found["statement"], WIDTH), ""]
    for number in found["numbers"]:
        lines += [*_number_lines(number), ""]
    lines += _part("claim", claim["file"], f"sha256 {claim['sha256'][:16]}")
    lines += _part("", f"registered {claim['registered']}, in commit {_commit_text(claim['commit'])}")
    if "files" in found:
        lines += _part("", f"first results in commit {_commit_text(claim['first_results'])}")
    for note in claim["notes"]:
        lines += _part("", f"note of {note['date']}: {_shortened(note['text'])}")
    if "files" in found:
        lines += _origin_lines(found)
    lines += _part("again", found["again"])
    if found["history"] != "full":
        lines += ["", f"Git's history is {found['history']} here: commits may be missing above."]
    return "\n".join(lines)


def _number_lines(number: Mapping[str, Any]) -> list[str]:
    arms = list(number["arms"])
    trend = len(arms) > 2
    what = f"{number['metric']}: " + (" → ".join(arms) + ", slope" if trend else " − ".join(arms))
    low, high = number["interval"]
    ends = f"[{'−∞' if low is None else f'{low:+.4f}'}, {'+∞' if high is None else f'{high:+.4f}'}]"
    lines = [f"{what} = {number['effect']:+.4f} {ends}"]
    if number["condition"] is None:
        lines.append("  no registered condition: a display")
    else:
        holds = holds_when(number["kind"], number["margin"])
        lines.append(f"  condition {number['condition']}: {number['kind']}, holds when {holds}: {number['verdict']}")
    count = len(number["seeds"])
    if number["items"]:
        lines.append(
            f"  95 %: the wider of t over {count} seeds and bootstrap over {count} seeds × {number['items']} items"
        )
    else:
        lines.append(f"  95 %: t over {count} seeds; the metric is no mean over items")
    wide = [max(9, len(arm) + 2) for arm in arms]
    lines.append("  seed " + "".join(f"{arm:>{w}}" for arm, w in zip(arms, wide, strict=True)) + "     effect   file")
    for row in number["seeds"]:
        values = "".join(f"{row['values'][arm]:>{w}.4f}" for arm, w in zip(arms, wide, strict=True))
        lines.append(f"  {row['seed']:>4} {values}   {row['effect']:+8.4f}   {row['file']}")
    keys = ", ".join(f"arms.{arm}.metrics.{number['metric']}" for arm in arms)
    lines.append(f"  in the files: {keys}" + (" (scores of the items: …items…)" if number["items"] else ""))
    return lines


def _origin_lines(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for place in _grouped(({"commit": file["commit"]}, file["seed"]) for file in found["files"]):
        lines += _part("files", f"of {_seeds(place['seeds'])} in commit {_commit_text(place['commit'])}")
    for code in found["code"]:
        lines += _part("code", f"of {_seeds(code['seeds'])}: commit {_commit_text(code['commit'])}")
        if code["differs"] is None:
            lines += _part("", "which this checkout does not have, so the code cannot be compared")
        elif code["differs"]:
            lines += _part("", f"with changes that it does not hold, in {', '.join(code['differs'])}")
        else:
            lines += _part("", f"which holds all {code['files']} files exactly as they were run")
    since = ", ".join(found["stale"])
    verified = found["verified"]
    if since or not verified:
        lines += _part("", f"changed since: {since}" if since else "nothing of it has changed since")
    if verified:
        lines += _part("", f"code changed since: {', '.join(verified['changed'])}")
        again = f"{_seeds(verified['seeds'])} computed again {verified['date'][:10]}, identical to the last digit"
        lines += _part("", f"{again}, by the code of commit {_commit_text(verified['commit'])}")
    config = found["config"]
    lines += _part("config", config["file"], f"last changed in commit {_commit_text(config['commit'])}")
    for key, value in (config["resolved"] or {}).items():
        if isinstance(value, dict) and key == "arms":
            for arm, settings in value.items():
                lines += _part("", f"arm {arm}: {_pairs(settings)}")
        elif key in ("task", "train", "evaluation"):
            lines += _part("", f"{key}: {_pairs(value)}")
    base = found["base"]
    if base["shipped"]:
        state = "unchanged" if base["unchanged"] else "CHANGED since"
        lines += _part("base", f"{base['name']}: {base['weights']}, sha256 {base['sha256']}, {state}")
        lines += _part("", f"made by {base['recipe']}, in commit {_commit_text(base['commit'])}")
        lines += _part("", f"can do: {_pairs(base['card'])}")
    else:
        lines += _part("base", f"{base['name']} (not shipped)")
    for machine in found["machine"]:
        lines += _part("machine", f"of {_seeds(machine['seeds'])}: {_pairs(machine['hardware'] or {})}")
        packages = _pairs(machine["packages"] or {})
        lines += _part("", f"threads {machine['threads']}, python {machine['python']}, {packages}")
        lines += _part("", f"requirements.lock with sha256 {(machine['lock_sha256'] or 'unknown')[:16]}")
    return [*lines, *_part("quoted in", ", ".join(found["quoted_in"]))]


def _part(name: str, *texts: str) -> list[str]:
    """Texts under one heading, wrapped; what follows the first of them, and its own further lines, are indented."""
    lines = []
    for i, text in enumerate(texts):
        first = f"{name if not i else '':<10} "
        lines += textwrap.wrap(
            text,
            WIDTH,
            initial_indent=first,
            subsequent_indent=" " * 13,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _commit_text(commit: Mapping[str, str] | None) -> str:
    if commit is None:
        return "none that git knows"
    rest = f" ({commit['date']}) {_shortened(commit['subject'])}" if "date" in commit else ""
    return commit["sha"][:10] + rest


def _shortened(text: str, width: int = 90) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 1]}…"
