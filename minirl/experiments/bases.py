"""Bases: the checkpoints that runs start from, and the recipes that make them.

A base stands for a pretrained model: it has read many episodes of its task, careless ones included, and imitates them.
Two dials make it useful for studying self-improvement: how often the text slips (competence) and what a second attempt
looks like in it (mostly a repetition, sometimes a new try). ``shipped/<name>/`` holds the weights in bfloat16, the
recipe, and a card with the measured competence.
"""

import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt

from minirl.config import Strict, TaskConfig, load_model, nearest
from minirl.errors import ConfigError
from minirl.evaluation.attempts import evaluate_attempts
from minirl.evaluation.correction import evaluate_correction
from minirl.objectives.supervised import cross_entropy
from minirl.policy.logprobs import pad_rows, token_logprobs
from minirl.policy.models import Policy, base_directory, base_names, load_policy, tiny_llama
from minirl.rollouts.episodes import roll_out
from minirl.rollouts.games import play
from minirl.tasks import Item, Task, get
from minirl.tasks.game import INVALID, Game

CORPUS_SEED = 1_000_003  # items of this seed belong to pretraining; runs and evaluations use others


Rate = Annotated[float, Field(ge=0, le=1)]


class Habit(Strict):
    """How a text goes on after an attempt: feedback of the grade ``feedback``, and a next attempt that repeats the one
    before with probability ``repeat``; if not, it makes use of what has been said (``Task.revise``) with probability
    ``heed``, and else is a new careless one. ``later`` is its rate of mistakes, if it is not that of the first."""

    feedback: str = "nudge"
    repeat: Rate = 1.0
    heed: Rate = 0.0
    later: Rate | None = None


class Recipe(Habit):
    """How a base is made: a small Llama, fresh or continued from another base, imitates episodes.

    A first attempt is a careless one (``Task.careless`` at the rate ``mistake``), each of whose characters is replaced
    by a random one with probability ``slip``. Of several rates one is drawn for every text: writers differ in care.
    With several ``turns`` the text goes on by habit: the recipe's own, or with the same chance one of the ``others``.
    With ``until_solved`` a text ends with the first right answer.

    Problems are drawn from all ``levels`` alike (if not given: from ``task.level``). With ``whole_text`` prompts are
    learned as well as attempts: where a prompt holds examples, guessing the next one is what teaches to read them.

    ``also`` names further tasks, which get as many texts as each level of the first. Of a game a text is what one
    player reads and writes in a game of players who draw among the legal moves.
    """

    task: TaskConfig
    levels: list[PositiveInt] | None = Field(default=None, min_length=1)
    also: list[TaskConfig] = Field(default_factory=list)
    turns: PositiveInt = 2
    others: list[Habit] = Field(default_factory=list)
    until_solved: bool = False
    whole_text: bool = False
    continues: str | None = None  # a shipped base; the sizes are then its own
    hidden: PositiveInt = 96
    layers: PositiveInt = 1
    heads: PositiveInt = 6
    steps: PositiveInt
    batch: PositiveInt = 256
    learning_rate: PositiveFloat = 2e-3
    warmup: PositiveInt = 100
    mistake: Rate | list[Rate]
    slip: Rate
    seed: int = 0

    @property
    def mixture(self) -> list[int]:
        return self.levels or [self.task.level]

    @property
    def sources(self) -> list[TaskConfig]:
        """Every task and level that texts are drawn from."""
        return [*(TaskConfig(name=self.task.name, level=level) for level in self.mixture), *self.also]


def load_recipe(name: str) -> Recipe:
    """The recipe of a shipped base. Raises :class:`ConfigError` for an unknown name."""
    directory = base_directory(name)
    if directory is None:
        raise ConfigError(f"unknown base {name!r}.{nearest(name, base_names())}")
    return load_model(directory / "recipe.yaml", Recipe)


def demonstration(
    task: Task, item: Item, history: list[tuple[str, str]], rate: float, slip: float, habit: Habit, rng: random.Random
) -> str:
    """The next attempt after ``history`` (earlier attempts, each with its feedback), by ``habit``, with mistakes at
    ``rate`` and slips."""
    if history and rng.random() < habit.repeat:
        return history[-1][0]
    if history and habit.heed and rng.random() < habit.heed:
        answer = task.revise(item, history, rng, rate)
    else:
        answer = task.careless(item, rng, rate)
    symbols = "0123456789" if item.answer.isdigit() else "".join(sorted(set(item.answer)))
    return "".join(rng.choice(symbols) if rng.random() < slip else c for c in answer)


def episodes(
    policy: Policy, task: Task, items: list[Item], recipe: Recipe, rng: random.Random
) -> tuple[list[list[int]], list[list[int]]]:
    """One training text per item: token ids, and 1 where a token is to be learned (in attempts, or all), else 0."""
    texts: list[str] = []  # context and attempt in turn
    attempts: list[int] = []  # of each episode
    end = [] if isinstance(task, Game) else [policy.stop_id]  # a move needs no stop
    for item in items:
        if isinstance(task, Game):
            record = task.random_record(item.prompt, rng)
            decisions = list(task.decisions(item.prompt, record, rng.randrange(task.players)))
            texts += [text for decision in decisions for text in decision]
            attempts.append(len(decisions))
            continue
        context, history = item.prompt, list[tuple[str, str]]()
        habit = rng.choice([recipe, *recipe.others]) if recipe.others else recipe
        rate = rng.choice(recipe.mistake) if isinstance(recipe.mistake, list) else recipe.mistake
        while True:
            again = rate if habit.later is None or not history else habit.later
            attempt = demonstration(task, item, history, again, recipe.slip, habit, rng)
            texts += [context, attempt]
            context = task.feedback(item, attempt, habit.feedback)
            history.append((attempt, context))
            if len(history) == recipe.turns or (recipe.until_solved and task.score(item, attempt) == 1):
                break
        attempts.append(len(history))
    encoded = iter(policy.encode_text(texts))
    ids: list[list[int]] = []
    own: list[list[int]] = []
    for made in attempts:
        pieces: list[tuple[list[int], int]] = []
        for _ in range(made):
            pieces += [(next(encoded), 0), ([*next(encoded), *end], 1)]
        ids.append([token for piece, _ in pieces for token in piece])
        own.append([int(mine or recipe.whole_text) for piece, mine in pieces for _ in piece])
    return ids, own


def build_base(recipe: Recipe, progress: Callable[[int, float], None] = lambda *_: None) -> Policy:
    """Train a base from scratch; ``progress(step, loss)`` is called every step.

    Runs on one thread: at this size a second one costs more than it brings, and the bits would depend on it.
    """
    torch.set_num_threads(1)
    sources = [(get(source.name), source.level) for source in recipe.sources]
    if recipe.continues:
        policy = load_policy(recipe.continues)
    else:
        policy = tiny_llama(recipe.hidden, recipe.layers, recipe.heads, seed=recipe.seed)
    optimizer = torch.optim.AdamW(policy.model.parameters(), betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    rng = random.Random(recipe.seed)
    for step in range(recipe.steps):
        seed, indices = CORPUS_SEED + recipe.seed, range(step * recipe.batch, (step + 1) * recipe.batch)
        drawn = ((index, *sources[index % len(sources)]) for index in indices)
        items = [task.item(seed, index, level) for index, task, level in drawn]
        rows, own = list[list[int]](), list[list[int]]()
        for name in dict.fromkeys(item.task for item in items):
            some = episodes(policy, get(name), [item for item in items if item.task == name], recipe, rng)
            rows, own = rows + some[0], own + some[1]
        ids, _ = pad_rows(rows, policy.pad_id, policy.device)
        learn = pad_rows(own, 0, policy.device)[0].bool()[:, 1:]
        logprobs = token_logprobs(policy.logits(ids[:, :-1]), ids[:, 1:])
        loss, _ = cross_entropy(logprobs, learn, int(learn.sum()))
        # Linear warm-up, then linear decay to 2 %: the cheap schedule that small models like.
        rate = min(1.0, (step + 1) / recipe.warmup) * (1 - 0.98 * step / recipe.steps)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.step()
        progress(step + 1, loss.item())
    return policy


def measure_base(policy: Policy, recipe: Recipe, items: int = 1024) -> dict[str, float]:
    """Competence of a base on its own task, on items that neither recipe nor runs train on.

    Of a base with two turns the correction matrix at its level; of one with more, what share of the problems is solved
    within the first and within all turns, and how different its attempts are; of one with a single turn, at every level
    of its mixture, the share of problems ``solved`` entirely and the mean ``score``, where the task gives partial
    credit. Of a game the share of games that end with an ``illegal`` move when it plays itself. All at temperature 1
    (``sampled``) and 0 (``greedy``).
    """
    task = get(recipe.task.name)
    card: dict[str, float] = {}
    for label, temperature in (("sampled", 1.0), ("greedy", 0.0)):
        if recipe.turns > 1:
            problems = task.items(CORPUS_SEED - 1, range(items), recipe.task.level)
            evaluate = evaluate_correction if recipe.turns == 2 else evaluate_attempts
            evaluation, _ = evaluate(
                policy, task, problems, seed=0, turns=recipe.turns, temperature=temperature, feedback=recipe.feedback
            )
            matrix = ("accuracy@1", "accuracy@2", "copy_rate", "copy_rate_wrong")
            for metric in matrix if recipe.turns == 2 else ("accuracy@1", f"solved@{recipe.turns}", "distinct_ratio"):
                card[f"{label}/{metric}"] = round(evaluation.metrics[metric], 4)
        else:
            for source in sorted(set(recipe.sources), key=lambda source: (source.name, source.level)):
                one, at = get(source.name), f"at level {source.level}"
                at = f"{at} of {source.name}" if recipe.also else at
                problems = one.items(CORPUS_SEED - 1, range(items), source.level)
                generator = torch.Generator().manual_seed(0) if temperature else None
                if isinstance(one, Game):
                    table = [[policy] * one.players] * items
                    records = play(one, problems, table, learner=policy, generator=generator).items
                    card[f"{label}/illegal {at}"] = round(sum(INVALID in i.answer for i in records) / len(records), 4)
                    continue
                scores = roll_out(policy, one, problems, generator=generator).scores
                card[f"{label}/solved {at}"] = round((scores == 1).float().mean().item(), 4)
                if ((scores > 0) & (scores < 1)).any():
                    card[f"{label}/score {at}"] = round(scores.mean().item(), 4)
    card["parameters"] = sum(p.numel() for p in policy.model.parameters())
    return card


def check_target(directory: Path) -> None:
    """Raise :class:`ConfigError` if a base written to ``directory`` would replace something that is not a base."""
    if (
        directory.exists()
        and not (directory / "recipe.yaml").is_file()
        and (not directory.is_dir() or any(directory.iterdir()))
    ):
        raise ConfigError(f"{directory} exists and is not a base; choose another --out")


def save_base(policy: Policy, recipe_file: Path, directory: Path) -> dict[str, float]:
    """Write weights (bfloat16), tokenizer, recipe and card to ``directory``, which appears complete or not at all.

    The card describes the rounded weights, which are what runs start from. Returns it. Raises :class:`ConfigError` if
    ``directory`` holds something else.
    """
    recipe = load_model(recipe_file, Recipe)
    check_target(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        made = Path(scratch) / "base"
        policy.model.to(torch.bfloat16)
        policy.save(made)
        shutil.copyfile(recipe_file, made / "recipe.yaml")
        card = measure_base(load_policy(made), recipe)
        (made / "card.json").write_text(json.dumps(card, indent=1) + "\n")
        if directory.exists():
            shutil.rmtree(directory)
        made.rename(directory)
    return card
