"""Configs: what a mistake looks like, from whichever side it comes in."""

import math
from typing import Any

import pytest
import yaml
from pydantic import Field

from minirl.cli import main
from minirl.config import (
    EvaluationConfig,
    Experiment,
    Strict,
    TaskConfig,
    TrainConfig,
    load_model,
    load_yaml,
    merge,
    nearest,
    parse_overrides,
    validate,
)
from minirl.errors import ConfigError, MinirlError, RunError
from minirl.experiments.bases import load_recipe
from minirl.experiments.claims import load_claim
from minirl.experiments.run import load_experiment, open_run
from minirl.experiments.runner import parse_seeds, reproduce
from minirl.policy.models import base_names, load_policy

TRAIN = {"updates": 4, "prompts": 2, "samples": 2, "learning_rate": 1e-3}
BASE = base_names()[0]
SMOKE = "reproductions/score/smoke.yaml ← tiny.yaml"


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def run(tmp_path, **parameters):
    return open_run("score", **{"tier": "smoke", "seed": 0, "out": tmp_path / "run", **parameters})


# --- Ten kinds of bad config and bad input, and more ----------------------------------------------------------------

MISTAKES = {
    "unknown key": (
        lambda tmp: load_experiment("score", "smoke", {"train.updaets": 3}),
        ConfigError,
        f"{SMOKE} with overrides: unknown key 'train.updaets'. Did you mean 'updates'?",
    ),
    "unknown key of a method": (
        lambda tmp: load_experiment("score", "smoke", ["arms.score.alfa=1"]),
        ConfigError,
        f"{SMOKE} with overrides: arms.score: unknown key 'alfa'. Did you mean 'alpha'?",
    ),
    "missing key": (
        lambda tmp: load_experiment("score", "smoke", {"train.learning_rate": None}),
        ConfigError,
        f"{SMOKE} with overrides: key 'train.learning_rate' is missing",
    ),
    "wrong type": (
        lambda tmp: load_experiment("score", "smoke", "train.updates=many"),
        ConfigError,
        f"{SMOKE} with overrides: key 'train.updates': input should be a valid integer, unable to parse string as an "
        "integer (got 'many')",
    ),
    "truth as a number": (
        lambda tmp: load_experiment("score", "smoke", "train.updates=yes"),
        ConfigError,
        "key 'train.updates': expected a number (got True)",
    ),
    "negative": (
        lambda tmp: load_experiment("score", "smoke", ["train.learning_rate=-1e-3"]),
        ConfigError,
        "key 'train.learning_rate': input should be greater than 0 (got '-1e-3')",
    ),
    "not a number": (
        lambda tmp: load_experiment("score", "smoke", ["arms.score.alpha=.nan"]),
        ConfigError,
        "arms.score: key 'alpha': input should be a finite number (got nan)",
    ),
    "one of several": (
        lambda tmp: load_experiment("score", "smoke", ["train.feedback=nugde"]),
        ConfigError,
        "key 'train.feedback': add has no grade 'nugde'. Did you mean 'nudge'?",
    ),
    "unknown method": (
        lambda tmp: load_experiment("score", "smoke", ["arms.score.method=scoer"]),
        ConfigError,
        f"{SMOKE} with overrides: arms.score: key 'method': unknown method 'scoer'. Did you mean 'score'?",
    ),
    "arm without method": (
        lambda tmp: load_experiment("score", "smoke", {"arms.new.alpha": 1}),
        ConfigError,
        f"{SMOKE} with overrides: arms.new: key 'method' is missing",
    ),
    "arm called base": (
        lambda tmp: load_experiment("score", "smoke", {"arms.base": {"method": "score"}}),
        ConfigError,
        f"{SMOKE} with overrides: key 'arms.base': this name means the untrained base; choose another",
    ),
    "unknown task": (
        lambda tmp: load_experiment("score", "smoke", ["task.name=addition"]),
        ConfigError,
        f"{SMOKE} with overrides: key 'task.name': unknown task 'addition'. Did you mean 'add'?",
    ),
    "unknown base": (
        lambda tmp: load_experiment("score", "smoke", [f"base={BASE}x"]),
        ConfigError,
        f"{SMOKE} with overrides: key 'base': unknown base '{BASE}x'. Did you mean '{BASE}'?",
    ),
    "level the task lacks": (
        lambda tmp: load_experiment("score", "smoke", ["task.level=1000"]),
        ConfigError,
        f"{SMOKE} with overrides: key 'task.level': add has levels 1 to ",
    ),
    "override without value": (
        lambda tmp: load_experiment("score", "smoke", ["train.updates"]),
        ConfigError,
        "override 'train.updates' is not of the form key=value, e.g. train.updates=10",
    ),
    "overrides that are a number": (
        lambda tmp: run(tmp, overrides=3),
        ConfigError,
        "overrides must be a mapping or a list of key=value, not int",
    ),
    "unknown tier": (
        lambda tmp: run(tmp, tier="tinny"),
        ConfigError,
        "score has no config tinny.yaml. Did you mean 'tiny'?",
    ),
    "tier that is no text": (
        lambda tmp: run(tmp, tier=1),
        ConfigError,
        "score has no config 1.yaml. There is: ",
    ),
    "negative seed": (
        lambda tmp: run(tmp, seed=-1),
        ConfigError,
        "parameter 'seed' must be a whole number ≥ 0, got -1",
    ),
    "seed that is no number": (
        lambda tmp: run(tmp, seed="0"),
        ConfigError,
        "parameter 'seed' must be a whole number ≥ 0, got '0'",
    ),
    "out that is no path": (
        lambda tmp: run(tmp, out=7),
        ConfigError,
        "parameter 'out' must be a directory, got 7",
    ),
    "unknown technique": (
        ["reproduce", "scroe"],
        MinirlError,
        "minirl: unknown technique 'scroe'. Did you mean 'score'?",
    ),
    "mistake in the second technique": (
        ["reproduce", "score", "scroe", "--tier", "smoke", "--seeds", "0"],
        MinirlError,
        "minirl: unknown technique 'scroe'. Did you mean 'score'?",
    ),
    "override on the command line": (
        ["reproduce", "score", "--tier", "smoke", "--set", "evaluation.itmes=64"],
        MinirlError,
        f"minirl: {SMOKE} with overrides: unknown key 'evaluation.itmes'. Did you mean 'items'?",
    ),
    "variant that is not there": (
        ["sweep", "score", "--variant", "ablation"],
        MinirlError,
        "minirl: score has no config tiny-ablation.yaml.",
    ),
    "seeds": (lambda tmp: parse_seeds("0-x"), RunError, "--seeds '0-x': expected numbers and ranges such as 0-4"),
    "seeds given twice": (lambda tmp: parse_seeds("0-2,1"), RunError, "--seeds '0-2,1': give at least one seed, each"),
    "seeds backwards": (lambda tmp: parse_seeds("4-0"), RunError, "--seeds '4-0': give at least one seed"),
    "no jobs": (
        lambda tmp: reproduce("score", "smoke", [0], jobs=-1, out=tmp),
        RunError,
        "--jobs -1: give at least 1",
    ),
    "claim": (
        lambda tmp: load_claim(write(tmp / "claim.yaml", "slug: score\ntier: tinny\n")),
        ConfigError,
        "claim.yaml: key 'tier': input should be 'smoke', 'tiny', 'small' or 'large' (got 'tinny')",
    ),
    "base of a recipe": (
        lambda tmp: load_recipe(f"{BASE}x"),
        ConfigError,
        f"unknown base '{BASE}x'. Did you mean '{BASE}'?",
    ),
    "model": (
        lambda tmp: load_policy(f"{BASE}x"),
        MinirlError,
        f"cannot load a model from '{BASE}x': not a shipped base (`minirl bases list`), not a directory with",
    ),
    "directory without a model": (
        lambda tmp: load_policy(tmp),
        MinirlError,
        "not a directory with config.json, model.safetensors and tokenizer",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_every_kind_of_mistake_has_its_message(kind, tmp_path, capsys):
    entry, error, message = MISTAKES[kind]
    if isinstance(entry, list):
        assert main(entry) == 1
        said = capsys.readouterr().err
        assert "Traceback" not in said
    else:
        with pytest.raises(error) as caught:
            entry(tmp_path)
        said = str(caught.value)
    assert message in said


def test_all_mistakes_of_a_config_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        load_experiment("score", "smoke", ["train.updates=0", "train.samples=1", "device=1", "treads=2"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    for start in ("key 'train.updates'", "key 'train.samples'", "key 'device'", "unknown key 'treads'. Did you mean"):
        assert sum(start in line for line in lines) == 1


# --- Values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0, -1, "-1", 1.5, None, [], "ten", True, math.nan, math.inf])
def test_impossible_counts(bad):
    with pytest.raises(ConfigError, match=r"^somewhere: key 'updates': "):
        validate(TrainConfig, {**TRAIN, "updates": bad}, "somewhere")


@pytest.mark.parametrize("bad", [0, -1e-3, "0", math.nan, math.inf, ".nan", "fast", None, True])
def test_impossible_rates(bad):
    with pytest.raises(ConfigError, match=r"^somewhere: key 'learning_rate': "):
        validate(TrainConfig, {**TRAIN, "learning_rate": bad}, "somewhere")


def test_a_group_baseline_needs_two_samples():
    with pytest.raises(ConfigError, match="key 'samples': input should be greater than or equal to 2"):
        validate(TrainConfig, {**TRAIN, "samples": 1}, "x")


def test_numbers_that_yaml_reads_as_text_become_numbers(tmp_path):
    # YAML 1.1 wants 1.0e-3; everyone writes 1e-3, and papermill passes it on as text.
    path = write(tmp_path / "a.yaml", "{updates: 4, prompts: '2', samples: 2, learning_rate: 1e-3}")
    assert load_yaml(path)["learning_rate"] == "1e-3"
    config = load_model(path, TrainConfig)
    assert (config.learning_rate, config.prompts) == (0.001, 2)


def test_a_config_does_not_change():
    with pytest.raises(ValueError, match="frozen"):
        validate(TaskConfig, {"name": "add"}, "x").level = 2


def test_long_values_are_cut_in_messages():
    with pytest.raises(ConfigError) as caught:
        validate(TaskConfig, {"name": ["x" * 500]}, "x")
    assert len(str(caught.value)) < 150


def test_nested_dictionaries_name_the_whole_path():
    class Inner(Strict):
        depth: int = 0
        width: int

    class Outer(Strict):
        maybe: Inner | None = None
        table: dict[str, Inner] = Field(default_factory=dict)

    with pytest.raises(ConfigError, match=r"unknown key 'maybe.dpth'\. Did you mean 'depth'\?"):
        validate(Outer, {"maybe": {"dpth": 1}}, "f")
    with pytest.raises(ConfigError, match=r"unknown key 'table.a.dpth'\. Did you mean 'depth'\?"):
        validate(Outer, {"table": {"a": {"width": 1, "dpth": 1}}}, "f")
    with pytest.raises(ConfigError, match=r"key 'table.a.width' is missing"):
        validate(Outer, {"table": {"a": {}}}, "f")
    with pytest.raises(ConfigError, match=r"key '\(whole file\)'"):
        validate(Outer, 3, "f")


def test_nearest():
    assert nearest("lerning_rate", ["learning_rate", "updates"]) == " Did you mean 'learning_rate'?"
    assert nearest("xyz", ["b", "a"]) == " There is: a, b."
    assert nearest("xyz", []) == ""


# --- Files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [", "not valid YAML"),
        ("a: 1\nb: 2\na: 3", "key 'a' is given twice"),
        ("t:\n  a: 1\n  a: 1", "key 'a' is given twice"),
        ("a: 010", "010 begins with 0, octal in YAML"),
        ("a: [1, -007]", "-007 begins with 0, octal in YAML"),
        ("", "expected 'key: value' lines, found NoneType"),
        ("- a\n- b", "expected 'key: value' lines, found list"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("extends: nowhere.yaml", "nowhere.yaml: no such file, though .*a.yaml extends it"),
        ("extends: a.yaml", "'extends' goes round in a circle: a.yaml"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, text, message):
    path = write(tmp_path / "a.yaml", text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_yaml(path)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"gone.yaml: no such file$"):
        load_yaml(tmp_path / "gone.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read: .*directory"):
        load_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("a: é".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin.yaml: cannot be read: .*utf-8"):
        load_yaml(tmp_path / "latin.yaml")


def test_a_wrong_key_in_a_file_names_the_file(tmp_path):
    path = write(tmp_path / "e.yaml", "{items: 3, seed: 0, tempreature: 1}")
    with pytest.raises(ConfigError) as caught:
        load_model(path, EvaluationConfig)
    assert str(caught.value) == f"{path}: unknown key 'tempreature'. Did you mean 'temperature'?"


def test_a_wrong_key_in_a_chain_of_files_names_them_all(tmp_path):
    write(tmp_path / "a.yaml", "{items: 3, seeed: 0}")
    write(tmp_path / "b.yaml", "extends: a.yaml")
    path = write(tmp_path / "c.yaml", "{extends: b.yaml, seed: 1}")
    with pytest.raises(ConfigError) as caught:
        load_model(path, EvaluationConfig)
    assert str(caught.value) == f"{path} ← b.yaml ← a.yaml: unknown key 'seeed'. Did you mean 'seed'?"


def test_numbers_with_zeros_that_are_not_octal(tmp_path):
    assert load_yaml(write(tmp_path / "a.yaml", "{a: 0, b: 0.5, c: 10, d: 1_000, e: -0}")) == {
        "a": 0,
        "b": 0.5,
        "c": 10,
        "d": 1000,
        "e": 0,
    }


def test_extends_merges_key_by_key(tmp_path):
    (tmp_path / "below").mkdir()
    write(tmp_path / "a.yaml", "{keep: 1, t: {x: 1, y: 2}, l: [1, 2], arms: {p: {m: a}, q: {m: b}}}")
    write(tmp_path / "below" / "b.yaml", "{extends: ../a.yaml, t: {y: 3}, l: [9], arms: {p: null, r: {m: c}}}")
    path = write(tmp_path / "below" / "c.yaml", "{extends: b.yaml, t: {z: 4}, arms: {q: null}}")
    assert load_yaml(path) == {"keep": 1, "t": {"x": 1, "y": 3, "z": 4}, "l": [9], "arms": {"r": {"m": "c"}}}


def test_extends_in_a_circle_of_two(tmp_path):
    write(tmp_path / "a.yaml", "extends: b.yaml")
    write(tmp_path / "b.yaml", "extends: a.yaml")
    with pytest.raises(ConfigError, match=r"'extends' goes round in a circle: a.yaml → b.yaml"):
        load_yaml(tmp_path / "a.yaml")


def test_merge_leaves_its_arguments_alone():
    base: dict[str, Any] = {"t": {"x": 1}}
    over = {"t": {"y": None, "z": {"w": None, "v": 1}}, "u": {"s": None}}
    assert merge(base, over) == {"t": {"x": 1, "z": {"v": 1}}, "u": {}}  # a None removes, also where nothing is
    assert base == {"t": {"x": 1}}
    assert over == {"t": {"y": None, "z": {"w": None, "v": 1}}, "u": {"s": None}}


# --- Overrides ------------------------------------------------------------------------------------------------------


def test_overrides_say_the_same_in_every_form():
    wanted = load_experiment("score", "smoke", {"train": {"updates": 7}, "arms": {"score": {"alpha": 0.001}}})
    assert (wanted.train.updates, wanted.arms["score"]["alpha"]) == (7, 0.001)
    for form in (
        {"train.updates": 7, "arms.score.alpha": 0.001},
        ["train.updates=7", "arms.score.alpha=0.001"],
        ("train.updates = 7", "arms.score.alpha= 0.001"),
        "train.updates=7 arms.score.alpha=0.001",
    ):
        assert load_experiment("score", "smoke", form) == wanted
    plain = load_experiment("score", "smoke")
    for nothing in (None, {}, [], ""):
        assert load_experiment("score", "smoke", nothing) == plain != wanted


def test_overrides_nest():
    assert parse_overrides(["a.b=1", "a.c.d=x", "e=[1, 2]", "a.b=3"]) == {"a": {"b": 3, "c": {"d": "x"}}, "e": [1, 2]}
    assert parse_overrides({"a": {"b": 1, "c": 2}, "a.c": 3, "d": {}}) == {"a": {"b": 1, "c": 3}, "d": {}}
    assert parse_overrides({"a.c": 3, "a": {"b": 1}}) == {"a": {"b": 1, "c": 3}}
    assert parse_overrides(["a=b=c"]) == {"a": "b=c"}
    given = {"a": {"b": 1}, "a.c": 2}
    parse_overrides(given)
    assert given == {"a": {"b": 1}, "a.c": 2}


def test_several_keys_can_be_removed():
    assert parse_overrides(["a.x=null", "a.y=null", "a.z="]) == {"a": {"x": None, "y": None, "z": None}}
    arms = list(load_experiment("score", "smoke").arms)
    left = load_experiment("score", "smoke", [f"arms.{arm}=null" for arm in arms[1:]])
    assert list(left.arms) == arms[:1]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["=3"], "override '=3' is not of the form key=value"),
        ([" =3"], "override ' =3' is not of the form key=value"),
        ([3], "override 3 is not of the form key=value"),
        (["a=[1"], r"override 'a': the value '\[1' is not valid YAML"),
        (["a=010"], "override 'a': the value '010' is not valid YAML: 010 begins with 0, octal in YAML"),
        (["a={b: 1, b: 2}"], "override 'a': .*key 'b' is given twice"),
        (["a=1", "a.b=2"], "override 'a.b': another override sets 'a' itself to 1"),
        (["a.b=1", "a.b.c.d=2"], "override 'a.b.c.d': another override sets 'a.b' itself to 1"),
    ],
)
def test_malformed_overrides(pairs, message):
    with pytest.raises(ConfigError, match=message):
        parse_overrides(pairs)


def test_a_config_in_the_wrong_place(tmp_path, monkeypatch):
    experiment = load_experiment("score", "smoke").model_dump()
    folder = tmp_path / "reproductions" / "score"
    folder.mkdir(parents=True)
    write(folder / "smoke.yaml", yaml.safe_dump({**experiment, "tier": "tiny"}))
    monkeypatch.setattr("minirl.experiments.registry.Technique.reproduction", folder)
    monkeypatch.setattr("minirl.experiments.resolve.project_root", lambda: tmp_path)
    with pytest.raises(
        ConfigError, match=r"^reproductions/score/smoke.yaml: is for score at tiny, not score at smoke$"
    ):
        load_experiment("score", "smoke")


def test_experiments_survive_a_round_trip():
    experiment = load_experiment("score", "smoke")
    assert validate(Experiment, experiment.model_dump(mode="json"), "x") == experiment
