"""A policy that cannot read a task is refused, with what to choose instead."""

import functools

import pytest

from minirl.errors import ConfigError
from minirl.experiments.registry import techniques
from minirl.experiments.run import load_experiment
from minirl.policy.models import base_names, load_policy, tiny_llama
from minirl.policy.tokenizer import char_tokenizer
from minirl.rollouts.fit import check_fit, unreadable
from minirl.tasks import get

TEMPLATE = "{% for m in messages %}<{{ m['content'] }}{% endfor %}|"


def chatting():
    policy = tiny_llama(16, 1, 2)
    policy.tokenizer.chat_template = TEMPLATE
    return policy


base = functools.cache(load_policy)


def test_a_base_from_scratch_and_its_task():
    check_fit(tiny_llama(16, 1, 2), get("add"), 1)


@pytest.mark.parametrize("item", techniques(), ids=lambda item: item.slug)
def test_the_bases_and_tasks_of_all_configs_fit(item):
    for tier in item.tiers():
        experiment = load_experiment(item.slug, tier)
        if experiment.base in base_names():
            check_fit(base(experiment.base), get(experiment.task.name), experiment.task.level)


def test_a_notation_is_not_for_a_model_that_chats():
    with pytest.raises(ConfigError) as error:
        check_fit(chatting(), get("add"), 1)
    assert str(error.value) == (
        "base 'tiny-llama' chats (its tokenizer has a chat template), but the task 'add' is a notation for bases "
        "trained from scratch; choose a task in words, such as gym.chain_sum or gsm8k"
    )


def test_words_are_not_for_a_base_from_scratch():
    with pytest.raises(ConfigError) as error:
        check_fit(tiny_llama(16, 1, 2), get("gym.chain_sum"), 1)
    assert str(error.value) == (
        "the task 'gym.chain_sum' is in words, as messages to a model that chats, but the tokenizer of base "
        "'tiny-llama' has no chat template; choose a base that has one, such as smollm2"
    )


def test_characters_that_the_tokenizer_does_not_know():
    # Prompts in words have quotes and line ends, which the alphabet of the from-scratch bases lacks.
    with pytest.raises(ConfigError, match=r"has no token for '.*', which the task 'gym.chain_sum' uses"):
        check_fit(chatting(), get("gym.chain_sum"), 1)
    few = tiny_llama(16, 1, 2)
    few.tokenizer = char_tokenizer("0123456789?+")
    with pytest.raises(ConfigError, match="has no token for '=', which the task 'add' uses"):
        check_fit(few, get("add"), 1)


def test_unreadable_by_hand():
    assert unreadable(tiny_llama(16, 1, 2), "1+2=é\n") == ["\n", "é"]
