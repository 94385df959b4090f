"""The forward pass of a small Llama, written out: the same weights, the same numbers, a fraction of the work.

At 0.5M parameters a Hugging Face forward pass spends much of its time between the matrix products, and computes the
prompt of a group once for every attempt at it. Here the model's own parameters run through plain tensor operations:
:func:`forward` for training (differentiable) and :class:`FastDecoder` for sampling. Both read a prompt once a group:
its keys and values are computed, and kept, for one row and attended to by all attempts (:func:`attention`). A test
holds both to the model's own forward pass.

Rows are ragged: a row's tokens have positions 0, 1, … without gaps, whatever its neighbours do, so an episode of
several turns is one contiguous sequence and its key–value cache survives from turn to turn.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

ELEMENTWISE_UP_TO = 32  # cached tokens; measured with benchmarks/speed.py's shapes at 0.1M to 4M parameters


def supports(model: PreTrainedModel) -> bool:
    """Whether this module can stand in for ``model``: a float32 Llama without adapters, biases or RoPE scaling."""
    if type(model) is not LlamaForCausalLM:
        return False
    config: Any = model.config
    return (
        not config.attention_bias
        and not config.mlp_bias
        and config.hidden_act == "silu"
        and config.rope_parameters.get("rope_type", "default") == "default"
        and model.dtype == torch.float32
        # Adapters and quantisation replace layers in place, by modules whose weight is not the whole story.
        and all(type(m) is torch.nn.Linear for name, m in model.named_modules() if name.endswith(("_proj", "lm_head")))
    )


def rope(model: PreTrainedModel, positions: Tensor) -> Tensor:
    """Rotary position embedding: e^{iθ} of every position and pair of dimensions, positions [...] → [..., D/2]."""
    angles = positions[..., None].float() * model.model.rotary_emb.inv_freq.float()
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate queries or keys [..., D], whose pairs are neighbours, by their positions' ``turns`` [..., D/2].

    As complex numbers, in one pass over memory instead of five; there are none of 16 bits, which autocast would give.
    """
    return torch.view_as_real(torch.view_as_complex(x.float().unflatten(-1, (-1, 2))) * turns).flatten(-2)


def pairs_adjacent(weight: Tensor, dim: int) -> Tensor:
    """Reorder the rows of a query or key projection so that each head's dimensions i and i + D/2 stand side by side.

    Llama rotates these two together. A product of a query and a key does not notice the order of their dimensions.
    """
    return weight.unflatten(0, (-1, 2, dim // 2)).transpose(1, 2).flatten(0, 2)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


@dataclass(frozen=True)
class Context:
    """Keys and values [N, H, S, D] of one layer, and a ``bias`` broadcastable to [N, H, T, S]: 0 visible, −∞ hidden."""

    keys: Tensor
    values: Tensor
    bias: Tensor


def attention(q: Tensor, own: Context, prompt: Context | None = None) -> Tensor:
    """softmax(q kᵀ + bias) v for scaled queries [B, H, T, D], over each row's ``own`` context and its group's prompt.

    ``prompt`` has one row a group, B / P neighbouring queries long. All of them meet its keys in one matrix product
    instead of reading B / P copies: what a small model spends its time on is moving keys and values, not arithmetic.
    """
    if prompt is None:
        return (q @ own.keys.mT + own.bias).softmax(-1) @ own.values
    groups, shared = prompt.keys.shape[0], prompt.keys.shape[2]

    def by_group(x: Tensor) -> Tensor:  # [B, H, T, …] → [P, H, G · T, …]
        return x.unflatten(0, (groups, -1)).transpose(1, 2).flatten(2, 3)

    def by_row(x: Tensor) -> Tensor:  # and back
        return x.unflatten(2, (-1, q.shape[2])).transpose(1, 2).flatten(0, 1)

    on_prompt = by_row(by_group(q) @ prompt.keys.mT + prompt.bias)
    if q.shape[2] > 1 or own.keys.shape[2] > ELEMENTWISE_UP_TO:
        weights = torch.cat([on_prompt, q @ own.keys.mT + own.bias], dim=-1).softmax(-1)
        from_own = weights[..., shared:] @ own.values
    else:
        # One query a row, thousands of tiny products: elementwise operations that torch does in one go are faster, as
        # long as they fit the processor's caches.
        scores = torch.cat([on_prompt, (q * own.keys).sum(-1)[:, :, None] + own.bias], dim=-1)
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        weights = weights / weights.sum(-1, keepdim=True)
        from_own = (weights[..., shared:].mT * own.values).sum(2, keepdim=True)
    return from_own + by_row(by_group(weights[..., :shared]) @ prompt.values)


class _Layer:
    """One decoder layer's weights; q, k, v and gate, up are joined so that each needs one matrix product."""

    def __init__(self, layer: Any, config: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.heads, self.kv_heads, self.dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        # Scaling the weights scales every query, at the price of a few thousand multiplications.
        q = pairs_adjacent(attention.q_proj.weight * self.dim**-0.5, self.dim)
        k = pairs_adjacent(attention.k_proj.weight, self.dim)
        self.qkv = torch.cat([q, k, attention.v_proj.weight])
        self.out = attention.o_proj.weight
        self.gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        self.down = mlp.down_proj.weight
        self.norm_1, self.norm_2 = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        self.eps = config.rms_norm_eps

    def project(self, x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, C] → rotated, scaled queries, rotated keys, and values, all [B, H, T, D]."""
        h = rms_norm(x, self.norm_1, self.eps)
        qkv = F.linear(h, self.qkv).unflatten(-1, (-1, self.dim)).transpose(1, 2)  # [B, H + 2 Hkv, T, D]
        qk, v = qkv.split([self.heads + self.kv_heads, self.kv_heads], dim=1)
        q, k = rotate(qk, turns).split([self.heads, self.kv_heads], dim=1)
        if self.kv_heads != self.heads:
            k = k.repeat_interleave(self.heads // self.kv_heads, dim=1)
            v = v.repeat_interleave(self.heads // self.kv_heads, dim=1)
        return q, k, v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """What follows attention [B, H, T, D]: output projection, residual, MLP."""
        x = x + F.linear(attended.transpose(1, 2).flatten(-2), self.out)
        gate, up = F.linear(rms_norm(x, self.norm_2, self.eps), self.gate_up).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, self.down)


def forward(model: PreTrainedModel, ids: Tensor, group: int = 1, shared: int = 0) -> Tensor:
    """Logits [B, T − shared, V] of right-padded token ids [B, T], from position ``shared`` on.

    The first ``shared`` tokens of ``group`` neighbouring rows must be equal; they are processed once a group. No
    padding mask is needed: attention is causal and padding lies to the right, so no real token ever sees it.
    """
    length = ids.shape[1]
    turns = rope(model, torch.arange(length, device=ids.device))
    hidden = torch.full((length, length), float("-inf"), device=ids.device).triu(1)  # of later positions
    visible = torch.zeros(1, shared, device=ids.device)
    x = F.embedding(ids[:, shared:], model.model.embed_tokens.weight)
    prompt = F.embedding(ids[::group, :shared], model.model.embed_tokens.weight) if shared else None
    for module in model.model.layers:
        layer, context = _Layer(module, model.config), None
        if prompt is not None:
            q, k, v = layer.project(prompt, turns[:shared])
            prompt = layer.finish(prompt, attention(q, Context(k, v, hidden[:shared, :shared])))
            context = Context(k, v, visible)
        q, k, v = layer.project(x, turns[shared:])
        x = layer.finish(x, attention(q, Context(k, v, hidden[shared:, shared:]), context))
    return F.linear(rms_norm(x, model.model.norm.weight, model.config.rms_norm_eps), model.lm_head.weight).float()


class FastDecoder:
    """Incremental decoding of a ragged batch with a key–value cache. Same interface as ``sampler.ModelDecoder``.

    The first ``append`` is the prompts, one row a group. What comes later goes into cache slots that all rows share:
    a row that has ended leaves its slots unused and hidden, which costs less than scattered writes.
    """

    def __init__(self, model: PreTrainedModel, batch: int) -> None:
        config: Any = model.config
        self.model, self.config = model, config
        self.layers = [_Layer(module, config) for module in model.model.layers]
        self.embedding, self.head = model.model.embed_tokens.weight, model.lm_head.weight
        self.lengths = torch.zeros(batch, dtype=torch.long, device=self.embedding.device)  # tokens so far: [B]
        self.prompts: list[Context] = []  # one a layer, P rows
        self.slots = 0  # taken in the cache, the same number in every row
        # Keys and values [layers, 2, B, H, slots, D], and which rows use which slots [B, slots].
        device, heads = self.embedding.device, config.num_attention_heads
        self.cache = torch.zeros(len(self.layers), 2, 0, heads, 0, config.head_dim, device=device)
        self.used = torch.zeros(0, 0, dtype=torch.bool, device=device)

    def expand(self, times: int) -> None:
        """Repeat every row ``times`` times, neighbours together: one prefill serves a whole group."""
        self.lengths = self.lengths.repeat_interleave(times)
        if self.slots:  # what followed the prompt is copied, the prompt is not
            self.cache, self.used = self.cache.repeat_interleave(times, 2), self.used.repeat_interleave(times, 0)

    @torch.no_grad()
    def append(self, ids: Tensor, counts: Tensor) -> Tensor:
        """Append ``counts[b]`` ≤ T tokens of ``ids`` [B, T] to row b; logits [B, V] after each row's last new token.

        A row with count 0 is left as it was; its logits are meaningless.
        """
        batch, width = ids.shape
        position = self.lengths[:, None] + torch.arange(width, device=ids.device)  # [B, T]
        turns = rope(self.model, position)[:, None]  # [B, 1, T, D/2]
        new = torch.arange(width, device=ids.device) < counts[:, None]  # [B, T]
        causal = torch.ones(width, width, dtype=torch.bool, device=ids.device).tril()
        visible = new[:, None] & causal  # [B, T, T]: the new tokens, seen from each of them
        x = F.embedding(ids, self.embedding)
        if not self.prompts:
            bias = _bias(visible)
            for layer in self.layers:
                q, k, v = layer.project(x, turns)
                x = layer.finish(x, attention(q, Context(k, v, bias)))
                self.prompts.append(Context(k, v, _bias(new[:, None])))
        else:
            self._reserve(batch, width)
            end = self.slots + width
            self.used[:, self.slots : end] = new
            before = self.used[:, None, : self.slots].expand(-1, width, -1)
            bias = _bias(torch.cat([before, visible], dim=-1))
            for layer, prompt, (keys, values) in zip(self.layers, self.prompts, self.cache, strict=True):
                q, k, v = layer.project(x, turns)
                keys[:, :, self.slots : end], values[:, :, self.slots : end] = k, v
                x = layer.finish(x, attention(q, Context(keys[:, :, :end], values[:, :, :end], bias), prompt))
            self.slots = end
        self.lengths = self.lengths + counts
        last = x[torch.arange(batch, device=ids.device), (counts - 1).clamp_min(0)]  # [B, C]
        return F.linear(rms_norm(last, self.model.model.norm.weight, self.config.rms_norm_eps), self.head)

    def _reserve(self, batch: int, width: int) -> None:
        """Make room for ``width`` more slots, in steps of 32 so that decoding rarely has to."""
        if not self.slots:
            self.cache = self.cache.new_zeros(*self.cache.shape[:2], batch, *self.cache.shape[3:])
            self.used = self.used.new_zeros(batch, 0)
        missing = -(-(self.slots + width - self.cache.shape[-2]) // 32) * 32
        if missing > 0:
            self.cache = F.pad(self.cache, (0, 0, 0, missing))
            self.used = F.pad(self.used, (0, missing))


def _bias(visible: Tensor) -> Tensor:
    """[N, T, S] bool → additive attention bias [N, 1, T, S]."""
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, float("-inf"))[:, None]
