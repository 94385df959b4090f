"""Tasks: procedural, verifiable problems. ``get(name)`` returns one."""

from minirl.errors import ConfigError
from minirl.tasks.addition import Addition
from minirl.tasks.base import Item, Task, to_dataset
from minirl.tasks.countdown import Countdown

TASKS: dict[str, Task] = {task.name: task for task in (Addition(), Countdown())}


def get(name: str) -> Task:
    """The task called ``name``. Raises :class:`ConfigError` that lists the tasks there are."""
    if name not in TASKS:
        raise ConfigError(f"unknown task {name!r}; there are: {', '.join(sorted(TASKS))}")
    return TASKS[name]


__all__ = ["TASKS", "Item", "Task", "get", "to_dataset"]
