"""Claims: validation messages, verdicts at their boundaries, and results that must not be trusted."""

import copy
import hashlib
import json
import math
from datetime import date

import pytest
import yaml

from minirl.errors import ConfigError, RunError
from minirl.evaluation.intervals import Interval, crossed_bootstrap, t_interval
from minirl.experiments.claims import (
    Condition,
    evaluate_claim,
    holds_when,
    load_claim,
    render_verdict_table,
    sha256_of,
    to_json,
)

ITEMS = 512
CLAIM = {
    "slug": "score",
    "tier": "tiny",
    "statement": "SCoRe corrects itself more than naive two-turn RL.",
    "registered": date(2026, 11, 21),
    "paper": {"arxiv": "2409.12917", "numbers": "MATH: Δ +4.4 %"},
    "arms": {"score": "treatment", "naive": "baseline", "shuffled": "control"},
    "seeds": [0, 1, 2, 3, 4],
    "evaluation": {"items": ITEMS},
    "budget": "equal generated tokens",
    "conditions": [
        {"metric": "delta", "treatment": "score", "comparator": "naive", "kind": "superiority", "margin": 0.02},
        {"metric": "delta", "treatment": "shuffled", "comparator": "naive", "kind": "null", "margin": 0.05},
    ],
}
# Of 512 items, how many each arm corrects, by seed. score - naive: 40, 44, 48, 44, 44 → mean 44 / 512 = 0.0859375
CORRECTED = {"score": [48, 52, 56, 52, 52], "naive": [8] * 5, "shuffled": [8, 9, 8, 7, 8]}


def load(tmp_path, **changes):
    """The claim above with top-level keys replaced (None removes one), written to disk and loaded."""
    data = {key: value for key, value in (CLAIM | changes).items() if value is not None}
    path = tmp_path / "claim.yaml"
    path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    return load_claim(path)


def condition(**changes):
    return CLAIM["conditions"][0] | changes


def exact_claim(tmp_path, *conditions):
    control = {"metric": "delta", "treatment": "shuffled", "kind": "superiority", "margin": 0.0}
    return load(tmp_path, evaluation="exact", conditions=[*conditions, control])


def documents():
    """Per-seed results in which ``delta`` is a mean over items and ``cl`` is not."""
    made = []
    for seed in range(5):
        arms = {}
        for arm, corrected in CORRECTED.items():
            items = [1] * corrected[seed] + [0] * (ITEMS - corrected[seed])
            arms[arm] = {
                "metrics": {"delta": corrected[seed] / ITEMS, "cl": 0.9 + seed / 100},
                "items": {"delta": items},
                "generated_tokens": 1000,
                "core_s": 1.0,
            }
        made.append(
            {
                "schema": 1,
                "slug": "score",
                "tier": "tiny",
                "seed": seed,
                "claim_sha256": "c",
                "fingerprint": "f",
                "evaluation": {"items": ITEMS, "seed": 9001, "level": 5},
                "arms": arms,
                "core_s": 100.0 + seed,
                "wall_s": 200.0 + seed,
                "peak_mb": 800 - seed,
            }
        )
    return made


def exact_documents(**arms):
    """Per-seed results without items: arm → the metric ``m`` by seed."""
    made = documents()
    for seed, document in enumerate(made):
        document["evaluation"] = {"items": "exact"}
        for scores in document["arms"].values():
            scores["items"] = {}
        for arm, values in arms.items():
            document["arms"][arm]["metrics"]["m"] = values[seed]
    return made


# --- Loading --------------------------------------------------------------------------------------------------------


def test_a_good_claim_loads(tmp_path):
    claim = load(tmp_path, notes=[{"date": date(2026, 12, 1), "text": "margin explained"}])
    assert claim.registered == date(2026, 11, 21)
    assert claim.evaluation.items == ITEMS
    assert claim.conditions[0].margin == 0.02
    assert claim.notes[0].text == "margin explained"
    assert load(tmp_path, evaluation="exact").evaluation.items == "exact"
    assert load(tmp_path, evaluation={"items": "exact"}).evaluation.items == "exact"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"statment": "x"}, r"unknown key 'statment'.*Did you mean 'statement'\?"),
        ({"statement": None}, "key 'statement' is missing"),
        ({"slug": "SCoRe"}, "key 'slug'.*pattern"),
        ({"tier": "tinny"}, "key 'tier'.*'smoke', 'tiny', 'small' or 'large'"),
        ({"registered": "soon"}, "key 'registered'.*date"),
        ({"paper": {"arxiv": 2409.12917, "numbers": "x"}}, "key 'paper.arxiv'.*valid string"),
        ({"arms": {"score": "hero"}}, "key 'arms.score'.*'treatment', 'baseline', 'control'"),
        ({"seeds": [0, 1, 2, 3, 3]}, "key 'seeds': seeds must be different and not negative"),
        ({"seeds": [-1, 0, 1, 2, 3]}, "key 'seeds': seeds must be different and not negative"),
        ({"seeds": [0, 1, 2, 3]}, "key 'seeds': tier tiny needs at least 5 seeds"),
        (
            {"evaluation": {"items": 511}},
            "key 'evaluation.items': expected a number of items, at least 512, or 'exact'",
        ),
        ({"evaluation": {"items": "exakt"}}, "key 'evaluation.items': expected a number of items"),
        ({"evaluation": {"items": True}}, "key 'evaluation.items': expected a number of items"),
        ({"evaluation": {"item": 512}}, r"unknown key 'evaluation.item'\. Did you mean 'items'\?"),
        ({"conditions": []}, "key 'conditions'.*at least 1 item"),
        ({"conditions": CLAIM["conditions"][:1]}, "key 'conditions': at tier tiny at least one condition must involve"),
        (
            {"conditions": [CLAIM["conditions"][1], condition(treatment="scor")]},
            r"key 'conditions': conditions\.1 names the unknown arm 'scor'\. Did you mean 'score'\?",
        ),
        (
            {"conditions": [CLAIM["conditions"][1], condition(comparator="niave")]},
            r"conditions\.1 names the unknown arm 'niave'\. Did you mean 'naive'\?",
        ),
        ({"conditions": [condition(margn=0.1)]}, r"unknown key 'conditions\.0\.margn'\. Did you mean 'margin'\?"),
        ({"conditions": [condition(margin=-0.1)]}, r"key 'conditions\.0\.margin'.*greater than or equal to 0"),
        ({"conditions": [condition(margin=math.nan)]}, r"key 'conditions\.0\.margin'.*"),
        ({"conditions": [condition(kind="superior")]}, r"key 'conditions\.0\.kind'.*'superiority', 'noninferiority'"),
        (
            {"conditions": [condition(comparator="score")]},
            r"key 'conditions\.0': treatment and comparator are the same",
        ),
        ({"conditions": [condition(treatment=None)]}, r"key 'conditions\.0': kind 'superiority' needs 'treatment'"),
        ({"conditions": [condition(order=["a", "b", "c"])]}, r"key 'conditions\.0': 'order' belongs to kind 'trend'"),
        ({"conditions": [condition(kind="trend")]}, r"key 'conditions\.0': kind 'trend' needs 'order'"),
        (
            {"conditions": [{"metric": "m", "kind": "trend", "order": ["naive", "score"], "margin": 0}]},
            r"key 'conditions\.0': kind 'trend' needs 'order', at least three arms",
        ),
        (
            {"conditions": [{"metric": "m", "kind": "trend", "order": ["a", "b", "c", "a"], "margin": 0}]},
            r"key 'conditions\.0': 'order' names an arm twice",
        ),
        ({"conditions": [condition(kind="null", margin=0)]}, r"kind 'null' with margin 0 can never be supported"),
        ({"conditions": [condition(kind="equivalence", margin=0)]}, "kind 'equivalence' with margin 0 can never be"),
        ({"notes": [{"text": "no date"}]}, r"key 'notes\.0\.date' is missing"),
    ],
)
def test_validation_messages_name_file_key_and_nearest(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, **changes)
    assert str(tmp_path / "claim.yaml") in str(caught.value)


def test_rules_of_tier_tiny_do_not_bind_other_tiers(tmp_path):
    assert load(tmp_path, tier="large", seeds=[0], conditions=CLAIM["conditions"][:1]).seeds == [0]


def test_sha256_of(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")  # the first test vector of FIPS 180
    assert sha256_of(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


# --- Verdict of one condition ---------------------------------------------------------------------------------------

SUPPORTED, CONTRADICTED, INCONCLUSIVE = "supported", "contradicted", "inconclusive"


@pytest.mark.parametrize(
    ("kind", "low", "high", "verdict"),
    [  # margin 0.5 everywhere: exact in binary, so that an end can lie on the boundary
        ("superiority", 0.625, 0.75, SUPPORTED),
        ("superiority", 0.5, 0.75, INCONCLUSIVE),  # touches: an effect of exactly the margin is not above it
        ("superiority", 0.25, 0.75, INCONCLUSIVE),
        ("superiority", 0.25, 0.5, CONTRADICTED),  # no value in it is above the margin
        ("superiority", -0.75, 0.25, CONTRADICTED),
        ("noninferiority", -0.25, 0.75, SUPPORTED),
        ("noninferiority", -0.5, 0.75, INCONCLUSIVE),
        ("noninferiority", -0.75, -0.25, INCONCLUSIVE),
        ("noninferiority", -0.75, -0.5, CONTRADICTED),
        ("noninferiority", -0.75, -0.625, CONTRADICTED),
        ("equivalence", -0.25, 0.25, SUPPORTED),
        ("equivalence", -0.25, 0.5, INCONCLUSIVE),
        ("equivalence", -0.5, 0.25, INCONCLUSIVE),
        ("equivalence", -1.0, 1.0, INCONCLUSIVE),
        ("equivalence", 0.5, 1.0, CONTRADICTED),
        ("equivalence", -1.0, -0.5, CONTRADICTED),
        ("null", -0.25, 0.25, SUPPORTED),
        ("null", 0.25, 0.75, INCONCLUSIVE),
        ("null", 0.625, 0.75, CONTRADICTED),
        ("null", -0.75, -0.625, CONTRADICTED),
        ("trend", 0.625, 0.75, SUPPORTED),
        ("trend", 0.5, 0.75, INCONCLUSIVE),
        ("trend", -0.75, 0.5, CONTRADICTED),
        *((kind, -math.inf, math.inf, INCONCLUSIVE) for kind in ("superiority", "noninferiority", "null", "trend")),
    ],
)
def test_verdict_boundaries(kind, low, high, verdict):
    arms = {"order": ["a", "b", "c"]} if kind == "trend" else {"treatment": "a", "comparator": "b"}
    assert Condition(metric="m", kind=kind, margin=0.5, **arms).verdict(Interval(low, high)) == verdict


def test_weights():
    assert Condition(metric="m", treatment="a", comparator="b", kind="null", margin=1).weights() == {"a": 1, "b": -1}
    assert Condition(metric="m", treatment="a", kind="superiority", margin=1).weights() == {"a": 1}
    # Slope over x = 0, 1, 2, 3: centred steps -1.5, -0.5, 0.5, 1.5, squares sum to 5.
    four = Condition(metric="m", order=["a", "b", "c", "d"], kind="trend", margin=0).weights()
    assert four == pytest.approx({"a": -0.3, "b": -0.1, "c": 0.1, "d": 0.3})


# --- Verdict of a claim ---------------------------------------------------------------------------------------------


def test_claim_supported_end_to_end(tmp_path):
    result = evaluate_claim(load(tmp_path), documents())
    first, second = result.conditions
    assert result.verdict == first.verdict == second.verdict == "supported"
    assert first.effects == pytest.approx([40 / 512, 44 / 512, 48 / 512, 44 / 512, 44 / 512])
    assert first.effect == pytest.approx(0.0859375)
    # t-interval: deviations ±4/512 twice, standard error sqrt(2 · (4/512)² / 4 / 5) = 0.00247053, half width 0.0068593.
    # 40 to 48 of 512 items differ between the arms: item noise sqrt(0.086 · 0.914 / 512) = 0.0124 makes the bootstrap
    # the wider of the two, with a half width of about 1.96 · 0.0124 = 0.0243.
    assert t_interval(first.effects).width / 2 == pytest.approx(0.0068593, abs=1e-6)
    assert first.interval.width / 2 == pytest.approx(0.0243, abs=0.002)
    matrix = [[0] * 8 + [1] * (corrected - 8) + [0] * (ITEMS - corrected) for corrected in CORRECTED["score"]]
    assert first.interval == crossed_bootstrap(matrix)
    # shuffled - naive: 0, 1, 0, -1, 0 items
    assert second.effect == pytest.approx(0.0)


def test_pairing_removes_what_the_arms_share(tmp_path):
    """Both arms move together by ±0.1 between seeds; the paired effect is 0.03 in every seed."""
    shared = [0.4, 0.5, 0.6, 0.5, 0.5]
    results = exact_documents(score=[value + 0.03 for value in shared], naive=shared)
    result = evaluate_claim(exact_claim(tmp_path, condition(metric="m")), results)
    assert result.conditions[0].effect == pytest.approx(0.03)
    assert result.conditions[0].interval.width < 1e-12
    assert result.verdict == "supported"


def test_without_items_the_t_interval_alone_counts(tmp_path):
    results = exact_documents(score=[0.01, 0.02, 0.03, 0.02, 0.02])
    absolute = {"metric": "m", "treatment": "score", "kind": "superiority", "margin": 0.0112}
    result = evaluate_claim(exact_claim(tmp_path, absolute), results)
    interval = result.conditions[0].interval  # worked out in tests/evaluation/test_intervals.py
    assert (interval.low, interval.high) == pytest.approx((0.011220110, 0.028779890), abs=1e-8)
    assert result.conditions[0].verdict == "supported"
    barely = exact_claim(tmp_path, absolute | {"margin": 0.0113})
    assert evaluate_claim(barely, results).conditions[0].verdict == "inconclusive"


def test_the_t_interval_counts_when_it_is_wider(tmp_path):
    results = documents()
    for seed, corrected in enumerate([0, 100, 200, 300, 400]):  # seeds differ far more than items
        scores = results[seed]["arms"]["score"]
        scores["items"]["delta"] = [1] * corrected + [0] * (ITEMS - corrected)
        scores["metrics"]["delta"] = corrected / ITEMS
    effect = evaluate_claim(load(tmp_path), results).conditions[0]
    assert effect.interval == t_interval(effect.effects)


def test_claim_verdict_is_the_worst_of_its_conditions(tmp_path):
    good, control = condition(), CLAIM["conditions"][1]
    unsure = condition(margin=0.085)  # inside the interval around 0.0859
    bad = condition(margin=0.2)
    for conditions, verdict in [
        ([good, control], "supported"),
        ([good, unsure, control], "inconclusive"),
        ([bad, unsure, control], "contradicted"),
        ([unsure, bad, control], "contradicted"),
    ]:
        assert evaluate_claim(load(tmp_path, conditions=conditions), documents()).verdict == verdict


def test_a_predicted_null_can_be_contradicted(tmp_path):
    conditions = [condition(treatment="shuffled", comparator="score", kind="null", margin=0.02)]
    assert evaluate_claim(load(tmp_path, conditions=conditions), documents()).verdict == "contradicted"


def test_trend(tmp_path):
    trend = {"metric": "m", "order": ["naive", "shuffled", "score"], "kind": "trend", "margin": 0.05}
    # Slope of three arms is (last - first) / 2: 0.10, 0.10, 0.11, 0.09, 0.10. Mean 0.1; squares 2e-4; standard error
    # sqrt(2e-4 / 4 / 5) = 0.00316228; half width 0.00877989.
    values = {"naive": [0.1] * 5, "shuffled": [0.9] * 5, "score": [0.3, 0.3, 0.32, 0.28, 0.3]}
    rising = evaluate_claim(exact_claim(tmp_path, trend), exact_documents(**values)).conditions[0]
    assert rising.effect == pytest.approx(0.1)
    assert (rising.interval.low, rising.interval.high) == pytest.approx((0.09122011, 0.10877989), abs=1e-8)
    assert rising.verdict == "supported"
    falling = exact_claim(tmp_path, trend | {"order": ["score", "shuffled", "naive"]})
    assert evaluate_claim(falling, exact_documents(**values)).conditions[0].verdict == "contradicted"


def test_trend_uses_items(tmp_path):
    trend = {"metric": "delta", "order": ["naive", "shuffled", "score"], "kind": "trend", "margin": 0.01}
    result = evaluate_claim(load(tmp_path, conditions=[trend]), documents()).conditions[0]
    assert result.effect == pytest.approx(0.0859375 / 2)
    assert result.interval.width > 2 * t_interval(result.effects).width  # item noise, as in the end-to-end test
    assert result.verdict == "supported"


def test_order_of_the_files_does_not_matter(tmp_path):
    claim = load(tmp_path)
    assert evaluate_claim(claim, documents()[::-1]) == evaluate_claim(claim, documents())


# --- Results that must not be trusted -------------------------------------------------------------------------------


def edit(change):
    """The good results after ``change``."""
    results = documents()
    change(results)
    return results


def remove(mapping, key):
    del mapping[key]


def shorten(results):
    scores = results[3]["arms"]["score"]
    scores["items"]["delta"] = [1] * 256 + [0] * 255
    scores["metrics"]["delta"] = 256 / 511


def scores_of(results, seed, arm="score"):
    return results[seed]["arms"][arm]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop(2), r"no results of seed 2; run `minirl reproduce score --tier tiny --seeds 2`"),
        (
            lambda r: [r.pop(), r.pop()],
            r"no results of seed 3, 4; run `minirl reproduce score --tier tiny --seeds 3,4`",
        ),
        (lambda r: r.append(copy.deepcopy(r[1])), r"5\.json: seed 1 is also in 1\.json; keep one"),
        (lambda r: r[3].update(seed=7), r"3\.json: seed 7 is not registered"),
        (lambda r: r[3].update(slug="other"), r"3\.json: belongs to 'other' at tier tiny, not to 'score'"),
        (
            lambda r: r[3].update(tier="smoke"),
            r"3\.json: belongs to 'score' at tier smoke, not to 'score' at tier tiny",
        ),
        (lambda r: r[3].update(schema=2), r"3\.json: not a results document: key 'schema'"),
        (lambda r: remove(r[3], "core_s"), r"3\.json: not a results document: key 'core_s': Field required"),
        (lambda r: remove(r[3]["arms"], "naive"), r"3\.json: seed 3 lacks arm 'naive'.*rerun `minirl .* --seeds 3`"),
        (
            lambda r: [remove(scores_of(r, 3)[part], "delta") for part in ("metrics", "items")],
            r"3\.json: seed 3, arm 'score' lacks metric 'delta'.*rerun `minirl .* --seeds 3`",
        ),
        (
            lambda r: [remove(scores_of(r, 3, "naive"), "items"), scores_of(r, 3)["metrics"].update(typo=1.0)],
            "seed 3, arm 'naive': no items for 'delta', though other seeds or arms have them",
        ),
        (
            lambda r: [remove(scores_of(r, 3), "items"), scores_of(r, 3)["metrics"].update(delta=None)],
            r"3\.json: seed 3, arm 'score': metric 'delta' is undefined \(None\)",
        ),
        (
            lambda r: [remove(scores_of(r, 3), "items"), scores_of(r, 3)["metrics"].update(delta=math.nan)],
            r"3\.json: seed 3, arm 'score': metric 'delta' is undefined \(nan\)",
        ),
        (shorten, r"3\.json: seed 3, arm 'score': 'delta' has 511 items, the claim registers 512; rerun"),
        (lambda r: r[3]["evaluation"].update(items=256), r"3\.json: evaluated on 256 items, the claim registers 512"),
        (
            lambda r: r[3]["evaluation"].update(seed=9002),
            r"3\.json: evaluation .*9002.* differs from .*9001.* in 0\.json",
        ),
        # Tampering: the metric, an item, an item that is no number, all items gone.
        (
            lambda r: scores_of(r, 3)["metrics"].update(delta=0.1015625 + 2e-9),
            r"3\.json: seed 3, arm 'score': 'delta' is 0\.1015625.* but its items have mean 0\.1015625; the file was",
        ),
        (lambda r: scores_of(r, 3)["items"]["delta"].__setitem__(-1, 1), "but its items have mean 0.103515625"),
        (lambda r: scores_of(r, 3)["items"]["delta"].__setitem__(-1, math.nan), "but its items have mean nan"),
        (lambda r: scores_of(r, 3)["items"].update(delta=[]), "but its items have mean nan"),
        (lambda r: remove(scores_of(r, 3)["metrics"], "delta"), "'delta' is None but its items have mean"),
    ],
)
def test_bad_results_are_errors_that_say_what_to_do(tmp_path, change, message):
    results = edit(change)
    with pytest.raises(RunError, match=message):
        evaluate_claim(load(tmp_path), results, [f"{index}.json" for index in range(len(results))])


def test_rounding_is_not_tampering(tmp_path):
    results = edit(lambda r: scores_of(r, 3)["metrics"].update(delta=0.1015625 + 1e-12))
    assert evaluate_claim(load(tmp_path), results).verdict == "supported"


def test_mistyped_metric_gets_the_nearest_name(tmp_path):
    conditions = [condition(metric="dleta"), CLAIM["conditions"][1]]
    with pytest.raises(
        RunError, match=r"results\[0\]: seed 0, arm 'score' lacks metric 'dleta'\. Did you mean 'delta'\?"
    ):
        evaluate_claim(load(tmp_path, conditions=conditions), documents())


def test_items_need_a_registered_number(tmp_path):
    results = documents()
    for document in results:
        document["evaluation"] = {"items": "exact"}
    with pytest.raises(RunError, match="'delta' has 512 items, the claim registers exact"):
        evaluate_claim(load(tmp_path, evaluation="exact"), results)


# --- Output ---------------------------------------------------------------------------------------------------------


def test_to_json_is_the_entry_of_minirl_claims(tmp_path):
    results = documents()
    results[4]["arms"]["naive"]["metrics"]["cl"] = None  # undefined in one seed
    paths = [f"reproductions/score/results/tiny/seed{seed}.json" for seed in range(5)]
    entry = to_json(evaluate_claim(load(tmp_path), results, paths), stale=True)
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry
    assert set(entry) == {
        "slug",
        "tier",
        "statement",
        "verdict",
        "conditions",
        "arms",
        "seeds",
        "items",
        "core_s",
        "wall_s",
        "peak_mb",
        "results",
        "stale",
    }
    assert set(entry["conditions"][0]) == {
        "metric",
        "treatment",
        "comparator",
        "kind",
        "margin",
        "effect",
        "interval",
        "verdict",
    }
    assert entry["arms"]["naive"] == {"role": "baseline", "metrics": {"delta": 8 / 512, "cl": None}}
    assert entry["arms"]["score"]["role"] == "treatment"
    assert entry["arms"]["score"]["metrics"] == pytest.approx({"delta": 52 / 512, "cl": 0.92})
    assert (entry["core_s"], entry["wall_s"], entry["peak_mb"]) == (102.0, 202.0, 800.0)
    assert (entry["seeds"], entry["items"], entry["stale"]) == ([0, 1, 2, 3, 4], 512, True)
    assert entry["results"] == paths
    assert entry["conditions"][0]["effect"] == pytest.approx(0.0859375)


def test_one_seed_has_an_unbounded_interval_in_valid_json(tmp_path):
    claim = load(tmp_path, tier="smoke", seeds=[0])
    entry = to_json(evaluate_claim(claim, [documents()[0] | {"tier": "smoke"}]), stale=False)
    assert entry["verdict"] == "inconclusive"
    assert entry["conditions"][0]["interval"] == [None, None]
    json.dumps(entry, allow_nan=False)
    assert "+0.0781 [-∞, +∞]" in render_verdict_table(entry)


def test_verdict_table(tmp_path):
    trend = {"metric": "m", "order": ["naive", "shuffled", "score"], "kind": "trend", "margin": 0.01}
    alone = {"metric": "m", "treatment": "score", "kind": "equivalence", "margin": 0.5}
    worse = condition(metric="m", kind="noninferiority", margin=0.25)
    null = condition(metric="m", kind="null", margin=0.25)
    results = exact_documents(naive=[0.25] * 5, shuffled=[0.5] * 5, score=[0.75] * 5)
    claim = exact_claim(tmp_path, condition(metric="m"), trend, alone, worse, null)
    entry = to_json(evaluate_claim(claim, results), stale=False)
    assert entry["conditions"][1]["order"] == ["naive", "shuffled", "score"]
    assert render_verdict_table(entry).splitlines()[:-1] == [
        "| metric | arms | registered | effect [95 % interval] | verdict |",
        "|---|---|---|---|---|",
        "| m | score vs naive | > 0.02 | +0.5000 [+0.5000, +0.5000] | supported |",
        "| m | naive → shuffled → score | slope > 0.01 | +0.2500 [+0.2500, +0.2500] | supported |",
        "| m | score | within ±0.5 | +0.7500 [+0.7500, +0.7500] | contradicted |",
        "| m | score vs naive | > −0.25 | +0.5000 [+0.5000, +0.5000] | supported |",
        "| m | score vs naive | no effect: within ±0.25 | +0.5000 [+0.5000, +0.5000] | contradicted |",
    ]


def test_holds_when():
    kinds = ("superiority", "noninferiority", "equivalence", "null", "trend")
    words = [holds_when(kind, 0.02) for kind in kinds]
    assert words == ["> 0.02", "> −0.02", "within ±0.02", "no effect: within ±0.02", "slope > 0.02"]
