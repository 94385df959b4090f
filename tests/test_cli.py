"""The command: its help, its formats, its exit status."""

import json
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from minirl import cli
from minirl.cli import build_parser, main
from minirl.errors import RunError
from minirl.experiments import doctor
from minirl.experiments.bases import check_target
from minirl.experiments.registry import claim_path, result_files, techniques
from minirl.policy.models import base_names

BASE = base_names()[0]
COMMANDS = [
    [name]
    for name in ("list", "open", "new", "reproduce", "sweep", "claims", "report", "doctor", "audit", "verify", "why")
]
COMMANDS += [["plan"], ["slides"]]
COMMANDS += [["bases", "list"], ["bases", "build"], ["models", "list"], ["models", "get"]]
HEAVY = ("torch", "transformers", "pydantic", "numpy", "yaml", "matplotlib")
LISTED = {"slug", "family", "title", "tiers", "verdicts"}
CLAIMED = {"slug", "tier", "statement", "verdict", "conditions", "arms", "seeds", "items"}
CLAIMED |= {"core_s", "wall_s", "peak_mb", "results", "stale", "fresh", "bfloat16", "rungs"}
SETTLED = {"metric", "treatment", "comparator", "kind", "margin", "effect", "interval", "verdict"}


def python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


# --- Help and usage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], ["bases"], ["models"], *COMMANDS], ids=" ".join)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: {' '.join(['minirl', *command])} ")


def test_the_commands_are_all_of_them():
    (actions,) = [action for action in build_parser()._actions if action.dest == "==SUPPRESS==" and action.choices]
    assert {command[0] for command in COMMANDS} == set(actions.choices)


def test_help_imports_nothing_heavy():
    code = f"""
import sys
from minirl.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""
    assert python(code, "reproduce", "--help").stderr == "[]\n"


def test_installed_under_its_name():
    (script,) = [entry for entry in entry_points(group="console_scripts") if entry.name == "minirl"]
    assert script.load() is main
    run = subprocess.run([sys.executable, "-m", "minirl", "--help"], capture_output=True, text=True)
    assert (run.returncode, run.stdout.startswith("usage: minirl ")) == (0, True)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([], "the following arguments are required: command"),
        (["reprodce", "score"], "invalid choice: 'reprodce'"),
        (["reproduce"], "the following arguments are required: SLUG"),
        (["reproduce", "score", "--seed"], "ambiguous option"),
        (["reproduce", "score", "--jobs", "two"], "argument --jobs: invalid int value: 'two'"),
        (["bases"], "the following arguments are required: action"),
        (["list", "--jsn"], "unrecognized arguments: --jsn"),
    ],
)
def test_wrong_usage_is_status_2(command, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert message in said or "expected one argument" in said


# --- Exit status ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("reproduce scroe", "unknown technique 'scroe'. Did you mean 'score'?"),
        ("sweep scroe", "unknown technique 'scroe'. Did you mean 'score'?"),
        ("reproduce score --tier smok", "score has no config smok.yaml. Did you mean 'smoke'?"),
        ("reproduce score --seeds a", "--seeds 'a': expected numbers and ranges such as 0-4 or 0,2,5"),
        ("reproduce score --jobs 0 --seeds 0", "--jobs 0: give at least 1"),
        ("sweep score --jobs -1 --seeds 0", "--jobs -1: give at least 1"),
        (f"bases build {BASE}x", f"unknown base '{BASE}x'. Did you mean '{BASE}'?"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(command, message, capsys):
    assert main(command.split()) == 1
    assert capsys.readouterr() == ("", f"minirl: {message}\n")


def test_an_interruption_is_status_130(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "doctor", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "minirl: interrupted; the same command continues where it stood\n"


def test_only_our_own_errors_are_shortened(monkeypatch, capsys):
    def fails(error):
        def command(options):
            raise error

        monkeypatch.setattr(cli, "doctor", command)

    fails(RunError("broken; do this"))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err == "minirl: broken; do this\n"
    fails(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        main(["doctor"])


# --- Formats --------------------------------------------------------------------------------------------------------


def test_list(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    for item in techniques():
        assert f"{item.slug:<16} {item.family:<16} tiers {', '.join(item.tiers())} · " in said
        assert f"\n    {item.title}\n" in said


def test_list_json(capsys):
    assert main(["list", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert listing.keys() == {"schema", "techniques"}
    assert listing["schema"] == 1
    assert [entry["slug"] for entry in listing["techniques"]] == [item.slug for item in techniques()]
    for entry in listing["techniques"]:
        assert entry.keys() == LISTED
        assert entry["verdicts"].keys() <= {*entry["tiers"]}


def test_claims_json(capsys):
    assert main(["claims", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert listing.keys() == {"schema", "claims"}
    assert listing["schema"] == 1
    settled = [item for item in techniques() if claim_path(item, "tiny").exists() and result_files(item, "tiny")]
    assert {entry["slug"] for entry in listing["claims"] if entry["tier"] == "tiny"} == {item.slug for item in settled}
    for entry in listing["claims"]:
        assert entry.keys() == CLAIMED
        for condition in entry["conditions"]:
            assert condition.keys() - {"order"} == SETTLED
            assert len(condition["interval"]) == 2


def test_bases_list(capsys):
    assert main(["bases", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == base_names() != []
    assert sum(" parameters " in line for line in lines) == len(base_names())


def test_a_reader_who_has_seen_enough_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "minirl", "bases", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 0


# --- Bases ----------------------------------------------------------------------------------------------------------


def test_building_a_base_replaces_nothing_but_a_base(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["bases", "build", BASE, "--out", str(tmp_path)]) == 1  # before the training, not after
    assert capsys.readouterr().err == f"minirl: {tmp_path} exists and is not a base; choose another --out\n"
    assert main(["bases", "build", BASE, "--out", str(tmp_path / "thesis.txt")]) == 1
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    for good in ("new", "empty", "old"):
        if good != "new":
            (tmp_path / good).mkdir()
    (tmp_path / "old" / "recipe.yaml").write_text("")
    for good in ("new", "empty", "old"):
        check_target(tmp_path / good)


# --- Doctor ---------------------------------------------------------------------------------------------------------


def test_doctor_of_a_healthy_machine(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"Python {sys.version.split()[0]}, ")
    assert "\nsmoke  yes: seconds, any laptop\n" in said
    assert "\ntiny   yes: minutes on two cores; carries the claims\n" in said
    assert "\nsmall  " in said and "\nlarge  " in said
    assert "repository found, " in said and "Problem" not in said


def test_doctor_says_what_to_install_even_without_torch(tmp_path):
    code = """
import sys
for name in ("torch", "transformers", "pydantic"):
    sys.modules[name] = None  # as if not installed
from minirl.cli import main
sys.exit(main(["doctor"]))
"""
    run = python(code)
    assert (run.returncode, run.stderr) == (1, "")
    message = "Problem: Not installed: torch, transformers, pydantic. Run `pip install -e .` in the repository.\n"
    assert run.stdout.endswith(message)
    assert "\ntiny   no: " in run.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_memory_gib": lambda: 1.5}, "Problem: Less than 2 GiB of memory: tiny needs about 1 GiB for each run."),
        (
            {"_repository_problems": lambda lines: ["No shipped base found: the checkout is incomplete."]},
            "Problem: No shipped base found: the checkout is incomplete.",
        ),
    ],
    ids=["memory", "base"],
)
def test_doctor_names_problems(monkeypatch, capsys, change, message):
    for name, value in change.items():
        monkeypatch.setattr(doctor, name, value)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert message in said
    assert "small  no: solve the problems below first" in said


def test_doctor_without_disk(monkeypatch, capsys):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("usage", (), {"free": 1 << 20}))
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "repository found, 0 GiB free on its disk" in said
    assert "Problem: Less than 1 GiB of disk is free: a run would stop when it writes a checkpoint." in said


@pytest.mark.parametrize(
    ("gpus", "needed", "trl", "message"),
    [
        (0, 1, True, "no: needs 1 GPU, none found"),
        (1, 2, True, "no: needs 2 GPUs, 1 found"),
        (2, 2, False, "no: run `pip install -e '.[trl]'`"),
        (1, 1, True, "yes"),
    ],
)
def test_doctor_on_gpus(gpus, needed, trl, message):
    assert doctor._gpu_tier([], gpus, needed, trl) == message
