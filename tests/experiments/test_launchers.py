"""Seeds as jobs of submitit: the same bytes as here, failures that say where the log is, and nothing done twice."""

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

# Its import configures logging anew and so closes all handlers, and that of absl (from the extra `games`) closes its
# stream, which may be what pytest captures. So it is imported while tests are collected, when that is not yet so.
import submitit  # noqa: F401

from minirl.cli import main
from minirl.errors import ConfigError, RunError
from minirl.experiments.launchers import FOLDER, submitit_launcher
from minirl.experiments.registry import Technique, project_root
from minirl.experiments.rundir import read_json
from minirl.experiments.runner import Job, reproduce, submit

CHEAPEST = "adalign"
LOCAL = ["--launcher", "submitit", "--slurm", "cluster=local"]


def launcher():
    return submitit_launcher({"cluster": "local"})


def made(directory: Path) -> dict[str, bytes | dict]:
    """What training and evaluation have left, without times and memory."""
    arms = sorted(directory.glob("arms/*"))
    files = [arm / name for arm in arms for name in ("metrics.jsonl", "policy/model.safetensors")]
    found: dict[str, bytes | dict] = {str(f.relative_to(directory)): f.read_bytes() for f in files if f.exists()}
    for arm in arms:
        evaluation = read_json(arm / "evaluation.json")
        found[arm.name] = {key: evaluation[key] for key in ("metrics", "items", "generated_tokens")}
    return found


def wait_for(happened, seconds=240):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.1)


def cancel(job: int) -> None:
    """Interrupt a job as submitit cancels it; again if nothing came of it, as of an interrupt amid a callback."""
    process = psutil.Process(job)

    def ended() -> bool:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE

    for _ in range(5):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(AssertionError):
            return wait_for(ended, 20)
    raise AssertionError("the job goes on")


# --- A technique ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    (job,) = reproduce(CHEAPEST, "smoke", [100], out=tmp_path_factory.mktemp("here"))
    return job.directory


def test_a_job_gives_the_bytes_of_a_run_here(here, tmp_path, capsys):
    command = ["reproduce", CHEAPEST, "--tier", "smoke", "--seeds", "100", "--out", str(tmp_path), *LOCAL]
    assert main(command) == 0
    there = tmp_path / "seed-100"
    assert made(there) == made(here)
    assert Job(100, there).done()
    assert read_json(there / FOLDER / "job.json")["cluster"] == "local"
    assert main(command) == 0  # nothing is submitted again
    assert f"{CHEAPEST} smoke seed 100: complete in {there}" in capsys.readouterr().out


def test_a_run_directory_made_elsewhere_is_taken_as_it_is(here, tmp_path, capsys):
    """Gathering is copying."""
    subprocess.run(["cp", "-r", here, tmp_path / "seed-100"], check=True)
    assert main(["reproduce", CHEAPEST, "--tier", "smoke", "--seeds", "100", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"{CHEAPEST} smoke seed 100: complete in {tmp_path}/seed-100" in said and "| metric | arms |" in said


# --- A notebook that does as it is told -----------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes every technique's notebook one that runs ``code``."""

    def use(code: str) -> Path:
        parameters = nbformat.v4.new_code_cell("tier, seed, overrides, out = '', 0, {}, ''")
        parameters.metadata["tags"] = ["parameters"]
        notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(code)])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, tmp_path / "fake.ipynb")
        monkeypatch.setattr(Technique, "notebook", tmp_path / "fake.ipynb")
        return tmp_path / "runs"

    return use


DONE = "from pathlib import Path\nPath(out, 'results.json').write_text('{}')\n"


def test_a_failing_job_is_told_with_its_logs_and_stops_no_other(fake):
    out = fake("if seed == 3:\n    raise ValueError('what went wrong')\n" + DONE)
    launch = launcher()
    submit("score", "smoke", [3, 4], launch, out=out)
    with pytest.raises(RunError) as caught:
        reproduce("score", "smoke", [3, 4], out=out, launch=launch)
    number = read_json(out / "seed-3" / FOLDER / "job.json")["id"]
    assert str(caught.value) == (
        "seed 3 failed: ValueError: what went wrong\n"
        f"  executed so far: {out}/seed-3/notebook.ipynb; whole log: {out}/seed-3/log.txt; "
        f"job {number} of the local cluster, its logs: {out}/seed-3/submitit"
    )
    assert Job(4, out / "seed-4").done() and not Job(3, out / "seed-3").done()
    with pytest.raises(RunError, match="what went wrong"):  # the same command tries it again
        reproduce("score", "smoke", [3], out=out, launch=launcher())
    assert read_json(out / "seed-3" / FOLDER / "job.json")["id"] != number


def test_a_killed_job_is_told_and_begun_again(fake, tmp_path):
    out = fake(
        "import os, time\n"
        f"open({str(tmp_path / 'begun')!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        f"for _ in range(6000):\n    if os.path.exists({str(tmp_path / 'go')!r}): break\n    time.sleep(0.1)\n" + DONE
    )
    launch = launcher()
    submit("score", "smoke", [0], launch, out=out)
    wait_for((tmp_path / "begun").exists)
    cancel(int(read_json(out / "seed-0" / FOLDER / "job.json")["id"]))
    with pytest.raises(RunError, match=r"(?s)papermill was ended by SIGKILL .*job \d+ of the local clus"):
        reproduce("score", "smoke", [0], out=out, launch=launch)
    (tmp_path / "go").touch()
    (job,) = reproduce("score", "smoke", [0], out=out, launch=launcher())
    assert job.done() and len((tmp_path / "begun").read_text().split()) == 2


def test_a_killed_submitter_finds_its_jobs_again(fake, tmp_path):
    """What waits and what runs is not submitted twice, and what has ended meanwhile is taken."""
    out = fake(
        "import os, time\n"
        f"open({str(tmp_path / 'begun')!r} + str(seed), 'a').write('x')\n"
        "for _ in range(6000):\n"
        f"    if os.path.exists({str(tmp_path / 'go')!r} + str(seed)): break\n"
        "    time.sleep(0.1)\n" + DONE
    )
    code = (
        "import sys, pathlib\n"
        "from minirl.cli import main\n"
        "from minirl.experiments.registry import Technique\n"
        f"Technique.notebook = pathlib.Path({str(tmp_path / 'fake.ipynb')!r})\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = ["reproduce", "score", "--tier", "smoke", "--seeds", "0,1", "--out", str(out), *LOCAL]
    submitter = subprocess.Popen([sys.executable, "-c", code, *command], cwd=project_root(), stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: all((tmp_path / f"begun{seed}").exists() for seed in (0, 1)))
    finally:
        submitter.kill()
        submitter.wait()
    (tmp_path / "go0").touch()
    wait_for((out / "seed-0" / FOLDER / "status").exists)
    assert not Job(0, out / "seed-0").done()  # nobody was there to render its page
    launch = launcher()
    submit("score", "smoke", [0, 1], launch, out=out)
    (tmp_path / "go1").touch()
    jobs = reproduce("score", "smoke", [0, 1], out=out, launch=launch)
    assert all(job.done() for job in jobs)
    assert [(tmp_path / f"begun{seed}").read_text() for seed in (0, 1)] == ["x", "x"]


# --- Usage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--slurm", "partition=x"], "--slurm is for jobs of a cluster: add --launcher submitit"),
        ([*LOCAL, "--jobs", "2"], "--jobs is for this machine"),
        ([*LOCAL, "--slurm", "tiemout_min=3"], "Unknown argument 'tiemout_min'"),
        ([*LOCAL, "--slurm", "timeout_min=soon"], "timeout_min"),
        (["--launcher", "submitit", "--slurm", "cluster=moon"], "moon"),
    ],
)
def test_settings_that_do_not_fit(options, message, capsys):
    assert main(["reproduce", "score", "--tier", "smoke", "--seeds", "0", *options]) == 1
    said = capsys.readouterr().err
    assert said.startswith("minirl: --") and message in said


def test_without_slurm_or_submitit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="no SLURM here"):
        submitit_launcher({})
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"submitit is not installed .*pip install 'minirl\[slurm\]'"):
        submitit_launcher({})
