"""The policy: two forward passes and two decoders that must agree, the sampler, the tokenizer, loading and saving.

The reference for everything numeric is the Hugging Face model's own forward pass on one unpadded row.
"""

import json
import math

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from minirl.errors import MinirlError
from minirl.policy import fast
from minirl.policy.logprobs import entropy, pack, pad_rows, token_logprobs
from minirl.policy.models import Policy, load_policy, tiny_llama
from minirl.policy.sampler import ModelDecoder, choose, complete, make_decoder
from minirl.policy.tokenizer import ALPHABET, EOS, PAD, UNK, char_tokenizer
from minirl.rollouts.episodes import roll_out
from minirl.tasks import get

VOCABULARY = len(ALPHABET) + 3


def scrambled(model: LlamaForCausalLM, seed: int = 0) -> LlamaForCausalLM:
    """``model`` with every parameter moved (norm weights too), so that no part of it is without effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def llama(**changes) -> LlamaForCausalLM:
    """Two layers, four heads on two key–value heads, untied embeddings, and no constant at its default."""
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 50.0},
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return scrambled(LlamaForCausalLM(LlamaConfig(**{**settings, **changes}))).eval()


GROUPED_QUERIES = llama()
TIED = scrambled(tiny_llama(16, 2, 4).model, seed=1)
MODELS = pytest.mark.parametrize("model", [GROUPED_QUERIES, TIED], ids=["grouped queries, untied", "tied"])


def random_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def own_logits(model, row: list[int]) -> torch.Tensor:
    """Next-token logits [V] after ``row``, from the model itself."""
    return model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1]


@pytest.fixture(params=["fast", "model"])
def decoder_kind(request, monkeypatch) -> str:
    """Run a test once with each decoder."""
    if request.param == "model":
        monkeypatch.setattr(fast, "supports", lambda model: False)
    return request.param


# --- forward passes -------------------------------------------------------------------------------------------------


@MODELS
def test_fast_forward_is_the_models_own(model):
    ids = random_ids(3, 11)
    with torch.no_grad():
        torch.testing.assert_close(fast.forward(model, ids), model(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


@MODELS
def test_gradients_of_fast_forward_are_the_models_own(model):
    ids = random_ids(2, 7)
    weights = torch.randn(2, 7, VOCABULARY, generator=torch.Generator().manual_seed(1))
    parameters = dict(model.named_parameters())
    gradients = [
        torch.autograd.grad((logits * weights).sum(), parameters.values())
        for logits in (fast.forward(model, ids), model(input_ids=ids).logits)
    ]
    for name, mine, theirs in zip(parameters, *gradients, strict=True):
        assert theirs.abs().max() > 0, name
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@MODELS
def test_padding_to_the_right_changes_nothing(model, decoder_kind):
    policy = Policy(model, char_tokenizer())
    short, long = random_ids(1, 4)[0].tolist(), random_ids(1, 9, seed=1)[0].tolist()
    padded, _ = pad_rows([short, long], policy.pad_id)
    logits = policy.logits(padded)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits[0, 3], own_logits(model, short), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[1, 8], own_logits(model, long), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 50.0, "factor": 2.0}},
    ],
)
def test_what_the_fast_path_leaves_to_the_model(changes):
    model = llama(**changes)
    assert not fast.supports(model)
    ids = random_ids(1, 8)
    policy = Policy(model, char_tokenizer())
    torch.testing.assert_close(policy.logits(ids)[0, -1], own_logits(model, ids[0].tolist()), atol=1e-5, rtol=1e-5)


def test_the_fast_path_takes_plain_llamas():
    assert fast.supports(GROUPED_QUERIES) and fast.supports(TIED)


def test_logits_of_a_bfloat16_model():
    policy = Policy(llama().to(torch.bfloat16), char_tokenizer())
    assert policy.logits(random_ids(1, 5)).dtype == torch.float32


# --- log-probs ------------------------------------------------------------------------------------------------------


def test_token_logprobs_and_entropy_by_hand():
    logits = torch.tensor([[[1.0, 2.0, 1.0], [1.0, 1.0, 2.0]]]).log()  # π = (¼, ½, ¼) and (¼, ¼, ½)
    logprobs = token_logprobs(logits, torch.tensor([[1, 0]]))
    assert logprobs.flatten().tolist() == pytest.approx([math.log(0.5), math.log(0.25)])
    # ½ ln 2 + 2 · ¼ ln 4 = 1.5 ln 2; uniform over 8: ln 8
    assert entropy(logits).flatten().tolist() == pytest.approx([1.5 * math.log(2)] * 2)
    assert entropy(torch.zeros(8)).item() == pytest.approx(math.log(8))


def test_pad_rows_by_hand():
    padded, lengths = pad_rows([[5, 6], [], [7, 8, 9]], 0)
    assert padded.tolist() == [[5, 6, 0], [0, 0, 0], [7, 8, 9]]
    assert lengths.tolist() == [2, 0, 3]


def test_pack_by_hand():
    keep = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 1]]).bool()
    ids = torch.tensor([[5, 6, 7, 8]] * 4)
    packed, turn, logprobs = pack(keep, (ids, 0), (ids * 10, -1), (ids / 10, 0.5))
    # As wide as the row that keeps most; what a row keeps stays in its order, and each tensor has its own filling.
    assert packed.tolist() == [[6, 8, 0], [5, 0, 0], [0, 0, 0], [5, 6, 8]]
    assert turn.tolist() == [[60, 80, -1], [50, -1, -1], [-1, -1, -1], [50, 60, 80]]
    torch.testing.assert_close(
        logprobs, torch.tensor([[0.6, 0.8, 0.5], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0.5, 0.6, 0.8]])
    )


def test_pack_of_everything_and_of_nothing():
    ids = random_ids(3, 5)
    (all_of_it,) = pack(torch.ones(3, 5).bool(), (ids, 0))
    assert torch.equal(all_of_it, ids)
    (nothing,) = pack(torch.zeros(3, 5).bool(), (ids, 7))
    assert nothing.tolist() == [[7], [7], [7]]  # one column, as pad_rows has for empty rows


# --- decoders -------------------------------------------------------------------------------------------------------

# Tokens that each of three rows gets at each append: several turns, rows of different length, some left out. Appends
# of one token (2, 3, 5 and 8) take the cached path of ModelDecoder, the others its prefill; FastDecoder's cache grows
# by more than one step at first, and again later.
COUNTS = [[3, 1, 60], [2, 4, 0], [1, 0, 1], [1, 1, 1], [0, 3, 2], [0, 1, 1], [4, 2, 3], [2, 30, 1], [1, 1, 1]]


@MODELS
@pytest.mark.parametrize("expand_after", [None, 0, 1, 3])
@torch.no_grad()
def test_ragged_appends_over_several_turns(model, decoder_kind, expand_after):
    decoder = make_decoder(model, 3)
    contexts: list[list[int]] = [[], [], []]
    for step, counts in enumerate(COUNTS):
        if len(contexts) == 6:
            counts = [count for count in counts for _ in range(2)]
            counts[0] = max(0, counts[0] - 1)  # the two copies of row 0 go separate ways
        width = max(counts)
        ids = random_ids(len(contexts), width, seed=step)  # behind a row's count lies junk, not padding
        logits = decoder.append(ids, torch.tensor(counts))
        for b, count in enumerate(counts):
            contexts[b] += ids[b, :count].tolist()
            if count:
                expected = own_logits(model, contexts[b])
                torch.testing.assert_close(logits[b], expected, atol=1e-5, rtol=1e-5)
        if step == expand_after:
            decoder.expand(2)
            contexts = [list(context) for context in contexts for _ in range(2)]


@MODELS
@pytest.mark.parametrize("shared", [1, 3, 5])
def test_a_prompt_read_once_a_group_is_the_prompt_read_by_every_row(model, shared):
    # Two groups of three rows that agree in their first five tokens: logits and all gradients as without sharing.
    ids = random_ids(6, 9, seed=1)
    ids[:, :5] = ids[::3, :5].repeat_interleave(3, dim=0)
    weight = torch.randn(6, 9 - shared, 1, generator=torch.Generator().manual_seed(2))

    def gradients(logits):
        model.zero_grad()
        (logits.log_softmax(-1) * weight).square().mean().backward()
        return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}

    whole, expected = gradients(model(input_ids=ids).logits[:, shared:])
    part, found = gradients(Policy(model, None).logits(ids, group=3, shared=shared))
    torch.testing.assert_close(part, whole, atol=1e-5, rtol=1e-5)
    assert min(g.abs().max().item() for g in expected.values()) > 1e-4
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=lambda t, name=name: f"{name}: {t}")


def test_both_decoders_sample_the_same(monkeypatch):
    policy = Policy(GROUPED_QUERIES, char_tokenizer())
    items = get("add").items(0, range(5), 2)

    def sample():
        generator = torch.Generator().manual_seed(3)
        return roll_out(policy, get("add"), items, turns=2, samples=3, generator=generator)

    one = sample()
    monkeypatch.setattr(fast, "supports", lambda model: False)
    assert isinstance(make_decoder(policy.model, 1), ModelDecoder)
    two = sample()
    assert one.ids.tolist() == two.ids.tolist()
    assert one.turn.tolist() == two.turn.tolist()
    torch.testing.assert_close(one.logprobs, two.logprobs, atol=1e-5, rtol=1e-5)


# --- sampler --------------------------------------------------------------------------------------------------------


class Script:
    """A decoder that has no model: row b wants to say ``lines[b]``, one token an append; remembers what it was told.

    The logits of the wanted token are 5, all others 0.
    """

    def __init__(self, lines: list[list[int]], size: int = 6) -> None:
        self.lines, self.size = lines, size
        self.told: list[tuple[list[int], list[int]]] = []
        self.spoken = [0] * len(lines)

    def logits(self) -> torch.Tensor:
        wanted = torch.tensor([line[min(n, len(line) - 1)] for line, n in zip(self.lines, self.spoken, strict=True)])
        return 5.0 * torch.nn.functional.one_hot(wanted, self.size)

    def expand(self, times: int) -> None:
        raise AssertionError("complete() does not expand")

    def append(self, ids: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        self.told.append((ids.flatten().tolist(), counts.tolist()))
        self.spoken = [n + count for n, count in zip(self.spoken, counts.tolist(), strict=True)]
        return self.logits()


def test_stopping_by_hand():
    # Stop token 1, padding 0, three tokens at most. Row 0 stops at once, row 1 after one token, row 2 never.
    script = Script([[1, 5, 5], [4, 1, 5], [3, 4, 5]])
    result = complete(script, script.logits(), None, limits=torch.tensor([3, 3, 3]), stop_id=1, pad_id=0)
    assert result.ids.tolist() == [[1, 0, 0], [4, 1, 0], [3, 4, 5]]
    assert result.lengths.tolist() == [1, 2, 3]  # the stop token counts
    said = -math.log(1 + 5 * math.exp(-5))  # log softmax of a logit of 5 among five zeros
    expected = torch.tensor([[said, 0, 0], [said, said, 0], [said, said, said]])
    torch.testing.assert_close(result.logprobs, expected)
    # A row that has stopped is not told anything more, and nobody is told its last token.
    assert [counts for _, counts in script.told] == [[0, 1, 1], [0, 0, 1]]
    assert script.told[0][0][1:] == [4, 3] and script.told[1][0][2] == 4


def test_no_step_is_wasted_when_all_rows_have_stopped():
    script = Script([[1], [4, 1]])
    result = complete(script, script.logits(), None, limits=torch.tensor([50, 50]), stop_id=1, pad_id=0)
    assert len(script.told) == 1
    assert result.ids.shape == (2, 50) and result.lengths.tolist() == [1, 2]


def test_a_row_that_may_write_nothing_writes_nothing():
    # Row 0 has ended long ago: no token, no log-prob, and the decoder does not hear of it. Row 1 may write one token.
    script = Script([[4, 4], [3, 5], [4, 1]])
    result = complete(script, script.logits(), None, limits=torch.tensor([0, 1, 3]), stop_id=1, pad_id=0)
    assert result.ids.tolist() == [[0, 0, 0], [3, 0, 0], [4, 1, 0]]
    assert result.lengths.tolist() == [0, 1, 2]
    assert (result.logprobs != 0).tolist() == [[False] * 3, [True, False, False], [True, True, False]]
    assert [counts for _, counts in script.told] == [[0, 0, 1]]


def test_greedy_takes_the_most_likely_token_at_any_temperature():
    token, logprob = choose(torch.tensor([[0.1, 0.3, 0.2]]), None, temperature=0.01)
    assert token.item() == 1
    # The log-prob is the model's own, at temperature 1: 0.3 − ln(e^0.1 + e^0.3 + e^0.2) = 0.3 − 1.301943
    assert logprob.item() == pytest.approx(-1.001943, abs=1e-6)


def choices(probabilities, noise, temperature=1.0):
    logits = torch.tensor([probabilities]).log().expand(len(noise), -1)
    return choose(logits, torch.tensor(noise), temperature)


def test_choice_by_inversion_by_hand():
    # Cumulative 0.2, 0.7, 0.7, 1.0: the third token has probability 0 and is never chosen.
    noise = [0.0, 0.19, 0.21, 0.5, 0.69, 0.71, 0.99, 0.999999]
    tokens, logprobs = choices([0.2, 0.5, 0.0, 0.3], noise)
    assert tokens.tolist() == [0, 0, 1, 1, 1, 3, 3, 3]
    assert logprobs.exp().tolist() == pytest.approx([0.2, 0.2, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3])


def test_impossible_tokens_at_either_end_are_not_chosen():
    largest = 1 - 2**-24  # torch.rand() gives multiples of 2⁻²⁴ below 1
    tokens, _ = choices([0.0, 0.5, 0.5, 0.0, 0.0], [0.0, 0.999999, largest])
    assert tokens.tolist() == [1, 2, 2]


def test_rounding_never_reaches_an_impossible_token():
    # 3,000 probabilities whose sum in single precision is not 1, then one that is 0.
    logits = torch.cat(
        [torch.randn(64, 3000, generator=torch.Generator().manual_seed(0)), torch.full((64, 1), -1e9)], 1
    )
    tokens, logprobs = choose(logits, torch.full((64,), 1 - 2**-24), 1.0)
    assert tokens.max() < 3000 and logprobs.isfinite().all()


def test_temperature_by_hand():
    # p ∝ (1, 4)^(1/2) = (1, 2): a third and two thirds. At temperature 1: 0.2 and 0.8.
    tokens, logprobs = choices([1.0, 4.0], [0.32, 0.34], temperature=2.0)
    assert tokens.tolist() == [0, 1]
    assert logprobs.exp().tolist() == pytest.approx([1 / 3, 2 / 3])
    assert choices([1.0, 4.0], [0.19, 0.21])[0].tolist() == [0, 1]


def test_frequencies_over_a_grid_of_noise_are_the_probabilities():
    # 1,000 evenly spread numbers, none on a border: the counts come out exactly.
    tokens, _ = choices([0.125, 0.5, 0.0, 0.375], [(i + 0.5) / 1000 for i in range(1000)])
    assert tokens.bincount(minlength=4).tolist() == [125, 500, 0, 375]


def test_every_token_of_a_large_vocabulary_can_be_chosen():
    # 30,000 equal probabilities: the middle of each token's share of [0, 1) leads to that token.
    size = 30_000
    tokens = torch.arange(0, size, 997)
    chosen, _ = choose(torch.zeros(len(tokens), size), (tokens + 0.5) / size, 1.0)
    assert chosen.tolist() == tokens.tolist()


class Always:
    """A decoder that always gives the same distribution."""

    def __init__(self, rows: int, probabilities: list[float]) -> None:
        self.logits = torch.tensor([probabilities] * rows).log()

    def append(self, ids: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        return self.logits


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (1.0, [[0, 1, 3], [3, 0, 1]]),  # cumulative 0.2, 0.7, 0.7, 1
        (0.5, [[1, 1, 3], [3, 1, 1]]),  # p ∝ 0.04, 0.25, 0, 0.09: cumulative 0.105, 0.763, 0.763, 1
    ],
)
def test_every_token_has_its_own_number(temperature, expected):
    decoder, noise = Always(2, [0.2, 0.5, 0.0, 0.3]), torch.tensor([[0.15, 0.3, 0.9], [0.95, 0.12, 0.5]])
    limits = torch.full((len(noise),), 3)
    result = complete(decoder, decoder.logits, noise, limits=limits, stop_id=9, pad_id=8, temperature=temperature)
    assert result.ids.tolist() == expected


@torch.no_grad()
def sample_rows(model, rows: list[list[int]], noise, temperature=1.0):
    decoder = make_decoder(model, len(rows))
    logits = decoder.append(*pad_rows(rows, 0))
    limits = torch.full((len(rows),), 8)
    return complete(decoder, logits, noise, limits=limits, stop_id=1, pad_id=0, temperature=temperature)


ROWS = [random_ids(n, seed=n).tolist() for n in (3, 7, 5, 4, 6, 1)]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_logprobs_are_the_models_own(decoder_kind, temperature):
    noise = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    result = sample_rows(GROUPED_QUERIES, ROWS, noise, temperature)
    for row, ids, logprobs, length in zip(ROWS, result.ids, result.logprobs, result.lengths.tolist(), strict=True):
        context = list(row)
        for token, logprob in zip(ids[:length].tolist(), logprobs[:length].tolist(), strict=True):
            expected = (own_logits(GROUPED_QUERIES, context) / temperature).log_softmax(-1)[token]
            assert logprob == pytest.approx(expected.item(), abs=1e-4)
            context.append(token)


def test_what_is_sampled_does_not_depend_on_the_rest_of_the_batch(decoder_kind):
    noise = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    together = sample_rows(GROUPED_QUERIES, ROWS, noise)
    assert len({tuple(row) for row in together.ids.tolist()}) == 6
    for rows in ([0], [3], [5], [1, 4], [4, 2, 0]):
        apart = sample_rows(GROUPED_QUERIES, [ROWS[b] for b in rows], noise[rows])
        assert apart.ids.tolist() == together.ids[rows].tolist()
        assert apart.lengths.tolist() == together.lengths[rows].tolist()
        torch.testing.assert_close(apart.logprobs, together.logprobs[rows], atol=1e-5, rtol=1e-5)


# --- tokenizer ------------------------------------------------------------------------------------------------------


def test_tokenizer_round_trip():
    tokenizer = char_tokenizer()
    ids = tokenizer.encode(ALPHABET, add_special_tokens=False)
    assert ids == list(range(3, VOCABULARY))  # one token a character, in order, after the three special ones
    assert tokenizer.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True) == ALPHABET
    assert len(tokenizer) == VOCABULARY
    for text in ("  a  b ", "1 , 2", "don?", " ."):  # no cleaning up of spaces
        known = "".join(c for c in text if c in ALPHABET)
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == known


def test_special_tokens():
    tokenizer = char_tokenizer()
    assert tokenizer.convert_tokens_to_ids([PAD, EOS, UNK]) == [0, 1, 2]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer.encode("1é\n\n", add_special_tokens=False) == [4, 2, 2, 2]  # one each
    policy = Policy(TIED, tokenizer)
    assert (policy.stop_id, policy.pad_id) == (1, 0)
    assert policy.decode([[4, 5, 1], [], [1], [6]]) == ["12", "", "", "3"]


@pytest.mark.parametrize("junk", [0, 2], ids=["<pad>", "<unk>"])
def test_junk_inside_an_attempt_does_not_score(junk):
    policy, task = Policy(TIED, char_tokenizer()), get("add")
    item = task.item(0, 0, 1)
    (first, second), stop = policy.encode_text([item.answer])[0], policy.stop_id
    clean, spoiled = policy.decode([[first, second, stop], [first, junk, second, stop]])
    assert task.score(item, clean) == 1.0
    assert task.score(item, spoiled) == 0.0


def test_without_pad_token_the_stop_token_pads():
    tokenizer = char_tokenizer()
    tokenizer.pad_token = None
    assert Policy(TIED, tokenizer).pad_id == 1


# --- saving and loading ---------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    """A directory with a small policy."""
    Policy(llama(), char_tokenizer()).save(tmp_path / "policy")
    return tmp_path / "policy"


def test_tiny_llama_depends_on_its_seed_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one, same, other = tiny_llama(16, 1, 2, seed=5), tiny_llama(16, 1, 2, seed=5), tiny_llama(16, 1, 2, seed=6)
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [policy.model.model.embed_tokens.weight for policy in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_save_is_a_hugging_face_directory(saved):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(saved), AutoTokenizer.from_pretrained(saved)
    assert (saved / "model.safetensors").exists() and not list(saved.glob("*.bin"))
    for name, tensor in llama().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert tokenizer.encode("1+2=é", add_special_tokens=False) == [4, 13, 5, 17, 2]
    assert tokenizer.decode([4, 13, 5, 17]) == "1+2="
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)


def test_load_policy_gives_back_what_was_saved(saved):
    policy = load_policy(saved)
    assert fast.supports(policy.model) and not policy.model.training and policy.name == str(saved)
    ids = random_ids(2, 6)
    assert torch.equal(policy.logits(ids), Policy(llama(), char_tokenizer()).logits(ids))


def test_load_policy_widens_bfloat16(saved):
    Policy(llama().to(torch.bfloat16), char_tokenizer()).save(saved)
    assert load_policy(saved).model.dtype == torch.float32


def test_missing_directory(tmp_path):
    with pytest.raises(MinirlError, match="minirl bases list"):
        load_policy(tmp_path / "nothing")


class Trap:
    """Unpickling this runs code: it creates a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return type(self.trace).touch, (self.trace,)


def test_pickled_weights_are_refused(saved, tmp_path):
    (saved / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Trap(tmp_path / "trace")}, saved / "pytorch_model.bin")
    with pytest.raises(MinirlError, match="safetensors"):
        load_policy(saved)
    assert not (tmp_path / "trace").exists()
    torch.load(saved / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "trace").exists()  # the trap works: it was the loader that did not step into it


def test_damaged_files(saved):
    (saved / "config.json").write_text("{")
    with pytest.raises(MinirlError, match="cannot load a model"):
        load_policy(saved)


def test_truncated_weights(saved):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(MinirlError, match="the weights are damaged or belong to another architecture"):
        load_policy(saved)


def test_weights_of_another_architecture(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(MinirlError, match="the weights are damaged or belong to another architecture"):
        load_policy(saved)


def test_missing_weights(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(MinirlError):
        load_policy(saved)


def test_tokenizer_larger_than_embedding(saved):
    tokenizer = char_tokenizer()
    tokenizer.add_tokens(["é"])
    tokenizer.save_pretrained(saved)
    with pytest.raises(MinirlError, match=r"more tokens \(88\) than the model's embedding"):
        load_policy(saved)


def test_tokenizer_without_end_of_sequence(saved):
    PreTrainedTokenizerFast(tokenizer_object=char_tokenizer().backend_tokenizer, pad_token=PAD).save_pretrained(saved)
    with pytest.raises(MinirlError, match="no end-of-sequence token"):
        load_policy(saved)


# --- conversations --------------------------------------------------------------------------------------------------

CHAT_ML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat_policy() -> Policy:
    """The character tokenizer in the shape of a chat model's: its stop token ends every message."""
    tokenizer = char_tokenizer(ALPHABET + "\n")
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = CHAT_ML
    return Policy(scrambled(tiny_llama(16, 1, 2).model), tokenizer)


def test_pieces_of_a_conversation_are_the_rendered_conversation():
    policy = chat_policy()
    messages, pieces = [], []
    for question, attempt in (("1+2=", "03"), ("?1+2=", "04"), ("?", "0 ")):
        (before,) = (policy.encode_feedback if messages else policy.encode_prompts)([question])
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": attempt}]
        pieces += [*before, *policy.encode_text([attempt])[0], policy.stop_id]
    whole = policy.tokenizer.apply_chat_template(messages, tokenize=False)
    assert whole.startswith(
        "<|im_start|>user\n1+2=<|im_end|>\n<|im_start|>assistant\n03<|im_end|>\n<|im_start|>user\n?"
    )
    assert [*pieces, *policy.tokenizer.encode("\n", add_special_tokens=False)] == policy.tokenizer.encode(
        whole, add_special_tokens=False
    )
    # Every message ends with the stop token: three of ours, three of the policy's.
    assert pieces.count(policy.stop_id) == 6
    assert policy.decode([[3, 6, policy.stop_id]]) == ["03"]


def test_without_template_text_is_text():
    policy = Policy(TIED, char_tokenizer())
    assert not policy.has_template
    assert policy.encode_text(["1+2=", "", "1"]) == [[4, 13, 5, 17], [], [4]]  # rows of their own length
    assert policy.encode_prompts(["1+2=", "2"]) == [[4, 13, 5, 17], [5]]
    assert policy.encode_feedback(["?1", "3"]) == [[20, 4], [6]]
    assert policy.encode_text([]) == policy.encode_prompts([]) == policy.encode_feedback([]) == []


# --- LoRA -----------------------------------------------------------------------------------------------------------


def lora(model):
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return peft.get_peft_model(model, settings).eval()


def test_lora_takes_the_models_own_path():
    model = lora(llama())
    assert not fast.supports(model)
    policy = Policy(model, char_tokenizer())
    ids = random_ids(2, 6)
    torch.testing.assert_close(policy.logits(ids)[1, -1], own_logits(model, ids[1].tolist()))
    assert (policy.logits(ids) - Policy(llama(), char_tokenizer()).logits(ids)).abs().max() > 0.1  # adapters matter


def test_lora_rolls_out():
    policy, task = Policy(lora(llama()), char_tokenizer()), get("add")
    generator = torch.Generator().manual_seed(0)
    rollouts = roll_out(policy, task, task.items(0, range(3), 1), turns=2, samples=2, generator=generator)
    logits = policy.logits(rollouts.ids)[:, :-1]
    logprobs = token_logprobs(logits, rollouts.ids[:, 1:]).detach()
    own = rollouts.own[:, 1:]
    torch.testing.assert_close(rollouts.logprobs[:, 1:][own], logprobs[own], atol=1e-4, rtol=1e-4)


def test_adapters_injected_in_place_are_noticed():
    assert not fast.supports(lora(llama()).get_base_model())


def test_adapters_added_by_transformers_are_noticed():
    model = llama()
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"]))
    assert not fast.supports(model)
