"""Bad input ends in one clear error of our own: random input with hypothesis, and single cases that once did not."""

import json
import random
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from bad_input_table import render
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from minirl.config import Experiment, load_model, load_yaml, parse_overrides
from minirl.errors import ConfigError, MinirlError, RunError
from minirl.experiments.bases import Recipe
from minirl.experiments.claims import Claim, evaluate_claim, load_claim
from minirl.experiments.registry import project_root
from minirl.experiments.run import load_experiment, open_run
from minirl.experiments.rundir import read_json
from minirl.experiments.runner import parse_seeds
from minirl.policy.models import SHIPPED, load_policy, tiny_llama
from minirl.policy.tokenizer import char_tokenizer
from minirl.tasks import get, names

PAGE = project_root() / "book" / "reference" / "bad-input.md"
SCORE = project_root() / "reproductions" / "score"
MAX_MESSAGE = 4000  # characters: a message is to be read

FUZZED: list[tuple[str, str, int]] = []  # (input, what is tried, examples), in the order of the page


def fuzz(surface: str, tried: str, examples: int, **strategies):
    """A property test, listed on the page."""
    FUZZED.append((surface, tried, examples))

    def decorate(test):
        options = {"max_examples": examples, "deadline": None, "derandomize": True, "database": None}
        checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
        return settings(**options, suppress_health_check=checks)(given(**strategies)(test))

    return decorate


def outcome(call) -> MinirlError | None:
    """The error of our own that ``call`` ends in, None if it is accepted; any other error fails the test."""
    try:
        call()
    except MinirlError as error:
        assert 0 < len(str(error)) <= MAX_MESSAGE
        return error
    return None


# --- Random input -----------------------------------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from([0, -1, 10**30, 1e308, "", "0", "1e-3", "nan", "../x", "\0", "{}", "tiny", "score", 2**63])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
YAML_TEXT = st.text(st.sampled_from("ab01:-_.[]{}!&*<>?|#'\"%@, \n\t~=é\x00"), max_size=60)


def places(data, path=()):
    """The path to every value of a nested document."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [(*path, key) for key, _ in inner] + [p for key, value in inner for p in places(value, (*path, key))]


def put(data, path, value):
    """A copy of ``data`` with another value at ``path``."""
    if not path:
        return value
    copied = dict(data) if isinstance(data, dict) else list(data)
    copied[path[0]] = put(copied[path[0]], path[1:], value)
    return copied


def write_yaml(path: Path, data) -> Path:
    path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    return path


CONFIG = yaml.safe_load((SCORE / "tiny.yaml").read_text())
CLAIM = yaml.safe_load((SCORE / "claim.yaml").read_text())
RECIPE = yaml.safe_load((SHIPPED / "add-retrying" / "recipe.yaml").read_text())
DOCUMENTS = {"config": (Experiment, CONFIG), "claim": (Claim, CLAIM), "recipe": (Recipe, RECIPE)}


@pytest.mark.parametrize("loader", [load_yaml, load_claim], ids=["config", "claim"])
@fuzz("config and claim files", "arbitrary bytes", 60, data=st.binary(max_size=80))
def test_arbitrary_bytes(tmp_path, loader, data):
    (tmp_path / "x.yaml").write_bytes(data)
    outcome(lambda: loader(tmp_path / "x.yaml"))


@pytest.mark.parametrize("loader", [load_yaml, load_claim], ids=["config", "claim"])
@fuzz("config and claim files", "text of characters that mean something in YAML", 150, text=YAML_TEXT)
def test_arbitrary_yaml(tmp_path, loader, text):
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    outcome(lambda: loader(tmp_path / "x.yaml"))


@pytest.mark.parametrize("kind", DOCUMENTS)
@fuzz("configs, claims and recipes", "a real one with any value at any place", 80, data=st.data())
def test_any_value_at_any_place(tmp_path, kind, data):
    model, document = DOCUMENTS[kind]
    changed = put(document, data.draw(st.sampled_from(places(document))), data.draw(VALUES))
    path = write_yaml(tmp_path / "x.yaml", changed)
    error = outcome(lambda: load_model(path, model))
    assert error is None or "x.yaml" in str(error)


@fuzz("`--set`", "arbitrary text", 100, pairs=st.lists(st.text(max_size=20) | YAML_TEXT, max_size=3))
def test_arbitrary_overrides(pairs):
    outcome(lambda: load_experiment("score", "smoke", parse_overrides(pairs)))


KEYS = [".".join(map(str, path)) for path in places(load_experiment("score", "smoke").model_dump(mode="json"))]


@fuzz("`--set`, `overrides` of a notebook", "a real key with any value", 100, key=st.sampled_from(KEYS), value=VALUES)
def test_any_value_of_any_key(key, value):
    error = outcome(lambda: load_experiment("score", "smoke", {key: value}))
    assert error is None or isinstance(error, ConfigError)


@fuzz(
    "parameters of a notebook",
    "any value for any of them",
    60,
    name=st.sampled_from(["slug", "tier", "seed", "overrides", "variant"]),
    value=VALUES,
)
def test_any_parameter(tmp_path, name, value):
    def call():
        parameters = {"slug": "score", "tier": "smoke", "seed": 0, "out": tmp_path / "run"} | {name: value}
        open_run(parameters.pop("slug"), **parameters).close()

    outcome(call)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)


@fuzz("`--seeds`", "arbitrary text", 100, text=st.text(max_size=8) | st.text("0123456789-, ", max_size=12))
def test_arbitrary_seeds(text):
    outcome(lambda: parse_seeds(text))


RESULTS = [
    {
        "schema": 1,
        "slug": "score",
        "tier": "tiny",
        "seed": seed,
        "evaluation": {"items": "exact"},
        "arms": {
            arm: {"metrics": dict.fromkeys(("delta", "accuracy@1", "accuracy@2", "copy_rate"), 0.1 * seed), "items": {}}
            for arm in CLAIM["arms"]
        },
        "core_s": 1.0,
        "wall_s": 1.0,
        "peak_mb": 1.0,
    }
    for seed in CLAIM["seeds"]
]
EXACT = Claim.model_validate(CLAIM | {"evaluation": "exact"})


@fuzz("results of seeds", "real ones with any value at any place", 100, data=st.data())
def test_any_value_in_results(data):
    place = data.draw(st.sampled_from(places(RESULTS)))
    outcome(lambda: evaluate_claim(EXACT, put(RESULTS, place, data.draw(VALUES))))


def test_the_results_are_accepted_as_they_are():
    assert evaluate_claim(EXACT, RESULTS).verdict in ("supported", "contradicted", "inconclusive")


@pytest.mark.parametrize("name", names())
@fuzz(
    "answers to every task",
    "arbitrary text, and right answers with a change: read, scored, told right or wrong by every grade, revised",
    30,
    text=st.text(max_size=40) | st.binary(max_size=40).map(lambda data: data.decode("latin-1")),
    cut=st.integers(0, 20),
    index=st.integers(0, 9),
)
def test_answers(name, text, cut, index):
    task = get(name)
    item = task.item(7, index, task.levels[-1])
    for answer in (text, item.answer[:cut] + text + item.answer[cut:], item.answer[:cut]):
        assert isinstance(task.read(answer), str)
        assert 0 <= task.score(item, answer) <= 1
        assert type(task.admissible(item, answer)) is bool
        for grade in task.grades:
            said = task.feedback(item, answer, grade)
            assert isinstance(said, str)
            assert isinstance(task.revise(item, [(answer, said)], random.Random(0), 0.5), str)


# --- Single cases -----------------------------------------------------------------------------------------------------

FILES: dict[str, tuple[str, str]] = {
    "empty": ("", "expected 'key: value' lines, found NoneType"),
    "a list": ("- 1", "expected 'key: value' lines, found list"),
    "a key twice": ("a: 1\na: 2", "key 'a' is given twice"),
    "a number that YAML reads as octal": ("a: 010", "010 begins with 0, octal in YAML"),
    "an object of Python": ("a: !!python/object/apply:os.system [x]", "not valid YAML"),
    "a NUL": ("a: \0", "not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2", "not valid YAML"),
    "a list as a key": ("? [a]\n: b", "not valid YAML"),
    "extends itself": ("extends: x.yaml", "'extends' goes round in a circle"),
    "extends what is not there": ("extends: y.yaml", "no such file, though"),
    "extends a directory": ("extends: .", "cannot be read"),
    "extends a name with a NUL": ('extends: "\\0"', "is no file: embedded null byte"),
    "a date that does not exist": (
        "a: 2026-02-30",
        "not valid YAML: a value is not what it looks like (day is out of range",
    ),
    "a number of 5,000 digits": (
        "a: " + "9" * 5000,
        "not valid YAML: a value is not what it looks like (Exceeds the limit",
    ),
    "a number without digits": ("a: 0x_", "not valid YAML: a value is not what it looks like (invalid literal"),
    "a tag that does not fit": ("a: !!int abc", "not valid YAML: a value is not what it looks like (invalid literal"),
    "4,000 digits": ("a: " + "9" * 4000, "not valid YAML: a number of more than 300 digits"),
    "5,000 hexadecimal digits": ("a: 0x" + "f" * 5000, "not valid YAML: a number of more than 300 digits"),
    "a number in base 60 of 3,000 places": ("a: 1" + ":1" * 3000, "not valid YAML: a number of more than 300 digits"),
    "a tag on nothing": ("a: !!int ''", "not valid YAML: a value is not what it looks like (string index"),
    "a tag on a list": ("a: !!int [1]", "not valid YAML: a value is not what it looks like (expected string"),
    "a set that is a list": ("a: !!set [1]", "not valid YAML: a value is not what it looks like (cannot unpack"),
    "a number in base 60 beyond all floats": (
        "a: 1" + ":1" * 200 + ".0",
        "not valid YAML: a value is not what it looks like (int too large",
    ),
    "3,000 brackets": ("a: " + "[" * 3000, "not valid YAML: it is nested too deeply"),
}
MILLION = "a" * 5000
PARAMETERS: dict[str, tuple[dict, str]] = {
    "an unknown technique": ({"slug": "scroe"}, "unknown technique 'scroe'. Did you mean 'score'?"),
    "a technique that is a list": ({"slug": ["score"]}, "unknown technique ['score']."),
    "a tier of 5,000 characters": ({"tier": MILLION}, "score has no config"),
    "a tier that is a path": ({"tier": "../score/tiny"}, "score has no config"),
    "a seed that is text": ({"seed": "0"}, "parameter 'seed' must be a whole number ≥ 0, got '0'"),
    "a directory with a NUL": ({"out": "\0"}, "is no directory: embedded null byte; choose another --out"),
    "a directory that is a number": ({"out": 3}, "parameter 'out' must be a directory, got 3"),
    "overrides that are a number": ({"overrides": 3}, "overrides must be a mapping or a list of key=value, not int"),
    "an override without a value": ({"overrides": "train.updates"}, "is not of the form key=value"),
    "an unknown key": ({"overrides": {"train.updaets": 1}}, "unknown key 'train.updaets'. Did you mean 'updates'?"),
    "a base without a name": ({"overrides": {"base": ""}}, "key 'base': neither a name nor a directory: ''"),
    "a base of 5,000 characters": ({"overrides": {"base": MILLION}}, "key 'base': neither a name nor a directory"),
    "an arm that leaves the run's directory": (
        {"overrides": {"arms": {"../../x": {"method": "score"}}}},
        "'../../x' is no name for an arm",
    ),
    "an unknown device": ({"overrides": {"device": "gpu"}}, "key 'device': 'gpu' cannot be used here"),
    "a device that is not there": ({"overrides": {"device": "cuda:99"}}, "key 'device': 'cuda:99' cannot be used here"),
    "a thousand million threads": ({"overrides": {"threads": 10**9}}, "key 'threads': 1000000000 are more than 1024"),
    "seeds without end": ({"seeds": "0-999999999"}, "these are more than 10000 seeds"),
    "an open range of seeds": ({"seeds": "1-"}, "expected numbers and ranges such as 0-4 or 0,2,5"),
}
JSON_FILES: dict[str, tuple[bytes, str]] = {
    "cut short": (b'{"schema": 1', "is missing or damaged"),
    "not text": (b"\xff\x00", "is missing or damaged"),
    "100,000 brackets": (b"[" * 100_000, "is missing or damaged"),
}


def configure(**changes):
    """A change of ``config.json``; None removes nothing, it is written."""

    def change(directory):
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def write(name: str, data: bytes):
    return lambda directory: (directory / name).write_bytes(data)


def remove(pattern: str):
    return lambda directory: [path.unlink() for path in directory.glob(pattern)]


def weight(value: float):
    def change(directory):
        tensors = safetensors.torch.load_file(directory / "model.safetensors")
        tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = value
        safetensors.torch.save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})

    return change


def cut(keep: int):
    def change(directory):
        path = directory / "model.safetensors"
        path.write_bytes(path.read_bytes()[:keep])

    return change


def pickled(name: str):
    def change(directory):
        (directory / "model.safetensors").unlink()
        torch.save({"lm_head.weight": torch.ones(1)}, directory / name)

    return change


def tokenizer(**options):
    def change(directory):
        PreTrainedTokenizerFast(tokenizer_object=char_tokenizer().backend_tokenizer, **options).save_pretrained(
            directory
        )

    return change


def token_beyond_the_embedding(directory):
    path = directory / "tokenizer.json"
    data = json.loads(path.read_text())
    data["model"]["vocab"]["a"] = 5000
    path.write_text(json.dumps(data))


DAMAGED = "the weights are damaged or belong to another architecture"
CANNOT = "cannot load a model from"
NOT_FINITE = "weights that are NaN or infinite, in model.layers.0.mlp.up_proj.weight"
MODELS = {
    "as it was saved": (lambda directory: None, ""),
    "no pad token (the stop token pads)": (tokenizer(eos_token="<eos>", unk_token="<unk>"), ""),
    "no end-of-sequence token": (tokenizer(pad_token="<pad>"), "the tokenizer has no end-of-sequence token"),
    "a tokenizer with more tokens than the embedding": (
        lambda directory: char_tokenizer("".join(map(chr, range(48, 200)))).save_pretrained(directory),
        "than the model's embedding",
    ),
    "a token beyond the embedding": (
        token_beyond_the_embedding,
        "the tokenizer has a token 5000, the model's embedding ends at 86",
    ),
    "the tokenizer of another model": (
        tokenizer(eos_token="a", unk_token="<unk>", pad_token="<pad>"),
        "ends a text with token 35, the model with 1: it is the tokenizer of another model",
    ),
    "no tokenizer": (remove("tokenizer*"), CANNOT),
    "`tokenizer.json` cut short": (write("tokenizer.json", b"{"), CANNOT),
    "`tokenizer.json` is a list": (write("tokenizer.json", b"[]"), CANNOT),
    "`tokenizer_config.json` is a list": (write("tokenizer_config.json", b"[]"), CANNOT),
    "a chat template that does not parse": (
        write("chat_template.jinja", b"{% for x"),
        "the chat template cannot render a conversation: unexpected end of template",
    ),
    "no `config.json`": (remove("config.json"), CANNOT),
    "`config.json` cut short": (write("config.json", b"{"), CANNOT),
    "`config.json` is a list": (write("config.json", b"[]"), CANNOT),
    "an unknown architecture": (configure(model_type="nope"), CANNOT),
    "a size that is text": (configure(hidden_size="big"), "Field 'hidden_size' expected int, got str"),
    "heads that do not divide the size": (
        configure(num_attention_heads=3),
        "The hidden size (16) is not a multiple of the number of attention heads (3)",
    ),
    "no heads": (configure(num_attention_heads=0), CANNOT),
    "an unknown number format": (configure(dtype="float7"), CANNOT),
    "a smaller vocabulary in the config than in the weights": (configure(vocab_size=50), DAMAGED),
    "a larger vocabulary in the config than in the weights": (configure(vocab_size=500), DAMAGED),
    "weights of another size": (configure(intermediate_size=48), DAMAGED),
    "a NaN among the weights": (weight(float("nan")), NOT_FINITE),
    "an infinite weight": (weight(float("inf")), NOT_FINITE),
    "no weights": (remove("model.safetensors"), CANNOT),
    "weights of 0 bytes": (cut(0), DAMAGED),
    "weights cut in the header": (cut(100), DAMAGED),
    "weights cut in the data": (cut(-1), DAMAGED),
    "pickled weights": (pickled("pytorch_model.bin"), CANNOT),
    "pickled weights called `model.safetensors`": (pickled("model.safetensors"), DAMAGED),
    "an empty directory": (remove("*"), CANNOT),
}


def each(cases):
    return pytest.mark.parametrize("case", cases)


def check(call, expected: str, kind: type[MinirlError] = MinirlError) -> None:
    """``call`` ends in the error that is expected; "" expects that it works."""
    if not expected:
        call()
        return
    with pytest.raises(kind) as caught:
        call()
    assert expected in str(caught.value)
    assert len(str(caught.value)) <= MAX_MESSAGE


@each(FILES)
def test_config_files(tmp_path, case):
    text, expected = FILES[case]
    (tmp_path / "x.yaml").write_text(text)
    check(lambda: load_yaml(tmp_path / "x.yaml"), expected, ConfigError)


@each(PARAMETERS)
def test_parameters(tmp_path, case):
    given, expected = PARAMETERS[case]
    parameters = {"slug": "score", "tier": "smoke", "seed": 0, "out": tmp_path / "run"} | given

    def call():
        if "seeds" in parameters:
            parse_seeds(parameters["seeds"])
        open_run(parameters.pop("slug"), **parameters).close()

    check(call, expected, ConfigError if "overrides" in given or "slug" in given else MinirlError)


@each(JSON_FILES)
def test_json_files(tmp_path, case):
    data, expected = JSON_FILES[case]
    (tmp_path / "x.json").write_bytes(data)
    check(lambda: read_json(tmp_path / "x.json"), expected, RunError)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model") / "policy"
    tiny_llama(16, 1, 2).save(directory)
    return directory


@each(MODELS)
def test_model_directories(saved, tmp_path, case):
    change, expected = MODELS[case]
    directory = shutil.copytree(saved, tmp_path / "policy")
    change(directory)

    def call():
        load_policy(directory).encode_prompts(["1+1="])

    check(call, expected)


# --- The page ---------------------------------------------------------------------------------------------------------

SURFACES = {
    "config file": FILES,
    "parameter, `--set`, `--seeds`": PARAMETERS,
    "results, summary, manifest": JSON_FILES,
    "model directory": MODELS,
}


def test_the_page_is_current(request):
    cases = [(surface, case, entry[-1]) for surface, entries in SURFACES.items() for case, entry in entries.items()]
    page = render(FUZZED, cases)
    if request.config.getoption("--write-bad-input"):
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page, "rewrite it: pytest tests/test_bad_input.py --write-bad-input"
