"""Whether a policy can read a task: said once, before a run, instead of training on nonsense.

A model that chats is given messages, and a from-scratch base plain text. Given the other's kind, neither raises: it
answers something, and gets a score. So two rules are checked:

1. A task in words (:mod:`minirl.tasks.words`) goes with a chat template, and a task in a notation of its own
   (``12+34=``) without one. Nothing is added silently to either.
2. The tokenizer has a token for every character of a prompt, its feedback and its answer.
"""

from minirl.errors import ConfigError
from minirl.policy.models import Policy
from minirl.tasks import Task
from minirl.tasks.words import TaskInWords

LOOKED_AT = 8  # items whose characters are tried


def check_fit(policy: Policy, task: Task, level: int) -> None:
    """Raise :class:`ConfigError` if ``policy`` cannot read ``task`` at ``level``."""
    in_words = isinstance(task, TaskInWords)
    if policy.has_template and not in_words:
        raise ConfigError(
            f"base {policy.name!r} chats (its tokenizer has a chat template), but the task {task.name!r} is a notation "
            "for bases trained from scratch; choose a task in words, such as gym.chain_sum or gsm8k"
        )
    if in_words and not policy.has_template:
        raise ConfigError(
            f"the task {task.name!r} is in words, as messages to a model that chats, but the tokenizer of base "
            f"{policy.name!r} has no chat template; choose a base that has one, such as smollm2"
        )
    for item in task.items(0, range(LOOKED_AT), level):
        text = item.prompt + item.answer + "".join(task.feedback(item, item.answer, grade) for grade in task.grades)
        if unknown := unreadable(policy, text):
            raise ConfigError(
                f"the tokenizer of base {policy.name!r} has no token for {', '.join(map(repr, unknown))}, which the "
                f"task {task.name!r} uses; choose another base or task"
            )


def unreadable(policy: Policy, text: str) -> list[str]:
    """The characters of ``text`` that the tokenizer drops or takes for unknown."""
    characters = sorted(set(text))
    unknown = policy.tokenizer.unk_token_id
    ids = policy.encode_text(characters)
    return [character for character, tokens in zip(characters, ids, strict=True) if not tokens or tokens == [unknown]]
