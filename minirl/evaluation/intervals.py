"""95 % intervals for a mean over seeds and items.

Two things are random in a result: the training seed and the held-out items. Every seed is scored on the *same*
items, so the values form a matrix ``[S, N]`` whose entries are correlated along both axes, and treating them as S·N
independent numbers would give intervals that are far too narrow. Two honest answers, each with a blind spot:

* :func:`t_interval` over the S per-seed means is exact for few seeds when these are normal, but it takes the items as
  given: an item set that happens to favour one arm favours it in every seed, and is not seen.
* :func:`crossed_bootstrap` resamples seeds and items, but with few seeds it is too narrow in the seed direction: it
  underestimates their variance by (S-1)/S, and a percentile interval does not widen for having few of them.

A claim is therefore judged by the :func:`wider` of the two. All functions raise ``ValueError`` for an empty array, a
wrong number of axes or a value that is not finite.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A closed interval, in the unit of the metric. Infinite ends mean that the data says nothing."""

    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low


def t_interval(effects: ArrayLike) -> Interval:
    """95 % Student interval of the mean of ``effects`` [S], one (paired) effect per seed.

    mean ± t(0.975, S-1) · s / √S with the sample deviation s. One seed shows no variance: the interval is infinite.
    """
    effects = _finite(effects, axes=1)
    if effects.size == 1:
        return Interval(-math.inf, math.inf)
    half = stats.t.ppf((1 + LEVEL) / 2, effects.size - 1) * effects.std(ddof=1) / math.sqrt(effects.size)
    return Interval(float(effects.mean() - half), float(effects.mean() + half))


def crossed_bootstrap(values: ArrayLike, *, draws: int = 2000, seed: int = 0) -> Interval:
    """95 % percentile interval of the grand mean of ``values`` [S, N], seeds and items resampled independently.

    Source: A. B. Owen, *The pigeonhole bootstrap*, Annals of Applied Statistics 1(2), 2007. Each draw takes S seeds
    and N items with replacement; an entry counts as often as its seed was taken times as often as its item was. The
    random numbers depend only on ``draws``, ``seed`` and the shape, so the interval is reproducible.
    """
    values = _finite(values, axes=2)
    seed_weights, item_weights = _taken((values.shape[0], values.shape[1]), draws, seed)
    means = np.einsum("dn,dn->d", seed_weights @ values, item_weights)  # [draws]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


@functools.lru_cache(maxsize=8)  # a claim asks for the same shape again and again; drawing is all the cost
def _taken(shape: tuple[int, int], draws: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How often each seed and item was taken, as a fraction: [draws, S] and [draws, N]."""
    rng = np.random.default_rng(seed)
    seeds, items = (rng.multinomial(size, np.full(size, 1 / size), size=draws) / size for size in shape)
    return seeds, items


def item_interval(values: ArrayLike) -> Interval:
    """95 % Student interval over the items of *one* seed, ``values`` [N]: what that trained model does on new items.

    It says nothing about another training seed, so it never settles a claim; a notebook shows it beside one seed's
    result. For N in the hundreds it is the normal interval. Values that are all equal (an accuracy of exactly 0 or 1)
    have width zero, which is too narrow: read it as "within about 3/N".
    """
    return t_interval(values)


def wider(a: Interval, b: Interval) -> Interval:
    """The interval with the larger width; ``a`` when they are equally wide."""
    return a if a.width >= b.width else b


def _finite(values: ArrayLike, axes: int) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != axes or array.size == 0:
        raise ValueError(f"expected a non-empty array with {axes} axes, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("an interval needs finite values; found NaN or infinity")
    return array
