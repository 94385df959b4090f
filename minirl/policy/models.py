"""Policies: a causal language model, its tokenizer, and how a conversation becomes token ids."""

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from minirl.config import LoraConfig, nearest
from minirl.errors import ConfigError, MinirlError
from minirl.policy import fast
from minirl.policy.fetched import fetched
from minirl.policy.tokenizer import char_tokenizer

# Bars for files of a few hundred kilobytes would bury what a notebook has to say.
transformers.utils.logging.disable_progress_bar()

SHIPPED = Path(__file__).parent / "shipped"
ADAPTER = "adapter_config.json"  # where it stands, PEFT has written an adapter


def base_names() -> list[str]:
    """Names of the bases that ship with minirl."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/recipe.yaml"))


def base_directory(name: str) -> Path | None:
    """Directory of the shipped base ``name``, or None if there is no such base."""
    return SHIPPED / name if name in base_names() else None


@dataclass
class Policy:
    """A model with its tokenizer. Everything downstream works on the token ids that the ``encode_*`` methods return.

    With a chat template (hub models) prompts and feedback are user messages of one conversation; without (the
    from-scratch bases) they are plain text around the attempts.
    """

    model: Any  # a PreTrainedModel, possibly wrapped by PEFT
    tokenizer: Any  # a PreTrainedTokenizerBase
    name: str = ""

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def stop_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self.stop_id if pad is None else pad

    @property
    def has_template(self) -> bool:
        return self.tokenizer.chat_template is not None

    def encode_text(self, texts: list[str]) -> list[list[int]]:
        """Token ids of plain texts, in one call: the tokenizer's overhead is per call, not per text."""
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

    def encode_prompts(self, texts: list[str]) -> list[list[int]]:
        """Token ids of first user messages, up to where the policy's attempt begins."""
        if self.has_template:
            texts = [self._render([{"role": "user", "content": text}]) for text in texts]
        return self.encode_text(texts)

    def encode_feedback(self, texts: list[str]) -> list[list[int]]:
        """Token ids between an attempt (which ends with the stop token) and the next one."""
        if self.has_template:
            texts = [self._after_attempt(text) for text in texts]
        return self.encode_text(texts)

    def _after_attempt(self, text: str) -> str:
        # Render a whole exchange and keep what follows the attempt: the only way to learn from an arbitrary template
        # what it puts between two turns.
        attempt = "\x00attempt\x00"
        turns = [("user", "q"), ("assistant", attempt), ("user", text)]
        rendered = self._render([{"role": role, "content": content} for role, content in turns])
        return rendered.split(attempt, 1)[1].removeprefix(self.tokenizer.eos_token)

    def _render(self, messages: list[dict[str, str]]) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def decode(self, rows: list[list[int]]) -> list[str]:
        """Texts of attempts without the stop token that ends them. Other special tokens show: they are no answer."""
        rows = [row[:-1] if row and row[-1] == self.stop_id else row for row in rows]
        return self.tokenizer.batch_decode(rows, skip_special_tokens=False)

    def logits(self, ids: Tensor, group: int = 1, shared: int = 0) -> Tensor:
        """Logits [B, T − shared, V] in float32 for right-padded ids [B, T], from position ``shared`` on.

        Differentiable. The first ``shared`` tokens of ``group`` neighbouring rows must be equal: the fast forward pass
        computes them once a group.
        """
        if fast.supports(self.model):
            return fast.forward(self.model, ids, group, shared)
        # Right padding needs no mask under causal attention; positions count from 0 in every row.
        return self.model(input_ids=ids, use_cache=False).logits[:, shared:].float()

    def frozen_copy(self) -> "Policy":
        """The policy as it is now, without gradients: a reference. It shares the weights that are not trained."""
        shared = {id(p): p for p in self.model.parameters() if not p.requires_grad}
        return Policy(copy.deepcopy(self.model, shared).requires_grad_(False), self.tokenizer, self.name)

    def save(self, directory: Path) -> None:
        """Write a Hugging Face directory that ``from_pretrained`` (and everyone else) reads; of a policy with an
        adapter the adapter alone, as PEFT does."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        (directory / "README.md").unlink(missing_ok=True)  # PEFT's form for a model card, not filled in


@torch.no_grad()
def follow(reference: Policy, policy: Policy, decay: float) -> None:
    """Move the reference towards the policy: θ_ref ← decay · θ_ref + (1 − decay) · θ.

    1 leaves it frozen, 0 makes it the policy as it is now (the previous iterate of the next update), in between it is
    an exponential moving average.
    """
    if decay < 1:
        pairs = zip(reference.model.parameters(), policy.model.parameters(), strict=True)
        for theirs, ours in pairs:
            theirs.lerp_(ours, 1 - decay)


def tiny_llama(hidden: int, layers: int, heads: int, max_length: int = 128, seed: int = 0) -> Policy:
    """A freshly initialised small Llama with the character tokenizer; reproducible by ``seed``."""
    tokenizer = char_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return Policy(model.eval(), tokenizer, "tiny-llama")


def with_adapter(policy: Policy, lora: LoraConfig, seed: int) -> Policy:
    """``policy`` with a fresh low-rank adapter, drawn by ``seed``: what is trained. Its own weights no longer are.

    A fresh adapter adds nothing: the policy says what it said. Raises :class:`ConfigError` for unknown targets.
    """
    import peft  # imported late: most runs need none

    linear = (name for name, module in policy.model.named_modules() if isinstance(module, torch.nn.Linear))
    layers = sorted({name.rpartition(".")[2] for name in linear})
    for target in lora.targets or []:
        if target not in layers:
            raise ConfigError(f"key 'lora.targets': the model has no linear layer {target!r}.{nearest(target, layers)}")
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # it only divides by it
        target_modules=lora.targets or "all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = peft.get_peft_model(policy.model, settings).eval()
    found: Any = model.peft_config["default"]
    found.base_model_name_or_path = policy.name  # its name, not where it lies on this machine
    found.target_modules = sorted(found.target_modules)  # a set is saved in any order
    return replace(policy, model=model)


def load_policy(source: str | Path, device: str = "cpu", dtype: str = "float32") -> Policy:
    """Load a shipped base or a fetched model by name, a local directory in hub format, or a hub model; in ``dtype``.

    A directory that holds an adapter is loaded onto the base that it names. Raises :class:`MinirlError` if the source
    cannot be read, lacks weights, has no usable tokenizer, or its vocabulary is larger than the model's embedding.
    """
    path = base_directory(str(source)) or fetched(str(source)) or Path(source)
    if (path / ADAPTER).exists():
        return _load_adapter(path, device, dtype)
    target = str(path) if path.exists() else str(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(target)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            target, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True
        )
    except (SafetensorError, RuntimeError) as error:
        raise MinirlError(f"{source!r}: the weights are damaged or belong to another architecture: {error}") from error
    except Exception as error:  # whatever transformers makes of the files: it has no error of its own
        raise MinirlError(
            f"cannot load a model from {source!r}: not a shipped base (`minirl bases list`), not a directory with "
            f"config.json, model.safetensors and tokenizer, and not reachable on the hub.\n  {str(error)[:1000]}"
        ) from error
    model, info = loaded
    if info["missing_keys"]:  # transformers would draw them at random and go on
        raise MinirlError(f"{source!r}: the weights lack {', '.join(sorted(info['missing_keys']))}")
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise MinirlError(f"{source!r}: the tokenizer has more tokens ({len(tokenizer)}) than the model's embedding")
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise MinirlError(f"{source!r}: the tokenizer has a token {highest}, the model's embedding ends at {rows - 1}")
    if tokenizer.eos_token_id is None:
        raise MinirlError(f"{source!r}: the tokenizer has no end-of-sequence token, so attempts could not end")
    ends = {end for config in (model.config, model.generation_config) for end in _as_list(config.eos_token_id)}
    if ends and tokenizer.eos_token_id not in ends:
        raise MinirlError(
            f"{source!r}: the tokenizer ends a text with token {tokenizer.eos_token_id}, the model with "
            f"{', '.join(map(str, sorted(ends)))}: it is the tokenizer of another model"
        )
    broken = [name for name, tensor in model.named_parameters() if not tensor.isfinite().all()]
    if broken:
        raise MinirlError(f"{source!r}: weights that are NaN or infinite, in {', '.join(broken[:3])}")
    policy = Policy(model.to(device).eval(), tokenizer, str(source))
    if policy.has_template:
        try:
            policy.encode_prompts(["?"])
            policy.encode_feedback(["?"])
        except Exception as error:  # jinja's, or the template's own
            raise MinirlError(f"{source!r}: the chat template cannot render a conversation: {error}") from error
    return policy


def _load_adapter(path: Path, device: str, dtype: str) -> Policy:
    """The policy that :meth:`Policy.save` wrote to ``path`` when it had an adapter."""
    import peft

    try:
        base = json.loads((path / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
        policy = load_policy(base, device, dtype)
        model = peft.PeftModel.from_pretrained(policy.model, str(path)).eval()
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
        raise MinirlError(f"{str(path)!r}: the adapter cannot be loaded: {str(error)[:1000]}") from error
    return Policy(model, policy.tokenizer, str(path))


def _as_list(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else [ids] if isinstance(ids, int) else ids
