"""Figures in one style. Every function takes plain data and returns a :class:`matplotlib.figure.Figure`.

No pyplot: figures belong to the caller, nothing is drawn behind its back, and importing this module selects no backend.
At the default width of 7.2 inches a figure is 691 CSS pixels wide, which fits a page of the book; it is rendered at one
and a half times that so that it is sharp on most screens.
"""

import functools
import io
import itertools
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"  # Okabe and Ito, safe for colour-blind
ORANGE, SKY, GREY, INK = "#E69F00", "#56B4E9", "#6B6B6B", "#222222"
# Paul Tol's muted scheme, for the rare figure with more arms than Okabe and Ito have colours.
SPARE = ("#882255", "#999933", "#332288")

ROLE_COLOURS = {"treatment": BLUE, "baseline": VERMILLION, "ablation": GREEN, "control": PURPLE, "base": GREY}
KNOWN_ROLES = {"naive": "baseline", "random_reward": "control", **{role: role for role in ROLE_COLOURS}}
LINE_STYLES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (5, 1.5, 1, 1.5)))  # with the colour: readable without it
VERDICT_COLOURS = {"supported": BLUE, "contradicted": VERMILLION, "inconclusive": GREY}
CELLS = {  # self-correction matrix: key -> (row, column, what happened, hue)
    "correct_correct": (0, 0, "stayed right", "#5B6B7A"),
    "correct_incorrect": (0, 1, "spoiled", VERMILLION),
    "incorrect_correct": (1, 0, "rescued", BLUE),
    "incorrect_incorrect": (1, 1, "stayed wrong", "#5B6B7A"),
}
AGREEMENT = {"accuracy@1": "right (accuracy@1)", "agreement": "what most say (agreement)"}

WIDTH = 7.2  # inches
SCREEN_DPI = 96  # CSS pixels per inch
STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # ships with matplotlib: the same figure on every machine
    "font.size": 10,
    "text.color": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


class _PageFigure(Figure):
    """A figure that displays itself in a notebook although pyplot was never imported."""

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict, dict]:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        size = {"width": round(self.get_figwidth() * SCREEN_DPI), "height": round(self.get_figheight() * SCREEN_DPI)}
        return {"image/png": buffer.getvalue(), "text/plain": repr(self)}, {"image/png": size}


def _styled(build: Callable[..., Figure]) -> Callable[..., Figure]:
    """Build a figure under ``STYLE`` and leave matplotlib's settings as they were."""

    @functools.wraps(build)
    def wrapper(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.rc_context(STYLE):
            return build(*args, **kwargs)

    return wrapper


def _figure(height: float) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.07)  # inches
    return _PageFigure(figsize=(WIDTH, height), dpi=1.5 * SCREEN_DPI, layout=layout)


def arm_colours(arms: Iterable[str], roles: Mapping[str, str] | None = None) -> dict[str, str]:
    """A colour for every arm.

    The first arm of a role (``roles``, or names that tell: ``base``, ``naive``, …) has the role's colour; the others
    take what is left, in the order given, beginning with the treatment's. Call it once with all the arms of a claim and
    pass the result to each figure as ``colours``: then an arm looks the same even on a figure that omits some arms.
    """
    arms = list(dict.fromkeys(arms))
    roles = {**KNOWN_ROLES, **(roles or {})}
    colours: dict[str, str] = {}
    for arm in arms:
        colour = ROLE_COLOURS.get(roles.get(arm, ""))
        if colour is not None and colour not in colours.values():
            colours[arm] = colour
    free = [c for c in (BLUE, ORANGE, GREEN, SKY, PURPLE, *SPARE, VERMILLION) if c not in colours.values()]
    rest = [arm for arm in arms if arm not in colours]
    # More arms than colours: repeat rather than fail, since a legend that repeats is still better than no figure.
    colours |= {arm: free[i % len(free)] for i, arm in enumerate(rest)}
    return {arm: colours[arm] for arm in arms}


def _running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last ``window`` values at each point; shorter at the start, so that no point is lost."""
    parts = [values[max(0, i + 1 - window) : i + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def _wrap(label: str, width: int = 28) -> str:
    """``label`` on as many lines as it needs to leave room for the axes beside it."""
    return "\n".join(piece for line in label.split("\n") for piece in textwrap.wrap(line, width))


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")  # as in matplotlib's own tick labels


def _legend_on_top(figure: Figure, axes: Axes, title: str | None = None) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        # The title of the figure is the legend's: two artists above the axes would be laid out over each other.
        figure.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=min(len(labels), 4),
            handlelength=1.6,
            title=title,
            title_fontsize=10.5,
            alignment="left",
        )


@_styled
def learning_curves(
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    metrics: Sequence[str],
    x: str = "generated_tokens",
    *,
    smooth: int = 1,
    colours: Mapping[str, str] | None = None,
    title: str | None = None,
    references: Mapping[str, float] | None = None,
) -> Figure:
    """Small multiples: one panel a metric, one line an arm.

    ``curves`` maps an arm to its records of ``metrics.jsonl``; a record without the metric or without ``x`` is left out
    of that panel, so training and evaluation records may be mixed. ``smooth`` > 1 draws the running mean over that many
    records, and the records themselves faintly. ``references`` are known values of metrics, drawn as dotted lines.
    """
    colours = {**arm_colours(curves), **(colours or {})}
    columns = 3 if len(metrics) in (3, 5, 6, 9) else min(2, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = _figure(0.75 + (0.25 if title else 0) + (2.9 if columns == 1 else 2.2) * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for i, axes in enumerate(grid.flat):
        if i >= len(metrics):
            axes.set_visible(False)
            continue
        axes.set_title(metrics[i])
        if metrics[i] in (references or {}):
            axes.axhline((references or {})[metrics[i]], color=INK, linestyle=":", linewidth=1.2)
        for (arm, records), style in zip(curves.items(), itertools.cycle(LINE_STYLES)):
            points = [(r[x], r[metrics[i]]) for r in records if r.get(x) is not None and r.get(metrics[i]) is not None]
            xs, ys = [p[0] for p in points], [float(p[1]) for p in points]
            if smooth > 1:
                axes.plot(xs, ys, color=colours[arm], alpha=0.25, linewidth=0.9)
            # A single record is a dot, not an invisible line.
            marker = "o" if len(points) == 1 else None
            means = _running_mean(ys, smooth)
            axes.plot(xs, means, color=colours[arm], linestyle=style, label=arm, marker=marker, markersize=4)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(5))
    figure.supxlabel(x.replace("_", " "), fontsize=10)
    _legend_on_top(figure, grid.flat[0], title)
    return figure


def _blend(colour: str, strength: float) -> tuple[float, ...]:
    """``colour`` over white."""
    return tuple(1 - strength * (1 - channel) for channel in matplotlib.colors.to_rgb(colour))


@_styled
def correction_matrix(
    before: Mapping[str, float],
    after: Mapping[str, Mapping[str, float]],
    *,
    colours: Mapping[str, str] | None = None,
    before_label: str = "base",
) -> Figure:
    """Self-correction matrices side by side: the base, then each arm.

    A matrix maps ``correct_correct``, ``correct_incorrect``, ``incorrect_correct`` and ``incorrect_incorrect`` (first
    and last attempt) to shares of the items. The line under a name reads accuracy@1 → accuracy@2. Raises ``ValueError``
    if a matrix has other keys or does not sum to 1.
    """
    panels = {before_label: before, **after}
    colours = {**arm_colours(panels), **(colours or {})}
    columns = 2 if len(panels) in (2, 4) else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = _figure(2.95 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for i, axes in enumerate(grid.flat):
        axes.grid(False)
        if i >= len(panels):
            axes.set_visible(False)
            continue
        name, shares = list(panels.items())[i]
        if set(shares) != set(CELLS) or abs(sum(shares.values()) - 1) > 1e-3:
            raise ValueError(f"{name!r}: a correction matrix has the keys {', '.join(CELLS)} and sums to 1: {shares}")
        for key, (row, column, word, hue) in CELLS.items():
            # The square root keeps the rare cells, rescued and spoiled, apart from white; 0.6 keeps dark ink readable.
            colour = _blend(hue, 0.05 + 0.6 * max(0.0, shares[key]) ** 0.5)
            axes.add_patch(matplotlib.patches.Rectangle((column, row), 1, 1, facecolor=colour, edgecolor="white"))
            axes.text(column + 0.5, row + 0.42, f"{shares[key]:.1%}", ha="center", va="center", fontsize=13)
            axes.text(column + 0.5, row + 0.7, word, ha="center", va="center", fontsize=9.5)
        first = shares["correct_correct"] + shares["correct_incorrect"]
        last = shares["correct_correct"] + shares["incorrect_correct"]
        axes.set_title(f"{first:.3f} → {last:.3f}  ({_signed(last - first)})", fontsize=10)
        axes.annotate(
            name, (0, 1), (0, 22), xycoords="axes fraction", textcoords="offset points", color=colours[name],
            fontsize=11.5, fontweight="bold",
        )  # fmt: skip
        axes.set(xlim=(0, 2), ylim=(2, 0), xlabel="last turn")
        axes.set_xticks([0.5, 1.5], ["right", "wrong"])
        axes.set_yticks([0.5, 1.5], ["right", "wrong"] if i % columns == 0 else [], rotation=90, va="center")
        if i % columns == 0:
            axes.set_ylabel("turn 1")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


@_styled
def effect_forest(rows: Sequence[Mapping[str, Any]], *, x_label: str = "effect") -> Figure:
    """Effects with their intervals, coloured by verdict, each against its margin.

    A row has ``label``, ``effect``, ``low``, ``high``, ``verdict`` (supported, contradicted, inconclusive), and may
    have ``margin``: the value that the interval must clear, or two of them for equivalence. Rows whose optional
    ``panel`` differs get axes of their own: an accuracy difference of 0.02 disappears beside a copy rate of 0.9.
    """
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        panels.setdefault(row.get("panel") or x_label, []).append(row)
    heights = [len(members) + 0.6 for members in panels.values()]
    figure = _figure(0.55 + 0.5 * len(rows) + 0.75 * len(panels))
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (panel, members) in zip(grid, panels.items(), strict=True):
        axes.grid(False, axis="y")
        for y, row in enumerate(members):
            colour = VERDICT_COLOURS[row["verdict"]]
            axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=3, solid_capstyle="round")
            axes.plot([row["effect"]], [y], "o", color=colour, markersize=8, markeredgecolor="white")
            margin = row.get("margin")
            for value in () if margin is None else margin if isinstance(margin, Sequence) else (margin,):
                axes.plot([value, value], [y - 0.42, y + 0.42], color=INK, linewidth=1.4, linestyle=(0, (2, 1.5)))
            numbers = f"{_signed(row['effect'])}  [{_signed(row['low'])}, {_signed(row['high'])}]"
            axes.annotate(
                f"{numbers}\n{row['verdict']}", (1, y), (8, 0), xycoords=("axes fraction", "data"),
                textcoords="offset points", va="center", fontsize=9.5, color=colour, linespacing=1.3,
            )  # fmt: skip
        low, high = axes.get_xlim()
        if 2 * low - high < 0 < 2 * high - low:  # zero is near: an effect. Far away (a rate), it would only waste space
            axes.axvline(0, color="#888888", linewidth=1, zorder=0.9)
        axes.set_yticks(range(len(members)), [_wrap(row["label"]) for row in members], color=INK)
        axes.set_ylim(len(members) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(panel)
    keys = [matplotlib.lines.Line2D([], [], color=INK, linewidth=1.4, linestyle=(0, (2, 1.5)), label="margin")]
    if any(row.get("margin") is not None for row in rows):
        figure.legend(handles=keys, loc="outside upper right")
    return figure


@_styled
def sweep(
    x_label: str,
    xs: Sequence[float],
    series: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    y_label: str = "accuracy",
    x_scale: str = "linear",
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Lines with bands: each series has ``(mean, low, high)`` at every value of ``xs``.

    ``x_scale`` is any scale of matplotlib (``log``, ``symlog``), or ``even``: equal steps between the values swept,
    whatever they are, for grids like 0, 0.5, 1, 5 that are neither linear nor logarithmic.
    """
    colours = {**arm_colours(series), **(colours or {})}
    figure = _figure(3.6)
    axes = figure.subplots()
    places = list(range(len(xs))) if x_scale == "even" else list(xs)
    for (name, points), marker in zip(series.items(), "osD^vP*X" * len(series), strict=False):
        means, lows, highs = zip(*points, strict=True)
        axes.fill_between(places, lows, highs, color=colours[name], alpha=0.16, linewidth=0)
        axes.plot(places, means, marker, linestyle="-", color=colours[name], label=name, markersize=5.5)
    if x_scale != "even":
        axes.set_xscale(x_scale)
    axes.set_xticks(places, [f"{x:g}" for x in xs], minor=False)
    axes.minorticks_off()
    axes.set(xlabel=x_label, ylabel=y_label)
    _legend_on_top(figure, axes)
    return figure


@_styled
def ladder(panels: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> Figure:
    """The same effects from bases of several sizes, one panel a claim.

    ``panels`` maps a title to its lines and a line to its points, smallest base first, each with ``parameters``,
    ``effect``, ``low``, ``high``, ``verdict`` and ``margin``. A point is filled if the condition is supported there; a
    dotted line is a margin that intervals must clear.
    """
    figure = _figure(3.8)
    for axes, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        colours = arm_colours(lines)
        for place, (name, points) in enumerate(lines.items()):
            colour = colours[name]
            aside = 1 + 0.13 * (place - (len(lines) - 1) / 2)  # so that intervals do not cover each other
            at = [point["parameters"] * aside for point in points]
            axes.plot(at, [point["effect"] for point in points], color=colour, linewidth=1.2, label=name)
            for x, point in zip(at, points, strict=True):
                axes.plot([x, x], [point["low"], point["high"]], color=colour, linewidth=2.6, solid_capstyle="round")
                face = colour if point["verdict"] == "supported" else "white"
                axes.plot(x, point["effect"], "o", color=colour, markerfacecolor=face, markersize=7)
        for margin in {point["margin"] for points in lines.values() for point in points}:
            axes.axhline(margin, color=INK, linewidth=1.4, linestyle=(0, (2, 1.5)), zorder=0.9)
        axes.axhline(0, color=GREY, linewidth=1, zorder=0.9)
        sizes = sorted({point["parameters"] for points in lines.values() for point in points})
        axes.set_xscale("log")
        axes.set_xlim(sizes[0] / 1.6, sizes[-1] * 1.6)
        axes.set_xticks(sizes, [EngFormatter(places=0, sep="")(size) for size in sizes], minor=False)
        axes.minorticks_off()
        axes.set_title(title, loc="left", fontsize=10.5)
        axes.set_ylabel("effect" if axes.get_subplotspec().is_first_col() else "")
        axes.set_xlabel("parameters of the base")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), fontsize=9, handlelength=1.2)
    return figure


def _label_column(axes: Axes, points: Mapping[str, tuple[float, float]], colours: Mapping[str, str]) -> None:
    """Names in a column right of ``axes``, each joined to its point: readable where points lie close together.

    The limits of the axes must be set.
    """
    gap = 0.075  # least distance between two names, as a share of the height
    low, high = axes.get_ylim()
    order = sorted(points, key=lambda name: points[name][1])
    places = [(points[name][1] - low) / (high - low) for name in order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    for i in reversed(range(len(places))):  # what was pushed over the top comes back down
        places[i] = min(places[i], 1 - gap * (len(places) - 1 - i))
    for name, place in zip(order, places, strict=True):
        axes.annotate(
            name, points[name], (1.04, place), textcoords="axes fraction", va="center", fontsize=9.5,
            color=colours[name], annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colours[name], "linewidth": 0.7, "shrinkA": 1, "shrinkB": 4},
        )  # fmt: skip


@_styled
def confidence_critique(
    metrics: Mapping[str, Mapping[str, float]],
    dial: Sequence[str] = (),
    *,
    colours: Mapping[str, str] | None = None,
    reference: str = "base",
) -> Figure:
    """Critique level over confidence level, and the relative self-correction score of every arm.

    ``metrics`` maps an arm to its correction metrics and ``rss``. A line joins the arms of ``dial`` in their order.
    Along a grey line a policy with the first attempts of ``reference`` has the same accuracy@2, and the same ``rss``.
    """
    colours = {**arm_colours(metrics), **(colours or {})}
    points = {arm: (m["confidence_level"], m["critique_level"]) for arm, m in metrics.items()}
    figure = _figure(4.2)
    plane, scores = figure.subplots(1, 2, width_ratios=(2, 1))

    spans = []
    for values in zip(*points.values(), strict=True):
        pad = 0.01 + 0.06 * (max(values) - min(values))
        spans.append((min(values) - pad, max(values) + pad))
    plane.set(xlim=spans[0], ylim=spans[1], xlabel="confidence level: right after, if right before")
    plane.set_ylabel("critique level: right after, if wrong before")
    plane.xaxis.set_major_locator(MaxNLocator(5))
    plane.grid(False)
    first = metrics[reference]["accuracy@1"]
    after = [first * x + (1 - first) * y for x, y in zip(*spans, strict=True)]  # in two corners: least and most
    for level in MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(*after) if first < 1 else ():
        left = 0.85 * spans[0][0] + 0.15 * spans[0][1]
        ends = [(level - first * x) / (1 - first) for x in (*spans[0], left)]
        plane.plot(spans[0], ends[:2], color="#C8C8C8", linewidth=0.9, zorder=0.9)
        if spans[1][0] < ends[2] < spans[1][1]:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            plane.text(left, ends[2], f"{level:.2f}", ha="center", va="center", fontsize=8.5, color="#777777", bbox=box)
    plane.plot([points[arm][0] for arm in dial], [points[arm][1] for arm in dial], color="#999999", linewidth=1.3)
    for arm, point in points.items():
        plane.plot(*point, "o", color=colours[arm], markersize=7, markeredgecolor="white", zorder=3)
    _label_column(plane, points, colours)
    key = matplotlib.lines.Line2D([], [], color="#C8C8C8", linewidth=0.9)
    figure.legend([key], [f"equal accuracy@2, given accuracy@1 of {reference} ({first:.3f})"], loc="outside upper left")

    scores.grid(False, axis="y")
    scores.axvline(0.5, color="#888888", linewidth=1, zorder=0.9)
    for y, (arm, m) in enumerate(metrics.items()):
        scores.plot([0.5, m["rss"]], [y, y], color=colours[arm], linewidth=2.4)
        scores.plot(m["rss"], y, "o", color=colours[arm], markersize=7, markeredgecolor="white")
        scores.annotate(
            f"{m['rss']:.2f}", (m["rss"], y), (0, 6), textcoords="offset points", ha="center", fontsize=9,
            color=colours[arm], bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
    scores.set_yticks(range(len(metrics)), list(metrics))
    scores.set_ylim(len(metrics) - 0.5, -0.7)
    scores.margins(x=0.15)
    scores.xaxis.set_major_locator(MaxNLocator(4))
    scores.spines["left"].set_visible(False)
    scores.tick_params(axis="y", length=0)
    scores.set_xlabel("RSS (½: as before)")
    return figure


@_styled
def correction_bounds(
    metrics: Mapping[str, Mapping[str, float]],
    bounds: Callable[[float], tuple[float, float]],
    *,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Where accuracy@2 lies between its ``bounds`` for an accuracy@1, and what it is made of.

    ``metrics`` maps an arm to its correction metrics. Left: accuracy@2 over accuracy@1. Right, for every arm: what
    stayed right (accuracy@1 · confidence level) and what was rescued ((1 − accuracy@1) · critique level) add up to
    accuracy@2; a bracket shows its bounds.
    """
    colours = {**arm_colours(metrics), **(colours or {})}
    points = {arm: (m["accuracy@1"], m["accuracy@2"]) for arm, m in metrics.items()}
    figure = _figure(2.6 + 0.17 * len(metrics))
    plane, parts = figure.subplots(1, 2)
    xs = [i / 50 for i in range(51)]
    lows, highs = zip(*map(bounds, xs), strict=True)
    plane.fill_between(xs, lows, highs, color=_blend(SKY, 0.16), linewidth=0)
    for line, style in ((lows, "-"), (highs, "-"), (xs, LINE_STYLES[2])):
        plane.plot(xs, line, color=GREY, linewidth=1, linestyle=style)
    for arm, point in points.items():
        plane.plot(*point, "o", color=colours[arm], markersize=6, markeredgecolor="white", zorder=3)
    plane.set(xlim=(0, 1), ylim=(0, 1), xlabel="accuracy@1", ylabel="accuracy@2")
    _label_column(plane, points, colours)

    rows = list(range(len(metrics)))
    stayed = [m["accuracy@1"] * m["confidence_level"] for m in metrics.values()]
    rescued = [(1 - m["accuracy@1"]) * m["critique_level"] for m in metrics.values()]
    parts.grid(False, axis="y")
    parts.barh(rows, stayed, 0.5, color="#AEB8C1", label="stayed right")
    parts.barh(rows, rescued, 0.5, left=stayed, color=BLUE, label="rescued")
    for y, m in enumerate(metrics.values()):
        low, high = bounds(m["accuracy@1"])
        bracket, first = ([low, low, high, high], [y - 0.25, y - 0.4, y - 0.4, y - 0.25]), [m["accuracy@1"]] * 2
        parts.plot(*bracket, color=INK, linewidth=1.2, label=None if y else "bounds")
        parts.plot(
            first, [y - 0.4, y + 0.25], color=INK, linewidth=1.4, linestyle=":", label=None if y else "accuracy@1"
        )
    parts.set_yticks(rows, list(metrics))
    parts.set_ylim(len(metrics) - 0.5, -0.7)
    parts.set(xlim=(0, 1), xlabel="accuracy@2")
    parts.spines["left"].set_visible(False)
    parts.tick_params(axis="y", length=0)
    _legend_on_top(figure, parts)
    return figure


@_styled
def solved_within(
    curves: Mapping[str, Sequence[tuple[float, float, float]]],
    references: Mapping[str, Sequence[float]],
    bars: Mapping[str, tuple[float, float, float]],
    bar_label: str,
    *,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Success within 1, 2, … attempts as lines with bands, and beside it one number an arm.

    ``curves`` and ``bars`` hold ``(mean, low, high)``. ``references`` are what is known without a run: thin lines,
    named at their ends.
    """
    colours = {**arm_colours(curves), **(colours or {})}
    figure = _figure(3.9)
    axes, shares = figure.subplots(1, 2, width_ratios=(2.1, 1))
    for values in references.values():
        axes.plot(range(1, len(values) + 1), values, color=GREY, linewidth=0.9, linestyle=LINE_STYLES[2])
    for (arm, points), marker in zip(curves.items(), "osD^vP*X" * len(curves), strict=False):
        turns, (means, lows, highs) = range(1, len(points) + 1), zip(*points, strict=True)
        axes.fill_between(turns, lows, highs, color=colours[arm], alpha=0.13, linewidth=0)
        axes.plot(turns, means, marker, linestyle="-", color=colours[arm], label=arm, markersize=5)
    axes.set(xlabel="attempts t", ylabel="solved within t", xticks=range(1, max(map(len, curves.values())) + 1))
    axes.set_ylim(0, None)
    axes.set_ylim(*axes.get_ylim())  # the names at the ends must not move it any more
    ends = {name: (len(values), values[-1]) for name, values in references.items()}
    _label_column(axes, ends, dict.fromkeys(ends, GREY))

    shares.grid(False, axis="y")
    for y, (arm, (value, low, high)) in enumerate(bars.items()):
        shares.barh(y, value, 0.5, color=_blend(colours[arm], 0.45))
        shares.plot([low, high], [y, y], color=colours[arm], linewidth=2)
        shares.annotate(f"{value:.2f}", (0, y), (5, 0), textcoords="offset points", va="center", fontsize=9.5)
    shares.set_yticks(range(len(bars)), list(bars))
    shares.set_ylim(len(bars) - 0.5, -0.5)
    shares.set(xlim=(0, 1.02), xlabel=_wrap(bar_label, 20))
    shares.spines["left"].set_visible(False)
    shares.tick_params(axis="y", length=0)
    _legend_on_top(figure, axes)
    return figure


@_styled
def feedback_gap(
    metrics: Mapping[str, Mapping[str, float]],
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    smooth: int = 1,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Accuracy before and after feedback, two dots an arm, beside the learning curves of accuracy before feedback.

    ``metrics`` maps an arm to its correction metrics, ``curves`` a trained one to its records of ``metrics.jsonl``, of
    which the running mean over ``smooth`` is drawn.
    """
    colours = {**arm_colours(metrics), **(colours or {})}
    figure = _figure(2.0 + 0.29 * len(metrics))
    dots, lines = figure.subplots(1, 2, width_ratios=(1.1, 1))
    dots.grid(False, axis="y")
    for y, (arm, m) in enumerate(metrics.items()):
        dots.plot([m["accuracy@1"], m["accuracy@2"]], [y, y], color=_blend(colours[arm], 0.5), linewidth=2.4)
        # Where both are equal the smaller dot stands inside the larger one.
        dots.plot(m["accuracy@2"], y, "D", color=colours[arm], markersize=9, markerfacecolor="white", zorder=3)
        dots.plot(m["accuracy@1"], y, "o", color=colours[arm], markersize=6, zorder=4)
    dots.set_yticks(range(len(metrics)), list(metrics))
    for arm, name in zip(metrics, dots.get_yticklabels(), strict=True):
        name.set_color(colours[arm])
    dots.set_ylim(len(metrics) - 0.5, -0.5)
    dots.set(xlim=(-0.05, 1.05), xlabel="accuracy in evaluation")
    dots.spines["left"].set_visible(False)
    dots.tick_params(axis="y", length=0)

    ends = {}
    for (arm, records), style in zip(curves.items(), itertools.cycle(LINE_STYLES)):
        xs = [record["update"] for record in records if "accuracy@1" in record]
        ys = _running_mean([record["accuracy@1"] for record in records if "accuracy@1" in record], smooth)
        if xs:
            lines.plot(xs, ys, color=colours[arm], linestyle=style)
            ends[arm] = (xs[-1], ys[-1])
    lines.set(ylim=(-0.05, 1.05), xlabel="update", ylabel="without feedback, in training")
    lines.set_xlim(*lines.get_xlim())  # the names at the ends must not move it any more
    _label_column(lines, ends, colours)
    for i, name in enumerate(lines.texts):  # the lowest first: what leads to a higher one passes behind it
        name.set(zorder=4 - i / len(ends), bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    keys = [
        matplotlib.lines.Line2D([], [], color=INK, linestyle="", marker="o", markersize=6),
        matplotlib.lines.Line2D([], [], color=INK, linestyle="", marker="D", markersize=9, markerfacecolor="white"),
    ]
    names = ["without feedback (attempt 1)", "after feedback (attempt 2)"]
    figure.legend(keys, names, loc="outside upper left", ncols=2, handlelength=1.2)
    return figure


@_styled
def agreement_gap(
    metrics: Mapping[str, Mapping[str, float]],
    found: Mapping[str, tuple[float, float, float]],
    found_label: str,
    *,
    marks: Mapping[str, str] = AGREEMENT,
    share_label: str = "share of answers",
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """How far a policy agrees with itself and how far it is right, two dots an arm, beside a bar an arm.

    ``metrics`` maps an arm to ``accuracy@1`` and ``agreement``; the line between the dots is the illusion. ``found``
    holds ``(mean, low, high)``: the share of problems with a right one among several answers, say, or a number above 1.
    ``marks`` are other two metrics with their names, for a dot and a diamond; ``share_label`` is their axis.
    """
    first, second = marks
    colours = {**arm_colours(metrics), **(colours or {})}
    figure = _figure(1.75 + 0.33 * len(metrics))
    dots, bars = figure.subplots(1, 2, width_ratios=(1.35, 1), sharey=True)
    end = 1.02 * max(1, *(high for _, _, high in found.values()))
    for y, (arm, m) in enumerate(metrics.items()):
        dots.plot([m[first], m[second]], [y, y], color=_blend(colours[arm], 0.5), linewidth=2.4)
        # Where both are equal the smaller dot stands inside the larger one.
        dots.plot(m[second], y, "D", color=colours[arm], markersize=9, markerfacecolor="white", zorder=3)
        dots.plot(m[first], y, "o", color=colours[arm], markersize=6, zorder=4)
        value, low, high = found[arm]
        bars.barh(y, value, 0.55, color=_blend(colours[arm], 0.45))
        bars.plot([low, high], [y, y], color=colours[arm], linewidth=2.4)
        place = (0 if low > 0.25 * end else high, y)  # beside a bar that is too short for its number
        bars.annotate(f"{value:.2f}", place, (5, 0), textcoords="offset points", va="center", fontsize=9.5)
    dots.set_yticks(range(len(metrics)), list(metrics))
    for arm, name in zip(metrics, dots.get_yticklabels(), strict=True):
        name.set_color(colours[arm])
    dots.set_ylim(len(metrics) - 0.5, -0.5)
    dots.set(xlim=(-0.05, 1.05), xlabel=share_label)
    bars.set(xlim=(0, end), xlabel=found_label)
    for axes in (dots, bars):
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    keys = [
        matplotlib.lines.Line2D([], [], color=INK, linestyle="", marker="o", markersize=6),
        matplotlib.lines.Line2D([], [], color=INK, linestyle="", marker="D", markersize=9, markerfacecolor="white"),
    ]
    figure.legend(keys, list(marks.values()), loc="outside upper left", ncols=2, handlelength=1.2)
    return figure


@_styled
def helpful_and_true(
    metrics: Mapping[str, Mapping[str, float]],
    *,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Two things to want of a critic, and what it says of right and of wrong attempts.

    ``metrics`` maps an arm to what :func:`~minirl.evaluation.critiques.evaluate_critic` finds. Left: ``refined`` over
    ``balanced``. Right: ``rejects_wrong`` over ``accepts_right``; along a grey line ``balanced`` is the same.
    """
    colours = {**arm_colours(metrics), **(colours or {})}
    markers = dict(zip(metrics, itertools.cycle("osD^vP*X"), strict=False))
    figure = _figure(3.9)
    goods, kinds = figure.subplots(1, 2)
    panels = ((goods, "balanced", "refined"), (kinds, "accepts_right", "rejects_wrong"))
    for axes, x, y in panels:
        for arm, m in metrics.items():
            axes.plot(m[x], m[y], markers[arm], color=colours[arm], markersize=7.5, markeredgecolor="white", zorder=3)
    goods.axvline(0.5, color=GREY, linewidth=1, linestyle=LINE_STYLES[2], zorder=0.9)  # the same of everything
    goods.set(xlabel="verdicts: balanced accuracy", ylabel="the actor's next attempt is right (refined)")
    goods.margins(0.1)
    goods.set_xlim(*goods.get_xlim())  # the names must not move it any more
    goods.set_ylim(*goods.get_ylim())
    _label_column(goods, {arm: (m["balanced"], m["refined"]) for arm, m in metrics.items()}, colours)

    kinds.grid(False)
    for level in (0.5, 0.6, 0.7, 0.8, 0.9):
        style = LINE_STYLES[2] if level == 0.5 else "-"
        kinds.plot([2 * level - 1, 1], [1, 2 * level - 1], color="#C8C8C8", linewidth=0.9, linestyle=style, zorder=0.9)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        place = (0.95, 2 * level - 0.95)
        kinds.text(*place, f"{level}", ha="center", va="center", fontsize=8.5, color="#777777", bbox=box, zorder=1)
    kinds.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    kinds.set(xlabel="right attempts that are accepted", ylabel="wrong attempts that are rejected")
    return figure


@_styled
def forecasts(
    metrics: Mapping[str, Mapping[str, float]],
    bins: Mapping[str, Sequence[tuple[float, float, int]]],
    *,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Are probabilities as high as what comes true, and whom do they rank?

    Left: for the arms of ``bins`` the share that came true over the mean forecast, one dot a bin, its area by how many
    there are (:func:`minirl.evaluation.critiques.reliability`); on the dotted line a forecast is calibrated. Right: of
    every arm ``auroc`` and ``within``, that among attempts at one problem.
    """
    colours = {**arm_colours(metrics), **(colours or {})}
    figure = _figure(2.5 + 0.2 * len(metrics))
    plane, ranks = figure.subplots(1, 2, width_ratios=(1.1, 1))
    plane.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=LINE_STYLES[2])
    for (arm, points), style in zip(bins.items(), itertools.cycle(LINE_STYLES)):
        means, shares, counts = zip(*points, strict=True)
        plane.plot(means, shares, color=colours[arm], linestyle=style, linewidth=1.4, label=arm)
        areas = [12 + 260 * count / sum(counts) for count in counts]  # the rarest must be seen, too
        plane.scatter(means, shares, areas, color=colours[arm], edgecolors="white", linewidths=0.7, zorder=3)
    plane.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="forecast", ylabel="share that is right")

    ranks.grid(False, axis="y")
    ranks.axvline(0.5, color="#888888", linewidth=1, zorder=0.9)  # a coin
    for y, (arm, m) in enumerate(metrics.items()):
        ranks.plot([m["within"], m["auroc"]], [y, y], color=_blend(colours[arm], 0.5), linewidth=2.4)
        # Where both are equal the smaller dot stands inside the larger one.
        ranks.plot(m["within"], y, "D", color=colours[arm], markersize=9, markerfacecolor="white", zorder=3)
        ranks.plot(m["auroc"], y, "o", color=colours[arm], markersize=6, zorder=4)
    ranks.set_yticks(range(len(metrics)), list(metrics))
    for arm, name in zip(metrics, ranks.get_yticklabels(), strict=True):
        name.set_color(colours[arm])
    ranks.set_ylim(len(metrics) - 0.5, -0.5)
    ranks.margins(x=0.1)
    ranks.spines["left"].set_visible(False)
    ranks.tick_params(axis="y", length=0)
    ranks.set_xlabel("a right one ranks above a wrong one")
    keys = [
        matplotlib.lines.Line2D([], [], color=INK, linestyle="", marker="o", markersize=6),
        matplotlib.lines.Line2D([], [], color=INK, linestyle="", marker="D", markersize=9, markerfacecolor="white"),
    ]
    figure.legend(keys, ["of all (auroc)", "at one problem (within)"], loc="outside upper right", handlelength=1.2)
    handles, labels = plane.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2, handlelength=1.8)
    return figure


@_styled
def effect_by_judge(
    sources: Mapping[str, Sequence[tuple[float, float]]],
    dials: Mapping[str, Sequence[Sequence[tuple[float, float]]]],
    here: Mapping[str, tuple[float, float]] | None = None,
    *,
    x_label: str,
    y_label: str,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """What comes of judges over how right they are: a dot a run, and a line a dial.

    ``sources`` maps a judge to the ``(x, y)`` of its runs, ``dials`` a dial to its settings in their order, each the
    ``(x, y)`` of its runs; a line joins the means of the settings. ``here`` are points of a run of the reader's own.
    Grey lines: a judge that knows nothing, and no effect.
    """
    here = here or {}
    colours = {**arm_colours([*sources, *here, *dials]), **(colours or {})}
    figure = _figure(4.4)
    axes = figure.subplots()
    axes.axhline(0, color=GREY, linewidth=1, zorder=0.9)
    axes.axvline(0.5, color=GREY, linewidth=1, linestyle=LINE_STYLES[2], zorder=0.9)
    for (name, settings), style in zip(dials.items(), itertools.cycle(LINE_STYLES)):
        means = [tuple(sum(axis) / len(runs) for axis in zip(*runs, strict=True)) for runs in settings if runs]
        if means:
            axes.plot(*zip(*means, strict=True), color=colours[name], linestyle=style, label=name, zorder=2)
        for x, y in (point for runs in settings for point in runs):
            axes.plot(x, y, "o", color=colours[name], markersize=4, alpha=0.45, markeredgewidth=0)
    ends = {}
    for name, runs in sources.items():
        for x, y in runs:
            axes.plot(x, y, "o", color=colours[name], markersize=6.5, markeredgecolor="white", zorder=3)
        if runs:
            ends[name] = max(runs)
    for name, (x, y) in here.items():
        axes.plot(x, y, "D", color=colours[name], markersize=9, markerfacecolor="white", markeredgewidth=1.6, zorder=4)
    ends = {**here, **ends}
    axes.margins(0.08)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_xlim(*axes.get_xlim())  # the names must not move it any more
    axes.set_ylim(*axes.get_ylim())
    _label_column(axes, ends, {name: colours[name] for name in ends})
    handles, labels = axes.get_legend_handles_labels()
    if here:
        handles.append(
            matplotlib.lines.Line2D([], [], color=INK, linestyle="", marker="D", markersize=8, markerfacecolor="white")
        )
        labels.append("this run")
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=len(handles), handlelength=2)
    return figure


@_styled
def accuracy_and_price(
    accuracy: Mapping[str, tuple[float, float, float]],
    price: Mapping[str, tuple[float, bool]],
    target: float,
    *,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Accuracy after training, one bar an arm, beside what it had cost in generated tokens to reach ``target``.

    ``accuracy`` holds ``(mean, low, high)``. ``price`` maps an arm that was trained to its tokens and whether it got
    there; if not, the bar is open and the tokens are a lower bound.
    """
    colours = {**arm_colours(accuracy), **(colours or {})}
    figure = _figure(1.2 + 0.36 * len(accuracy))
    shares, costs = figure.subplots(1, 2, sharey=True)
    for y, (arm, (value, low, high)) in enumerate(accuracy.items()):
        shares.barh(y, value, 0.55, color=_blend(colours[arm], 0.45))
        shares.plot([low, high], [y, y], color=colours[arm], linewidth=2.4)
        shares.annotate(
            f"{value:.3f}", (high, y), (6, 0), textcoords="offset points", va="center", fontsize=9.5, color=INK
        )
        tokens, reached = price.get(arm, (0, True))
        if tokens:
            face = _blend(colours[arm], 0.45) if reached else "white"
            costs.barh(
                y, tokens, 0.55, color=face, edgecolor=colours[arm], linewidth=1, linestyle="-" if reached else ":"
            )
            number = EngFormatter(places=0, sep="")(tokens)
            costs.annotate(
                number if reached else f"> {number}", (0, y), (6, 0), textcoords="offset points", va="center",
                fontsize=9.5, color=INK,
            )  # fmt: skip
    shares.set(xlim=(0, 1.15), xticks=[0, 0.25, 0.5, 0.75, 1], xlabel="accuracy after training")
    shares.set_yticks(range(len(accuracy)), list(accuracy), color=INK)
    shares.set_ylim(len(accuracy) - 0.5, -0.5)
    costs.set_xlabel(f"generated tokens until {target:.0%} was reached")
    costs.xaxis.set_major_formatter(EngFormatter(sep=""))
    costs.xaxis.set_major_locator(MaxNLocator(4))
    for axes in (shares, costs):
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    return figure


@_styled
def accuracy_by_price(
    votes: Mapping[str, Sequence[tuple[float, float]]],
    marks: Mapping[str, Mapping[str, tuple[float, float]]],
    *,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Accuracy over generated tokens per problem: one line an arm for votes of 1, 2, … answers, one dot a vote.

    ``votes`` maps an arm to its ``(tokens, accuracy)``. ``marks`` are other ways to use the policies, each with
    a marker of its own: the name of a way to the ``(tokens, accuracy)`` of the arms.
    """
    colours = {**arm_colours(votes), **(colours or {})}
    figure = _figure(5.0)
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    for (arm, points), style in zip(votes.items(), itertools.cycle(LINE_STYLES)):
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, "o", color=colours[arm], markersize=3.5)
        axes.plot(xs, ys, color=colours[arm], linestyle=style, linewidth=1.5)
    shapes = list(zip(marks, itertools.cycle("D^s"), strict=False))
    for name, shape in shapes:
        for arm, (x, y) in marks[name].items():
            axes.plot(
                x, y, shape, color=colours[arm], markersize=7, markerfacecolor="white", markeredgewidth=1.5, zorder=3
            )
    ticks = [x for x, _ in next(iter(votes.values()))]
    axes.set_xticks(ticks, [f"{x:.0f}" for x in ticks])
    axes.minorticks_off()
    axes.set(xlabel="generated tokens per problem", ylabel="accuracy")
    axes.set_xlim(*axes.get_xlim())  # the names at the ends must not move it any more
    axes.set_ylim(*axes.get_ylim())
    _label_column(axes, {arm: points[-1] for arm, points in votes.items()}, colours)
    for i, label in enumerate(axes.texts):  # crowded at the top, names give way downwards, and lines pass behind them
        label.set(zorder=3 + i / len(votes), bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    keys = [matplotlib.lines.Line2D([], [], color=INK, marker="o", markersize=3.5, linewidth=1.5)]
    keys += [
        matplotlib.lines.Line2D([], [], color=INK, linestyle="", marker=shape, markersize=7, markerfacecolor="white")
        for _, shape in shapes
    ]
    names = ["majority of 1, 2, … answers", *(name for name, _ in shapes)]
    figure.legend(keys, names, loc="outside upper left", ncols=4 if len(names) < 4 else 2, handlelength=1.6)
    return figure


@_styled
def horizon_and_errors(
    reach: Mapping[str, tuple[float, float]],
    horizon: Callable[[float], float],
    shares: Sequence[float],
    after_errors: Mapping[str, Sequence[tuple[float, float, float]]],
    references: Mapping[str, Sequence[float]] | None = None,
    *,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """How far arms reach for their accuracy at one step, and how likely they are right after errors.

    Left: the curve ``horizon`` over step accuracy, and on it every arm, ``reach`` being (step accuracy, horizon).
    Right: of every arm ``(mean, low, high)`` over the ``shares`` of wrong steps. ``references`` are what is known
    without a run.
    """
    colours = {**arm_colours(reach), **(colours or {})}
    markers = dict(zip(reach, "osD^vP*X" * len(reach), strict=False))
    figure = _figure(3.9)
    curve, lines = figure.subplots(1, 2)
    best, worst = max(p for p, _ in reach.values()), min(p for p, _ in reach.values())
    low, high = max(worst - 0.05, worst / 2, 0.01), 1 - (1 - min(best, 0.9998)) / 2
    steps = [1 - (1 - low) * ((1 - high) / (1 - low)) ** (i / 100) for i in range(101)]  # ever closer to 1
    curve.plot(steps, [horizon(p) for p in steps], color=GREY, linewidth=1.2)
    for arm, point in reach.items():
        curve.plot(*point, markers[arm], color=colours[arm], markersize=8, markeredgecolor="white", zorder=3)
    curve.set_yscale("log")
    curve.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    curve.yaxis.set_major_formatter("{x:g}")
    curve.minorticks_off()
    curve.xaxis.set_major_locator(MaxNLocator(4))
    curve.set(xlabel="accuracy at one step", ylabel="horizon H½, in steps")

    for name, values in (references or {}).items():
        lines.plot(shares, values, color=INK, linewidth=1.2, linestyle=LINE_STYLES[2], label=name)
    for arm, points in after_errors.items():
        means, lows, highs = zip(*points, strict=True)
        lines.fill_between(shares, lows, highs, color=colours[arm], alpha=0.13, linewidth=0)
        lines.plot(shares, means, markers[arm], linestyle="-", color=colours[arm], label=arm, markersize=5.5)
    lines.set_xticks(shares, [f"{share:.0%}" for share in shares])
    lines.set(ylim=(0, 1.03), xlabel="share of wrong steps before it", ylabel="the last step is right")
    _legend_on_top(figure, lines)
    return figure


@_styled
def reward_shapes(
    xs: Sequence[float],
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    x_label: str = "true solve rate",
    y_label: str = "expected reward",
) -> Figure:
    """Curves over ``xs``, in one panel for every condition of ``panels``; a dot marks the highest point of a curve.

    All panels have the same curves, and share their axes: what moves from panel to panel is the peak. Of equal points
    the first is marked.
    """
    names = list(next(iter(panels.values())))
    colours = arm_colours(names)
    figure = _figure(3.7)
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, curves) in zip(row, panels.items(), strict=True):
        axes.set_title(title)
        for name, style in zip(names, itertools.cycle(LINE_STYLES)):
            values = list(curves[name])
            best = values.index(max(values))
            axes.plot(xs, values, color=colours[name], linestyle=style, label=name)
            axes.plot(
                xs[best], values[best], "o", color=colours[name], markersize=6.5, markeredgecolor="white", zorder=3
            )
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel(x_label)
    row[0].set_ylabel(y_label)
    _legend_on_top(figure, row[0])
    return figure


@_styled
def cooperation_and_payoffs(
    cooperation: Mapping[str, Sequence[float]],
    payoffs: Mapping[str, Mapping[str, float]],
    *,
    smooth: int = 1,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Who cooperates while learning, and what that is worth later: a line an arm over the updates (running mean of
    ``smooth``), and below it a row an arm and a column an opponent, with what the arm gets from it a round.

    Raises ``ValueError`` if two arms met different opponents.
    """
    colours = {**arm_colours(payoffs), **(colours or {})}
    others = list(next(iter(payoffs.values())))
    if any(list(row) != others for row in payoffs.values()):
        raise ValueError(f"every arm needs a payoff against {', '.join(others)}, in this order")
    figure = _figure(3.4 + 0.36 * len(payoffs))
    top, bottom = figure.subplots(2, 1, height_ratios=[2.3, 0.5 + 0.36 * len(payoffs)])
    for (arm, shares), style in zip(cooperation.items(), itertools.cycle(LINE_STYLES)):
        updates = range(1, len(shares) + 1)
        top.plot(updates, _running_mean(shares, smooth), color=colours[arm], linestyle=style, label=arm)
    top.set(xlabel="update", ylabel="cooperation", ylim=(-0.03, 1.03))
    top.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    highest = max(value for row in payoffs.values() for value in row.values())
    for y, row in enumerate(payoffs.values()):
        for x, value in enumerate(row.values()):
            cell = _blend(BLUE, 0.6 * max(0.0, value) / max(highest, 1e-9))
            bottom.add_patch(matplotlib.patches.Rectangle((x, y), 1, 1, facecolor=cell, edgecolor="white"))
            bottom.text(x + 0.5, y + 0.5, f"{value:.2f}", ha="center", va="center")
    bottom.set(xlim=(0, len(others)), ylim=(len(payoffs), 0))
    bottom.set_title("reward a round against")
    bottom.set_xticks([x + 0.5 for x in range(len(others))], [name.replace("_", " ") for name in others])
    bottom.xaxis.tick_top()
    bottom.set_yticks([y + 0.5 for y in range(len(payoffs))], list(payoffs))
    for label, arm in zip(bottom.get_yticklabels(), payoffs, strict=True):
        label.set_color(colours[arm])
    bottom.grid(False)
    bottom.tick_params(length=0)
    bottom.spines[:].set_visible(False)
    _legend_on_top(figure, top)
    return figure


@_styled
def triangle_paths(
    paths: Mapping[str, Sequence[Sequence[float]]],
    corners: Sequence[str],
    target: Sequence[float],
    *,
    averages: Mapping[str, Sequence[float]] | None = None,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """How mixtures of three things moved: a triangle an arm, whose corners are the pure ones.

    ``paths`` maps an arm to its shares of the three in the order of ``corners``, one triple a step; what others have is
    left out and the rest scaled to 1. A path begins at the ring, grows darker, and ends at the dot. The cross is
    ``target``, the square an arm's ``averages``.
    """
    colours = {**arm_colours(paths), **(colours or {})}
    columns = min(3, len(paths))
    rows = -(-len(paths) // columns)
    figure = _figure(0.35 + 2.35 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)

    def place(shares: Sequence[float]) -> tuple[float, float]:
        _, right, top = (share / sum(shares) for share in shares)
        return right + top / 2, top * 3**0.5 / 2

    outline = [place(corner) for corner in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0))]
    for axes, arm in itertools.zip_longest(grid.flat, paths):
        axes.set_axis_off()
        if arm is None:
            continue
        axes.set_aspect("equal")
        axes.set_title(arm)
        axes.plot(*zip(*outline, strict=True), color="#BBBBBB", linewidth=1)
        points = [place(shares) for shares in paths[arm]]
        for i, (start, end) in enumerate(itertools.pairwise(points)):
            strength = 0.25 + 0.75 * (i + 1) / len(points)
            axes.plot(*zip(start, end, strict=True), color=_blend(colours[arm], strength), linewidth=1.4)
        axes.plot(*points[0], "o", color=colours[arm], markersize=6, markerfacecolor="white")
        axes.plot(*points[-1], "o", color=colours[arm], markersize=6)
        if averages and arm in averages:
            axes.plot(*place(averages[arm]), "s", color=INK, markersize=6, markerfacecolor="white")
        axes.plot(*place(target), "+", color=INK, markersize=10, markeredgewidth=1.6)
        for (x, y), name, align in zip(outline, corners, ("left", "right", "center"), strict=False):
            below = y == 0
            axes.annotate(name, (x, y), (0, -5 if below else 4), textcoords="offset points", fontsize=9, color=GREY,
                          ha=align, va="top" if below else "bottom")  # fmt: skip
        axes.set(xlim=(-0.05, 1.05), ylim=(-0.13, 1.0))
    return figure


@_styled
def curricula(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    chosen: Mapping[str, Mapping[int, Sequence[float]]],
    *,
    x_label: str = "generated tokens",
    y_label: str = "accuracy",
    smooth: int = 1,
    target: float | None = None,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """What was learned, and from what: a line an arm (its xs and ys, as they are), and below it a map an arm, with a
    row a level, the hardest on top, and a column an update; the darker, the larger the share of the problems of that
    update (running mean of ``smooth``) that came from there. ``target`` is drawn as a line."""
    colours = {**arm_colours(curves), **(colours or {})}
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    most = max(len(shares) for shares in chosen.values())
    height = 0.7 + 0.16 * most  # of a map, in inches: room for the names of its levels
    figure = _figure(2.9 + height * rows)
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[2.6] + [height] * rows)
    top = figure.add_subplot(grid[0, :])
    for (arm, (xs, ys)), style in zip(curves.items(), itertools.cycle(LINE_STYLES)):
        top.plot(xs, ys, color=colours[arm], linestyle=style, label=arm)
    if target is not None:
        top.axhline(target, color=GREY, linewidth=0.9, linestyle=":")
    top.set(xlabel=x_label, ylabel=y_label)
    top.xaxis.set_major_formatter(EngFormatter(sep=""))
    for i, (arm, shares) in enumerate(chosen.items()):
        axes = figure.add_subplot(grid[1 + i // columns, i % columns])
        levels = sorted(shares)
        values = [_running_mean(shares[level], smooth) for level in levels]
        length = len(values[0])
        axes.imshow(
            values, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower", interpolation="nearest",
            extent=(0.5, length + 0.5, -0.5, len(levels) - 0.5),
        )  # fmt: skip
        axes.set_title(arm, color=colours.get(arm, INK))
        axes.set_yticks(range(len(levels)), [str(level) for level in levels])
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if i % columns == 0:
            axes.set_ylabel("level")
        if i + columns >= len(chosen):
            axes.set_xlabel("update")
    _legend_on_top(figure, top)
    return figure


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def _notebook_display() -> Callable[..., Any] | None:
    """IPython's ``display`` where there is a kernel to show a figure; None in scripts and in a terminal."""
    ipython = sys.modules.get("IPython")  # a process under IPython has imported it already
    shell = ipython.get_ipython() if ipython else None
    if getattr(shell, "kernel", None) is None:
        return None
    from IPython.display import display

    return display


class LiveCurves:
    """Learning curves that redraw themselves in place while a notebook trains; does nothing outside a kernel.

    ::

        with LiveCurves(["reward", "accuracy@2"], total=budget, arms=["naive", "score"]) as live:
            for record in train(...):
                live.update("naive", record)

    ``total`` is the value of ``x`` at which an arm ends, and with ``arms`` it gives the time left; ``every`` is the
    least number of seconds between two redraws. Leaving the block draws the last state, so that an executed notebook
    keeps one finished figure. ``clock`` and ``display`` are for tests.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        *,
        x: str = "generated_tokens",
        total: float | None = None,
        arms: Sequence[str] = (),
        every: float = 2.0,
        smooth: int = 1,
        colours: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        display: Callable[..., Any] | None = None,
    ) -> None:
        self.metrics, self.x, self.total, self.every, self.smooth = list(metrics), x, total, every, smooth
        self.curves: dict[str, list[Mapping[str, Any]]] = {arm: [] for arm in arms}
        self.redraws = 0
        self._colours, self._clock = colours, clock
        self._display = display or _notebook_display()
        self._handle: Any = None
        self._next_draw = float("-inf")
        self._start: tuple[float, float] | None = None  # (time, share done) at the first record: a run may be resumed

    def __enter__(self) -> "LiveCurves":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def update(self, arm: str, record: Mapping[str, Any]) -> None:
        """Add a record of ``metrics.jsonl`` to ``arm``'s curve, and redraw if the last redraw is long enough ago."""
        self.curves.setdefault(arm, []).append(record)
        if self._display is None:
            return
        now = self._clock()
        if self._start is None:
            self._start = (now, self._done())
        if now >= self._next_draw:
            self._draw(self._progress(arm, now))

    def close(self) -> None:
        """Draw the final state, without a progress line."""
        if self._display is not None and any(self.curves.values()):
            self._draw(None)

    def _done(self) -> float:
        """Share of all the arms' work that is done, or 0 where ``total`` is unknown."""
        if not self.total:
            return 0.0
        last = [
            max((r[self.x] for r in records if r.get(self.x) is not None), default=0)
            for records in self.curves.values()
        ]
        return min(1.0, sum(min(value / self.total, 1.0) for value in last) / len(last))

    def _progress(self, arm: str, now: float) -> str:
        started, done_at_start = self._start or (now, 0.0)
        elapsed, done = now - started, self._done()
        text = f"{arm} · {done:.0%} · {_minutes(elapsed)}" if self.total else f"{arm} · {_minutes(elapsed)}"
        if done > done_at_start:
            text += f" · about {_minutes(elapsed * (1 - done) / (done - done_at_start))} left"
        return text

    def _draw(self, title: str | None) -> None:
        begun = self._clock()
        figure = learning_curves(
            self.curves, self.metrics, self.x, smooth=self.smooth, colours=self._colours, title=title
        )
        if self._handle is None and self._display is not None:
            self._handle = self._display(figure, display_id=True)
        else:
            self._handle.update(figure)
        self.redraws += 1
        ended = self._clock()
        # A redraw takes tenths of a second on a small machine: never let it cost more than 5 % of the training.
        self._next_draw = begun + max(self.every, 20 * (ended - begun))
