"""Learning from pairs of completions of which one is preferred, and from single ones that are good or bad.

========== ========= ============================================================================================
symbol     shape     meaning
========== ========= ============================================================================================
own        [B, L]    bool: the tokens of a completion that count
ℓ(y)       [P]       log-ratio log π(y|x) − log π_ref(y|x) of a completion y, see :func:`sequence_logprobs`
w, l       –         the chosen (winner) and the rejected (loser) completion of a pair
ℓ†(y|y')   [P]       log-ratio of y where the context also holds an earlier answer y' to the same prompt (SRPO)
m          [P]       margin ℓ(w) − ℓ(l)
R          [P]       reward of a completion (CoPG)
β          float     pull towards π_ref: the larger, the smaller the log-ratios (SimPO: a mere scale)
N          float     normaliser: pairs (KTO: completions) of the whole batch, so that micro-batches add up
========== ========= ============================================================================================

Most objectives here are one function of the margin, and differ in nothing else:

========== ================================ ==================================================================
objective  loss of one pair                 least where
========== ================================ ==================================================================
``dpo``    −log σ(βm)                       m → ∞; at βm = log((1−ε)/ε) with label smoothing ε
``cream``  −C log σ(βm) − (1−C) log σ(−βm)  βm = log(C/(1−C)), C the consistency of the pair
``spin``   −log σ(βm)                       m → ∞; data against the previous iterate's own sample
``simpo``  −log σ(βm − γ)                   m → ∞; m of length-averaged log-probs, no reference
``hinge``  max(0, 1 − βm)                   m ≥ 1/β
``ipo``    (m − 1/(2β))²                    m = 1/(2β)
========== ================================ ==================================================================

``sppo``, ``copg`` and the two parts of SRPO regress log-ratios on win probabilities or rewards; ``kto`` has no pairs.

Every objective returns the loss and statistics, all of them sums over the pairs it was given divided by N. The names
and meanings below are the common ones; a docstring says so where an objective has others:

======================= ==========================================================================================
statistic               what it means and what to look for
======================= ==========================================================================================
``loss/preference``     value of the loss
``preference/margin``   mean m. Starts at 0 if the policy starts as its reference, and should rise
``preference/accuracy`` share of pairs with m > 0. A tie counts as wrong, so it starts at 0 and not at ½
``preference/chosen``   mean ℓ(w). May fall although the margin rises: then both completions become less likely
``preference/rejected`` mean ℓ(l). Falls much faster than ``chosen`` rises when the loss mainly unlearns
======================= ==========================================================================================

Batch statistic, which micro-batches do not add up to: :func:`kto_baseline`. Compute it once for the whole batch.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid


def sequence_logprobs(logprobs: Tensor, own: Tensor, average: bool = False) -> Tensor:
    """log π(y|x) of every row: the sum over own tokens, or their mean: ``logprobs`` and ``own`` [B, L] → [B].

    Subtract the reference's to get log-ratios. The sum is the log-prob of the completion, which is what the theory of
    DPO and its relatives is about; the mean does not reward brevity or length (SimPO; IPO in TRL).
    Raises ``ValueError`` for the mean of a row without own tokens.
    """
    sums = logprobs.masked_fill(~own, 0.0).sum(-1)  # fill, not multiply: 0 · (−inf) is NaN
    if not average:
        return sums
    lengths = own.sum(-1)
    if not lengths.all():
        raise ValueError(f"no own token in rows {(lengths == 0).nonzero().flatten().tolist()}: their mean is undefined")
    return sums / lengths


def _summed(losses: Tensor, margin: Tensor, normaliser: float, **others: Tensor) -> tuple[Tensor, dict[str, float]]:
    """(1/N) Σ ``losses`` [P], and the statistics: (1/N) Σ of the margin [P], its accuracy, and ``others``, each [P]."""
    per_pair = {"margin": margin, "accuracy": margin > 0, **others}
    loss = losses.sum() / normaliser
    stats = {f"preference/{name}": values.detach().sum().item() / normaliser for name, values in per_pair.items()}
    return loss, {"loss/preference": loss.item(), **stats}


def _logistic(logits: Tensor, confidence: Tensor | float = 1.0) -> Tensor:
    """Cross-entropy of a label that is right with probability c: −c log σ(z) − (1−c) log σ(−z), least at σ(z) = c."""
    return -confidence * logsigmoid(logits) - (1 - confidence) * logsigmoid(-logits)


def dpo(
    chosen: Tensor, rejected: Tensor, *, normaliser: float, beta: float, label_smoothing: float = 0.0
) -> tuple[Tensor, dict[str, float]]:
    """Direct preference optimisation (arXiv 2305.18290, Eq. 7): logistic regression with the logits βm.

    ``chosen`` and ``rejected`` are log-ratios [P]. With labels drawn from a Bradley–Terry model of reward r the optimum
    is the policy ∝ π_ref exp(r/β). ``label_smoothing`` ε > 0 is conservative DPO (Mitchell 2023, "A note on DPO with
    noisy preferences"): a label is wrong with probability ε, so the margin stops growing at log((1−ε)/ε) / β. TRL 1.16
    ignores its ``label_smoothing`` here. Robust DPO (arXiv 2403.00409) is the opposite: smoothing by −ε/(1−2ε).
    """
    margin = chosen - rejected
    losses = _logistic(beta * margin, 1 - label_smoothing)
    return _summed(losses, margin, normaliser, chosen=chosen, rejected=rejected)


def cream(
    chosen: Tensor, rejected: Tensor, consistency: Tensor, *, normaliser: float, beta: float
) -> tuple[Tensor, dict[str, float]]:
    """C · DPO(w, l) + (1 − C) · DPO(l, w): the reversed pair gets the weight of the doubt (CREAM, arXiv 2410.12735).

    ``chosen`` and ``rejected`` are log-ratios [P]; ``consistency`` C is in [0, 1], one number per pair or for all
    (shape [P] or []): in the paper (τ + 1)/2 with Kendall's τ between the rankings of this and of the previous iterate.
    It is cDPO with ε = 1 − C, so a constant ε of the same mean is the control. At C = ½ a pair pulls its margin to 0.
    """
    margin = chosen - rejected
    losses = _logistic(beta * margin, consistency)
    return _summed(losses, margin, normaliser, chosen=chosen, rejected=rejected)


def spin(data: Tensor, generated: Tensor, *, normaliser: float, beta: float) -> tuple[Tensor, dict[str, float]]:
    """Self-play fine-tuning (arXiv 2401.01335, Section 4; β is its λ): DPO of data over the opponent's own samples.

    What differs from DPO is where the numbers come from: ``data`` and ``generated`` are log-ratios [P] to the *previous
    iterate*, which is both the reference and the opponent that wrote ``generated``. ``preference/accuracy`` is that of
    a discriminator between data and samples; if it stays at ½ on fresh pairs, there is nothing left to learn.
    """
    return dpo(data, generated, normaliser=normaliser, beta=beta)


def simpo(
    chosen: Tensor, rejected: Tensor, *, normaliser: float, beta: float, gamma: float
) -> tuple[Tensor, dict[str, float]]:
    """Reference-free DPO with a target margin γ (SimPO, arXiv 2405.14734, Eq. 6).

    ``chosen`` and ``rejected`` are *length-averaged log-probs* [P], ``sequence_logprobs(…, average=True)``, not
    log-ratios, and so are the statistics of those names. The margin is logged without β and γ.
    """
    margin = chosen - rejected
    losses = _logistic(beta * margin - gamma)
    return _summed(losses, margin, normaliser, chosen=chosen, rejected=rejected)


def hinge(chosen: Tensor, rejected: Tensor, *, normaliser: float, beta: float) -> tuple[Tensor, dict[str, float]]:
    """max(0, 1 − βm): pairs with a margin of 1/β are left alone.

    ``chosen`` and ``rejected`` are log-ratios [P]: the form of RSO (arXiv 2309.06657) and TRL. SLiC-HF
    (arXiv 2305.10425) takes log-probs instead, δ for 1/β, and adds cross-entropy on a target to stay near it; that
    term is :func:`minirl.objectives.supervised.cross_entropy`.
    """
    margin = chosen - rejected
    losses = (1 - beta * margin).relu()
    return _summed(losses, margin, normaliser, chosen=chosen, rejected=rejected)


def ipo(chosen: Tensor, rejected: Tensor, *, normaliser: float, beta: float) -> tuple[Tensor, dict[str, float]]:
    """(m − 1/(2β))²: a finite target for the margin, also where labels never disagree (IPO, arXiv 2310.12036, Eq. 17).

    ``chosen`` and ``rejected`` are log-ratios [P]; β is the paper's τ. Of sums, as the paper writes it. TRL passes
    length-averaged log-ratios (its authors report that IPO's authors did too): then 1/(2β) is a margin per token.
    """
    margin = chosen - rejected
    losses = (margin - 1 / (2 * beta)).square()
    return _summed(losses, margin, normaliser, chosen=chosen, rejected=rejected)


def sppo(
    chosen: Tensor, rejected: Tensor, win_chosen: Tensor, win_rejected: Tensor, *, normaliser: float, beta: float
) -> tuple[Tensor, dict[str, float]]:
    """Self-play preference optimisation (arXiv 2405.00675, Eq. 4.7; η = 1/β): (ℓ(y) − (P(y ≻ π_t) − ½)/β)² for both y.

    ``chosen`` and ``rejected`` are log-ratios [P] to the policy π_t that wrote both; ``win_chosen`` and
    ``win_rejected`` [P] are P, their probabilities to win against a fresh sample of π_t: 1 and 0 in the hard case
    (TRL's ``sppo_hard``). The two squares are added as in TRL; the authors' code averages them. One regression is one
    step of multiplicative weights with log Z taken to be η/2. These steps approach the Nash policy *on average over
    iterations*; the last iterate may cycle. Unlike in DPO each completion has a target of its own: look for
    ``preference/chosen`` to rise.
    """
    losses = (chosen - (win_chosen - 0.5) / beta).square() + (rejected - (win_rejected - 0.5) / beta).square()
    return _summed(losses, chosen - rejected, normaliser, chosen=chosen, rejected=rejected)


def copg(
    first: Tensor, second: Tensor, reward_first: Tensor, reward_second: Tensor, *, normaliser: float, beta: float
) -> tuple[Tensor, dict[str, float]]:
    """Contrastive policy gradient (arXiv 2406.19185): −(ΔR − ½β Δℓ) Δℓ, with Δ = first − second.

    ``first`` and ``second`` are log-ratios, the rewards any numbers, all [P], the completions from *any* policy. The
    gradient is −(ΔR − βΔℓ) ∇Δℓ: policy gradient on R − βℓ, each completion the baseline of the other. The optimum is
    π ∝ π_ref exp(R/β) without importance weights, if the pairs link all completions. The loss is (ΔR − βΔℓ)²/(2β) up to
    a constant, so not 0 there; ``preference/residual``, the mean of (ΔR − βΔℓ)², is. The margin is that of the
    completion with the larger reward, 0 if the rewards are equal.
    """
    ratio, reward = first - second, reward_first - reward_second
    losses = -(reward - beta / 2 * ratio) * ratio
    return _summed(losses, reward.sign() * ratio, normaliser, residual=(reward - beta * ratio).square())


def srpo(
    chosen: Tensor,
    rejected: Tensor,
    chosen_given_rejected: Tensor,
    rejected_given_chosen: Tensor,
    *,
    normaliser: float,
    beta: float,
) -> tuple[Tensor, dict[str, float]]:
    """Self-improving robust preference optimisation (arXiv 2406.01660): (½ − ½β[m† + m])², m† = ℓ†(w|l) − ℓ†(l|w).

    All four are log-ratios [P]: of a first answer, and of a revision that sees the other answer. The offline form of
    min over π, max over π† of E[p(y2 ≻ y1)] − β KL(π† ‖ π_ref) + β KL(π ‖ π_ref) with y1 ∼ π, y2 ∼ π†(·|y1): π writes
    answers that are hard to improve, π† improves them. The loss depends on m† + m alone, which does not determine
    either; the paper trains α · this + (1 − α) · :func:`srpo_improvement`, which determines π†.
    ``preference/revision_margin`` is the mean of m†.
    """
    margin, revision = chosen - rejected, chosen_given_rejected - rejected_given_chosen
    losses = (0.5 - 0.5 * beta * (revision + margin)).square()
    return _summed(losses, margin, normaliser, chosen=chosen, rejected=rejected, revision_margin=revision)


def srpo_improvement(
    chosen_given_rejected: Tensor,
    rejected_given_rejected: Tensor,
    chosen_given_chosen: Tensor,
    rejected_given_chosen: Tensor,
    *,
    normaliser: float,
    beta: float,
) -> tuple[Tensor, dict[str, float]]:
    """SRPO's loss of the revising policy alone: (½ − βd)² for d = ℓ†(w|l) − ℓ†(l|l) and d = ℓ†(w|w) − ℓ†(l|w).

    All four are log-ratios [P] of a revision given an earlier answer: β² times IPO's loss in either context. Its
    optimum is π†(y2|y1) ∝ π_ref exp(p(y2 ≻ y1)/β). ``preference/margin`` and ``preference/accuracy`` are about mending
    a rejected answer, ``preference/keep_margin`` is the mean d of not spoiling a chosen one.
    """
    mend, keep = chosen_given_rejected - rejected_given_rejected, chosen_given_chosen - rejected_given_chosen
    losses = (0.5 - beta * mend).square() + (0.5 - beta * keep).square()
    return _summed(losses, mend, normaliser, keep_margin=keep)


def kto_baseline(mismatched: Tensor) -> float:
    """z0 of KTO: the mean log-ratio of mismatched completions, not below 0. Batch statistic; no gradient.

    ``mismatched`` [B] are log-ratios of completions behind *other* prompts of the batch (TRL: each behind the next),
    which makes z0 a cheap and biased estimate of KL(π ‖ π_ref). Log it: 0 until the policy moves, then rising.
    """
    return max(0.0, mismatched.detach().mean().item())


def kto(
    log_ratios: Tensor,
    desirable: Tensor,
    baseline: float,
    *,
    normaliser: float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> tuple[Tensor, dict[str, float]]:
    """Kahneman–Tversky optimisation (arXiv 2402.01306, Eq. 7): λ (1 − σ(β · ±(ℓ − z0))), no pairs needed.

    ``log_ratios`` are [B], ``desirable`` [B] is bool and gives the sign ± and the weight λ, ``baseline`` z0 is that of
    the whole batch (:func:`kto_baseline`), N the number of completions. Unlike DPO the loss saturates on both sides: a
    completion hopelessly on the wrong side is given up. Margin and accuracy are those of ±(ℓ − z0).
    """
    distance = log_ratios - baseline
    margin = distance.where(desirable, -distance)
    unweighted = (-beta * margin).sigmoid()  # 1 − σ(z) = σ(−z), without cancellation
    losses = (desirable_weight * unweighted).where(desirable, undesirable_weight * unweighted)
    return _summed(losses, margin, normaliser)
