"""Tasks whose problems people wrote: rows of a data set, from a hub or from a disk, instead of a generator.

``MINIRL_DATA`` names a directory with one folder a task (``$MINIRL_DATA/gsm8k``), in any form that the package
``datasets`` loads, with the splits ``train`` and ``test``: ``train.jsonl`` and ``test.jsonl``, parquet files, or a copy
of the hub's repository. Without such a folder the hub is asked.

A task is asked for item (seed, index, level), and the seed says which rows:

=================== ==================================================================================================
seed                rows
=================== ==================================================================================================
``TEST_SEED``       the test split, in its own order, every row once: what is reported
any below 2**32     seeds that people write, for development and for probes: the rows of ``train`` that nobody trains
                    on, every tenth, shuffled by the seed
2**32 and above     seeds that a run derives from its own (:func:`minirl.loops.derive_seed`): the other rows of
                    ``train``, shuffled by the seed, and again differently when all have been seen
=================== ==================================================================================================

``TEST_SEED`` is the ``evaluation.seed`` of every config here. With another one the numbers are of rows that were not
trained on, but not of the test split.
"""

import functools
import os
import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from minirl.errors import ConfigError
from minirl.tasks.base import Item
from minirl.tasks.words import TaskInWords

TEST_SEED = 900_001
DERIVED = 2**32
HELD_BACK = 10  # every so many rows of train are for development

Row = Mapping[str, Any]


class FromRows(TaskInWords):
    """A task of rows. Subclasses say where they are (``source``, ``config``), and what a row asks and answers."""

    source: ClassVar[str]  # of the hub
    config: ClassVar[str | None] = None
    columns: ClassVar[tuple[str, ...]]

    @abstractmethod
    def problem(self, row: Row) -> tuple[str, str]:
        """``(question, a whole reply that is right)``."""

    def at_level(self, row: Row, level: int) -> bool:  # noqa: ARG002
        """Whether ``row`` is one of ``level``."""
        return True

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        """Any training row, for recipes; :meth:`item` does not draw."""
        rows = self.rows("train", level)
        question, reply = self.problem(rows[rng.randrange(len(rows))])
        return self.ask(question), reply

    def item(self, seed: int, index: int, level: int) -> Item:
        if level not in self.levels:
            return super().item(seed, index, level)  # which says what there is
        if seed == TEST_SEED:
            rows, place = self.rows("test", level), index
            if not 0 <= index < len(rows):
                raise ConfigError(
                    f"the test split of {self.name} has {len(rows)} problems at level {level}, and number {index + 1} "
                    "was asked for; lower evaluation.items"
                )
        else:
            rows = self.rows("train" if seed >= DERIVED else "develop", level)
            turn, place = divmod(index, len(rows))
            place = order(f"{self.name}/{seed}/{turn}/{level}", len(rows))[place]
        question, reply = self.problem(rows[place])
        return Item(self.name, seed, index, level, self.ask(question), reply)

    @functools.cache  # noqa: B019 – there is one instance of each task, for ever
    def rows(self, part: str, level: int) -> Sequence[Row]:
        """The rows of ``test``, ``train`` or ``develop`` at ``level``. Raises :class:`ConfigError`."""
        split = [row for row in self._split("test" if part == "test" else "train") if self.at_level(row, level)]
        if part != "test":
            split = [row for i, row in enumerate(split) if (i % HELD_BACK == 0) == (part == "develop")]
        if not split:
            raise ConfigError(f"{self.name} has no rows for {part} at level {level}")
        return split

    @functools.cache  # noqa: B019
    def _split(self, split: str) -> Sequence[Row]:
        data = load_split(self.name, self.source, self.config, split)
        if missing := [name for name in self.columns if name not in data.column_names]:
            raise ConfigError(
                f"{self.name}: the split {split} has no column {missing[0]!r}, only {', '.join(data.column_names)}: it "
                f"is not in the form of {self.source}"
            )
        rows: list[Row] = data.to_list()
        return rows


@functools.lru_cache(maxsize=64)
def order(name: str, count: int) -> list[int]:
    """The numbers below ``count``, shuffled by ``name``."""
    return random.Random(name).sample(range(count), count)


def data_directory(task: str) -> Path | None:
    """The folder of ``task`` under ``MINIRL_DATA``, if there is one."""
    place = os.environ.get("MINIRL_DATA")
    return Path(place) / task if place and (Path(place) / task).is_dir() else None


def load_split(task: str, source: str, config: str | None, split: str) -> Any:
    """A split as a ``datasets.Dataset``. Raises :class:`ConfigError` that says where it was looked for."""
    import datasets  # imported late: it costs a second

    datasets.disable_progress_bars()
    local = data_directory(task)
    try:
        if local:
            return datasets.load_dataset(str(local), split=split)
        return datasets.load_dataset(source, config, split=split)
    except Exception as error:  # whatever datasets, fsspec and the network make of it: there is no common one
        where = f"{local} cannot be loaded" if local else f"{source} cannot be had from the hub"
        raise ConfigError(
            f"the task {task} needs the split {split!r} of a data set, and {where}: {str(error)[:300]}\n  Without "
            f"network, put {split}.jsonl into a folder {task} and name its parent in MINIRL_DATA."
        ) from error
