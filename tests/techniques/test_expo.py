"""ExPO: who is asked to explain, which explanations are learned, and that the answer is not among what is read then."""

import pytest
import torch
from stand_ins import sharp_policy

from minirl.config import TrainConfig, validate
from minirl.errors import ConfigError
from minirl.evaluation.hard_prompts import evaluate, learning
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.hints import as_written, shown
from minirl.tasks import Item, get
from minirl.tasks.gaps import hard
from minirl.techniques.base import OnlinePhase
from minirl.techniques.curriculum.expo import Expo, usable

POLICY, GAPS = sharp_policy(), get("gaps")
EASY = Item("gaps", 0, 0, 3, "3+7-4+1+1=", "+70-46+17+18")
HARD = Item("gaps", 0, 1, 3, "3+7#1-4#2=", "+70#16-42#29")
KNOWN = GAPS.shown(HARD, "9")
DETOUR = "+70#15-41#29"  # arrives at 9 by a wrong step
ELSEWHERE = "+70#16-42#28"


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 10, "prompts": 2, "samples": 2, "learning_rate": 1e-3, **changes})


def answered(item: Item, texts: list[str]) -> Rollouts:
    """A group of answers to one problem."""
    rollouts = as_written(POLICY, [item] * len(texts), texts)
    rollouts.scores = torch.tensor([[GAPS.score(item, text)] for text in texts])
    rollouts.group = torch.zeros(len(texts), dtype=torch.long)
    return rollouts


TRIED = [answered(EASY, [EASY.answer, "+70"]), answered(HARD, ["+70", DETOUR])]
BATCH = Rollouts.join([*TRIED, answered(KNOWN, [HARD.answer, DETOUR])])


# --- which explanations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "rows"), [("right", [4]), ("arrives", [4, 5]), ("all", [4, 5])])
def test_usable_explanations(keep, rows):
    # DETOUR as an attempt (row 3) is none: nothing was shown before it.
    assert usable(GAPS, BATCH, keep) == rows


def test_who_does_not_arrive_explains_nothing():
    rollouts = answered(KNOWN, [ELSEWHERE, "", "+70", "x" * 300])
    assert usable(GAPS, rollouts, "arrives") == []
    assert usable(GAPS, rollouts, "all") == [0, 1, 2, 3]


def test_to_arrive_is_to_arrive_at_what_was_shown():
    misled = GAPS.shown(HARD, "8")
    assert usable(GAPS, answered(misled, [ELSEWHERE, DETOUR]), "arrives") == [0]
    assert usable(GAPS, answered(misled, [ELSEWHERE, HARD.answer]), "right") == [1]


# --- credit ----------------------------------------------------------------------------------------------------------


def test_credit_by_hand():
    credit = Expo(weight=1.0, beta=0.1).credit(BATCH)
    learned = credit.sequences
    # Two groups of two, and one explanation, without the answer before it.
    assert [item.prompt for item in learned.items] == [EASY.prompt] * 2 + [HARD.prompt] * 3
    assert POLICY.decode([learned.ids[4][learned.own[4]].tolist()]) == [HARD.answer]
    # Five rows for four: 5/4 of 0.7071. The explanation: one of the two that were made, over two problems, times five.
    own = learned.own[0]
    assert credit.advantages[0][own].tolist() == pytest.approx([0.7071 * 5 / 4] * 13, abs=1e-3)
    assert credit.advantages[4][learned.own[4]].tolist() == pytest.approx([1 / 2 / 2 * 5] * 13)
    assert not credit.advantages[2].any()  # HARD was not solved
    assert credit.kl[0][own].tolist() == pytest.approx([0.1 * 5 / 4] * 13) and not credit.kl[4].any()


def test_the_answer_is_not_read_when_it_is_learned():
    learned = Expo(keep="all").credit(BATCH).sequences
    plain = as_written(POLICY, [HARD], [HARD.answer])
    width = plain.ids.shape[1]
    assert torch.equal(learned.ids[4][:width], plain.ids[0]) and torch.equal(learned.own[4][:width], plain.own[0])


def test_what_is_logged():
    # Of two explanations one is kept, and it is right; one digit was shown, for one problem.
    assert Expo().credit(BATCH).stats == {"kept": 0.5, "right": 1, "shown": 1}
    assert Expo(keep="arrives").credit(BATCH).stats == {"kept": 1, "right": 0.5, "shown": 1}


def test_without_explanations_it_is_grpo():
    tried = Rollouts.join(TRIED)
    credit = Expo().credit(tried)
    assert len(credit.sequences.items) == 4
    assert credit.stats == {"kept": 0, "right": 0, "shown": 0}


# --- who is asked ----------------------------------------------------------------------------------------------------


def rolled(method: Expo, solved: bool) -> tuple[Rollouts, list[list[str]]]:
    asked: list[list[str]] = []

    def rolls(policy, task, items, generator):
        asked.append([shown(item) for item in items])
        texts = ["+70", EASY.answer if solved else "+7"]
        return Rollouts.join([answered(item, texts) for item in items])

    generator = torch.Generator().manual_seed(0)
    return method.roll_out(rolls, POLICY, GAPS, [EASY, HARD], generator=generator), asked


def test_those_that_nobody_solved():
    assert rolled(Expo(), True)[1] == [["", ""], ["9"]]
    assert rolled(Expo(), False)[1] == [["", ""], ["8", "9"]]


def test_or_all():
    assert rolled(Expo(where="all"), True)[1] == [["", ""], ["8", "9"]]


def test_another_answer_is_never_the_right_one():
    for seed in range(30):
        said: list[str] = []

        def rolls(policy, task, items, generator, said=said):
            said[:] = [shown(item) for item in items]
            return answered(items[0], ["", ""])

        generator = torch.Generator().manual_seed(seed)
        Expo(given="another").roll_out(rolls, POLICY, GAPS, [HARD], generator=generator)
        assert said[0] in set("012345678")


def test_another_task_has_no_answers_to_explain():
    with pytest.raises(ConfigError, match=r"^task: 'add' has no answers to explain; take 'gaps'$"):
        Expo().roll_out(None, POLICY, get("add"), [], generator=None)


# --- evaluation, which the family shares -----------------------------------------------------------------------------


def test_evaluation():
    items = GAPS.items(5, range(6), 3)
    evaluation, rollouts = evaluate(POLICY, GAPS, items, seed=3, batch=8)
    assert evaluation.metrics.keys() == {"easy", "hard", "pass@8", "hinted", "explained", "gap"}
    for name, values in evaluation.items.items():
        assert len(values) == 6 and evaluation.metrics[name] == pytest.approx(sum(values) / 6)
    # Eight answers to the hard problem with the numbers of each item.
    assert all(hard(item) and not shown(item) for item in rollouts.items)
    assert [item.index for item in rollouts.items[::8]] == list(range(6)) and rollouts.samples == 8


def test_evaluation_depends_on_the_seed_and_not_on_the_batch():
    items = GAPS.items(5, range(3), 3)
    one, same, other = (
        evaluate(POLICY, GAPS, items, seed=seed, batch=batch)[1].answers for seed, batch in ((3, 8), (3, 64), (4, 8))
    )
    assert one == same != other


def test_learning_by_hand():
    records = [
        {"generated_tokens": 10, "signal": 0.5, "hard_signal": 0.0, "shown": 6},
        {"generated_tokens": 30, "signal": 0.25, "shown": 3},  # no hard problem in this batch
    ]
    assert learning(records) == {"tokens": 30, "signal": 0.375, "hard_signal": 0, "shown": 9}
    assert learning([{"generated_tokens": 5}]) == {"tokens": 5, "shown": 0}


# --- phases and settings ---------------------------------------------------------------------------------------------


def test_one_phase_that_logs_attempts_without_help():
    (phase,) = Expo().phases(train_config())
    assert isinstance(phase, OnlinePhase)
    assert (phase.name, phase.updates) == ("ExPO", 10)
    assert phase.stats(BATCH) == {"accuracy@1": 0.25, "easy": 0.5, "hard": 0, "signal": 0.5, "hard_signal": 0}


@pytest.mark.parametrize("bad", [{"keep": "none"}, {"given": "nothing"}, {"where": "here"}, {"weight": -1}, {"n": 3}])
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(Expo, bad, "arms.expo")
