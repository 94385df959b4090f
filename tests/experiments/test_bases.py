"""Bases: recipes make what they say, and what ships is what they make."""

import random
from collections import Counter
from typing import ClassVar

import pytest
import torch

from minirl.config import TaskConfig, validate
from minirl.errors import ConfigError
from minirl.evaluation.attempts import evaluate_attempts
from minirl.evaluation.correction import evaluate_correction
from minirl.experiments.bases import (
    CORPUS_SEED,
    Habit,
    Recipe,
    build_base,
    demonstration,
    episodes,
    load_recipe,
    measure_base,
)
from minirl.experiments.rundir import read_json
from minirl.policy.models import SHIPPED, base_names, load_policy, tiny_llama
from minirl.tasks import Item, Task, get
from minirl.tasks.bucket import Bucket

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
    wrong = sum(said_next(task, item, [], mistaken, rng) != item.answer for item in items) / 2000
    assert abs(wrong - 0.3) < 0.04  # four standard errors
    slipping = RECIPE.model_copy(update={"slip": 0.1})
    wrong = sum(said_next(task, item, [], slipping, rng) != item.answer for item in items) / 2000
    assert abs(wrong - (1 - 0.91**6)) < 0.045  # a slip draws the right digit one time in ten: 0.9 × 0.1 a character


def said_next(task: Task, item: Item, history: list[tuple[str, str]], recipe: Recipe, rng: random.Random) -> str:
    """By the recipe's own habit, where all writers are equally careful."""
    assert isinstance(recipe.mistake, float)
    return demonstration(task, item, history, recipe.mistake, recipe.slip, recipe, rng)


class Letters(Task):
    """``abc=`` → ``c``. The careless say a; who has been told that it is wrong says the next letter."""

    name = "letters"
    levels = range(1, 2)

    def make(self, rng: random.Random, level: int) -> tuple[str, str]:
        return "abc=", "c"

    def check(self, item: Item, answer: str) -> bool:
        return answer == item.answer

    def max_answer_chars(self, level: int) -> int:
        return 1

    def corrupt(self, item: Item, rng: random.Random) -> str:
        return "a"

    def revise(self, item, history, rng, rate):
        said = history[-1][1]
        assert said in ("?abc=", "-abc=", "+abc=")  # what feedback said of the attempt, the problem included
        return "abc"[len(history)] if said[0] == "-" else super().revise(item, history, rng, rate)


LETTERS = Letters()


def written(seed: int = 0, count: int = 1, **changes) -> list[tuple[str, str]]:
    """Texts of a recipe whose first attempts are always a; and what of each is to be learned."""
    policy = tiny_llama(16, 1, 2)
    recipe = RECIPE.model_copy(update={"turns": 3, "mistake": 1.0, "repeat": 0.0, **changes})
    rows, own = episodes(policy, LETTERS, LETTERS.items(0, range(count), 1), recipe, random.Random(seed))
    decode = policy.tokenizer.decode
    learned = [[t for t, mine in zip(*pair, strict=True) if mine] for pair in zip(rows, own, strict=True)]
    return [(decode(row), decode(part)) for row, part in zip(rows, learned, strict=True)]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"turns": 1}, "abc=a$"),
        ({"turns": 2}, "abc=a$?abc=a$"),  # a nudge, if nothing else is said
        # Nobody heeds what is said: a new attempt, as careless as the first.
        ({"feedback": "binary"}, "abc=a$-abc=a$-abc=a$"),
        # Everybody does.
        ({"feedback": "binary", "heed": 1.0}, "abc=a$-abc=b$-abc=c$"),
        ({"feedback": "nudge", "heed": 1.0}, "abc=a$?abc=a$?abc=a$"),  # of which a nudge gives no occasion
        # What was called right is repeated; or there is no further turn.
        ({"feedback": "binary", "heed": 1.0, "turns": 4}, "abc=a$-abc=b$-abc=c$+abc=c$"),
        ({"feedback": "binary", "heed": 1.0, "turns": 4, "until_solved": True}, "abc=a$-abc=b$-abc=c$"),
        ({"turns": 3, "mistake": 0.0, "until_solved": True}, "abc=c$"),
        ({"turns": 3, "mistake": 0.0}, "abc=c$?abc=c$?abc=c$"),
        # To repeat comes before to heed.
        ({"feedback": "binary", "heed": 1.0, "repeat": 1.0}, "abc=a$-abc=a$-abc=a$"),
        # Later attempts may be more careful than the first, or less.
        ({"later": 0.0}, "abc=a$?abc=c$?abc=c$"),
        ({"later": 1.0, "mistake": 0.0}, "abc=c$?abc=a$?abc=a$"),
        ({"later": 0.0, "mistake": [1.0]}, "abc=a$?abc=c$?abc=c$"),
        ({"later": None}, "abc=a$?abc=a$?abc=a$"),
        ({"later": 0.0, "repeat": 1.0}, "abc=a$?abc=a$?abc=a$"),  # to repeat takes no care
        ({"later": 0.0, "turns": 1}, "abc=a$"),
        ({"later": 0.0, "until_solved": True, "turns": 4}, "abc=a$?abc=c$"),
    ],
)
def test_texts_of_several_turns_by_hand(changes, text):
    ((whole, learned),) = written(**changes)
    assert whole == text.replace("$", "<eos>")
    # Learned are the attempts, each with the stop token that ends it: what stands before a $.
    assert learned == "".join(f"{piece[-1]}<eos>" for piece in text.split("$")[:-1])
    ((_, everything),) = written(**changes, whole_text=True)
    assert everything == whole


def test_texts_of_one_batch_may_have_different_numbers_of_turns():
    # Half of the attempts are right, and end their text; every text is put together from its own pieces.
    texts = Counter(text for text, _ in written(count=200, mistake=0.5, until_solved=True, turns=2))
    assert set(texts) == {"abc=c<eos>", "abc=a<eos>?abc=c<eos>", "abc=a<eos>?abc=a<eos>"}
    # ½, ¼, ¼ of 200, give or take four standard errors
    assert abs(texts["abc=c<eos>"] - 100) < 29 and abs(texts["abc=a<eos>?abc=c<eos>"] - 50) < 25


def test_how_often_a_second_attempt_repeats_and_how_often_it_heeds():
    # After "x": 0.4 repeat it; of the others half say b, as who has read "-" does, and half the careless a.
    recipe = RECIPE.model_copy(update={"mistake": 1.0, "repeat": 0.4, "heed": 0.5})
    item, rng = LETTERS.item(0, 0, 1), random.Random(0)
    said = Counter(said_next(LETTERS, item, [("x", "-abc=")], recipe, rng) for _ in range(2000))
    assert set(said) == {"x", "a", "b"}
    for attempt, share in (("x", 0.4), ("a", 0.3), ("b", 0.3)):
        assert abs(said[attempt] / 2000 - share) < 0.045  # four standard errors
    # A first attempt has nothing to repeat and nothing to heed.
    assert {said_next(LETTERS, item, [], recipe, rng) for _ in range(20)} == {"a"}


def test_writers_differ_in_care_and_in_habit():
    # Half of the texts are by someone who is never wrong, the others always say a, in all of their attempts.
    texts = Counter(text for text, _ in written(count=400, mistake=[0.0, 1.0]))
    assert set(texts) == {"abc=c<eos>?abc=c<eos>?abc=c<eos>", "abc=a<eos>?abc=a<eos>?abc=a<eos>"}
    assert abs(texts["abc=c<eos>?abc=c<eos>?abc=c<eos>"] - 200) < 40  # four standard errors
    # A third of the texts each: nobody heeds a nudge; whoever is told that it is wrong heeds it; whoever repeats.
    others = [{"feedback": "binary", "repeat": 0.0, "heed": 1.0}, {"feedback": "binary", "repeat": 1.0}]
    texts = Counter(text for text, _ in written(count=600, turns=2, others=[Habit(**other) for other in others]))
    assert set(texts) == {"abc=a<eos>?abc=a<eos>", "abc=a<eos>-abc=b<eos>", "abc=a<eos>-abc=a<eos>"}
    assert all(abs(count - 200) < 47 for count in texts.values())
    # Every habit has a care of its own in what comes later: half of the writers mend their mistakes, half do not.
    texts = Counter(
        text for text, _ in written(count=400, turns=2, later=0.0, others=[Habit(feedback="binary", repeat=0.0)])
    )
    assert set(texts) == {"abc=a<eos>?abc=c<eos>", "abc=a<eos>-abc=a<eos>"}
    assert all(abs(count - 200) < 40 for count in texts.values())


def test_who_heeds_does_so_with_later_care():
    class Listening(Letters):
        """Notes how carelessly attempts are to be revised."""

        rates: ClassVar[list[float]] = []

        def revise(self, item, history, rng, rate):
            self.rates.append(rate)
            return "b"

    task = Listening()
    for later in (None, 0.0, 0.25):
        recipe = RECIPE.model_copy(update={"turns": 3, "mistake": 1.0, "repeat": 0.0, "heed": 1.0, "later": later})
        episodes(tiny_llama(16, 1, 2), task, task.items(0, range(1), 1), recipe, random.Random(0))
    assert task.rates == [1.0, 1.0, 0.0, 0.0, 0.25, 0.25]


def test_a_revised_attempt_slips_like_any_other_and_a_repeated_one_does_not():
    # A slip replaces a letter by one of the answer's, which is c alone.
    recipe = RECIPE.model_copy(update={"mistake": 1.0, "repeat": 0.0, "heed": 1.0, "slip": 1.0})
    item, rng = LETTERS.item(0, 0, 1), random.Random(0)
    assert said_next(LETTERS, item, [("a", "-abc=")], recipe, rng) == "c"
    again = recipe.model_copy(update={"repeat": 1.0})
    assert said_next(LETTERS, item, [("b", "-abc=")], again, rng) == "b"


@pytest.mark.parametrize(
    "bad",
    [
        {"turns": 0},
        {"later": 1.5},
        {"later": -0.1},
        {"heed": 1.5},
        {"heed": -0.1},
        {"repeat": 2},
        {"until_solved": "often"},
    ],
)
def test_recipes_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(Recipe, {**RECIPE.model_dump(), **bad}, "recipe.yaml")


def test_building_is_deterministic_and_moves_every_parameter():
    first, second, fresh = build_base(RECIPE).model, build_base(RECIPE).model, tiny_llama(16, 1, 2).model
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert not torch.equal(a, c), name


@pytest.mark.parametrize(
    ("turns", "names"),
    [
        (2, ["accuracy@1", "accuracy@2", "copy_rate", "copy_rate_wrong"]),
        (3, ["accuracy@1", "solved@3", "distinct_ratio"]),
        (5, ["accuracy@1", "solved@5", "distinct_ratio"]),
    ],
)
def test_the_card_of_a_base_with_several_turns(monkeypatch, turns, names):
    # An untrained policy is right one time in three if a lower-case letter is right.
    monkeypatch.setattr(Bucket, "check", lambda self, item, answer: answer[:1].islower())
    policy, task = tiny_llama(16, 1, 2), get("bucket")
    changes = {"task": TaskConfig(name="bucket", level=3), "turns": turns, "feedback": "binary", "until_solved": True}
    card = measure_base(policy, RECIPE.model_copy(update=changes), items=40)
    items = task.items(CORPUS_SEED - 1, range(40), 3)
    evaluate = evaluate_correction if turns == 2 else evaluate_attempts
    expected: dict[str, float] = {}
    for label, temperature in (("sampled", 1.0), ("greedy", 0.0)):
        evaluation, _ = evaluate(policy, task, items, seed=0, turns=turns, temperature=temperature, feedback="binary")
        expected |= {f"{label}/{name}": round(evaluation.metrics[name], 4) for name in names}
    assert card == {**expected, "parameters": sum(p.numel() for p in policy.model.parameters())}
    assert 0.1 < card["sampled/accuracy@1"] < 0.6  # there was something to measure


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
