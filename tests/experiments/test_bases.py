"""Bases: recipes make what they say, and what ships is what they make."""

import random

import pytest
import torch

from minirl.config import TaskConfig
from minirl.experiments.bases import Recipe, build_base, careless_attempt, episodes, load_recipe, measure_base
from minirl.experiments.rundir import read_json
from minirl.policy.models import SHIPPED, base_names, load_policy, tiny_llama
from minirl.tasks import get

RECIPE = Recipe(
    task=TaskConfig(name="add", level=2),
    hidden=16,
    layers=1,
    heads=2,
    steps=3,
    batch=8,
    mistake=0.0,
    slip=0.0,
    repeat=1.0,
)


def test_a_careful_recipe_writes_right_answers_and_repeats_them():
    policy, task = tiny_llama(16, 1, 2), get("add")
    items = task.items(0, range(5), 2)
    ids, own = episodes(policy, task, items, RECIPE, random.Random(0))
    for item, row, mine in zip(items, ids, own, strict=True):
        text = policy.tokenizer.decode(row)
        assert text == f"{item.prompt}{item.answer}<eos>?{item.prompt}{item.answer}<eos>"
        # 4 attempts' worth of ones: two answers of 3 digits, each with its stop token.
        assert sum(mine) == 2 * (len(item.answer) + 1)
        assert "".join(policy.tokenizer.decode([t]) for t, m in zip(row, mine, strict=True) if m) == (
            f"{item.answer}<eos>" * 2
        )


def test_carelessness_has_the_frequency_that_the_recipe_says():
    task, rng = get("add"), random.Random(1)
    items = task.items(0, range(2000), 5)
    mistaken = RECIPE.model_copy(update={"mistake": 0.3})
    wrong = sum(careless_attempt(task, item, mistaken, rng) != item.answer for item in items) / 2000
    assert abs(wrong - 0.3) < 0.04  # four standard errors
    slipping = RECIPE.model_copy(update={"slip": 0.1})
    wrong = sum(careless_attempt(task, item, slipping, rng) != item.answer for item in items) / 2000
    assert abs(wrong - (1 - 0.91**6)) < 0.045  # a slip draws the right digit one time in ten: 0.9 × 0.1 a character


def test_building_is_deterministic_and_moves_every_parameter():
    first, second, fresh = build_base(RECIPE).model, build_base(RECIPE).model, tiny_llama(16, 1, 2).model
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert not torch.equal(a, c), name


@pytest.mark.parametrize("name", base_names())
def test_the_card_describes_what_ships(name):
    card = read_json(SHIPPED / name / "card.json")
    assert measure_base(load_policy(name), load_recipe(name)) == pytest.approx(card, abs=0.01)
    assert sum(path.stat().st_size for path in (SHIPPED / name).iterdir()) < 3 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize("name", base_names())
def test_a_remade_base_has_the_same_competence(name):
    remade = measure_base(build_base(load_recipe(name)), load_recipe(name))
    card = read_json(SHIPPED / name / "card.json")
    assert remade == pytest.approx(card, abs=0.05)
