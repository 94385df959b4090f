"""What the reader sees: figures from hand-made data, the rollout viewer on hostile text, the source viewer."""

import itertools
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import torch

from minirl.policy.models import tiny_llama
from minirl.rollouts.episodes import CONTEXT, Rollouts, roll_out
from minirl.rollouts.samplers import Rule
from minirl.show.figures import (
    LiveCurves,
    accuracy_and_price,
    accuracy_by_price,
    agreement_gap,
    arm_colours,
    confidence_critique,
    cooperation_and_payoffs,
    correction_bounds,
    correction_matrix,
    curricula,
    effect_by_judge,
    effect_forest,
    feedback_gap,
    forecasts,
    helpful_and_true,
    horizon_and_errors,
    ladder,
    learning_curves,
    reward_shapes,
    solved_within,
    sweep,
    triangle_paths,
)
from minirl.show.rollouts import (
    gained,
    lost,
    repeated,
    rescued,
    show_group,
    show_rollouts,
    show_side_by_side,
    show_turns,
    spoiled,
    token_kl,
)
from minirl.show.source import show_source
from minirl.tasks import get
from minirl.tasks.base import Item

# ---------------------------------------------------------------------------------------------------------------------
# Figures


def texts(figure):
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]


def records(*values, metric="reward"):
    return [{"step": i, "generated_tokens": 100 * i, metric: value} for i, value in enumerate(values)]


def test_learning_curves_have_a_panel_a_metric_and_a_line_an_arm():
    curves = {"naive": records(0.1, 0.3), "score": [*records(0.2, 0.4), *records(0.9, metric="accuracy@2")]}
    figure = learning_curves(curves, ["reward", "accuracy@2"])
    panels = figure.get_axes()
    assert [axes.get_title(loc="left") for axes in panels] == ["reward", "accuracy@2"]
    assert [len(axes.lines) for axes in panels] == [2, 2]
    assert panels[0].lines[1].get_xydata().tolist() == [[0, 0.2], [100, 0.4]]  # records without the metric are left out
    assert {"naive", "score", "generated tokens"} <= set(texts(figure))


def test_smoothing_is_a_trailing_mean_over_the_records():
    axes = learning_curves({"arm": records(1.0, 3.0, 8.0)}, ["reward"], x="step", smooth=2).get_axes()[0]
    raw, smooth = axes.lines
    assert raw.get_ydata().tolist() == [1, 3, 8]
    assert smooth.get_ydata().tolist() == [1, 2, 5.5]  # 1, (1 + 3)/2, (3 + 8)/2


def test_a_known_value_is_a_line_across_its_panel():
    known = learning_curves({"arm": records(1.0, 3.0)}, ["reward", "kl"], references={"reward": -1 / 18}).get_axes()
    line, curve = known[0].lines
    assert set(line.get_ydata()) == {-1 / 18} and curve.get_ydata().tolist() == [1, 3]
    assert len(known[1].lines) == 1


def test_an_arm_has_one_colour_on_every_figure():
    roles = {"score": "treatment", "naive": "baseline"}
    colours = arm_colours(["naive", "score", "no_bonus", "random_reward"], roles)
    assert len(set(colours.values())) == 4
    assert colours["score"] == arm_colours(["score"], roles)["score"]
    few = learning_curves({"no_bonus": records(1.0, 2.0)}, ["reward"], colours=colours)
    assert few.get_axes()[0].lines[0].get_color() == colours["no_bonus"]
    many = arm_colours([f"arm {i}" for i in range(20)])
    assert len(many) == 20
    assert len(set(many.values())) >= 8


def test_correction_matrix_shows_shares_and_accuracies():
    base = {"correct_correct": 0.5, "correct_incorrect": 0.1, "incorrect_correct": 0.05, "incorrect_incorrect": 0.35}
    arm = {"correct_correct": 0.6, "correct_incorrect": 0.0, "incorrect_correct": 0.15, "incorrect_incorrect": 0.25}
    figure = correction_matrix(base, {"score": arm})
    assert len(figure.get_axes()) == 2
    found = texts(figure)
    assert {"base", "score", "50.0%", "10.0%", "5.0%", "15.0%"} <= set(found)
    assert found.count("rescued") == found.count("spoiled") == 2
    # accuracy@1 = 0.5 + 0.1, accuracy@2 = 0.5 + 0.05; for the arm 0.6 and 0.75
    assert "0.600 → 0.550  (\N{MINUS SIGN}0.050)" in found
    assert "0.600 → 0.750  (+0.150)" in found
    with pytest.raises(ValueError, match="sums to 1"):
        correction_matrix(base, {"score": {**arm, "correct_correct": 0.9}})
    with pytest.raises(ValueError, match="keys"):
        correction_matrix({"correct": 1.0}, {})


def test_effect_forest_draws_interval_margin_and_verdict():
    rows = [
        {"label": "Δ", "effect": 0.03, "low": 0.021, "high": 0.04, "margin": 0.02, "verdict": "supported"},
        {"label": "=", "effect": -0.01, "low": -0.03, "high": 0.01, "margin": (-0.02, 0.02), "verdict": "inconclusive"},
        {"label": "copies", "effect": 0.9, "low": 0.88, "high": 0.92, "verdict": "contradicted", "panel": "copy rate"},
    ]
    figure = effect_forest(rows, x_label="accuracy")
    effects, rate = figure.get_axes()
    assert (effects.get_xlabel(), rate.get_xlabel()) == ("accuracy", "copy rate")
    # two intervals, two effects, one margin and two margins, the zero line; the rate is too far from zero for a line
    assert len(effects.lines) == 2 + 2 + 3 + 1
    assert len(rate.lines) == 1 + 1
    assert "+0.030  [+0.021, +0.040]\nsupported" in texts(figure)
    assert "margin" in texts(figure)
    colours = {line.get_color() for line in effects.lines if line.get_marker() == "o"}
    assert len(colours) == 2
    with pytest.raises(KeyError):
        effect_forest([{**rows[0], "verdict": "maybe"}])


def test_sweep_draws_a_band_a_series():
    points = [(0.5, 0.4, 0.6), (0.6, 0.5, 0.7), (0.7, 0.6, 0.8)]
    figure = sweep("bonus", [0, 0.5, 5], {"accuracy@1": points, "accuracy@2": points}, x_scale="even")
    (axes,) = figure.get_axes()
    assert len(axes.lines) == len(axes.collections) == 2
    assert axes.lines[0].get_xydata().tolist() == [[0, 0.5], [1, 0.6], [2, 0.7]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.5", "5"]
    assert sweep("x", [1, 10], {"a": points[:2]}, x_scale="log").get_axes()[0].get_xscale() == "log"


def test_the_ladder_fills_what_is_supported():
    def point(parameters, effect, verdict):
        ends = {"low": effect - 0.1, "high": effect + 0.1}
        return {"parameters": parameters, "effect": effect, "verdict": verdict, "margin": 0.05, **ends}

    line = [point(1e5, 0.4, "supported"), point(7e5, 0.2, "inconclusive")]
    figure = ladder({"score: delta": {"score − naive": line, "score − shuffled": line}, "expo: hard": {"a − b": line}})
    first, second = figure.get_axes()
    assert (first.get_title(loc="left"), second.get_title(loc="left")) == ("score: delta", "expo: hard")
    dots = [dot for dot in second.lines if dot.get_marker() == "o"]
    assert [dot.get_xydata().tolist() for dot in dots] == [[[1e5, 0.4]], [[7e5, 0.2]]]
    assert [dot.get_markerfacecolor() == dot.get_color() for dot in dots] == [True, False]
    apart = {dot.get_xdata()[0] for dot in first.lines if dot.get_marker() == "o"}
    assert len(apart) == 4  # intervals of two lines stand beside each other
    assert [label.get_text() for label in first.get_xticklabels()] == ["100k", "700k"]


def test_solved_within_draws_arms_and_what_is_known_without_a_run():
    curves = {"base": [(0.2, 0.1, 0.3), (0.3, 0.2, 0.4)], "ufo": [(0.2, 0.1, 0.3), (0.4, 0.3, 0.5)]}
    bars = {"base": (0.75, 0.7, 0.8), "ufo": (0.96, 0.9, 1.0)}
    figure = solved_within(curves, {"enumeration": [0.25, 0.5], "repeating": [0.25, 0.25]}, bars, "different / made")
    lines, shares = figure.get_axes()
    assert [line.get_xydata().tolist() for line in lines.lines] == [
        [[1, 0.25], [2, 0.5]],
        [[1, 0.25], [2, 0.25]],
        [[1, 0.2], [2, 0.3]],
        [[1, 0.2], [2, 0.4]],
    ]
    assert len(lines.collections) == 2  # bands of the arms
    assert lines.get_ylim()[0] == 0 and lines.get_ylim()[1] > 0.5
    assert [bar.get_width() for bar in shares.patches] == [0.75, 0.96]
    assert [list(line.get_xdata()) for line in shares.lines] == [[0.7, 0.8], [0.9, 1.0]]
    assert {"enumeration", "repeating", "base", "ufo", "0.75", "0.96", "different / made"} <= set(texts(figure))


def test_feedback_gap_has_two_dots_an_arm_and_a_curve_an_arm_that_acted():
    metrics = {"base": {"accuracy@1": 0.0, "accuracy@2": 0.5}, "arm": {"accuracy@1": 0.75, "accuracy@2": 0.25}}
    curves = {"arm": [{"update": 1, "accuracy@1": 0.5}, {"update": 2, "accuracy@1": 1.0}], "sft": [{"update": 1}]}
    figure = feedback_gap(metrics, curves, smooth=2, colours={"arm": "#0072B2"})
    dots, lines = figure.get_axes()
    # For every arm a line from dot to dot, the dot after feedback, the dot without.
    assert [list(line.get_xdata()) for line in dots.lines] == [[0.0, 0.5], [0.5], [0.0], [0.75, 0.25], [0.25], [0.75]]
    assert [line.get_marker() for line in dots.lines[1:3]] == ["D", "o"]
    assert [label.get_text() for label in dots.get_yticklabels()] == ["base", "arm"]
    (curve,) = lines.lines
    assert curve.get_xydata().tolist() == [[1, 0.5], [2, 0.75]]
    assert curve.get_color() == dots.lines[5].get_color() == "#0072B2"
    assert {"without feedback (attempt 1)", "after feedback (attempt 2)"} <= set(texts(figure))


def test_agreement_gap_has_two_dots_and_a_bar_an_arm():
    metrics = {"base": {"accuracy@1": 0.5, "agreement": 0.625}, "vote": {"accuracy@1": 0.25, "agreement": 1.0}}
    found = {"base": (0.9, 0.85, 0.95), "vote": (0.5, 0.4, 0.6)}
    figure = agreement_gap(metrics, found, "pass@8", colours={"vote": "#0072B2"})
    dots, bars = figure.get_axes()
    # For every arm a line from dot to dot, the dot of agreement, the dot of accuracy.
    assert [list(line.get_xdata()) for line in dots.lines] == [[0.5, 0.625], [0.625], [0.5], [0.25, 1.0], [1.0], [0.25]]
    assert [line.get_marker() for line in dots.lines[1:3]] == ["D", "o"]
    assert [label.get_text() for label in dots.get_yticklabels()] == ["base", "vote"]
    assert [bar.get_width() for bar in bars.patches] == [0.9, 0.5]
    assert [list(line.get_xdata()) for line in bars.lines] == [[0.85, 0.95], [0.4, 0.6]]
    assert dots.lines[5].get_color() == bars.lines[1].get_color() == "#0072B2"
    assert {"right (accuracy@1)", "what most say (agreement)", "pass@8", "0.90", "0.50"} <= set(texts(figure))


def test_agreement_gap_has_a_dot_and_a_diamond_for_any_two_metrics():
    marks = {"easy": "without a trap", "hard": "with a trap"}
    figure = agreement_gap(
        {"base": {"easy": 0.75, "hard": 0.5}},
        {"base": (0.5, 0.5, 0.5)},
        "pass@8",
        marks=marks,
        share_label="share of critiques",
    )
    dots = figure.get_axes()[0].lines[1:]
    assert [(line.get_marker(), list(line.get_xdata())) for line in dots] == [("D", [0.5]), ("o", [0.75])]
    assert {"without a trap", "with a trap", "share of critiques"} <= set(texts(figure))


def test_forecasts_are_drawn_by_bins_and_ranked_twice():
    metrics = {"asked": {"auroc": 0.75, "within": 0.625}, "rate": {"auroc": 0.5, "within": 0.5}}
    bins = {"asked": [(0.125, 0.25, 30), (0.75, 0.5, 10)]}
    figure = forecasts(metrics, bins, colours={"asked": "#0072B2"})
    plane, ranks = figure.get_axes()
    diagonal, line = plane.lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert line.get_xydata().tolist() == [[0.125, 0.25], [0.75, 0.5]]
    (dots,) = plane.collections
    assert dots.get_offsets().tolist() == line.get_xydata().tolist()
    assert dots.get_sizes().tolist() == [12 + 260 * 0.75, 12 + 260 * 0.25]  # 30 and 10 of 40
    # A line at one half; then of every arm a line from dot to dot, the diamond of ``within``, the dot of ``auroc``.
    found = [list(line.get_xdata()) for line in ranks.lines[1:]]
    assert found == [[0.625, 0.75], [0.625], [0.75], [0.5, 0.5], [0.5], [0.5]]
    assert [line.get_marker() for line in ranks.lines[2:4]] == ["D", "o"]
    assert line.get_color() == ranks.lines[3].get_color() == "#0072B2"
    assert [label.get_text() for label in ranks.get_yticklabels()] == ["asked", "rate"]
    assert {"asked", "forecast", "of all (auroc)", "at one problem (within)"} <= set(texts(figure))


def test_agreement_gap_has_room_for_a_bar_beyond_one():
    metrics = {"base": {"accuracy@1": 0.5, "agreement": 0.625}, "evol": {"accuracy@1": 0.75, "agreement": 0.75}}
    found = {"base": (0.5, 0.4, 0.6), "evol": (9.0, 8.5, 9.5)}
    dots, bars = agreement_gap(metrics, found, "routes", share_label="share").get_axes()
    assert bars.get_xlim() == (0, pytest.approx(1.02 * 9.5))
    # The number of a bar that is too short for it stands behind its interval, else at the beginning of the bar.
    assert [(label.get_text(), label.xy[0]) for label in bars.texts] == [("0.50", 0.6), ("9.00", 0)]
    assert dots.get_xlabel() == "share"
    # Shares alone fill the axis as before, however small they are.
    dots, bars = agreement_gap(metrics, {"base": found["base"], "evol": found["base"]}, "pass@8").get_axes()
    assert bars.get_xlim() == (0, pytest.approx(1.02))
    assert dots.get_xlabel() == "share of answers"


def test_helpful_and_true_puts_every_critic_on_both_planes():
    metrics = {
        "base": {"balanced": 0.75, "refined": 0.5, "accepts_right": 1.0, "rejects_wrong": 0.5},
        "yes": {"balanced": 0.5, "refined": 1.0, "accepts_right": 1.0, "rejects_wrong": 0.0},
    }
    figure = helpful_and_true(metrics, colours={"yes": "#0072B2"})
    goods, kinds = figure.get_axes()
    base, yes, _ = goods.lines  # and the line at one half
    assert [line.get_xydata().tolist() for line in (base, yes)] == [[[0.75, 0.5]], [[0.5, 1.0]]]
    assert [line.get_xydata().tolist() for line in kinds.lines[:2]] == [[[1.0, 0.5]], [[1.0, 0.0]]]
    assert yes.get_color() == kinds.lines[1].get_color() == "#0072B2"
    assert yes.get_marker() == kinds.lines[1].get_marker() != base.get_marker()
    # Where balanced is 0.7, both shares add up to 1.4.
    assert [list(axis) for axis in kinds.lines[4].get_data()] == [pytest.approx([0.4, 1]), pytest.approx([1, 0.4])]
    assert {"base", "yes", "0.5", "0.9"} <= set(texts(figure))


def lines_of(axes, marker):
    return [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == marker]


def test_effect_by_judge_joins_the_means_of_a_dial_and_marks_the_readers_own_run():
    sources = {"truth": [(1.0, 0.5), (1.0, 0.25)], "self": []}  # nothing is committed of the second
    dials = {"anywhere": [[(0.25, -0.5), (0.75, 0.0)], [], [(1.0, 0.5)]], "somewhere": []}
    here = {"self": (0.75, -0.25)}
    labels = {"x_label": "how right", "y_label": "gain"}
    figure = effect_by_judge(sources, dials, here, colours={"self": "#0072B2"}, **labels)
    (axes,) = figure.get_axes()
    # Means of the first setting: ½ and −¼; the second has no run and is skipped.
    (line,) = [one for one in axes.lines if one.get_label() == "anywhere"]
    assert line.get_xydata().tolist() == [[0.5, -0.25], [1.0, 0.5]]
    assert lines_of(axes, "o") == [[[0.25, -0.5]], [[0.75, 0.0]], [[1.0, 0.5]], [[1.0, 0.5]], [[1.0, 0.25]]]
    assert lines_of(axes, "D") == [[[0.75, -0.25]]]
    assert {text.get_text(): text.get_color() for text in axes.texts}["self"] == "#0072B2"
    found = texts(figure)
    assert {"truth", "self", "anywhere", "this run", "how right", "gain"} <= set(found)
    assert "somewhere" not in found


def test_effect_by_judge_without_any_points_yet():
    figure = effect_by_judge({"truth": []}, {"anywhere": [[]]}, x_label="x", y_label="y")
    (axes,) = figure.get_axes()
    assert len(axes.lines) == 2 and not axes.texts and not figure.legends  # what knows nothing, and no effect


def test_accuracy_and_price_shows_who_never_got_there():
    accuracy = {"base": (0.0, 0.0, 0.01), "sdpo": (0.5, 0.45, 0.55), "grpo": (0.25, 0.2, 0.3)}
    figure = accuracy_and_price(accuracy, {"sdpo": (20_000, True), "grpo": (80_000, False)}, 0.25)
    shares, costs = figure.get_axes()
    assert [bar.get_width() for bar in shares.patches] == [0.0, 0.5, 0.25]
    assert [list(line.get_xdata()) for line in shares.lines] == [[0.0, 0.01], [0.45, 0.55], [0.2, 0.3]]
    assert [label.get_text() for label in shares.get_yticklabels()] == ["base", "sdpo", "grpo"]
    # The base was not trained and costs nothing; the bar of the arm that never reached the target is open.
    assert [(bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in costs.patches] == [
        (1, 20_000),
        (2, 80_000),
    ]
    assert [bar.get_facecolor() == (1, 1, 1, 1) for bar in costs.patches] == [False, True]
    assert {"0.500", "20k", "> 80k", "generated tokens until 25% was reached"} <= set(texts(figure))


def test_accuracy_by_price_has_a_line_an_arm_and_a_marker_for_every_other_use():
    votes = {"base": [(7.0, 0.5), (14.0, 0.5), (21.0, 0.75)], "score": [(7.0, 0.625), (14.5, 0.625), (21.0, 0.875)]}
    marks = {"a second look": {"base": (14.0, 0.25), "score": (14.5, 0.75)}, "greedy": {"score": (7.0, 0.875)}}
    figure = accuracy_by_price(votes, marks, colours={"score": "#0072B2"})
    (axes,) = figure.get_axes()
    shapes = [(line.get_marker(), line.get_xydata().tolist()) for line in axes.lines]
    # Of every arm the dots and the line that joins them; then the markers, way by way.
    dotted = [[list(point) for point in points] for points in votes.values()]
    assert shapes == [
        ("o", dotted[0]),
        ("None", dotted[0]),
        ("o", dotted[1]),
        ("None", dotted[1]),
        ("D", [[14.0, 0.25]]),
        ("D", [[14.5, 0.75]]),
        ("^", [[7.0, 0.875]]),
    ]
    assert {axes.lines[i].get_color() for i in (2, 3, 5, 6)} == {"#0072B2"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["7", "14", "21"]
    assert {"base", "score", "a second look", "greedy", "majority of 1, 2, … answers"} <= set(texts(figure))


def test_horizon_and_errors_puts_arms_on_the_curve_and_draws_what_errors_do_to_them():
    reach = {"base": (0.5, 1.0), "rl": (0.75, 2.0)}
    after = {"base": [(0.75, 0.5, 1.0), (0.25, 0.0, 0.5)], "rl": [(1.0, 1.0, 1.0), (0.5, 0.25, 0.75)]}
    figure = horizon_and_errors(reach, lambda p: 1 / (1 - p), [0.0, 0.5], after, {"ideal": [0.9, 0.6]})
    curve, lines = figure.get_axes()
    xs, ys = curve.lines[0].get_data()
    assert (xs[0], xs[-1]) == pytest.approx((0.45, 0.875))  # a little below the worst, half way from the best to 1
    assert list(ys) == pytest.approx([1 / (1 - p) for p in xs])
    assert [line.get_xydata().tolist() for line in curve.lines[1:]] == [[[0.5, 1.0]], [[0.75, 2.0]]]
    ideal, base, rl = lines.lines
    assert ideal.get_xydata().tolist() == [[0, 0.9], [0.5, 0.6]]
    assert base.get_xydata().tolist() == [[0, 0.75], [0.5, 0.25]]
    assert rl.get_color() == curve.lines[2].get_color() and rl.get_marker() == curve.lines[2].get_marker()
    assert {"base", "rl", "ideal", "0%", "50%"} <= set(texts(figure))


def test_reward_shapes_marks_the_peak_of_every_curve():
    xs = [0.0, 0.5, 1.0]
    panels = {
        "n = 4": {"a": [0.0, 0.5, 0.2], "b": [1.0, 0.5, 1.0]},
        "n = 8": {"a": [0.6, 0.5, 0.2], "b": [0.0, 0.1, 0.2]},
    }
    figure = reward_shapes(xs, panels)
    marked = []
    for axes, curves in zip(figure.get_axes(), panels.values(), strict=True):
        lines, dots = axes.lines[::2], axes.lines[1::2]
        assert [line.get_ydata().tolist() for line in lines] == list(curves.values())
        marked.append([dot.get_xydata().tolist() for dot in dots])
        assert [dot.get_color() for dot in dots] == [line.get_color() for line in lines]
    # Of two equal peaks the first.
    assert marked == [[[[0.5, 0.5]], [[0.0, 1.0]]], [[[0.0, 0.6]], [[1.0, 0.2]]]]
    assert {"a", "b", "n = 4", "n = 8", "true solve rate"} <= set(texts(figure))


def test_cooperation_and_payoffs_has_a_line_and_a_row_for_every_arm():
    payoffs = {"base": {"itself": 2.0, "defector": 0.5}, "rl": {"itself": 1.0, "defector": -0.25}}
    figure = cooperation_and_payoffs({"rl": [0.5, 0.25, 0.0]}, payoffs, smooth=2)
    lines, cells = figure.get_axes()
    assert [line.get_xydata().tolist() for line in lines.lines] == [[[1, 0.5], [2, 0.375], [3, 0.125]]]
    assert [cell.get_xy() for cell in cells.patches] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    shades = [cell.get_facecolor()[0] for cell in cells.patches]  # of red: the more is gained, the less
    assert shades[0] < shades[2] < shades[1] < shades[3] == 1
    assert {"base", "rl", "itself", "defector", "2.00", "0.50", "1.00", "-0.25"} <= set(texts(figure))
    assert cells.get_yticklabels()[1].get_color() == lines.lines[0].get_color()


def test_cooperation_and_payoffs_wants_the_same_opponents():
    with pytest.raises(ValueError, match="every arm needs a payoff against itself, defector, in this order"):
        cooperation_and_payoffs({}, {"a": {"itself": 1.0, "defector": 0.0}, "b": {"itself": 1.0}})


def test_curricula_has_a_line_and_a_map_for_every_arm():
    curves = {"sec": ([100, 250], [0.1, 0.6]), "uniform": ([90], [0.2])}
    chosen = {"sec": {8: [0.0, 1.0, 1.0], 1: [1.0, 0.0, 0.0]}, "uniform": {1: [0.5], 8: [0.5]}}
    figure = curricula(curves, chosen, smooth=2, target=0.5)
    lines, sec, uniform = figure.get_axes()
    assert [line.get_xydata().tolist() for line in lines.lines[:2]] == [[[100, 0.1], [250, 0.6]], [[90, 0.2]]]
    assert list(lines.lines[2].get_ydata()) == [0.5, 0.5]  # the target
    # Rows by level, the easiest at the bottom; each update is the mean of itself and the one before.
    (image,) = sec.get_images()
    assert image.get_array().tolist() == [[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]
    assert image.origin == "lower"
    assert list(image.get_extent()) == [0.5, 3.5, -0.5, 1.5]  # update 1 is centred on 1, level 1 on 0
    assert [label.get_text() for label in sec.get_yticklabels()] == ["1", "8"]
    assert uniform.get_images()[0].get_array().tolist() == [[0.5], [0.5]]
    assert sec.get_title(loc="left") == "sec"


def test_triangle_paths_puts_mixtures_between_their_corners():
    # Only the first is pure; two halves lie in the middle of a side; a fourth thing that has a half does not count.
    paths = {"spo": [(1, 0, 0), (0.5, 0.5, 0), (0.0, 0.0, 0.5)], "coin": [(0.2, 0.2, 0.2)]}
    figure = triangle_paths(paths, ("rock", "scissors", "paper"), (1, 1, 0), averages={"spo": (0, 1, 0)})
    spo, coin, *rest = figure.get_axes()
    top = 3**0.5 / 2
    marks = [(line.get_marker(), line.get_xydata()[0].tolist()) for line in spo.lines if len(line.get_xdata()) == 1]
    assert marks == [
        ("o", [0, 0]),  # begins at rock
        ("o", pytest.approx([0.5, top])),  # ends at paper
        ("s", [1, 0]),  # on average scissors
        ("+", [0.5, 0]),
    ]
    steps = [line.get_xydata().tolist() for line in spo.lines if len(line.get_xdata()) == 2]
    assert steps == [[[0, 0], [0.5, 0]], [[0.5, 0], pytest.approx([0.5, top])]]
    centre = [line for line in coin.lines if line.get_marker() == "o"][-1]
    assert centre.get_xydata()[0].tolist() == pytest.approx([0.5, top / 3])
    assert not rest
    assert {"spo", "coin", "rock", "scissors", "paper"} <= set(texts(figure))


# Accuracies and levels of three arms; 0.5 · 0.9 + 0.5 · 0.1 and so on.
HABITS = {
    "base": {"accuracy@1": 0.5, "accuracy@2": 0.5, "confidence_level": 0.9, "critique_level": 0.1, "rss": 0.5},
    "keep": {"accuracy@1": 0.6, "accuracy@2": 0.6, "confidence_level": 1.0, "critique_level": 0.0, "rss": 0.5},
    "fix": {"accuracy@1": 0.5, "accuracy@2": 0.7, "confidence_level": 0.8, "critique_level": 0.6, "rss": 0.9},
}


def dots(axes):
    return [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "o"]


def test_confidence_critique_shows_levels_the_dial_and_the_score():
    figure = confidence_critique(HABITS, ["keep", "fix"])
    plane, scores = figure.get_axes()
    assert dots(plane) == [(0.9, 0.1), (1.0, 0.0), (0.8, 0.6)]
    assert [[1.0, 0.0], [0.8, 0.6]] in [
        line.get_xydata().tolist() for line in plane.lines
    ]  # the dial, from keep to fix
    assert dots(scores) == [(0.5, 0), (0.5, 1), (0.9, 2)]
    assert {"base", "keep", "fix", "0.50", "0.90", "equal accuracy@2, given accuracy@1 of base (0.500)"} <= set(
        texts(figure)
    )
    # On a grey line 0.5 · CL + 0.5 · CS is what is written on it.
    grey = [line.get_xydata() for line in plane.lines if line.get_zorder() < 1]
    levels = [0.5 * ends.sum(1) for ends in grey]
    assert len(levels) > 3 and all(abs(start - end) < 1e-9 for start, end in levels)
    assert f"{levels[2][0]:.2f}" in texts(figure)


def test_correction_bounds_shows_what_an_accuracy_is_made_of():
    figure = correction_bounds(HABITS, lambda first: (first**2, 1 - (1 - first) ** 2))
    plane, parts = figure.get_axes()
    assert dots(plane) == [(0.5, 0.5), (0.6, 0.6), (0.5, 0.7)]
    assert plane.lines[0].get_xydata()[25].tolist() == [0.5, 0.25]
    assert plane.lines[1].get_xydata()[25].tolist() == [0.5, 0.75]
    bars = [(round(bar.get_x(), 9), round(bar.get_width(), 9)) for bar in parts.patches]
    assert bars[:3] == [(0, 0.45), (0, 0.6), (0, 0.4)]  # stayed right: 0.5 · 0.9, 0.6 · 1, 0.5 · 0.8
    assert bars[3:] == [(0.45, 0.05), (0.6, 0.0), (0.4, 0.3)]  # rescued: 0.5 · 0.1, 0, 0.5 · 0.6
    brackets = [line.get_xdata() for line in parts.lines if len(line.get_xdata()) == 4]
    assert [tuple(round(x, 9) for x in ends[::2]) for ends in brackets] == [(0.25, 0.75), (0.36, 0.84), (0.25, 0.75)]
    assert {"stayed right", "rescued", "bounds", "accuracy@1", "fix"} <= set(texts(figure))


def test_names_of_close_points_do_not_overlap():
    points = {f"arm {i}": {**HABITS["base"], "accuracy@2": 0.99 + i / 1000} for i in range(8)}
    plane = correction_bounds(points, lambda first: (first**2, 1 - (1 - first) ** 2)).get_axes()[0]
    places = [text.xyann for text in plane.texts]
    assert [text.get_text() for text in plane.texts] == list(points)  # from below, as the points lie
    assert all(above[1] - below[1] > 0.07 for below, above in itertools.pairwise(places))
    assert max(y for _, y in places) <= 1


def test_figures_render_without_pyplot_and_leave_settings_alone():
    code = (  # rcParams.copy(), because reading the key "backend" in any other way imports pyplot
        "import sys, matplotlib; before = matplotlib.rcParams.copy()\n"
        "from minirl.show.figures import learning_curves\n"
        "figure = learning_curves({'a': [{'step': 0, 'r': 1.0}]}, ['r'], x='step')\n"
        "data, metadata = figure._repr_mimebundle_()\n"
        "assert data['image/png'].startswith(b'\\x89PNG') and metadata['image/png']['width'] == 691\n"
        "assert 'matplotlib.pyplot' not in sys.modules and matplotlib.rcParams.copy() == before\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


# ---------------------------------------------------------------------------------------------------------------------
# Live curves


class FakeDisplay:
    """Stands for IPython's display and for the handle it returns."""

    def __init__(self, clock=None, cost=0.0):
        self.figures, self.clock, self.cost = [], clock, cost

    def __call__(self, figure, display_id):
        assert display_id is True
        self.update(figure)
        return self

    def update(self, figure):
        self.figures.append(figure)
        if self.clock:
            self.clock.now += self.cost


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def title(figure):
    return figure.legends[0].get_title().get_text()


def test_live_curves_do_nothing_outside_a_notebook():
    live = LiveCurves(["reward"])
    live.update("naive", records(1.0)[0])
    live.close()
    assert live.redraws == 0
    assert len(live.curves["naive"]) == 1


def test_live_curves_redraw_at_most_once_in_the_interval_and_at_the_end():
    clock, display = Clock(), FakeDisplay()
    with LiveCurves(["reward"], every=2.0, clock=clock, display=display) as live:
        for record in records(*range(10)):
            clock.now += 0.5  # 0.5 s, 1.0 s, … 5.0 s: drawn at 0.5, 2.5 and 4.5
            live.update("naive", record)
        assert live.redraws == 3
    assert live.redraws == 4
    last = display.figures[-1]
    assert len(last.get_axes()[0].lines[0].get_xdata()) == 10  # nothing that was throttled is missing in the end
    assert title(last) == ""


def test_live_curves_cost_at_most_a_twentieth_of_the_time():
    clock = Clock()
    live = LiveCurves(["reward"], every=1.0, clock=clock, display=FakeDisplay(clock, cost=0.5))
    for record in records(*range(21)):
        live.update("naive", record)
        clock.now += 0.5
    # a redraw of 0.5 s allows the next one 10 s after it began: at 0.0 and 10.0
    assert live.redraws == 2


def test_live_curves_tell_the_time_left():
    clock, display = Clock(), FakeDisplay()
    live = LiveCurves(["reward"], total=1000, arms=["naive", "score"], every=0, clock=clock, display=display)
    live.update("naive", {"generated_tokens": 100, "reward": 0.1})  # 5 % of both arms: nothing to go by yet
    assert title(display.figures[-1]) == "naive · 5% · 0:00"
    clock.now = 90.0
    live.update("naive", {"generated_tokens": 1000, "reward": 0.2})  # 45 % took 90 s, so 50 % take 100 s
    assert title(display.figures[-1]) == "naive · 50% · 1:30 · about 1:40 left"
    assert len(display.figures[-1].get_axes()[0].lines) == 2  # the arm still to come has its colour reserved


# ---------------------------------------------------------------------------------------------------------------------
# Rollouts


@pytest.fixture(scope="module")
def policy():
    return tiny_llama(32, 1, 2)


def hand_made(policy, rows):
    """Rollouts from ``(prompt, [attempt, …], [score, …])``, with feedback ``?`` and probability 0.5 everywhere."""
    encoded = []
    for prompt, attempts, _ in rows:
        ids, turn = policy.encode_prompts([prompt])[0], [CONTEXT] * len(prompt)
        for t, attempt in enumerate(attempts):
            feedback = policy.encode_feedback("?") if t else []
            own = [*policy.encode_prompts([attempt])[0], policy.stop_id]
            ids, turn = [*ids, *feedback, *own], [*turn, *[CONTEXT] * len(feedback), *[t] * len(own)]
        encoded.append((ids, turn))
    width = max(len(ids) for ids, _ in encoded)
    turns = torch.tensor([turn + [CONTEXT] * (width - len(turn)) for _, turn in encoded])
    return Rollouts(
        ids=torch.tensor([ids + [policy.pad_id] * (width - len(ids)) for ids, _ in encoded]),
        turn=turns,
        logprobs=torch.where(turns >= 0, math.log(0.5), 0.0),
        scores=torch.tensor([scores for _, _, scores in rows]),
        group=torch.arange(len(rows)),
        answers=[attempts for _, attempts, _ in rows],
        items=[Item("hand", 0, i, 1, prompt, "12") for i, (prompt, _, _) in enumerate(rows)],
        longest=width,
    )


@pytest.fixture
def rollouts(policy):
    return hand_made(
        policy,
        [
            ("5+7=", ["11", "12"], [0.0, 1.0]),  # rescued
            ("6+6=", ["12", "13"], [1.0, 0.0]),  # spoiled
            ("4+8=", ["10", "10"], [0.0, 0.0]),  # repeated
            ("3+9=", ["12", "12"], [1.0, 1.0]),  # right twice: not a repeated mistake
            ("2+10=", ["9", "8"], [0.0, 0.0]),
        ],
    )


class Tokens(HTMLParser):
    """Text of the table's spans by kind, and every tag seen."""

    def __init__(self, html):
        super().__init__()
        self.open, self.own, self.coloured, self.tags = [], [], [], set()
        self.feed(html.split("<tbody>")[1].split("</tbody>")[0])

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.open.append(dict(attributes))

    def handle_endtag(self, tag):
        self.open.pop()

    def handle_data(self, data):
        if "p = " in self.open[-1].get("title", ""):
            self.own.append(data)
        if self.open and re.search("background:(?!#fff)", self.open[-1].get("style", "")):
            self.coloured.append(data)


def test_selection(rollouts):
    assert rescued(rollouts) == [0]
    assert spoiled(rollouts) == [1]
    assert repeated(rollouts) == [2]


# Episodes of up to three attempts; the scores of those that were not made are 0. (attempts, scores, what it is)
ENDED_EARLY = [
    (["12"], [1.0, 0.0, 0.0], ""),  # right at once, and never asked again
    (["11", "12"], [0.0, 1.0, 0.0], "rescued"),
    (["10", "11", "12"], [0.0, 0.0, 1.0], "rescued"),
    (["12", "11"], [1.0, 0.0, 0.0], "spoiled"),
    (["12", "11", "12"], [1.0, 0.0, 1.0], ""),
    (["12", "12"], [1.0, 1.0, 0.0], ""),
    (["11"], [0.0, 0.0, 0.0], ""),
    (["11", "12", "13"], [0.0, 1.0, 0.0], ""),  # right in between
    (["12", "13"], [1.0, 0.5, 0.0], "spoiled"),  # in part is not right
    (["11", "13"], [0.5, 0.99, 0.0], ""),
    (["13", "12"], [0.5, 1.0, 0.0], "rescued"),
]


def test_selection_goes_by_the_last_attempt_that_was_made(policy):
    rollouts = hand_made(policy, [("5+7=", attempts, scores) for attempts, scores, _ in ENDED_EARLY])
    assert rollouts.alive.sum(1).tolist() == [len(attempts) for attempts, _, _ in ENDED_EARLY]
    assert rescued(rollouts) == [b for b, (_, _, what) in enumerate(ENDED_EARLY) if what == "rescued"] == [1, 2, 10]
    assert spoiled(rollouts) == [b for b, (_, _, what) in enumerate(ENDED_EARLY) if what == "spoiled"] == [3, 8]
    assert repeated(rollouts) == []
    assert repeated(hand_made(policy, [("5+7=", ["11", "11"], [0.0, 0.0, 0.0])])) == [0]


def test_selected_episodes_that_ended_early_are_shown(policy):
    rollouts = hand_made(policy, [("5+7=", attempts, scores) for attempts, scores, _ in ENDED_EARLY])
    assert str(show_rollouts(rollouts, policy, select=rescued, rows=2)).splitlines() == [
        "2 of 3 selected rollouts (of 11 in all)",
        "row  prompt  attempt 1  attempt 2   attempt 3   reference",
        "1    5+7=    11 ✗ 0     [?] 12 ✓ 1              12",
        "2    5+7=    10 ✗ 0     [?] 11 ✗ 0  [?] 12 ✓ 1  12",
    ]


def test_only_own_tokens_are_coloured(rollouts, policy):
    page = Tokens(show_rollouts(rollouts, policy, rows=2)._repr_html_())
    own = ["1", "1", "<eos>", "1", "2", "<eos>", "1", "2", "<eos>", "1", "3", "<eos>"]
    assert page.own == page.coloured == own
    plain = Tokens(show_rollouts(rollouts, policy, rows=2, colour=None)._repr_html_())
    assert (plain.own, plain.coloured) == (own, [])


def test_probability_and_advantage_have_opposite_ends(rollouts, policy):
    rollouts.logprobs[0, 4:6] = torch.tensor([0.0, -100.0])  # certain, all but impossible
    html = show_rollouts(rollouts, policy, rows=1)._repr_html_()
    assert 'title="p = 1.000"' in html
    assert 'title="p = 0.000"' in html
    assert 'title="p = 0.500"' in html
    assert "background:#e8f1f8" in html.split("<tbody>")[1]
    assert "background:#ee852f" in html.split("<tbody>")[1]

    advantages = torch.tensor([[-2.0, 1.0]] * 5)
    html = show_rollouts(rollouts, policy, rows=1, colour="advantage", advantages=advantages)._repr_html_()
    assert html.count("advantage -2.000") == html.count("advantage +1.000") == 3  # two digits and <eos>
    assert "-2</span>" in html
    assert "+2</span>" in html
    per_token = advantages.gather(1, rollouts.turn.clamp_min(0))
    same = show_rollouts(rollouts, policy, rows=1, colour="advantage", advantages=per_token)
    assert same._repr_html_() == html
    assert "advantage +3.000" in show_rollouts(rollouts, policy, advantages=torch.full((5,), 3.0))._repr_html_()


def tokens(view):
    """(what is written, its tooltip, whether it is underlined with dashes) for every own token."""
    found = re.findall(r'<span title="(.*?)" style="(.*?)">(.*?)</span>', view._repr_html_().split("<tbody>")[1])
    return [(text, tooltip, "dashed" in style) for tooltip, style, text in found]


def test_reward_is_that_of_the_turn(rollouts, policy):
    """Row 0 is wrong, then right: by its scores 0 and 1; with rewards −0.5 and 1.5 the first is below zero: dashed."""
    scores = show_rollouts(rollouts, policy, rows=1, colour="reward")
    assert [tooltip for _, tooltip, _ in tokens(scores)] == 3 * ["p = 0.500, reward +0.000"] + 3 * [
        "p = 0.500, reward +1.000"
    ]
    assert not any(dashed for _, _, dashed in tokens(scores))
    assert str(scores).splitlines()[-1] == "0    5+7=    11 ✗ 0 r 0  [?] 12 ✓ 1 r +1  12"
    shaped = show_rollouts(rollouts, policy, rows=1, colour="reward", rewards=torch.tensor([[-0.5, 1.5]] * 5))
    assert [dashed for _, _, dashed in tokens(shaped)] == 3 * [True] + 3 * [False]
    assert "-1.5</span>" in shaped._repr_html_() and "+0.75</span>" in shaped._repr_html_()  # the scale of the legend
    assert "11 ✗ 0 r -0.5  [?] 12 ✓ 1 r +1.5" in str(shaped)


class Constant:
    """A policy that gives token i the probability p[i], whatever stands before."""

    def __init__(self, policy, probabilities):
        self.tokenizer, self.pad_id = policy.tokenizer, policy.pad_id
        self.row = torch.zeros(len(policy.tokenizer))
        self.row[: len(probabilities)] = torch.tensor(probabilities)
        self.row = self.row.clamp_min(1e-30).log()

    def logits(self, ids):
        return self.row.expand(*ids.shape, -1)


def test_kl_to_a_reference_is_exact(rollouts, policy):
    """KL((1/2, 1/2) ‖ (1/4, 3/4)) = 1/2 ln 2 + 1/2 ln 2/3 = 0.1438 at every token of the policy's own."""
    ours, theirs = Constant(policy, [0.5, 0.5]), Constant(policy, [0.25, 0.75])
    kl = token_kl(rollouts, ours, theirs)
    assert kl.shape == rollouts.ids.shape
    assert kl[rollouts.own].tolist() == pytest.approx([0.143841] * int(rollouts.own.sum()), abs=1e-5)
    assert (kl[~rollouts.own] == 0).all()
    view = show_rollouts(rollouts, ours, rows=1, colour="kl", reference=theirs)
    assert tokens(view)[0] == ("1", "p = 0.500, KL 0.144", True)  # all are equally far
    assert "11 ✗ 0 KL 0.43" in str(view)  # three tokens, 3 × 0.1438
    assert "KL to the reference, nats" in view._repr_html_()
    same = show_rollouts(rollouts, ours, rows=1, colour="kl", reference=ours)
    assert "KL 0" in str(same) and not any(dashed for _, _, dashed in tokens(same))


def test_kl_is_at_the_token_that_was_chosen(rollouts, policy):
    """The choice of token t is made by the logits at t − 1: a reference that differs after "=" alone, first token."""
    reference = Constant(policy, [0.5, 0.5])
    logits = reference.logits(rollouts.ids[:, :-1]).clone()
    logits[0, 3, :2] = torch.tensor([0.25, 0.75]).log()  # after "5+7="
    reference.logits = lambda ids: logits
    kl = token_kl(rollouts, Constant(policy, [0.5, 0.5]), reference)
    assert kl.nonzero().tolist() == [[0, 4]]


def test_the_number_beside_a_score_says_what_the_colour_says(rollouts, policy):
    """Three tokens of probability 1/2: the attempt had 1/8. Advantages: their mean over the attempt."""
    assert ">p 0.12</span>" in show_rollouts(rollouts, policy, rows=1)._repr_html_()
    advantages = torch.tensor([[-2.0, 1.0]] * 5)
    view = show_rollouts(rollouts, policy, rows=1, colour="advantage", advantages=advantages)
    assert ">A -2</span>" in view._repr_html_() and ">A +1</span>" in view._repr_html_()
    assert "11 ✗ 0 A -2  [?] 12 ✓ 1 A +1" in str(view)
    assert [dashed for _, _, dashed in tokens(view)] == 3 * [True] + 3 * [False]
    plain = show_rollouts(rollouts, policy, rows=1, colour=None)._repr_html_()
    assert ">p 0.12" not in plain and "dashed" not in plain


def test_turns_say_who_spoke(rollouts, policy):
    view = show_turns(rollouts, policy, select=rescued)
    assert str(view).splitlines() == [
        "1 of 1 selected rollouts (of 5 in all)",
        "row  who        what",
        "0    task       5+7=",
        "     policy 1   11 ✗ 0",
        "     task       ?",
        "     policy 2   12 ✓ 1",
        "     reference  12",
    ]
    assert [text for text, _, _ in tokens(view)] == ["1", "1", "&lt;eos&gt;", "1", "2", "&lt;eos&gt;"]


def test_side_by_side_shows_the_same_problems(policy):
    problems, scores = ["5+7=", "6+6=", "4+8="], [[0.0], [1.0], [0.0]]
    before = hand_made(policy, [(p, ["11"], s) for p, s in zip(problems, scores, strict=True)])
    after = hand_made(policy, [(p, ["12"], s) for p, s in zip(problems, [[1.0], [0.0], [0.0]], strict=True)])
    assert (gained(before, after), lost(before, after)) == ([0], [1])
    view = show_side_by_side({"before": (before, policy), "after": (after, policy)}, select=gained)
    assert str(view).splitlines() == [
        "1 of 1 selected rollouts (of 3 in all)",
        "row  prompt  before  after   reference",
        "0    5+7=    11 ✗ 0  12 ✓ 1  12",
    ]
    assert len(tokens(show_side_by_side({"a": (before, policy), "b": (after, policy)}, rows=2))) == 2 * 2 * 3
    two = hand_made(policy, [("5+7=", ["11", "12"], [0.0, 1.0])])
    assert "11 ✗ 0 | [?] 12 ✓ 1" in str(show_side_by_side({"two turns": (two, policy)}))
    with pytest.raises(ValueError, match="rollouts of the same problems"):
        show_side_by_side({"a": (before, policy), "b": (two, policy)})
    with pytest.raises(ValueError, match="at least one policy"):
        show_side_by_side({})


def test_a_group_shows_scores_and_advantages(policy):
    """Scores 1, 0, 0 at the second prompt: leave-one-out advantages 1, −1/2, −1/2."""
    rows = [("1+1=", ["2"], [1.0])] * 3 + [("5+7=", [answer], [float(answer == "12")]) for answer in ("12", "11", "13")]
    rollouts = hand_made(policy, rows)
    rollouts.group = torch.tensor([0, 0, 0, 1, 1, 1])
    given = torch.tensor([0.0, 0, 0, 1, -0.5, -0.5])
    view = show_group(rollouts, policy, given, group=1)
    assert str(view).splitlines() == [
        "prompt 5+7= · reference 12 · 3 samples, mean score 0.33",
        "row  attempt 1  advantage",
        "3    12 ✓ 1     +1",
        "4    11 ✗ 0     -0.5",
        "5    13 ✗ 0     -0.5",
    ]
    assert [dashed for _, _, dashed in tokens(view)] == 3 * [False] + 6 * [True]
    by_chance = show_group(rollouts, policy, given, group=1, colour="probability")
    assert ">p 0.12<" in by_chance._repr_html_()
    assert str(by_chance) == str(view)
    with pytest.raises(ValueError, match="there is no group 2; groups are 0 to 1"):
        show_group(rollouts, policy, given, group=2)


def test_every_view_stands_alone_on_a_light_and_a_dark_page(rollouts, policy):
    advantages = torch.ones(5)
    views = [
        show_rollouts(rollouts, policy, colour="reward"),
        show_turns(rollouts, policy),
        show_side_by_side({"<b>": (rollouts, policy)}),
        show_group(rollouts, policy, advantages),
    ]
    for page in (view._repr_html_() for view in views):
        assert not re.search(r"<(script|style|link|img|iframe)|https?:|url\(|class=|<b>&|<th[^>]*><b>", page)
        cells = re.findall(r'<t[dh] style="(.*?)"', page)  # a dark theme's light text must not reach them
        assert cells and all(";color:#" in style for style in cells)
        assert page.startswith('<div style="background:#fff;color:#222')
        assert "underlined</span>: own tokens" in page and "dashed</span>: " in page


def test_bad_arguments_are_named(rollouts, policy):
    with pytest.raises(ValueError, match="needs reference="):
        show_rollouts(rollouts, policy, colour="kl")
    with pytest.raises(ValueError, match=r"rewards of shape \(3,\)"):
        show_turns(rollouts, policy, colour="reward", rewards=torch.zeros(3))
    with pytest.raises(ValueError, match="needs advantages"):
        show_rollouts(rollouts, policy, colour="advantage")
    with pytest.raises(ValueError, match="unknown colour"):
        show_rollouts(rollouts, policy, colour="rainbow")
    with pytest.raises(ValueError, match="shape"):
        show_rollouts(rollouts, policy, advantages=torch.zeros(3))


def test_plain_text_view(rollouts, policy):
    view = show_rollouts(rollouts, policy, select=rescued)
    assert str(view) == repr(view)
    assert str(view).splitlines() == [
        "1 of 1 selected rollouts (of 5 in all)",
        "row  prompt  attempt 1  attempt 2   reference",
        "0    5+7=    11 ✗ 0     [?] 12 ✓ 1  12",
    ]
    assert str(show_rollouts(rollouts, policy, rows=2)).startswith("2 of 5 rollouts")
    assert "0 of 0" in str(show_rollouts(rollouts, policy, select=lambda _: []))


def test_model_text_cannot_leave_its_cell(policy):
    attack = "<script>alert(1)</script>"
    rollouts = hand_made(policy, [("1+1=", [attack, "<img src=x>"], [0.0, 0.0])])
    page = Tokens(show_rollouts(rollouts, policy)._repr_html_())
    assert page.tags <= {"tr", "td", "span", "b", "div"}
    assert "".join(page.own) == f"{attack}<eos><img src=x><eos>"

    class OneToken:  # a hub tokenizer may hold a whole tag in one token, and characters that repaint a terminal
        all_special_ids = ()

        def decode(self, ids, **_):
            return "<b onclick='x'>\x1b[2J\u202e" * len(ids)

    rollouts.answers[0] = ["\x1b[2J\u202e"] * 2
    view = show_rollouts(rollouts, type("P", (), {"tokenizer": OneToken(), "pad_id": 0})())
    assert "onclick" not in str(Tokens(view._repr_html_()).tags)
    assert "<b onclick" not in view._repr_html_()
    assert not set("\x1b\u202e") & set(view._repr_html_() + str(view))
    assert r"\x1b[2J\u202e" in str(view)


def test_characters_split_over_tokens_appear_once(policy, rollouts):
    class Bytes:
        all_special_ids = (0,)

        def decode(self, ids, **_):
            return bytes(ids).decode(errors="replace")

    rollouts = hand_made(policy, [("a", ["bcd"], [1.0])])
    rollouts.ids[0, 1:5] = torch.tensor(list("é!?".encode()))
    page = Tokens(show_rollouts(rollouts, type("P", (), {"tokenizer": Bytes(), "pad_id": 0})())._repr_html_())
    assert page.own == ["é", "!", "?"]  # the first byte of é is an empty span


def test_sampled_rollouts_are_shown_as_they_are(policy):
    task = get("add")
    rollouts = roll_out(
        policy, task, task.items(0, range(2), 3), turns=2, samples=2, generator=torch.Generator().manual_seed(0)
    )
    view = show_rollouts(rollouts, policy)
    body = view._repr_html_().split("<tbody>")[1]
    assert body.count("<tr") == 4
    assert body.count('title="p = ') == rollouts.generated_tokens()
    assert all(item.answer in str(view) for item in rollouts.items)


# ---------------------------------------------------------------------------------------------------------------------
# Source


def test_source_is_shown_with_its_docstring_and_name():
    view = show_source(rescued)
    assert str(view).startswith("def rescued(rollouts: Rollouts)")
    html = view._repr_html_()
    assert "minirl.show.rollouts.rescued" in html
    assert "whose last one is right" in html
    assert "class=" not in html
    assert "<style" not in html


def test_source_of_a_method_a_module_and_escaping():
    method = show_source(Clock.__call__)
    assert str(method) == "def __call__(self):\n    return self.now\n"  # dedented
    assert method.name.endswith("Clock.__call__")
    assert str(show_source(Rule.learn)).startswith(
        "def learn(self, state: State, levels: Tensor, seen: Seen) -> State:\n"
    )
    assert show_source(sys.modules["minirl.show.source"]).name == "minirl.show.source"
    assert "<style>" not in show_source(test_source_is_shown_with_its_docstring_and_name)._repr_html_()
    with pytest.raises(TypeError):
        show_source(len)
