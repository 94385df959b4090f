"""Strict typed configuration: YAML files with ``extends``, overrides, and errors that say what to type instead.

Every config is a frozen pydantic model that forbids unknown keys. A mistake anywhere (file, ``--set``, notebook
parameter) ends in one :class:`ConfigError` that names the key, where it stands, and the nearest valid key.
"""

import difflib
import re
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from minirl.errors import ConfigError

Tier = Literal["smoke", "tiny", "small", "large"]
Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """Base of every config: unknown keys are errors, values do not change after loading, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in (int, float):
            raise ValueError("expected a number")  # pydantic would take `yes` for 1
        return value


def _absent(value: Any) -> bool:
    """For keys that came later: a config that does not use them is what it was, and so is its hash."""
    return value is None


class TaskConfig(Strict):
    """Which problems: a task of :mod:`minirl.tasks` at one difficulty level."""

    name: str
    level: PositiveInt = 1


class TrainConfig(Strict):
    """Settings shared by all arms of an experiment, so that arms differ only in their method.

    ``updates`` batches of ``prompts`` × ``samples`` episodes of ``turns`` attempts, with ``passes`` optimiser steps on
    each, in ``micro_batches`` pieces (which changes memory, not the result). ``feedback`` is the grade of
    :meth:`minirl.tasks.Task.feedback` between attempts. ``kl`` says how the divergence from the reference is computed
    (:mod:`minirl.objectives.kl`): by default exactly for small vocabularies, else by k2. With ``autocast`` an update
    multiplies matrices in 16 bits (:func:`minirl.batches.precision`); sampling and evaluation do not change.
    """

    updates: PositiveInt
    prompts: PositiveInt
    samples: int = Field(ge=2, description="attempts per prompt; the group baseline needs at least two")
    turns: PositiveInt = 1
    temperature: PositiveFloat = 1.0
    feedback: str = "nudge"
    passes: PositiveInt = 1
    kl: Literal["exact", "k1", "k2", "k3"] | None = None
    learning_rate: PositiveFloat
    warmup: int = Field(default=0, ge=0, description="updates over which the learning rate rises linearly")
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: PositiveFloat = 1.0
    micro_batches: PositiveInt = 1
    autocast: Literal["bfloat16"] | None = Field(default=None, exclude_if=_absent)
    checkpoint_every: PositiveInt = 50
    tokens: PositiveInt | None = Field(
        default=None, exclude_if=_absent, description="training ends when so many were generated, or after `updates`"
    )


class EvaluationConfig(Strict):
    """Held-out items, the same for every arm and seed. ``seed`` must differ from that of any training item."""

    items: PositiveInt
    seed: int = Field(ge=0)
    batch: PositiveInt = 256
    temperature: float = Field(default=1.0, ge=0, description="0 decodes greedily")


class BudgetConfig(Strict):
    """What one seed of this tier (all arms) may cost; exceeding it 1.5 times is an error."""

    core_s: PositiveFloat
    peak_mb: PositiveFloat


class LoraConfig(Strict):
    """A low-rank adapter that is trained instead of the model (Hu et al. 2021): W + ``alpha``/``rank`` · B A.

    ``targets`` are names of the linear layers that get one, by default all but the output layer.
    """

    rank: PositiveInt
    alpha: PositiveFloat
    targets: list[str] | None = Field(default=None, min_length=1)


class Experiment(Strict):
    """A reproduction at one tier: one base, one task, one training budget, several arms.

    ``sampler`` says which problems come next (:mod:`minirl.rollouts.samplers`), for arms without one of their own; by
    default there are fresh ones of the task's level in every update. ``engine`` is what trains: ``local``, the loops of
    :mod:`minirl.loops` (by default), or ``trl`` (:mod:`minirl.engines.trl`). With ``lora`` an adapter is trained, and
    then ``dtype`` may store the base in 16 bits.
    """

    slug: str
    tier: Tier
    base: str
    task: TaskConfig
    train: TrainConfig
    evaluation: EvaluationConfig
    budget: BudgetConfig
    arms: dict[str, dict[str, Any]] = Field(min_length=1)
    sampler: dict[str, Any] | str | None = Field(default=None, exclude_if=_absent)
    engine: Literal["local", "trl"] | None = Field(default=None, exclude_if=_absent)
    lora: LoraConfig | None = Field(default=None, exclude_if=_absent)
    dtype: Literal["float32", "bfloat16"] | None = Field(default=None, exclude_if=_absent)
    ranks: PositiveInt | None = Field(default=None, exclude_if=_absent, description="processes that share a batch")
    threads: PositiveInt = 1
    device: str = "cpu"


def nearest(word: str, candidates: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` or, if nothing is close, the list of what there is."""
    candidates = sorted(candidates)
    close = difflib.get_close_matches(str(word), candidates, n=1, cutoff=0.5)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" There is: {', '.join(candidates)}." if candidates else ""


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML without two of its traps: a key given twice (the last would win) and ``010`` (octal: 8) are errors."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if re.fullmatch(r"[-+]?0[0-9_]+", node.value):
            raise yaml.MarkedYAMLError(
                problem=f"{node.value} begins with 0, octal in YAML", problem_mark=node.start_mark
            )
        number: int = super().construct_yaml_int(node)
        if abs(number) >= 10**300:  # in base 60, 16 or 2 it may have digits that nobody can convert back
            raise yaml.MarkedYAMLError(problem="a number of more than 300 digits", problem_mark=node.start_mark)
        return number


def _parse(text: str) -> Any:
    """``text`` as YAML. Raises :class:`yaml.YAMLError`, also for values that PyYAML's own constructors stumble over."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:  # 5,000 digits, `!!int ""`
        raise yaml.YAMLError(f"a value is not what it looks like ({error})") from error
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)


def load_yaml(path: Path, _seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping in ``path``, merged over the file its ``extends`` key names (relative to ``path``).

    Raises :class:`ConfigError` for a missing or unreadable file, bad YAML, a repeated key or a circle of extends.
    """
    path = Path(path)
    try:
        circle = path.resolve() in _seen
    except (OSError, ValueError) as error:  # a name that no file can have
        raise ConfigError(f"{str(path)[:200]!r} is no file: {error}") from error
    if circle:
        raise ConfigError(f"{path}: 'extends' goes round in a circle: {' → '.join(p.name for p in _seen)}")
    try:
        data = _parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file{f', though {_seen[-1]} extends it' if _seen else ''}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(path)[:200]}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines, found {type(data).__name__}")
    parent = data.pop("extends", None)
    if parent is None:
        return data
    return merge(load_yaml(path.parent / str(parent), (*_seen, path.resolve())), data)


def described(path: Path) -> str:
    """``child.yaml ← parent.yaml``: ``path``, which must be readable, and what it extends; a key may be in any."""
    shown, current = str(path), path
    while parent := yaml.load(current.read_text(encoding="utf-8"), Loader=_StrictLoader).get("extends"):
        shown, current = f"{shown} ← {parent}", current.parent / str(parent)
    return shown


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid on ``base``: mappings merge key by key, everything else is replaced; None removes a key."""
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            below = merged.get(key)
            merged[key] = merge(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def parse_overrides(pairs: Iterable[str] | Mapping[str, Any]) -> dict[str, Any]:
    """``["train.updates=10", …]`` or ``{"train.updates": 10}`` as a nested mapping.

    Values are read as YAML (``1e-3`` becomes a number when the field is one). Raises :class:`ConfigError`.
    """
    if not isinstance(pairs, Mapping):
        split = {}
        for pair in pairs:
            key, sign, value = str(pair).partition("=")
            if not sign or not key.strip():
                raise ConfigError(f"override {pair!r} is not of the form key=value, e.g. train.updates=10")
            try:
                split[key.strip()] = _parse(value)
            except yaml.YAMLError as error:
                problem = getattr(error, "problem", None) or error
                raise ConfigError(f"override {key!r}: the value {value!r} is not valid YAML: {problem}") from error
        pairs = split
    nested: dict[str, Any] = {}
    for key, value in pairs.items():
        _put(nested, str(key).split("."), value)
    return nested


def _put(nested: dict[str, Any], path: list[str], value: Any) -> None:
    """Set the leaf at ``path``. Not :func:`merge`: a None must stay, because it removes a key later."""
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            _put(nested, [*path, str(key)], below)
        return
    for depth, part in enumerate(path[:-1], 1):
        nested = nested.setdefault(part, {})
        if not isinstance(nested, dict):
            whole = ".".join(path[:depth])
            raise ConfigError(f"override {'.'.join(path)!r}: another override sets {whole!r} itself to {nested!r}")
    nested[path[-1]] = value


def validate(model: type[Model], data: Any, source: str) -> Model:
    """``data`` as a ``model``. Raises :class:`ConfigError` that lists every mistake, one a line, with ``source``."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_explain(model, problem) for problem in error.errors()]
        raise ConfigError(f"{source}: " + "\n  ".join(lines)) from error


def load_model(path: Path, model: type[Model]) -> Model:
    """The YAML file ``path`` as a ``model``. Raises :class:`ConfigError`."""
    data = load_yaml(path)
    return validate(model, data, described(path))


def _explain(model: type[BaseModel], problem: Mapping[str, Any]) -> str:
    """One pydantic problem in plain words."""
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location) or "(whole file)"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}.{nearest(location[-1], _fields_at(model, location[:-1]))}"
    if problem["type"] == "missing":
        return f"key {key!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"key {key!r}: {message[0].lower() + message[1:]} (got {_short(problem['input'])})"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Field names of the model that lies at ``path`` inside ``model``."""
    current: Any = model
    for part in path:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(part)
            current = field.annotation if field else None
        else:
            arguments = get_args(current)  # dict[str, X], list[X]
            current = arguments[-1] if arguments else None
        if get_origin(current) in (Union, types.UnionType):
            current = next((a for a in get_args(current) if a is not type(None)), None)
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []
