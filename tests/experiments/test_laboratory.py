"""The laboratory: equal tokens, paired seeds, and a notebook that runs from beginning to end."""

import math
import subprocess
import sys
from typing import ClassVar

import nbformat
import numpy as np
import pytest
import torch

from minirl.errors import ConfigError
from minirl.experiments.laboratory import TIERS, Trial, curve, difference, open_lab, reply, try_out
from minirl.experiments.registry import project_root
from minirl.experiments.rundir import read_json
from minirl.policy.models import load_policy
from minirl.rollouts.episodes import roll_out
from minirl.rollouts.samplers import Rule
from minirl.tasks import get
from minirl.techniques.baselines import MultiTurnRL

NOTEBOOK = project_root() / "notebooks" / "00_laboratory" / "your_own_idea.ipynb"
SMALL = {"tokens": 600, "seeds": 2, "items": 8, "prompts": 2, "samples": 4, "level": 1, "marks": 3}


def trial(*scores):
    return Trial(None, np.array(scores, dtype=float), [0] * len(scores))


# --- Settings -------------------------------------------------------------------------------------------------------


def test_settings_are_checked():
    assert open_lab("smoke", {"level": 2}).level == 2
    assert {tier: open_lab(tier).tokens for tier in TIERS} == {"smoke": 2_000, "tiny": 60_000}
    with pytest.raises(ConfigError, match=r"the laboratory has no tier 'small'\. There is: smoke, tiny"):
        open_lab("small")
    with pytest.raises(ConfigError, match=r"laboratory settings: unknown key 'tokns'\. Did you mean 'tokens'\?"):
        open_lab("tiny", {"tokns": 1})
    with pytest.raises(ConfigError, match=r"key 'seeds': input should be greater than or equal to 2"):
        open_lab("tiny", {"seeds": 1})


# --- One arm --------------------------------------------------------------------------------------------------------


def test_an_arm_stops_at_its_tokens_and_is_measured_at_the_marks():
    lab, seen = open_lab("smoke", SMALL), []
    done = try_out(lab, 0, MultiTurnRL().credit, watch=seen.append)
    spent = [record["generated_tokens"] for record in seen]
    assert spent[-2] < lab.tokens <= spent[-1] == done.tokens[-1]
    # Each mark is the first update that reaches a third, two thirds, all of the tokens.
    assert done.tokens == [0, *(next(n for n in spent if n >= third) for third in (200, 400, 600))]
    assert done.scores.shape == (4, 8)
    assert set(np.unique(done.scores)) <= {0.0, 1.0}
    base = load_policy(lab.base).model.state_dict()
    assert not torch.equal(next(iter(base.values())), next(iter(done.policy.model.state_dict().values())))


def test_it_depends_on_the_seed_alone():
    lab = open_lab("smoke", SMALL)
    first, again, other = (try_out(lab, seed, MultiTurnRL().credit) for seed in (0, 0, 1))
    assert first.tokens == again.tokens and (first.scores == again.scores).all()
    weights = [torch.cat([p.flatten() for p in one.policy.model.parameters()]) for one in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_marks_that_one_update_jumps_over():
    done = try_out(open_lab("smoke", SMALL | {"tokens": 3, "marks": 3}), 0, MultiTurnRL().credit)
    assert done.scores.shape == (4, 8) and len(set(done.tokens[1:])) == 1
    assert (done.scores[1] == done.scores[3]).all()


def test_another_choice_of_problems():
    """Longer problems of another level: eight answers of two steps, six characters each; of one step at most 32."""

    def longer(policy, task, items, *, generator):
        chosen = [task.item(item.seed, item.index, 2) for item in items]
        return roll_out(policy, task, chosen, samples=4, generator=generator)

    first = {}
    for name, roll in (("plain", None), ("longer", longer)):
        seen = []
        try_out(open_lab("smoke", SMALL), 0, MultiTurnRL().credit, roll, seen.append)
        first[name] = seen[0]["generated_tokens"]
    assert first["plain"] <= 2 * 4 * 4 < first["longer"]


def test_a_sampler_of_ones_own():
    """A rule in a cell: always the second level."""

    class Second(Rule):
        name: ClassVar[str] = "second"

        def weights(self, state, levels, progress):
            return (levels == 2).float()

    seen: list[dict] = []
    try_out(open_lab("smoke", SMALL), 0, MultiTurnRL().credit, None, seen.append, Second(levels=(1, 2)))
    assert all(record["chosen/2"] == 1 and record["chosen/1"] == 0 for record in seen)
    try_out(open_lab("smoke", SMALL), 0, MultiTurnRL().credit, sampler={"rule": "uniform", "levels": [1, 3]})
    with pytest.raises(ConfigError, match=r"sampler: key 'rule': unknown sampler 'bandid'. Did you mean 'bandit'"):
        try_out(open_lab("smoke", SMALL), 0, MultiTurnRL().credit, sampler="bandid")


# --- Numbers --------------------------------------------------------------------------------------------------------


def test_the_curve_by_hand():
    """Means 0.5 and 0.5, then 0.5 and 1: the t factor of two seeds is 12.706, s/√2 = 0.25."""
    points = curve([trial([0, 1], [1, 0]), trial([1, 0], [1, 1])])
    assert points[0] == (0.5, 0.5, 0.5)
    assert points[1] == pytest.approx((0.75, 0.75 - 12.7062 * 0.25, 0.75 + 12.7062 * 0.25), abs=1e-3)


def test_the_difference_by_hand():
    """The last marks count: 3/4 − 1/4 and 2/4 − 2/4, so effects 1/2 and 0 with mean 1/4 ± 12.706 · 0.25."""
    ours = [trial([0] * 4, [1, 1, 1, 0]), trial([0] * 4, [1, 1, 0, 0])]
    theirs = [trial([1] * 4, [1, 0, 0, 0]), trial([1] * 4, [0, 0, 1, 1])]
    effects, interval = difference(ours, theirs)
    assert effects.tolist() == [0.5, 0.0]
    assert (interval.low, interval.high) == pytest.approx((0.25 - 3.17655, 0.25 + 3.17655), abs=1e-3)
    with pytest.raises(ValueError):
        difference(ours, theirs[:1])


# --- The notebook ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("laboratory")
    command = [sys.executable, "-m", "papermill", str(NOTEBOOK), "out.ipynb", "-p", "tier", "smoke", "-p", "seed", "3"]
    command += ["-p", "out", "run", "--no-progress-bar"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    return folder


def test_the_notebook_compares_at_equal_tokens(executed):
    results, size = read_json(executed / "run" / "results.json"), TIERS["smoke"]
    assert (results["tier"], results["seed"]) == ("smoke", 3)
    assert results["accuracy"].keys() == {"your idea", "baseline", "baseline again"}
    for arm, runs in results["accuracy"].items():
        assert len(runs) == size["seeds"]
        assert all(len(run) == 5 and 0 <= min(run) <= max(run) <= 1 for run in runs)
        assert all(size["tokens"] <= run[-1] < 2 * size["tokens"] for run in results["tokens"][arm])
    idea, base, again = (np.array(results["accuracy"][arm]) for arm in results["accuracy"])
    assert (idea[:, 0] == base[:, 0]).all()  # the same base, measured with the same noise
    assert results["difference"]["your idea"]["effects"] == pytest.approx((idea - base)[:, -1].tolist())
    assert results["difference"]["baseline again"]["effects"] == pytest.approx((again - base)[:, -1].tolist())
    for found in results["difference"].values():
        low, high = found["interval"]
        assert low <= sum(found["effects"]) / len(found["effects"]) <= high and math.isfinite(high - low)


def test_the_notebook_shows_what_it_says(executed):
    notebook = nbformat.read(executed / "out.ipynb", as_version=4)
    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    assert not [o for all_of_it in outputs.values() for o in all_of_it if o.output_type == "error"]
    assert not [o.text for all_of_it in outputs.values() for o in all_of_it if o.get("name") == "stderr"]
    assert outputs["refuse"][0].text == "Value error, tier tiny needs at least 5 seeds\n"
    for figure in ("train", "curve"):
        assert any("image/png" in output.get("data", {}) for output in outputs[figure]), figure
    for view in ("group", "idea-group", "before-after"):
        assert "own tokens" in outputs[view][0].data["text/html"]
    table = outputs["ask"][0].data["text/markdown"].splitlines()[2:]
    chances = [float(line.split("|")[2]) for line in table]
    assert chances == sorted(chances, reverse=True) and 0 < sum(chances) <= 1.001
    assert str(project_root()) not in str(outputs)


def test_the_exported_model_is_the_one_that_was_asked(executed):
    greedy = read_json(executed / "run" / "results.json")["greedy"]
    policy = load_policy(executed / "run" / "model")
    ids = policy.encode_prompts(["7+5*3-2+6="])
    for _ in range(len(greedy)):
        ids[0].append(int(policy.logits(torch.tensor(ids))[0, -1].argmax()))
    assert policy.decode([ids[0][len("7+5*3-2+6=") :]]) == [greedy]


# --- a game against a model -------------------------------------------------------------------------------------------


def test_a_model_answers_every_move_of_a_game():
    policy, nim = load_policy("players"), get("nim")
    record = reply(policy, nim, "i", "12", 0)
    deal, _, moves = record.partition(":")
    assert deal == "i" and moves[0] == "1" and moves[2] == "2" and len(moves) == 4
    for made in (1, 3):  # the likeliest of the legal moves
        row = torch.tensor(policy.encode_text([nim.view("i", moves[:made], 1)]))
        logits = policy.logits(row)[0, -1]
        found = {move: logits[policy.encode_text([move])[0][0]].item() for move in nim.legal("i", moves[:made])}
        assert moves[made] == max(found, key=found.get)
    assert reply(policy, nim, "i", "", 1).count(":") == 1 and len(reply(policy, nim, "i", "", 1)) == 3  # it begins
    assert reply(policy, nim, "b", "2", 0) == "b:2"  # over


@pytest.mark.parametrize(
    ("game", "deal", "mine", "message"),
    [("nim", "b", "3", "'3' is not legal after ''; choose among 1, 2"), ("dilemma", "1", "c", "at the same time")],
)
def test_a_move_that_is_none_is_refused(game, deal, mine, message):
    with pytest.raises(ConfigError, match=message):
        reply(load_policy("players"), get(game), deal, mine, 0)
