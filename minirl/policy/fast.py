"""The forward pass of a small Llama, written out: the same weights, the same numbers, a fraction of the overhead.

At 0.5M parameters a Hugging Face forward pass spends most of its time between the matrix products. The two classes
here run the model's own parameters through plain tensor operations: :func:`forward` for training (differentiable) and
:class:`FastDecoder` for sampling. A test holds both to the model's own forward pass.

Rows are ragged and right-padded: a row's tokens sit at positions 0, 1, … without gaps, whatever its neighbours do, so
an episode of several turns is one contiguous sequence and its key–value cache survives from turn to turn.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel


def supports(model: PreTrainedModel) -> bool:
    """Whether this module can stand in for ``model``: a plain Llama (no LoRA wrapper, biases or RoPE scaling)."""
    if type(model) is not LlamaForCausalLM:
        return False
    config: Any = model.config
    return (
        not config.attention_bias
        and not config.mlp_bias
        and config.hidden_act == "silu"
        and config.rope_parameters.get("rope_type", "default") == "default"
        and not getattr(model, "_hf_peft_config_loaded", False)
    )


def rope(model: PreTrainedModel, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary position embedding, [length, head_dim] each."""
    frequencies = model.model.rotary_emb.inv_freq.float()  # [D/2]
    angles = torch.outer(torch.arange(length, device=frequencies.device).float(), frequencies)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries or keys [..., D] by their positions (half-split convention of Llama)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


class _Layer:
    """One decoder layer's weights; q, k, v and gate, up are joined so that each needs one matrix product."""

    def __init__(self, layer: Any, config: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.qkv = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
        self.out = attention.o_proj.weight
        self.gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        self.down = mlp.down_proj.weight
        self.norm_1, self.norm_2 = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        self.heads, self.kv_heads, self.dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.eps = config.rms_norm_eps

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, C] → rotated queries [B, H, T, D], rotated keys and values [B, Hkv, T, D]."""
        h = rms_norm(x, self.norm_1, self.eps)
        qkv = F.linear(h, self.qkv).unflatten(-1, (-1, self.dim)).transpose(1, 2)  # [B, H + 2 Hkv, T, D]
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def attend(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Attention over k, v [B, Hkv, S, D] with an additive ``bias`` broadcastable to [B, H, T, S], then the MLP."""
        if self.kv_heads != self.heads:
            k = k.repeat_interleave(self.heads // self.kv_heads, dim=1)
            v = v.repeat_interleave(self.heads // self.kv_heads, dim=1)
        weights = torch.softmax(q @ k.transpose(-1, -2) * self.dim**-0.5 + bias, dim=-1)
        x = x + F.linear((weights @ v).transpose(1, 2).flatten(-2), self.out)
        gate, up = F.linear(rms_norm(x, self.norm_2, self.eps), self.gate_up).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, self.down)


def forward(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Logits [B, T, V] of right-padded token ids [B, T].

    No padding mask is needed: attention is causal and padding lies to the right, so no real token ever sees it.
    """
    length = ids.shape[1]
    cos, sin = rope(model, length)
    bias = torch.full((length, length), float("-inf"), device=ids.device).triu(1)
    x = F.embedding(ids, model.model.embed_tokens.weight)
    for module in model.model.layers:
        layer = _Layer(module, model.config)
        x = layer.attend(x, *layer.project(x, cos, sin), bias)
    return F.linear(rms_norm(x, model.model.norm.weight, model.config.rms_norm_eps), model.lm_head.weight)


class FastDecoder:
    """Incremental decoding of a ragged batch with a key–value cache. Same interface as ``sampler.ModelDecoder``."""

    def __init__(self, model: PreTrainedModel, batch: int) -> None:
        config: Any = model.config
        self.model, self.layers = model, [_Layer(module, config) for module in model.model.layers]
        self.embedding, self.head = model.model.embed_tokens.weight, model.lm_head.weight
        shape = (len(self.layers), 2, batch, config.num_key_value_heads, 0, config.head_dim)
        self.cache = torch.zeros(shape, device=self.embedding.device, dtype=self.embedding.dtype)
        self.lengths = torch.zeros(batch, dtype=torch.long, device=self.embedding.device)
        self.longest = 0  # upper bound of lengths, kept in Python to slice the cache without a device sync

    def expand(self, times: int) -> None:
        """Repeat every row ``times`` times, neighbours together: one prefill serves a whole group."""
        self.cache = self.cache.repeat_interleave(times, dim=2)
        self.lengths = self.lengths.repeat_interleave(times)

    def _grow(self, length: int) -> None:
        """Make room for ``length`` positions, in steps of 32 so that decoding rarely has to."""
        missing = -(-(length - self.cache.shape[-2]) // 32) * 32
        if missing > 0:
            self.cache = F.pad(self.cache, (0, 0, 0, missing))
            self.cos, self.sin = rope(self.model, self.cache.shape[-2])

    def append(self, ids: Tensor, counts: Tensor) -> Tensor:
        """Append ``counts[b]`` ≤ T tokens of ``ids`` [B, T] to row b; logits [B, V] after each row's last new token.

        A row with count 0 is left as it was (its logits are meaningless): what is written behind its end is masked
        now and overwritten by its next real token.
        """
        batch, width = ids.shape
        position = self.lengths[:, None] + torch.arange(width, device=ids.device)  # [B, T]
        self.longest += width
        self._grow(self.longest)
        rows = torch.arange(batch, device=ids.device)[:, None]
        visible = torch.arange(self.longest, device=ids.device) <= position[:, :, None]  # [B, T, S]
        bias = torch.zeros(visible.shape, device=ids.device).masked_fill_(~visible, float("-inf"))[:, None]
        cos, sin = self.cos[position][:, None], self.sin[position][:, None]  # [B, 1, T, D]
        x = F.embedding(ids, self.embedding)
        for layer, (keys, values) in zip(self.layers, self.cache, strict=True):
            q, k, v = layer.project(x, cos, sin)
            keys[rows, :, position] = k.transpose(1, 2)
            values[rows, :, position] = v.transpose(1, 2)
            x = layer.attend(x, q, keys[:, :, : self.longest], values[:, :, : self.longest], bias)
        self.lengths = self.lengths + counts
        last = x[rows[:, 0], (counts - 1).clamp_min(0)]  # [B, C]
        return F.linear(rms_norm(last, self.model.model.norm.weight, self.model.config.rms_norm_eps), self.head)
