"""SAGE: where no rollout succeeds, try again with a hint.

Liao et al. 2026, arXiv 2602.03143. A group of rollouts that all fail teaches nothing: its advantages are zero. SAGE
lets the policy try such a problem again with a hint h made from the reference τ*, first a weak one, then stronger ones,
until some rollout succeeds. What is asked of an answer, and its reward, stay as they were; only the context is easier:

    rung 0:  y ~ π(· | x)         some succeed: GRPO as usual
    rung k:  y ~ π(· | x, h_k)    only if all on rung k − 1 failed
    A = (r − mean r) / std r      within the group that came last
    loss = − A · log π(y | x, h_k)

Hints are given where the policy of the moment needs them, so they end by themselves, and in use there are none. What
was learned after a hint has to carry over.

Departures from the paper
-------------------------
1. A model of 0.1 M parameters on chains of four steps, with fresh problems in every update. The paper's policy writes
   its hints itself, from the reference, in words. This one cannot, so a hint is the first one to three steps of the
   reference, which the answer has to restate. That hints by the policy of the moment beat those of a frozen or a
   stronger one is therefore not tested. The ladder is, and that hints have to be about the problem.
2. SAGE-light, which remembers for each problem how much help it took the last time, does not apply to fresh problems.
3. REINFORCE on GRPO's advantages, one step a batch, with a KL to the base (``beta``); the paper clips and has no KL.
4. The failed attempts on lower rungs count as generated tokens, and all arms generate equally many.
5. Whether the update is on-policy, after the hint that was given, is a setting (``context``) and an arm. The paper
   takes it for granted.

======== ===========================================================================================
config   meaning
======== ===========================================================================================
rungs    how many steps a hint shows, in the order of climbing; one number is no ladder
of       whose steps: the problem's ``own``, or ``another``'s (the control)
context  whether hinted rollouts are learned after their hint (``kept``) or as if there had been none
======== ===========================================================================================
"""

from minirl.evaluation.hard_prompts import evaluate, learning
from minirl.evaluation.rungs import by_rung, rare_steps
from minirl.techniques.hinting import Sage, hint_ladder, without_hints

__all__ = ["Sage", "by_rung", "evaluate", "hint_ladder", "learning", "rare_steps", "without_hints"]
