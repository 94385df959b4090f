"""Self-Debug: a model that reads what its program did, and tries again.

Chen et al. 2023, arXiv 2304.05128. Whoever writes a program can run it. Instead of drawing more programs and hoping,
show the model the one that failed, say how, and let it write another. What is said can be more or less:

========== =========== ===========================================================================================
feedback   ``grade``   what follows the failed program ``e`` for ``259>2=``
========== =========== ===========================================================================================
simple     binary      ``-``: wrong
explain    explain     ``-?``; the model first writes what its program gives on the example it knows, ``2!``
unit test  test        ``-2946>29;246!``: an example that fails, what was wanted and what the program gave
========== =========== ===========================================================================================

The rival is as many programs drawn without looking back: at equal programs, does debugging find more?

Departures from the paper
-------------------------
1. Nothing is trained here, as in the paper. Where its large models need a few demonstrations in the prompt, a base of
   0.5 M parameters has read debugging sessions of all three kinds, equally many of each.
2. Programs are strings of operations on lists of digits. As in the paper's MBPP one example is shown, more are tested.
3. An episode ends with the first right program. To be asked again therefore says as much as simple feedback does.
4. An explanation is the output that the model believes its program gives, not prose, and nothing is executed for it.
"""

from typing import Any, ClassVar

from minirl.config import TrainConfig
from minirl.evaluation.attempts import evaluate_attempts as evaluate
from minirl.techniques.base import Method, Phase

__all__ = ["SelfDebug", "evaluate"]


class SelfDebug(Method):
    """The base as it is, in sessions with feedback of the arm's ``grade``; with ``independent``, as many programs drawn
    without looking back. There is nothing to train, and so nothing to shuffle."""

    name: ClassVar[str] = "self_debug"
    grade: str | None = None

    def phases(self, train: TrainConfig) -> list[Phase]:  # noqa: ARG002
        return []

    def evaluation(self) -> dict[str, Any]:
        return super().evaluation() | ({"feedback": self.grade} if self.grade else {})
