"""ExPO: where no rollout succeeds, explain the known answer.

Zhou et al. 2025, arXiv 2507.02834. Reinforcement learning needs a right sample, and on hard problems there is none. But
the final answer a* of a training problem is known, and explaining an answer is easier than finding it. ExPO samples an
explanation from the policy itself, which reads the problem and its answer, and then learns to write it without having
read the answer:

    c ~ π(· | x, a*)
    maximise  GRPO  +  β · log π(c, a* | x)

An expert's solution would do as well as a positive example, but the policy's own explanation is likelier under the
policy, so it is learned at a smaller step. It costs no demonstration.

Departures from the paper
-------------------------
1. A model of 0.1 M parameters on chains of steps. The final answer is one digit. The base has read texts by writers who
   knew where to arrive; it guesses without that knowledge. So what it can explain is in its weights, as in the paper's
   models, though here by construction.
2. The reward is for all steps, not for the last digit, since one digit is right by luck. So an explanation is learned
   if the verifier finds all of its steps right, as it would of any rollout. Arriving at a*, which is all that can be
   told of a longer text, is the ablation (``keep: arrives``): then some of what is learned is wrong.
3. Explanations are made of problems that no rollout solved, one for each rollout; ``where: all`` makes them of every
   problem.
4. REINFORCE on GRPO's advantages, with a KL to the base; the paper's GRPO clips. ExP-DPO is left out.

======= ===============================================================================================
config  meaning
======= ===============================================================================================
weight  β, of the mean over explanations that were made; those not kept count as zero
keep    which are learned: those ``right`` in all steps, those of which the last ``arrives`` at a*, or ``all``
given   what stands before the problem: its ``own`` answer, or ``another``'s (the control)
where   explanations of problems that all rollouts ``failed``, or of ``all``
======= ===============================================================================================
"""

from minirl.evaluation.hard_prompts import evaluate, learning
from minirl.techniques.explaining import Expo, usable

__all__ = ["Expo", "evaluate", "learning", "usable"]
