"""Problems asked in two phrasings: :mod:`Co-Reward <minirl.techniques.critique.co_reward>`."""

import random

import torch

from minirl.errors import ConfigError
from minirl.policy.models import Policy
from minirl.rollouts.episodes import Rollouts, roll_out
from minirl.tasks import Item, Task


def both_phrasings(
    policy: Policy,
    task: Task,
    items: list[Item],
    *,
    generator: torch.Generator,
    samples: int,
    temperature: float,
    correlation: float,
) -> Rollouts:
    """Answers to half of the ``items`` (so that as many are made as elsewhere) in both phrasings, side by side. Raises
    :class:`ConfigError` for a task that cannot be rephrased."""
    if not hasattr(task, "rephrased"):
        raise ConfigError(f"task {task.name!r} cannot be rephrased; 'tally' can")
    rng = random.Random(generator.initial_seed())
    prompts = []
    for item in items[: len(items) // 2]:
        prompts += [item, item if rng.random() < correlation else task.rephrased(item)]
    return roll_out(policy, task, prompts, samples=samples, generator=generator, temperature=temperature)
