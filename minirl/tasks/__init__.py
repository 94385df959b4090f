"""Tasks: procedural, verifiable problems. ``get(name)`` returns the one that lives in ``minirl/tasks/<name>.py``.

Found by file name rather than listed here, so that adding a task touches no file that other tasks' results depend on.
A dotted name is one of a family: ``gym.chain_sum`` is what ``load("chain_sum")`` of ``minirl/tasks/gym.py`` returns.
"""

import functools
import importlib
import pkgutil

from minirl.config import nearest
from minirl.errors import ConfigError
from minirl.tasks.base import Item, Task, to_dataset

KINDS = ("base", "game", "words", "hub", "equal")  # modules that say what a task is
FAMILIES = ("gym",)  # modules with many tasks, which need an extra
ELSEWHERE = ("gsm8k", "math")  # tasks whose problems are not here before they are loaded from a hub or a disk


def names() -> list[str]:
    """Names of all tasks that need nothing but minirl, games among them."""
    other = (*KINDS, *FAMILIES, *ELSEWHERE)
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in other)


@functools.cache
def get(name: str) -> Task:
    """The task called ``name``. Raises :class:`ConfigError` with the nearest one."""
    family, _, member = name.partition(".")
    if family in FAMILIES and member:
        return importlib.import_module(f"minirl.tasks.{family}").load(member)
    if name not in (*names(), *ELSEWHERE):
        raise ConfigError(f"unknown task {name!r}.{nearest(name, names())}")
    module = importlib.import_module(f"minirl.tasks.{name}")
    (task,) = [cls for cls in vars(module).values() if isinstance(cls, type) and getattr(cls, "name", None) == name]
    return task()


__all__ = ["Item", "Task", "get", "names", "to_dataset"]
