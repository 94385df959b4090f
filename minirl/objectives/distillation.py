"""Distillation: move the student's next-token distribution towards the teacher's.

In self-distillation both are the same model: the teacher has seen more, such as a correct solution or feedback, and
reads the student's own tokens after that longer context. The teacher is a constant here (stop-gradient).

========== ============ =======================================================================
symbol     shape        meaning
========== ============ =======================================================================
p_S        [B, L, V]    student's distribution of each token, softmax(logits/τ)
p_T        [B, L, V]    teacher's distribution of the same token
β          float        0: forward KL; 1: reverse KL; between: generalised Jensen–Shannon
m          [B, L, V]    the mixture β p_T + (1 − β) p_S
τ          float        temperature of both
own        [B, L]       bool: the student wrote this token
N          float        normaliser, passed in so that micro-batches add up to one batch
========== ============ =======================================================================
"""

import math

import torch
from torch import Tensor

from minirl.objectives.kl import exact_kl


def align(student: Tensor, student_own: Tensor, teacher: Tensor, teacher_own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same own tokens in two contexts: student [B, L1, ...], teacher [B, L2, ...] → [B, M, ...] twice, mask [B, M].

    The masks [B, L1] and [B, L2] mark each row's own tokens; these move to the left in their order, and M is the most
    that a row has. Works on logits as on token ids; comparing aligned ids is the check that the tokens are the same.
    Logits at t predict token t + 1: pass ``logits[:, :-1]`` with ``own[:, 1:]``. Raises ``ValueError`` if a row has
    different numbers of own tokens.
    """
    count, teacher_count = student_own.sum(1), teacher_own.sum(1)  # [B]
    if not torch.equal(count, teacher_count):
        row = int((count != teacher_count).nonzero()[0])
        raise ValueError(f"row {row} has {int(count[row])} own tokens, but {int(teacher_count[row])} for the teacher")
    width = int(count.max())
    rows = torch.arange(len(count), device=count.device)[:, None]

    def packed(tensor: Tensor, own: Tensor) -> Tensor:
        own_first = (~own).byte().argsort(dim=1, stable=True)
        return tensor[rows, own_first[:, :width]]

    mask = torch.arange(width, device=count.device) < count[:, None]
    return packed(student, student_own), packed(teacher, teacher_own), mask


def divergence(student_logits: Tensor, teacher_logits: Tensor, beta: float) -> Tensor:
    """β KL(p_T ‖ m) + (1 − β) KL(p_S ‖ m) with m = β p_T + (1 − β) p_S: logits [..., V] → [...], in nats.

    Generalised Jensen–Shannon divergence (GKD, arXiv 2306.13649, Sec. 2). It falls to 0 at both ends of β; there the
    convention of GKD and TRL is the slope instead: KL(p_T ‖ p_S), forward, at β = 0, which is the limit of JSD/β, and
    KL(p_S ‖ p_T), reverse, at β = 1, that of JSD/(1 − β). So near an end the value is not near the KL but β, or 1 − β,
    times it: scale the learning rate. Forward covers all that the teacher may say, reverse settles on what it likes.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must lie in [0, 1], not {beta}")
    if beta == 0:
        return exact_kl(teacher_logits, student_logits)
    if beta == 1:
        return exact_kl(student_logits, teacher_logits)
    student, teacher = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * exact_kl(teacher, mixture) + (1 - beta) * exact_kl(student, mixture)


def distillation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    own: Tensor,
    normaliser: float,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """(1/N) Σ :func:`divergence` of p_S and p_T over own tokens (GKD, arXiv 2306.13649; SDPO, arXiv 2601.20802).

    ``student_logits`` and ``teacher_logits`` are [B, L, V], token by token the same (see :func:`align`); ``own`` is
    [B, L]. With ``top_k`` only the student's k likeliest tokens are compared one by one and the rest as one (see
    :func:`top_k_and_rest`). There is no factor τ², which Hinton et al. (2015) use to keep the gradient's size.

    Returns the loss, ``loss/distillation`` (its value: nats per token) and ``teacher_agreement``, the share of own
    tokens where both would choose the same. A loss that is 0 from the start means that the teacher's context adds
    nothing; agreement that rises while accuracy does not means that the teacher is no better.
    """
    student, teacher = student_logits[own] / temperature, teacher_logits[own].detach() / temperature  # [n, V]
    agreement = (student.argmax(-1) == teacher.argmax(-1)).sum().item() / normaliser
    if top_k is not None:
        student, teacher = top_k_and_rest(student, teacher, top_k)  # [n, k + 1]
    loss = divergence(student, teacher, beta).sum() / normaliser
    return loss, {"loss/distillation": loss.item(), "teacher_agreement": agreement}


def top_k_and_rest(student_logits: Tensor, teacher_logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Log-probs of the student's k likeliest tokens, and of all others as one: logits [..., V] → [..., k + 1] twice.

    SDPO's top-k with a tail. Merging outcomes never increases a divergence, so what follows is a lower bound of the
    full one. The point is memory: the teacher need not hand over more than k numbers a token.
    """
    kept = student_logits.topk(k, dim=-1).indices  # [..., k]

    def merged(logits: Tensor) -> Tensor:
        top = logits.log_softmax(-1).gather(-1, kept)
        mass = top.logsumexp(-1, keepdim=True).clamp(max=-1e-7)  # rounding may leave no rest: log 0, and NaN after it
        return torch.cat([top, torch.log(-torch.expm1(mass))], -1)

    return merged(student_logits), merged(teacher_logits)


def sampled_distillation(
    logprobs: Tensor, teacher_logprobs: Tensor, own: Tensor, normaliser: float
) -> tuple[Tensor, dict[str, float]]:
    """−(1/N) Σ sg(log p_T − log p_S) · log p_S over own tokens: reverse KL from the sampled tokens alone (SDPO).

    ``logprobs``, ``teacher_logprobs`` and ``own`` are [B, L]. It is the policy gradient with the teacher's log-ratio as
    advantage: on tokens sampled from the student its expectation is the gradient of KL(p_S ‖ p_T) token by token; on
    other tokens it is biased.

    Returns the loss, ``loss/distillation`` (its value, of no meaning by itself) and ``kl_teacher``, the estimate
    (1/N) Σ (log p_S − log p_T): nats per token, 0 where the contexts say the same; a single batch's may be negative.
    """
    difference = (logprobs[own] - teacher_logprobs[own]).detach()  # [n]
    loss = (difference * logprobs[own]).sum() / normaliser
    return loss, {"loss/distillation": loss.item(), "kl_teacher": difference.sum().item() / normaliser}
