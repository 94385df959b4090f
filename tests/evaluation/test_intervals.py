"""Intervals against numbers worked out by hand, and their coverage on simulated seeds and items."""

import math
import time

import numpy as np
import pytest

from minirl.evaluation.intervals import Interval, crossed_bootstrap, item_interval, t_interval, wider


def test_t_interval_by_hand():
    # mean 0.02; deviations -0.01, 0, 0.01, 0, 0; sum of squares 2e-4; variance 2e-4 / 4 = 5e-5;
    # standard error sqrt(5e-5 / 5) = sqrt(1e-5) = 0.003162278; t(0.975, 4) = 2.776445 from a table;
    # half width 2.776445 * 0.003162278 = 0.008779890
    interval = t_interval([0.01, 0.02, 0.03, 0.02, 0.02])
    assert interval.low == pytest.approx(0.011220110, abs=1e-8)
    assert interval.high == pytest.approx(0.028779890, abs=1e-8)
    assert interval.width == pytest.approx(2 * 0.008779890, abs=1e-8)


def test_t_interval_of_two_seeds_by_hand():
    # mean 2, deviations ±1, variance 2 / 1, standard error sqrt(2 / 2) = 1, t(0.975, 1) = tan(0.475 π) = 12.706205
    interval = t_interval([1.0, 3.0])
    assert (interval.low, interval.high) == pytest.approx((2 - 12.706205, 2 + 12.706205), abs=1e-5)


def test_one_seed_says_nothing():
    assert t_interval([0.3]) == Interval(-math.inf, math.inf)


def test_item_interval_by_hand():
    # 256 ones and 256 zeros: mean 1/2, variance 512 * (1/4) / 511, standard error sqrt(1 / (4 * 511)) = 0.02211856;
    # t(0.975, 511) = 1.964633
    interval = item_interval([0, 1] * 256)
    assert (interval.low, interval.high) == pytest.approx((0.456546, 0.543454), abs=2e-6)


@pytest.mark.parametrize("bad", [[], [0.1, math.nan], [0.1, math.inf], [[0.1, 0.2]], 0.1])
def test_bad_values_are_errors(bad):
    with pytest.raises(ValueError, match=r"non-empty array|finite"):
        t_interval(bad)


@pytest.mark.parametrize("bad", [[0.1, 0.2], [[]], [[0.1, math.nan]]])
def test_bad_matrices_are_errors(bad):
    with pytest.raises(ValueError, match=r"non-empty array|finite"):
        crossed_bootstrap(bad)


def test_wider():
    narrow, wide = Interval(0.0, 1.0), Interval(5.0, 7.0)
    assert wider(narrow, wide) is wide and wider(wide, narrow) is wide
    equal = Interval(1.0, 2.0)
    assert wider(narrow, equal) is narrow
    assert wider(wide, t_interval([0.3])).width == math.inf


def test_bootstrap_of_a_constant_is_a_point():
    interval = crossed_bootstrap(np.full((5, 64), 0.25))
    assert (interval.low, interval.high) == pytest.approx((0.25, 0.25), abs=1e-12)


def test_bootstrap_resamples_both_axes():
    # For v = a_s + b_i the resampled mean is mean(a*) + mean(b*), so its variance is var(a)/S + var(b)/N. With a = ±1
    # on 100 seeds and b = ±3 on 400 items: 1/100 + 9/400 = 0.0325, half width 1.96 * 0.18028 = 0.35334 (nearly normal).
    a, b = np.tile([-1.0, 1.0], 50), np.tile([-3.0, 3.0], 200)
    interval = crossed_bootstrap(a[:, None] + b, draws=20000)
    assert (interval.low, interval.high) == pytest.approx((-0.35334, 0.35334), abs=0.012)
    # One axis alone would give 0.196 (seeds) or 0.294 (items); 40,000 independent values 0.031.
    seeds_only = crossed_bootstrap(np.repeat(a[:, None], 400, axis=1), draws=20000)
    items_only = crossed_bootstrap(np.repeat(b[None], 100, axis=0), draws=20000)
    assert seeds_only.high == pytest.approx(0.196, abs=0.011)
    assert items_only.high == pytest.approx(0.294, abs=0.011)


def test_bootstrap_weights_equal_literal_resampling():
    rng = np.random.default_rng(3)
    values = rng.gamma(1.0, size=(6, 40)) * rng.gamma(2.0, size=(6, 1))
    literal = [values[rng.integers(6, size=6)][:, rng.integers(40, size=40)].mean() for _ in range(20000)]
    interval = crossed_bootstrap(values, draws=20000)
    # Monte-Carlo error of a 2.5 % quantile of 20,000 draws: about 0.02 standard deviations.
    assert (interval.low, interval.high) == pytest.approx(
        np.quantile(literal, [0.025, 0.975]), abs=0.1 * np.std(literal)
    )


def test_bootstrap_is_reproducible_and_seeded():
    values = np.random.default_rng(0).normal(size=(5, 30))
    assert crossed_bootstrap(values) == crossed_bootstrap(values)
    assert crossed_bootstrap(values, seed=1) != crossed_bootstrap(values)


def test_bootstrap_is_fast():
    values = np.random.default_rng(0).normal(size=(5, 1024))
    start = time.process_time()
    crossed_bootstrap(values)
    assert time.process_time() - start < 3  # 0.25 s on an idle core; a Python loop over all entries takes minutes


def coverage(seeds: int, items: int, seed_sd: float, item_sd: float, noise_sd: float) -> dict[str, float]:
    """Fraction of 400 simulated experiments, true mean 0, whose interval contains 0."""
    rng = np.random.default_rng(0)
    hits = {"bootstrap": 0, "t": 0, "wider": 0}
    for experiment in range(400):
        values = (
            seed_sd * rng.normal(size=(seeds, 1))
            + item_sd * rng.normal(size=(1, items))
            + noise_sd * rng.normal(size=(seeds, items))
        )
        bootstrap, t = crossed_bootstrap(values, draws=400, seed=experiment), t_interval(values.mean(axis=1))
        for name, interval in {"bootstrap": bootstrap, "t": t, "wider": wider(bootstrap, t)}.items():
            hits[name] += interval.low <= 0 <= interval.high
    return {name: count / 400 for name, count in hits.items()}


# The standard error of a coverage of 0.95 over 400 experiments is 0.011; tolerances are about three of them.


def test_bootstrap_covers_when_both_axes_vary():
    covered = coverage(seeds=25, items=50, seed_sd=0.2, item_sd=0.5, noise_sd=1.0)
    assert covered["bootstrap"] == pytest.approx(0.95, abs=0.035)
    assert covered["t"] < 0.85  # blind to an item set that is hard for every seed
    assert covered["wider"] >= 0.92


def test_t_interval_covers_for_few_seeds_where_the_bootstrap_does_not():
    covered = coverage(seeds=5, items=50, seed_sd=0.5, item_sd=0.0, noise_sd=0.5)
    assert covered["t"] == pytest.approx(0.95, abs=0.035)
    assert covered["bootstrap"] < 0.91
    assert covered["wider"] >= 0.92


def test_wider_of_both_covers_at_the_size_of_a_tiny_claim():
    assert coverage(seeds=5, items=100, seed_sd=0.1, item_sd=0.5, noise_sd=0.5)["wider"] >= 0.92
