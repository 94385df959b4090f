"""Log-probs and entropy of tokens, and the padding they are computed on."""

import torch
from torch import Tensor


def token_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """log π of each token: logits [B, L, V], ids [B, L] → [B, L]. Token t is predicted by ``logits[:, t]``."""
    return logits.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of the next-token distribution: logits [..., V] → [...]."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def pack(keep: Tensor, *values: tuple[Tensor, float]) -> list[Tensor]:
    """Each row's kept positions moved to the left, in their order: for every ``(tensor [B, L], fill)`` the tensor
    [B, M] of what ``keep`` [B, L] says, M being the most that a row keeps, with ``fill`` after a row's last."""
    order = (~keep).byte().argsort(dim=1, stable=True)[:, : max(1, int(keep.sum(1).max()))]
    kept = keep.gather(1, order)
    return [tensor.gather(1, order).masked_fill(~kept, fill) for tensor, fill in values]


def pad_rows(rows: list[list[int]], value: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Ragged rows as a right-padded tensor [B, T], and their lengths [B]."""
    lengths = torch.tensor([len(row) for row in rows], device=device)
    width = max(1, int(lengths.max()))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows], device=device), lengths
