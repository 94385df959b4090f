"""Every technique's notebook, executed at smoke the ways that readers do."""

import base64
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from minirl.cli import main
from minirl.config import Experiment
from minirl.errors import RunError
from minirl.experiments import runner
from minirl.experiments.checksums import write_checked
from minirl.experiments.claims import load_claim
from minirl.experiments.registry import Technique, claim_path, project_root, technique, techniques
from minirl.experiments.resolve import load_experiment, load_method, load_sampler
from minirl.experiments.rundir import read_json, read_metrics
from minirl.experiments.runner import Job, over_budget, reason, reproduce
from minirl.tasks import get
from minirl.tasks.game import Game
from minirl.techniques.base import OnlinePhase, episodes

SEED = 1
MEAN_TOLERANCE = 1e-12


@pytest.fixture(scope="session", params=[item.slug for item in techniques()])
def job(request, tmp_path_factory) -> tuple[str, Job]:
    """A technique and its finished run at smoke, with its executed notebook."""
    (done,) = reproduce(request.param, "smoke", [SEED], out=tmp_path_factory.mktemp(request.param))
    return request.param, done


def executed(path: Path):
    return nbformat.read(path, as_version=4)


# --- What is left behind --------------------------------------------------------------------------------------------


def test_results(job):
    slug, done = job
    experiment, results = load_experiment(slug, "smoke"), read_json(done.results)
    assert {key: results[key] for key in ("schema", "slug", "tier", "variant", "seed")} == {
        "schema": 1,
        "slug": slug,
        "tier": "smoke",
        "variant": "",
        "seed": SEED,
    }
    computed = load_claim(claim_path(technique(slug), "tiny")).evaluation.items == "exact"
    assert results["evaluation"]["items"] == ("exact" if computed else experiment.evaluation.items)
    assert results["evaluation"]["level"] == experiment.task.level
    assert list(results["arms"]) == ["base", *experiment.arms]
    assert results["fingerprint"].keys() >= {"config", "base", "minirl/loops.py"}
    assert results["peak_mb"] > 100
    for arm, scores in results["arms"].items():
        assert scores["items"] or computed, arm
        for metric, values in scores["items"].items():
            assert len(values) == experiment.evaluation.items
            assert abs(math.fsum(values) / len(values) - scores["metrics"][metric]) < MEAN_TOLERANCE
        assert all(value is None or math.isfinite(value) for value in scores["metrics"].values())


# What is imitated is given (SPIN: imitation generates nothing), or collected by rounds in their own way (B-STaR).
GIVEN = {"spin", "b-star"}


def roll_out_settings(experiment: Experiment, arm: str) -> dict[str, dict]:
    """How the phases of an arm roll out, by name: turns, samples, until_solved, … Imitation collects single attempts.

    What is special to a technique (another feedback, say) is among them: rollouts with equal settings are equal. Where
    a technique rolls out in a way of its own, without saying how often, ``own`` is all that is known. A sampler says
    what is rolled out, so it is among them, too.
    """
    train, found = experiment.train, {}
    rule = load_sampler(experiment, arm)
    chooses = {"sampler": repr(rule)} if rule else {}
    for phase in load_method(experiment, arm).phases(train):
        settings = {"turns": 1, "samples": train.turns * train.samples, "collect": True}
        if isinstance(phase, OnlinePhase):
            settings = dict(getattr(phase.roll_out or episodes(train), "keywords", {}))
        known = {"until_solved": False, "turns": 1, **settings, **chooses} if "samples" in settings else {"own": arm}
        found[phase.name] = known
    return found


def least_attempts(record: dict, settings: dict, prompts: int) -> float:
    """Attempts that an update made, from its record. An episode that ends with success goes on only where it is not
    solved yet; ``accuracy@t`` is then the share that is solved by turn t (or more, if there is partial credit)."""
    going_on = [1.0] * settings["turns"]
    if settings["until_solved"]:
        going_on[1:] = [1 - record[f"accuracy@{turn}"] for turn in range(1, settings["turns"])]
    return prompts * settings["samples"] * sum(going_on)


def test_every_arm_spent_the_same_attempts(job):
    """Arms generate equally many attempts, or could have: those of an episode that success has ended are not made up
    for. In tokens they differ by the lengths of what they wrote, too."""
    slug, done = job
    experiment, results = load_experiment(slug, "smoke"), read_json(done.results)
    train = experiment.train
    attempts = train.updates * train.prompts * train.samples * train.turns
    longest = get(experiment.task.name).max_answer_chars(experiment.task.level) + 1  # and the stop token
    for arm, scores in results["arms"].items():
        if arm == "base":
            assert (scores["generated_tokens"], scores["core_s"]) == (0, 0)
            continue
        if not load_method(experiment, arm).phases(train):  # the base, asked in another way
            assert scores["generated_tokens"] == 0
            continue
        records = read_metrics(done.directory / "arms" / arm / "metrics.jsonl")
        assert [record["update"] for record in records] == list(range(1, len(records) + 1))
        if train.tokens:
            before = records[-2]["generated_tokens"] if len(records) > 1 else 0
            assert before < train.tokens  # and then it ended, or because of its updates
            assert records[-1]["generated_tokens"] >= train.tokens or len(records) == train.updates
            continue
        assert len(records) == train.updates
        assert records[-1]["generated_tokens"] == scores["generated_tokens"]
        phases = roll_out_settings(experiment, arm)
        assert scores["core_s"] > 0
        assert scores["wall_s"] > 0
        if any("own" in settings for settings in phases.values()) or slug in GIVEN:
            continue  # their pages say what is equal between arms
        assert {one["turns"] * one["samples"] for one in phases.values()} == {train.turns * train.samples}
        made = round(sum(least_attempts(record, phases[record["phase"]], train.prompts) for record in records))
        assert made <= attempts
        assert made == attempts or any(one["until_solved"] for one in phases.values())
        assert made <= scores["generated_tokens"]
        if not isinstance(get(experiment.task.name), Game):  # arms may play other games beside this one
            assert scores["generated_tokens"] <= attempts * longest
    assert results["core_s"] == pytest.approx(sum(scores["core_s"] for scores in results["arms"].values()), abs=0.06)


def test_every_arm_started_from_the_same_base_on_the_same_problems(job):
    """Before anything was learned, arms that roll out alike have written the same."""
    slug, done = job
    if slug in GIVEN:
        pytest.skip("its arms do not begin with the same step")
    experiment = load_experiment(slug, "smoke")
    written: dict[str, list[dict]] = {}
    trained = [arm for arm in experiment.arms if load_method(experiment, arm).phases(experiment.train)]
    for arm in trained:
        first = read_metrics(done.directory / "arms" / arm / "metrics.jsonl")[0]
        settings = roll_out_settings(experiment, arm)[first["phase"]]
        seen = {key: value for key, value in first.items() if key.startswith("accuracy@") or key == "copy_rate"}
        written.setdefault(str(sorted(settings.items())), []).append(
            {**seen, "generated_tokens": first["generated_tokens"]}
        )
    known = [settings for settings in written if "own" not in settings and "sampler" not in settings]
    assert any(len(arms) > 1 for arms in written.values()) or len(known) <= 1
    for arms in written.values():
        assert all(arm == arms[0] for arm in arms)


def test_page_and_figure(job):
    _, done = job
    page = done.notebook.with_suffix(".html").read_text(encoding="utf-8")
    image = (done.directory / "figure.png").read_bytes()
    assert image.startswith(b"\x89PNG")
    assert "data:image/png;base64," in page
    assert "Verdict" in page
    assert len(page) > 100_000


def test_the_executed_notebook(job):
    slug, done = job
    notebook, source = executed(done.notebook), executed(technique(slug).notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) == 1 + sum(cell.cell_type == "code" for cell in source.cells)  # papermill puts its parameters in
    assert all(cell.execution_count for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    images = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert images and all(base64.b64decode(image).startswith(b"\x89PNG") for image in images)
    assert not [output for output in outputs if "application/vnd.jupyter.widget-view+json" in output.get("data", {})]


def test_the_executed_notebook_does_not_tell_where_it_ran(job):
    _, done = job
    text = done.notebook.read_text(encoding="utf-8").replace(str(done.directory), "OUT")
    for place in (str(project_root()), str(Path.home()) + "/", sys.prefix, "/tmp/"):
        assert place not in text


def test_a_table_sets_this_seed_beside_the_claim(job):
    _, done = job
    tables = [
        output.data["text/markdown"]
        for cell in executed(done.notebook).cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "text/markdown" in output.get("data", {})
    ]
    heading = f"| seed {SEED}, smoke [95 % items] | all seeds [95 %] | verdict |"
    assert [heading in table for table in tables].count(True) == 1  # tables of a second config may follow


def test_a_second_time_it_is_there_at_once(job, capsys):
    slug, done = job
    before = {path: path.stat().st_mtime_ns for path in done.directory.rglob("*") if path.is_file()}
    start = time.process_time()
    (again,) = reproduce(slug, "smoke", [SEED], out=done.directory.parent)
    assert time.process_time() - start < 5
    assert again.done() and again.process is None
    assert {path: path.stat().st_mtime_ns for path in done.directory.rglob("*") if path.is_file()} == before
    said = capsys.readouterr().out
    assert f"{slug} smoke seed {SEED}: complete in {done.directory} (start over with --no-resume)" in said


def test_the_command_prints_the_effect_and_where_things_are(job, capsys):
    slug, done = job
    command = ["reproduce", slug, "--tier", "smoke", "--seeds", str(SEED), "--out", str(done.directory.parent)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"| seed {SEED}, smoke [95 % items] |" in said
    for kind, name in (("notebook", "notebook.ipynb"), ("page", "notebook.html"), ("figure", "figure.png")):
        assert f"{kind} " in said and str(done.directory / name) in said
        assert (done.directory / name).exists()


def test_what_is_there_is_not_passed_off_as_something_else(job):
    slug, done = job
    out = done.directory.parent
    with pytest.raises(
        RunError, match=r"holds a run with another config \(train.learning_rate: there \S+, here 0.0123\); choose"
    ):
        reproduce(slug, "smoke", [SEED], overrides=["train.learning_rate=0.0123"], out=out)
    manifest = done.directory / "manifest.json"
    checksums = done.directory / "checksums.json"
    kept, sums = manifest.read_bytes(), checksums.read_bytes()
    changed = json.loads(kept)
    changed["fingerprint"]["minirl/loops.py"] = "before"
    try:
        write_checked(done.directory, "manifest.json", changed)
        with pytest.raises(RunError, match=r"holds a run of other code; changed since: minirl/loops.py; choose"):
            reproduce(slug, "smoke", [SEED], out=out)
    finally:
        manifest.write_bytes(kept)
        checksums.write_bytes(sums)


# --- By plain papermill ---------------------------------------------------------------------------------------------


def test_plain_papermill_from_anywhere_gives_the_same(job, tmp_path):
    slug, done = job
    if slug != "score":
        pytest.skip("one technique shows it")
    command = [sys.executable, "-m", "papermill", str(technique(slug).notebook), "out.ipynb"]
    command += ["-p", "tier", "smoke", "-p", "seed", str(SEED), "-p", "out", "run", "--no-progress-bar"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    assert (tmp_path / "out.ipynb").exists()
    ours, theirs = (read_json(path) for path in (tmp_path / "run" / "results.json", done.results))
    costs = ("core_s", "wall_s", "peak_mb")
    for document in (ours, theirs):
        for part in (document, *document["arms"].values()):
            for key in costs:
                part.pop(key, None)
    assert ours == theirs


# --- What goes wrong ------------------------------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes every technique's notebook one that runs ``code``."""

    def use(code: str) -> Path:
        cells = [
            nbformat.v4.new_code_cell(
                "tier = ''\nseed = 0\noverrides = {}\nout = ''", metadata={"tags": ["parameters"]}
            )
        ]
        notebook = nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_code_cell(code)])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, tmp_path / "fake.ipynb")
        monkeypatch.setattr(Technique, "notebook", tmp_path / "fake.ipynb")
        return tmp_path / "runs"

    return use


def test_a_failing_seed_is_told_after_the_others_have_ended(fake):
    out = fake(
        "from pathlib import Path\n"
        "if seed == 3:\n"
        "    raise ValueError('what went wrong\\nand what to do')\n"
        "Path(out, 'results.json').write_text('{}')"
    )
    with pytest.raises(RunError) as caught:
        reproduce("score", "smoke", [3, 4], jobs=2, out=out)
    assert str(caught.value) == (
        "seed 3 failed: ValueError: what went wrong\nand what to do\n"
        f"  executed so far: {out}/seed-3/notebook.ipynb; whole log: {out}/seed-3/log.txt"
    )
    errors = [
        output for cell in executed(out / "seed-3" / "notebook.ipynb").cells for output in cell.get("outputs", [])
    ]
    assert "error" in {output.output_type for output in errors}
    assert not Job(3, out / "seed-3").done()
    assert Job(4, out / "seed-4").done()


def test_interrupted(fake, monkeypatch):
    """The processes of all seeds end; without --resume the earlier run is gone before anything starts."""
    out = fake("import time; time.sleep(600)")
    (out / "seed-0").mkdir(parents=True)
    (out / "seed-0" / "metrics").write_text("of an earlier run")
    started = []
    start = runner._start
    monkeypatch.setattr(runner, "_start", lambda *arguments: (started.append(start(*arguments)), started[-1])[1])

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "time", type("time", (), {"sleep": interrupt}))
    with pytest.raises(RunError, match=r"^interrupted; the same command continues where it stood$"):
        reproduce("score", "smoke", [0, 1], jobs=2, resume=False, out=out)
    assert [one.process.returncode for one in started] == [-15, -15]
    assert not (out / "seed-0" / "metrics").exists()


def test_an_out_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write .*file/seed-0: Not a directory; choose another --out"):
        reproduce("score", "smoke", [0], out=tmp_path / "file")


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("", "no message"),
        ("warning\nkilled\n\n", "killed"),
        (
            "a.b.FirstError: 1\n\nDuring handling:\n\nTraceback (most recent call last)\na.ConfigError: 2\n  3\n",
            "a.ConfigError: 2\n  3",
        ),
        ("KeyError: 'x'\n    KeyError: inside a frame\n", "KeyError: 'x'\n    KeyError: inside a frame"),
    ],
)
def test_the_reason_is_the_message_of_the_last_exception(log, message):
    assert reason(log) == message


def test_over_budget():
    results = {"seed": 3, "core_s": 150.0, "peak_mb": 1000}
    assert over_budget(results, 100, 1000) is None  # exactly one and a half times
    assert over_budget(results, 99, 1000) == "seed 3 used core_s 150, more than 1.5 times its budget of 99"
    assert over_budget(results, 100, 600) == "seed 3 used peak_mb 1000, more than 1.5 times its budget of 600"
