"""Tasks: procedural, verifiable problems. ``get(name)`` returns the one that lives in ``minirl/tasks/<name>.py``.

Found by file name rather than listed here, so that adding a task touches no file that other tasks' results depend on.
"""

import functools
import importlib
import pkgutil

from minirl.config import nearest
from minirl.errors import ConfigError
from minirl.tasks.base import Item, Task, to_dataset

KINDS = ("base", "game")  # modules that say what a task is


def names() -> list[str]:
    """Names of all tasks, games among them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in KINDS)


@functools.cache
def get(name: str) -> Task:
    """The task called ``name``. Raises :class:`ConfigError` with the nearest one."""
    if name not in names():
        raise ConfigError(f"unknown task {name!r}.{nearest(name, names())}")
    module = importlib.import_module(f"minirl.tasks.{name}")
    (task,) = [cls for cls in vars(module).values() if isinstance(cls, type) and getattr(cls, "name", None) == name]
    return task()


__all__ = ["Item", "Task", "get", "names", "to_dataset"]
