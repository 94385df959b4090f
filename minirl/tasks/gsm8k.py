"""``gsm8k``: grade-school maths in words (Cobbe et al. 2021, arXiv 2110.14168), 7,473 problems to train, 1,319 to test.

The answer is one number. It is compared as a number (:class:`minirl.tasks.words.NumberInWords`), which is exact here; a
parser of mathematics is not needed, and nothing a model wrote is evaluated. The reply that serves as demonstration is
the data set's own solution without its calculator's notes (``<<48/2=24>>``). There is one level. Which rows an item
comes from says :mod:`minirl.tasks.hub`.
"""

import re
from typing import ClassVar

from minirl.errors import ConfigError
from minirl.tasks.hub import FromRows, Row
from minirl.tasks.words import MARK, NumberInWords, last_number

_NOTE = re.compile(r"<<[^<>]*>>")
_ANSWER = "####"  # what stands before it in the data


class Gsm8k(FromRows, NumberInWords):
    name = "gsm8k"
    levels: ClassVar[range] = range(1, 2)
    source = "openai/gsm8k"
    config = "main"
    columns = ("question", "answer")

    def problem(self, row: Row) -> tuple[str, str]:
        steps, mark, answer = str(row["answer"]).partition(_ANSWER)
        if not mark or last_number(answer) is None:
            raise ConfigError(f"gsm8k: an answer without '{_ANSWER} NUMBER': {str(row['answer'])[-80:]!r}")
        return str(row["question"]), f"{_NOTE.sub('', steps).strip()}\n{MARK} {answer.strip()}"
