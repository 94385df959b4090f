"""Which problems next: samplers, for any technique.

A sampler chooses among **units**: the levels of a task, each an endless source of fresh problems, or the problems of a
fixed ``pool``, spread evenly over the levels. After every update it sees how the rollouts went, and what it knows of a
unit is all it needs to choose again. A rule is three pure functions on tensors: where it begins, how it chooses, what
it learns.

========== ============ ==============================================================================
symbol     shape        meaning
========== ============ ==============================================================================
K, n       int          units; problems of an update
levels     [K]          level of every unit
state      by name, [K] what a rule knows of the units
progress   float        share of training that is done, in [0, 1)
p          [P]          success: mean score of a problem's rollouts (of the last attempt)
v          [P]          variance of these scores: p (1 − p) where they are 0 or 1
|A|        [P]          mean absolute advantage as GRPO has it: |score − p| / (standard deviation + 1e-4)
========== ============ ==============================================================================

A problem teaches a group-relative learner nothing if all its rollouts score alike: then v = |A| = 0. All rules but the
uniform one and fixed schedules are ways to find problems with p near ½ while the policy changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy
import torch
from pydantic import Field, PositiveFloat, PositiveInt, field_validator
from torch import Tensor

from minirl.config import Strict, nearest, validate
from minirl.errors import ConfigError
from minirl.rollouts.episodes import Rollouts
from minirl.tasks.base import Item, Task

State = dict[str, Tensor]
Share = Annotated[float, Field(ge=0, le=1)]
MIDDLE = (0.25, 0.75)  # success of problems from which most is learned


@dataclass(frozen=True)
class Seen:
    """How the problems of an update went: ``units`` [P] they belong to, ``rollouts`` [P] made of each, and ``success``,
    ``variance``, ``gain`` (p, v and |A| above), [P] each."""

    units: Tensor
    rollouts: Tensor
    success: Tensor
    variance: Tensor
    gain: Tensor


class Rule(Strict):
    """A sampler's settings. ``levels`` are those of the task up to that of the experiment, if none are given; with
    ``pool`` there are only so many problems, the same in all updates. ``shuffled`` is the control: what was seen is
    dealt out at random among the problems of the update before the rule learns from it; training sees the truth."""

    name: ClassVar[str]
    shuffled: bool = False
    levels: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)
    pool: PositiveInt | None = None

    @field_validator("levels")
    @classmethod
    def _distinct(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value and len(set(value)) < len(value):
            raise ValueError("a level is given twice")
        return value

    def start(self, levels: Tensor) -> State:  # noqa: ARG002
        """What is known before anything was seen."""
        return {}

    def weights(self, state: State, levels: Tensor, progress: float) -> Tensor:
        """How likely every unit is to be chosen: [K], up to a factor."""
        raise NotImplementedError

    def choose(self, state: State, levels: Tensor, count: int, progress: float, generator: torch.Generator) -> Tensor:
        """``count`` units. Problems of a pool are drawn without replacement, as far as there are enough of them."""
        weights = self.weights(state, levels, progress)
        often = self.pool is None or count > int((weights > 0).sum())
        return torch.multinomial(weights, count, replacement=often, generator=generator)

    def learn(self, state: State, levels: Tensor, seen: Seen) -> State:  # noqa: ARG002
        """What is known after one more update."""
        return state


class Uniform(Rule):
    """Every unit is as likely as any other: over a grid of difficulties a strong rival."""

    name: ClassVar[str] = "uniform"

    def weights(self, state: State, levels: Tensor, progress: float) -> Tensor:  # noqa: ARG002
        return torch.ones(len(levels))


class Schedule(Rule):
    """One level after the other, each for an equal share of training."""

    name: ClassVar[str] = "schedule"
    order: Literal["easy_to_hard", "hard_to_easy"] = "easy_to_hard"

    def weights(self, state: State, levels: Tensor, progress: float) -> Tensor:  # noqa: ARG002
        stages = levels.unique()  # sorted
        stage = int(progress * len(stages))
        return (levels == stages[stage if self.order == "easy_to_hard" else -1 - stage]).float()


class Bandit(Rule):
    """SEC (arXiv 2505.14970): units are arms of a bandit whose reward is the mean absolute advantage.

    Chosen with probability softmax(Q / ``temperature``); of the units that were chosen, Q ← Q + ``rate`` (|A| − Q).
    """

    name: ClassVar[str] = "bandit"
    rate: float = Field(default=0.5, gt=0, le=1)
    temperature: PositiveFloat = 0.5

    def start(self, levels: Tensor) -> State:
        return {"value": torch.zeros(len(levels))}

    def weights(self, state: State, levels: Tensor, progress: float) -> Tensor:  # noqa: ARG002
        return torch.softmax(state["value"] / self.temperature, dim=0)

    def learn(self, state: State, levels: Tensor, seen: Seen) -> State:  # noqa: ARG002
        return {"value": moved(state["value"], seen.units, seen.gain, self.rate)}


class Learnability(Rule):
    """In proportion to p (1 − p) (Foster et al. 2025, arXiv 2502.12272), from a moving average of success that
    begins at ½: what was never tried looks most worth trying. ``floor`` keeps a chance for the rest."""

    name: ClassVar[str] = "learnability"
    rate: float = Field(default=0.5, gt=0, le=1)
    floor: PositiveFloat = 0.01

    def start(self, levels: Tensor) -> State:
        return {"success": torch.full((len(levels),), 0.5)}

    def weights(self, state: State, levels: Tensor, progress: float) -> Tensor:  # noqa: ARG002
        return state["success"] * (1 - state["success"]) + self.floor

    def learn(self, state: State, levels: Tensor, seen: Seen) -> State:  # noqa: ARG002
        return {"success": moved(state["success"], seen.units, seen.success, self.rate)}


class Variance(Rule):
    """In proportion to the variance of a group's scores (as ExIT, arXiv 2509.04575, ranks its starts), also where
    scores are not 0 or 1. A moving average that begins at ¼, the most there can be."""

    name: ClassVar[str] = "variance"
    rate: float = Field(default=0.5, gt=0, le=1)
    floor: PositiveFloat = 0.01

    def start(self, levels: Tensor) -> State:
        return {"variance": torch.full((len(levels),), 0.25)}

    def weights(self, state: State, levels: Tensor, progress: float) -> Tensor:  # noqa: ARG002
        return state["variance"] + self.floor

    def learn(self, state: State, levels: Tensor, seen: Seen) -> State:  # noqa: ARG002
        return {"variance": moved(state["variance"], seen.units, seen.variance, self.rate)}


class Thompson(Rule):
    """BOTS (arXiv 2510.26374): a Beta posterior of success for every unit; draw from each, take those nearest to
    ``target``. With ``greedy`` the posterior's mean is taken instead of a draw.

    After an update all posteriors forget (``decay`` λ, back to the prior Beta(1, 1)) and take in evidence:

        α ← (1 − λ) α + λ + s,    β ← (1 − λ) β + λ + (m − s)

    where s of m rollouts were right. For units of which nothing was seen s is what may be expected, m p̃, and counts
    with the weight ρ (``implicit``). p̃ = w + c (h − w) lies between the success of a weak and a strong policy at the
    level (``anchors``: level → [w, h]). One number c, the ability that best fits the units seen, serves all levels; it
    is a moving average that keeps ``inertia`` of what it was. Without anchors p̃ is the mean of the units of the same
    level, if some were seen.
    """

    name: ClassVar[str] = "thompson"
    decay: float = Field(default=0.1, ge=0, le=1)
    target: float = Field(default=0.5, ge=0, le=1)
    implicit: float = Field(default=0.1, ge=0, le=1)
    anchors: dict[PositiveInt, tuple[Share, Share]] | None = None
    inertia: float = Field(default=0.9, ge=0, lt=1)
    greedy: bool = False

    def start(self, levels: Tensor) -> State:
        missing = set(levels.tolist()) - set(self.anchors) if self.anchors is not None else set()
        if missing:
            raise ConfigError(f"key 'anchors': nothing is said of level {min(missing)}")
        prior = {name: torch.ones(len(levels), dtype=torch.double) for name in ("right", "wrong")}
        return {**prior, "ability": torch.tensor(math.nan, dtype=torch.double)}

    def choose(self, state: State, levels: Tensor, count: int, progress: float, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """The ``count`` problems of a pool nearest to the target; a level for each of ``count`` slots by itself."""
        each = self.pool is None or count > len(levels)
        drawn = self.draw(state, count if each else 1, generator)
        # Ties are broken at random: at first, and in a greedy choice, many posteriors are alike.
        off = (drawn - self.target).abs() + 1e-6 * torch.rand(drawn.shape, generator=generator)
        return off.argmin(1) if each else off[0].topk(count, largest=False).indices

    def draw(self, state: State, times: int, generator: torch.Generator) -> Tensor:
        """Rates of success that may be true: [times, K]."""
        right, wrong = state["right"], state["wrong"]
        if self.greedy:
            return (right / (right + wrong)).expand(times, -1)
        random = numpy.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        return torch.from_numpy(random.beta(right.numpy(), wrong.numpy(), size=(times, len(right))))

    def learn(self, state: State, levels: Tensor, seen: Seen) -> State:
        now = state["ability"]
        if self.anchors is None:
            expected = level_means(levels, seen)
        else:
            weak, strong = torch.tensor([self.anchors[level] for level in levels.tolist()], dtype=torch.double).T
            found = ability(weak[seen.units], strong[seen.units], seen.success)
            now = found if now.isnan() else self.inertia * now + (1 - self.inertia) * found
            expected = (weak + now * (strong - weak)).clamp(0, 1)
        right, wrong = evidence(len(levels), seen, expected, self.implicit)
        kept, prior = 1 - self.decay, self.decay
        return {
            "right": kept * state["right"] + prior + right,
            "wrong": kept * state["wrong"] + prior + wrong,
            "ability": now,
        }


SAMPLERS: dict[str, type[Rule]] = {
    rule.name: rule for rule in (Uniform, Schedule, Bandit, Learnability, Variance, Thompson)
}


def moved(values: Tensor, units: Tensor, observed: Tensor, rate: float) -> Tensor:
    """``values`` [K], of which those of ``units`` [P] went the share ``rate`` of the way to the mean of what was
    ``observed`` [P] there."""
    sums = torch.zeros_like(values).index_add(0, units, observed.to(values.dtype))
    counts = torch.zeros_like(values).index_add(0, units, torch.ones_like(observed, dtype=values.dtype))
    return torch.where(counts > 0, values + rate * (sums / counts.clamp_min(1) - values), values)


def ability(weak: Tensor, strong: Tensor, success: Tensor) -> Tensor:
    """c, where mean ``success`` [P] lies between the mean of ``weak`` [P] (0) and that of ``strong`` [P] (1)."""
    span = (strong - weak).mean()
    return (success.double() - weak).mean() / span if span else torch.zeros((), dtype=torch.double)


def level_means(levels: Tensor, seen: Seen) -> Tensor:
    """[K]: mean success of the units seen that have the same level, NaN where there are none."""
    same = (levels[:, None] == levels[seen.units]).double()  # [K, P]
    return (same @ seen.success.double()) / same.sum(1)


def evidence(count: int, seen: Seen, expected: Tensor, implicit: float) -> tuple[Tensor, Tensor]:
    """Counts of right and wrong rollouts, [K] each: those seen, and for the other units ``implicit`` times what the
    ``expected`` [K] success makes of as many rollouts as a problem gets; nothing where that is NaN."""
    made = torch.zeros(count, dtype=torch.double).index_add(0, seen.units, seen.rollouts.double())
    right = torch.zeros_like(made).index_add(0, seen.units, seen.rollouts.double() * seen.success.double())
    guessed = torch.where((made == 0) & ~expected.isnan(), implicit * seen.rollouts.double().mean(), 0.0)
    likely = expected.nan_to_num()
    return right + guessed * likely, made - right + guessed * (1 - likely)


def read_rule(data: Any, source: str) -> Rule:
    """A rule from ``{"rule": NAME, …}`` or its name alone. Raises :class:`ConfigError`."""
    settings = {"rule": data} if isinstance(data, str) else dict(data) if isinstance(data, Mapping) else {}
    name = settings.pop("rule", None)
    if name is None:
        raise ConfigError(f"{source}: key 'rule' is missing.{nearest('', SAMPLERS)}")
    if name not in SAMPLERS:
        raise ConfigError(f"{source}: key 'rule': unknown sampler {str(name)[:80]!r}.{nearest(name, SAMPLERS)}")
    return validate(SAMPLERS[name], settings, source)


class Problems:
    """A rule at work: the units of a task, what is known of them, and their problems. Checkpoints hold its state."""

    def __init__(self, rule: Rule, task: Task, level: int, seed: int) -> None:
        """``level`` is the experiment's; ``seed`` that of the training problems. Raises :class:`ConfigError` for levels
        that the task does not have."""
        self.rule, self.task, self.seed = rule, task, seed
        wanted = rule.levels or tuple(each for each in task.levels if each <= level)
        for each in wanted:
            if each not in task.levels:
                there = f"{task.levels.start} to {task.levels.stop - 1}"
                raise ConfigError(f"key 'levels': {task.name} has levels {there}, not {each}")
        # Unit k of a pool is problem k // len(wanted) of its level: (level, index).
        units = [(wanted[k % len(wanted)], k // len(wanted)) for k in range(rule.pool or len(wanted))]
        self.units = {(level, index if rule.pool else None): k for k, (level, index) in enumerate(units)}
        self.levels = torch.tensor([level for level, _ in units])
        self.known = rule.start(self.levels)

    def draw(self, update: int, count: int, progress: float, generator: torch.Generator) -> list[Item]:
        """The problems of ``update``. Those of a level that are not of a pool are fresh ones in every update."""
        chosen = self.rule.choose(self.known, self.levels, count, progress, generator).tolist()
        if self.rule.pool:
            of = list(self.units)
            return [self.task.item(self.seed, of[unit][1] or 0, of[unit][0]) for unit in chosen]
        return [
            self.task.item(self.seed, update * count + slot, int(self.levels[unit])) for slot, unit in enumerate(chosen)
        ]

    def observe(self, rollouts: Rollouts, generator: torch.Generator) -> dict[str, float]:
        """Learn from rollouts of problems that were drawn, and say what is to be logged: ``chosen/LEVEL``, the share of
        these problems, ``score/LEVEL``, their mean success, ``informative``, the share of all problems whose rollouts
        did not score alike, and ``in_band``, of those whose success was from ¼ to ¾. Problems of other sources (a
        proposer's, say) are passed over."""
        seen = self._seen(rollouts)
        if not len(seen.units):
            return {}
        told = shuffle(seen, generator) if self.rule.shuffled else seen
        self.known = self.rule.learn(self.known, self.levels, told)
        middle = (seen.success >= MIDDLE[0]) & (seen.success <= MIDDLE[1])
        stats = {
            "informative": (seen.variance > 0).float().mean().item(),
            "in_band": middle.float().mean().item(),
        }
        at = self.levels[seen.units]
        for level in self.levels.unique().tolist():
            stats[f"chosen/{level}"] = (at == level).float().mean().item()
            if (at == level).any():
                stats[f"score/{level}"] = seen.success[at == level].mean().item()
        return stats

    def _seen(self, rollouts: Rollouts) -> Seen:
        turns = torch.arange(rollouts.scores.shape[1], device=rollouts.scores.device)
        last = (turns * rollouts.alive).max(1, keepdim=True).values
        scores = rollouts.scores.gather(1, last)[:, 0].cpu()
        units, rows = [], []
        for group in rollouts.group.unique().tolist():
            mine = (rollouts.group == group).cpu()
            item = rollouts.items[int(mine.int().argmax())]
            unit = self.units.get((item.level, item.index if self.rule.pool else None))
            if unit is not None and item.seed == self.seed and item.task == self.task.name:
                units.append(unit)
                rows.append(scores[mine])
        return summary(units, rows)

    def state(self) -> State:
        """All that is known of the units, by name."""
        return self.known

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Know what :meth:`state` said."""
        self.known = dict(state)


def shuffle(seen: Seen, generator: torch.Generator) -> Seen:
    """What was seen, but at random of another problem."""
    order = torch.randperm(len(seen.units), generator=generator)
    return replace(seen, success=seen.success[order], variance=seen.variance[order], gain=seen.gain[order])


def summary(units: Sequence[int], scores: Sequence[Tensor]) -> Seen:
    """:class:`Seen` of problems whose rollouts got ``scores`` [G] each."""
    gains = []
    for group in scores:
        off = group - group.sum() / len(group)
        gains.append(float((off / ((off.square().sum() / max(1, len(group) - 1)).sqrt() + 1e-4)).abs().mean()))
    return Seen(
        units=torch.tensor(units, dtype=torch.long),
        rollouts=torch.tensor([len(group) for group in scores]),
        success=torch.tensor([float(group.mean()) for group in scores]),
        variance=torch.tensor([float(group.var(correction=0)) for group in scores]),
        gain=torch.tensor(gains),
    )
