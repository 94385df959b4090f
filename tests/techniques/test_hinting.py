"""SAGE: which hints there are, who gets them, and what is learned from those who did."""

import pytest
import torch
from stand_ins import sharp_policy

from minirl.config import TrainConfig, validate
from minirl.errors import ConfigError
from minirl.objectives.policy_gradient import OBJECTIVES
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.hints import as_written, shown
from minirl.tasks import Item, get
from minirl.techniques.base import OnlinePhase
from minirl.techniques.hard_prompts import GroupRL, group_credit, signal, unaided, with_imitation
from minirl.techniques.hinting import Sage, hint_ladder, without_hints

POLICY, GAPS = sharp_policy(), get("gaps")
EASY = Item("gaps", 0, 0, 3, "3+7-4+1+1=", "+70-46+17+18")
HARD = Item("gaps", 0, 1, 3, "3+7#1-4#2=", "+70#16-42#29")
OTHER = Item("gaps", 0, 2, 3, "0#1#1#1+1=", "#16#14#13+14")


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 10, "prompts": 2, "samples": 2, "learning_rate": 1e-3, **changes})


def answered(item: Item, texts: list[str]) -> Rollouts:
    """A group of answers to one problem."""
    rollouts = as_written(POLICY, [item] * len(texts), texts)
    rollouts.scores = torch.tensor([[GAPS.score(item, text)] for text in texts])
    rollouts.group = torch.zeros(len(texts), dtype=torch.long)
    return rollouts


def hinted(item: Item, rung: int) -> Item:
    return GAPS.shown(item, GAPS.hint(item, rung))


# EASY is solved by one of two. HARD by nobody without a hint, nor with one step, but with two.
BATCH = [
    answered(EASY, [EASY.answer, "+70"]),
    answered(HARD, ["+70", "#1"]),
    answered(hinted(HARD, 1), ["+70", "+71"]),
    answered(hinted(HARD, 2), ["+70", HARD.answer]),
]


# --- the ladder ------------------------------------------------------------------------------------------------------


def test_rungs_show_first_steps():
    ladder = hint_ladder(GAPS, [EASY, HARD], [1, 3])
    assert [rung(HARD).prompt for rung in ladder] == ["+70!3+7#1-4#2=", "+70#16-42!3+7#1-4#2="]
    assert ladder[0](EASY).prompt == "+70!3+7-4+1+1="


def test_hints_of_another_problem_are_those_of_the_next_one():
    (rung,) = hint_ladder(GAPS, [EASY, HARD, OTHER], [2], "another")
    assert [shown(rung(item)) for item in (EASY, HARD, OTHER)] == ["+70#16", "#16#14", "+70-46"]
    # What is asked, and what is right, is still the problem's own.
    assert rung(HARD).prompt.endswith(HARD.prompt) and rung(HARD).answer == HARD.answer


def test_the_next_one_with_the_same_answer_is_no_other():
    twin = Item("gaps", 0, 9, 3, EASY.prompt, EASY.answer)
    (rung,) = hint_ladder(GAPS, [EASY, twin, OTHER], [1], "another")
    assert shown(rung(EASY)) == "#16"


# --- credit ----------------------------------------------------------------------------------------------------------


def test_credit_is_of_the_last_group_of_each_problem():
    credit = Sage().credit(Rollouts.join(BATCH))
    tries = credit.sequences
    assert [item.prompt for item in tries.items[::2]] == [EASY.prompt, hinted(HARD, 2).prompt]
    # One of two: r − ½ over the deviation √½ (and 1e-4): ± 0.707.
    own = [credit.advantages[row][tries.own[row]].unique().tolist() for row in range(4)]
    assert [values[0] for values in own] == pytest.approx([0.707, -0.707, -0.707, 0.707], abs=1e-3)
    assert not credit.advantages[~tries.own].any()


def test_what_was_shown_is_counted():
    # Of two problems one was hinted at, in the end with two steps of three symbols.
    assert Sage().credit(Rollouts.join(BATCH)).stats == {"hinted": 0.5, "shown": 6}
    assert Sage().credit(Rollouts.join(BATCH[:2])).stats == {"hinted": 0, "shown": 0}


def test_without_success_nothing_is_learned():
    credit = Sage().credit(Rollouts.join([BATCH[1], BATCH[2]]))
    assert not credit.advantages.any()


def test_the_hint_is_kept_or_dropped():
    kept, dropped = (Sage(context=how).credit(Rollouts.join(BATCH)).sequences for how in ("kept", "dropped"))
    assert shown(kept.items[2]) == "+70#16"
    assert [item.prompt for item in dropped.items[::2]] == [EASY.prompt, HARD.prompt]
    for row in range(4):
        assert torch.equal(kept.ids[row][kept.own[row]], dropped.ids[row][dropped.own[row]])


def test_without_hints_groups_stay_together():
    mixed = Rollouts.join([BATCH[3], BATCH[0]])
    plain = without_hints(mixed)
    assert plain.samples == 2 and [item.prompt for item in plain.items[::2]] == [EASY.prompt, HARD.prompt]
    assert plain.scores.flatten().tolist() == [1, 0, 0, 1]
    assert without_hints(BATCH[0]).items == BATCH[0].items
    assert [shown(item) for item in without_hints(BATCH[3]).items] == ["", ""]


def test_kl_coefficients():
    credit = Sage(beta=0.25).credit(Rollouts.join(BATCH))
    assert credit.kl.unique().tolist() == [0, 0.25] and torch.equal(credit.kl > 0, credit.sequences.own)


# --- what the family shares ------------------------------------------------------------------------------------------


def test_plain_grpo():
    credit = GroupRL(beta=0.1).credit(BATCH[0])
    assert credit.sequences is None
    assert credit.advantages[0][-1].item() == pytest.approx(0.707, abs=1e-3)
    (phase,) = GroupRL().phases(train_config())
    assert (phase.name, phase.roll_out, phase.stats) == ("GRPO", None, signal)


def test_signal_by_hand():
    # Without help one of two is right at EASY, none at HARD. EASY has a signal, and so has HARD, on the second rung.
    assert signal(Rollouts.join(BATCH)) == {
        "accuracy@1": 0.25, "easy": 0.5, "hard": 0.0, "signal": 1.0, "hard_signal": 1.0,
    }  # fmt: skip
    assert signal(Rollouts.join(BATCH[:3])) == {
        "accuracy@1": 0.25, "easy": 0.5, "hard": 0.0, "signal": 0.5, "hard_signal": 0.0,
    }  # fmt: skip


def test_unaided_attempts():
    assert [item.prompt for item in unaided(Rollouts.join(BATCH)).items] == [EASY.prompt] * 2 + [HARD.prompt] * 2


def test_imitation_is_added_in_its_own_measure():
    rollouts = BATCH[0]
    texts = as_written(POLICY, [HARD], [HARD.answer])
    credit = with_imitation(rollouts, group_credit(rollouts, 0.2), texts, weight=0.5, count=4)
    assert credit.sequences.items == [EASY, EASY, HARD]
    # Three rows instead of two: what was said of two is worth 3/2, so that the mean over rows says the same.
    assert credit.advantages[0][-1].item() == pytest.approx(1.5 * 0.7071, abs=1e-3)
    assert credit.kl[0][-1].item() == pytest.approx(1.5 * 0.2)
    # ½ · ¼ of log π of the text, times three rows; the prompt is no part of it.
    own = credit.sequences.own[2]
    assert credit.advantages[2][own].tolist() == pytest.approx([0.375] * 13)
    assert not credit.advantages[2][~own].any() and not credit.kl[2].any()


def test_nothing_to_imitate():
    credit = with_imitation(BATCH[0], group_credit(BATCH[0], 0.0), None, 1.0, 1)
    assert torch.equal(credit.advantages, group_credit(BATCH[0], 0.0).advantages)


# --- phases and settings ---------------------------------------------------------------------------------------------


def test_one_phase_of_policy_gradient():
    (phase,) = Sage().phases(train_config())
    assert isinstance(phase, OnlinePhase)
    assert (phase.name, phase.updates, phase.stats, phase.objective) == ("SAGE", 10, signal, OBJECTIVES["reinforce"])


def test_it_rolls_out_up_the_ladder():
    (phase,) = Sage(rungs=[3]).phases(train_config())
    rollouts = phase.roll_out(POLICY, GAPS, [EASY, HARD], generator=torch.Generator().manual_seed(0))
    # An untrained policy solves nothing: two groups of two, then the same with three steps.
    assert [shown(item) for item in rollouts.items] == [""] * 4 + [GAPS.hint(EASY, 3)] * 2 + [GAPS.hint(HARD, 3)] * 2
    again = phase.roll_out(POLICY, GAPS, [EASY, HARD], generator=torch.Generator().manual_seed(0))
    assert again.answers == rollouts.answers


def test_another_task_has_no_hints():
    (phase,) = Sage().phases(train_config())
    with pytest.raises(ConfigError, match=r"^task: 'add' has no ladder of hints; take 'gaps'$"):
        phase.roll_out(POLICY, get("add"), get("add").items(0, range(2), 1), generator=torch.Generator())


def test_rungs_that_the_ladder_does_not_have():
    with pytest.raises(ConfigError, match=r"^rungs: hints show 1 to 3 steps, not \[4\]$"):
        Sage(rungs=[4]).phases(train_config())


@pytest.mark.parametrize("bad", [{"rungs": []}, {"of": "nobody"}, {"context": "lost"}, {"beta": -1}, {"hints": True}])
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(Sage, bad, "arms.sage")
