"""Sampling: token ids in, token ids and log-probs out, deterministic by construction.

Two decoders share one interface (``expand``, ``append``): :class:`minirl.policy.fast.FastDecoder` for plain Llamas and
:class:`ModelDecoder` for every other causal language model of transformers. The noise is drawn before decoding, one
uniform number per token in item order, and turned into a token by inverting the cumulative distribution. What is
sampled for an item therefore does not depend on the rest of the batch, on micro-batching or on who ran before.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from minirl.policy import fast


class Decoder(Protocol):
    """Keeps the context of every row; see :class:`minirl.policy.fast.FastDecoder` for the meaning of the methods."""

    def expand(self, times: int) -> None: ...

    def append(self, ids: Tensor, counts: Tensor) -> Tensor: ...


class ModelDecoder:
    """Decoding with any transformers causal model.

    While all rows grow by one token its cache is used; an append of several tokens (a new turn) prefills the whole
    left-padded batch anew. Slower than ``FastDecoder``, and correct for LoRA, other architectures and quantised models.
    """

    def __init__(self, model: PreTrainedModel, batch: int) -> None:
        self.model = model
        self.rows: list[list[int]] = [[] for _ in range(batch)]
        self.cache = None
        self.mask: Tensor | None = None  # [B, S] of what lies in the cache

    def expand(self, times: int) -> None:
        self.rows = [list(row) for row in self.rows for _ in range(times)]
        self.mask = None if self.mask is None else self.mask.repeat_interleave(times, dim=0)
        if self.cache is not None:
            self.cache.batch_repeat_interleave(times)

    def append(self, ids: Tensor, counts: Tensor) -> Tensor:
        for row, new, count in zip(self.rows, ids.tolist(), counts.tolist(), strict=True):
            row.extend(new[:count])
        if self.cache is not None and ids.shape[1] == 1 and self.mask is not None:
            # A row that has ended (count 0) feeds a masked dummy: its logits are not used.
            self.mask = torch.cat([self.mask, counts[:, None]], dim=1)
            inputs = ids
        else:
            width = max(map(len, self.rows))
            inputs = torch.zeros(len(self.rows), width, dtype=torch.long, device=ids.device)
            self.mask = torch.zeros_like(inputs)
            for b, row in enumerate(self.rows):
                inputs[b, width - len(row) :] = torch.tensor(row)
                self.mask[b, width - len(row) :] = 1
            self.cache = None
        positions = (self.mask.cumsum(1) - 1).clamp_min(0)[:, -inputs.shape[1] :]
        output = self.model(
            input_ids=inputs,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = output.past_key_values
        return output.logits[:, -1].float()


def make_decoder(model: PreTrainedModel, batch: int) -> Decoder:
    """The fastest decoder that computes what ``model`` computes."""
    return (fast.FastDecoder if fast.supports(model) else ModelDecoder)(model, batch)


@dataclass
class Completions:
    """One attempt per row, right-padded with ``pad``: ids and sampling log-probs [B, T], lengths [B].

    A row's last token is the stop token unless the attempt was cut off at the limit.
    """

    ids: Tensor
    logprobs: Tensor
    lengths: Tensor


def choose(logits: Tensor, noise: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """Pick a token per row from logits [B, V]: ``(token [B], log-prob [B])``.

    With ``noise`` [B] in [0, 1) by inversion of the cumulative distribution at ``temperature``; without, greedily. The
    log-prob is that of the distribution sampled from (for greedy: of the model at temperature 1).
    """
    log_probs = torch.log_softmax(logits / temperature if noise is not None else logits, dim=-1)  # [B, V]
    if noise is None:
        token = logits.argmax(-1)
    else:
        # In double precision, so that rounding of the running sum cannot make a token of probability 0 reachable.
        cumulative = log_probs.double().exp().cumsum(-1)
        target = noise.double()[:, None] * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp_max(logits.shape[-1] - 1)
    return token, log_probs.gather(-1, token[:, None]).squeeze(-1)


@torch.no_grad()
def complete(
    decoder: Decoder,
    logits: Tensor,
    noise: Tensor | None,
    *,
    limits: Tensor,
    stop_id: int,
    pad_id: int,
    temperature: float = 1.0,
) -> Completions:
    """Continue every row b of ``decoder`` until ``stop_id`` or ``limits[b]`` tokens, which may be none.

    ``logits`` [B, V] are the next-token logits of the contexts already appended; ``noise`` [B, ≥ limits] holds
    uniform numbers, or is None for greedy decoding. The last token of each row is *not* appended to the decoder.
    """
    batch, longest = logits.shape[0], int(limits.max())
    ids = torch.full((batch, longest), pad_id, dtype=torch.long, device=logits.device)
    logprobs = torch.zeros(batch, longest, device=logits.device)
    lengths = torch.zeros(batch, dtype=torch.long, device=logits.device)
    active = limits > 0
    for t in range(longest):
        token, logprob = choose(logits, None if noise is None else noise[:, t], temperature)
        ids[:, t] = torch.where(active, token, pad_id)
        logprobs[:, t] = torch.where(active, logprob, 0.0)
        lengths += active
        active &= (token != stop_id) & (limits > t + 1)
        if not active.any():
            break
        logits = decoder.append(ids[:, t : t + 1], active.long())
    return Completions(ids, logprobs, lengths)
