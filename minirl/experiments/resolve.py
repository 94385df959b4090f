"""From the name of a technique, a tier and overrides to what is to be run: an experiment, its methods and samplers.

All that can be wrong with a config is found here, before anything is computed.
"""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minirl.config import Experiment, described, load_yaml, merge, nearest, parse_overrides, validate
from minirl.errors import ConfigError
from minirl.experiments.registry import config_path, label, load_module, method_class, project_root, technique
from minirl.policy.fetched import FETCHABLE
from minirl.policy.models import base_names
from minirl.rollouts.samplers import Problems, Rule, read_rule
from minirl.tasks import get
from minirl.techniques.base import Method, OnlinePhase

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # of tiers and arms: they become file names
MAX_PATH, MAX_THREADS = 4096, 1024
REFERENCE_ARM = "base"  # the untrained base, evaluated beside the arms


def load_experiment(slug: str, tier: str, overrides: Any = None, variant: str = "") -> Experiment:
    """The config ``reproductions/<slug>/<tier>.yaml`` (or ``<tier>-<variant>.yaml``) with overrides.

    The variant ``fresh`` is the tier's own config once more, for other seeds.

    ``overrides`` is a mapping, a list of ``key=value`` or one string of them separated by spaces. Raises
    :class:`ConfigError` for anything that is not exactly right.
    """
    item = technique(slug)
    path = config_path(item, str(tier), variant)
    if not isinstance(tier, str) or not NAME.fullmatch(label(tier, variant)) or not path.exists():
        raise ConfigError(f"{slug} has no config {path.name[-80:]}.{nearest(tier, item.tiers())}")
    if isinstance(overrides, str):
        overrides = overrides.split()
    if overrides is not None and not isinstance(overrides, Mapping | list | tuple):
        raise ConfigError(f"overrides must be a mapping or a list of key=value, not {type(overrides).__name__}")
    data = merge(load_yaml(path), parse_overrides(overrides or {}))
    source = described(path).removeprefix(f"{project_root()}/") + (" with overrides" if overrides else "")
    experiment = validate(Experiment, data, source)
    if (experiment.slug, experiment.tier) != (slug, tier):
        raise ConfigError(f"{source}: is for {experiment.slug} at {experiment.tier}, not {slug} at {tier}")
    base = experiment.base
    if not base.strip() or not base.isprintable() or len(base) > MAX_PATH:
        raise ConfigError(f"{source}: key 'base': neither a name nor a directory: {base[:80]!r}")
    if experiment.threads > MAX_THREADS:
        raise ConfigError(f"{source}: key 'threads': {experiment.threads} are more than {MAX_THREADS}")
    known_bases = [*base_names(), *FETCHABLE]
    hint = nearest(base, known_bases)
    if "Did you mean" in hint and "/" not in base and base not in known_bases and not Path(base).exists():
        raise ConfigError(f"{source}: key 'base': unknown base {base!r}.{hint}")  # others may be on the hub
    for arm in experiment.arms:
        if not NAME.fullmatch(arm):  # it becomes a directory of the run
            raise ConfigError(
                f"{source}: key 'arms': {arm[:80]!r} is no name for an arm; use letters, digits, '_', '-' and '.'"
            )
    if REFERENCE_ARM in experiment.arms:
        raise ConfigError(f"{source}: key 'arms.{REFERENCE_ARM}': this name means the untrained base; choose another")
    try:
        methods = {arm: load_method(experiment, arm) for arm in experiment.arms}
        for arm, method in methods.items():
            phases = method.phases(experiment.train)
            if experiment.train.tokens and [type(phase) for phase in phases] not in ([], [OnlinePhase]):
                raise ConfigError(f"key 'train.tokens': arms.{arm} does more than one online phase: updates must do")
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    try:
        check_engine(experiment, methods)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    try:
        levels = get(experiment.task.name).levels
    except ConfigError as error:
        raise ConfigError(f"{source}: key 'task.name': {error}") from error
    if experiment.task.level not in levels:
        raise ConfigError(
            f"{source}: key 'task.level': {experiment.task.name} has levels {levels.start} to {levels.stop - 1}, "
            f"not {experiment.task.level}"
        )
    try:
        for arm in methods:
            load_sampler(experiment, arm)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    grades = get(experiment.task.name).grades
    if experiment.train.feedback not in grades:
        raise ConfigError(
            f"{source}: key 'train.feedback': {experiment.task.name} has no grade {experiment.train.feedback!r}."
            f"{nearest(experiment.train.feedback, grades)}"
        )
    for arm, method in methods.items():
        own = getattr(method, "grade", None)
        if own is not None and own not in grades:
            hint = nearest(own, grades)
            raise ConfigError(f"{source}: key 'arms.{arm}.grade': {experiment.task.name} has no grade {own!r}.{hint}")
    wanted = inspect.signature(load_module(item).evaluate).parameters
    settings = list(wanted)[3:]  # after policy, task and items
    for arm, method in methods.items():
        for key in method.evaluation():
            if not takes(wanted, key):
                raise ConfigError(
                    f"{source}: key 'arms.{arm}': {experiment.arms[arm]['method']} is to be evaluated with its own "
                    f"{key!r}, but the evaluation of {slug} takes none.{nearest(key, settings)}"
                )
    return experiment


def check_engine(experiment: Experiment, methods: Mapping[str, Method]) -> None:
    """Raise :class:`ConfigError` if the experiment's engine cannot run its ``methods``, by arm, as it says."""
    if experiment.dtype == "bfloat16" and experiment.lora is None:
        raise ConfigError("key 'dtype': what is trained must be float32 (small steps would be rounded off); add 'lora'")
    batch = experiment.train.prompts * experiment.train.samples
    if (experiment.ranks or 1) > batch:
        raise ConfigError(f"key 'ranks': {experiment.ranks} are more than the {batch} episodes of an update")
    if experiment.engine != "trl":
        return
    from minirl.engines.trl import check_phases, rows_of_a_part  # imported late: an extra

    for arm, method in methods.items():
        try:
            check_phases(method.phases(experiment.train), experiment.train)
        except ConfigError as error:
            raise ConfigError(f"arms.{arm}: {error}") from error
    rows_of_a_part(experiment.train, experiment.ranks or 1)


def takes(wanted: Mapping[str, inspect.Parameter], key: str) -> bool:
    """Whether a function with the parameters ``wanted`` can be called with an argument named ``key``."""
    return key in wanted or any(parameter.kind is parameter.VAR_KEYWORD for parameter in wanted.values())


def load_method(experiment: Experiment, arm: str) -> Method:
    """The method of an arm with its hyper-parameters. Raises :class:`ConfigError`."""
    if arm not in experiment.arms:
        raise ConfigError(
            f"{experiment.slug} at {experiment.tier}: unknown arm {arm!r}.{nearest(arm, experiment.arms)}"
        )
    settings = dict(experiment.arms[arm])
    name = settings.pop("method", None)
    if name is None:
        raise ConfigError(f"arms.{arm}: key 'method' is missing")
    try:
        method = method_class(str(name))
    except ConfigError as error:
        raise ConfigError(f"arms.{arm}: key 'method': {error}") from error
    return validate(method, settings, f"arms.{arm}")


def load_sampler(experiment: Experiment, arm: str) -> Rule | None:
    """The sampler of an arm: its own, the experiment's, or none. Raises :class:`ConfigError`."""
    own = load_method(experiment, arm).sampler
    settings, source = (experiment.sampler, "sampler") if own is None else (own, f"arms.{arm}.sampler")
    if settings is None:
        return None
    rule = read_rule(settings, source)
    try:
        Problems(rule, get(experiment.task.name), experiment.task.level, seed=0)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    return rule
