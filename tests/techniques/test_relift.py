"""ReLIFT: which problems are kept for later, when their demonstrations are imitated, and what is added to the batch."""

import pytest
import torch
from stand_ins import sharp_policy

from minirl.config import TrainConfig, validate
from minirl.errors import ConfigError
from minirl.rollouts.episodes import Rollouts
from minirl.rollouts.hints import as_written
from minirl.tasks import Item, get
from minirl.techniques.base import OnlinePhase
from minirl.techniques.curriculum.relift import Lessons, Relift, demonstrations
from minirl.techniques.hard_prompts import Buffer, Mending, intervention, signal

POLICY, GAPS = sharp_policy(), get("gaps")
ITEMS = GAPS.items(0, range(4), 3)
HARD = Item("gaps", 0, 1, 3, "3+7#1-4#2=", "+70#16-42#29")


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**{"updates": 10, "prompts": 4, "samples": 2, "learning_rate": 1e-3, **changes})


def attempts(items: list[Item], solved: set[int]) -> Rollouts:
    """Two answers to each problem: a wrong one, and one that is right if its index is in ``solved``."""
    texts = [text for i, item in enumerate(items) for text in ("+70", item.answer if i in solved else "#1")]
    rollouts = as_written(POLICY, [item for item in items for _ in range(2)], texts)
    rollouts.scores = torch.tensor(
        [[GAPS.score(i, t)] for i, (t,) in zip(rollouts.items, rollouts.answers, strict=True)]
    )
    rollouts.group = torch.arange(len(items)).repeat_interleave(2)
    return rollouts


def lessons_of(method: Relift, *batches: set[int]) -> tuple[Lessons, list[list[str] | None]]:
    """What is imitated after each batch, of which these problems are solved."""
    made = iter([attempts(ITEMS, solved) for solved in batches])
    lessons = Lessons(method, lambda *_, **__: next(made))
    said = []
    for _ in batches:
        lessons.roll_out(POLICY, GAPS, ITEMS, generator=torch.Generator())
        said.append([text for (text,) in lessons.texts.answers] if lessons.texts else None)
    return lessons, said


# --- the buffer ------------------------------------------------------------------------------------------------------


def test_a_buffer_waits_until_it_is_full():
    buffer = Buffer(3)
    buffer.items += ITEMS[:2]
    assert buffer.take() == [] and buffer.items == ITEMS[:2] and buffer.used == 0
    buffer.items += ITEMS[2:]
    assert buffer.take() == ITEMS[1:]  # the newest three
    assert (buffer.items, buffer.used) == ([], 3)


def test_a_buffer_survives_a_resumed_run():
    buffer, again = Buffer(3), Buffer(3)
    buffer.items += ITEMS[:2]
    buffer.used = 7
    again.load(buffer.state())
    assert again.items == ITEMS[:2] and again.used == 7
    again.load(Buffer(3).state())
    assert again.items == [] and again.used == 0


def test_updates_leave_the_buffer_alone():
    buffer = Buffer(2)
    buffer.items += ITEMS[:1]
    buffer.learned(POLICY)
    assert buffer.items == ITEMS[:1]


# --- demonstrations --------------------------------------------------------------------------------------------------


def test_demonstrations():
    answers = [item.answer for item in ITEMS]
    assert demonstrations(ITEMS, "own") == answers
    assert demonstrations(ITEMS, "another") == [answers[3], *answers[:3]]


def test_only_what_nobody_solved_is_demonstrated():
    lessons, said = lessons_of(Relift(buffer=3), {0, 1}, {0, 2, 3}, set())
    answers = [item.answer for item in ITEMS]
    # 2 and 3 fail: two of three. Then 1: the buffer is full. Then all four, of which the newest three.
    assert said == [None, [answers[2], answers[3], answers[1]], answers[1:]]
    assert lessons.buffer.used == 6


def test_as_many_of_any_kind():
    _, said = lessons_of(Relift(buffer=2, whom="any"), {0, 1}, {0, 1, 2, 3})
    assert said == [[ITEMS[0].answer, ITEMS[1].answer], None]


def test_all_are_demonstrated():
    _, said = lessons_of(Relift(buffer=4, whom="all"), {0, 1, 2, 3})
    assert said == [[item.answer for item in ITEMS]]


# --- credit ----------------------------------------------------------------------------------------------------------


def test_credit_by_hand():
    method = Relift(buffer=2, weight=0.5, beta=0.1)
    lessons, _ = lessons_of(method, {0, 1})
    credit = method.credit(lessons, attempts(ITEMS, {0, 1}))
    # Eight rows and two demonstrations: ten. What was said of eight is worth 10/8.
    assert len(credit.sequences.items) == 10
    right = credit.sequences.own[1]
    assert credit.advantages[1][right].tolist() == pytest.approx([0.7071 * 10 / 8] * 13, abs=1e-3)
    assert credit.kl[1][right].tolist() == pytest.approx([0.125] * 13)
    # The mean of log π over the two, at weight ½: ½ / 2, times ten rows.
    own = credit.sequences.own[9]
    assert credit.advantages[9][own].tolist() == pytest.approx([2.5] * 13)
    assert credit.stats == {"demonstrations": 2, "shown": 24}


def test_a_demonstration_is_the_reference_and_its_end():
    lessons, _ = lessons_of(Relift(buffer=2), {0, 1})
    row = lessons.texts.ids[0][lessons.texts.own[0]].tolist()
    assert POLICY.decode([row]) == [ITEMS[2].answer] and row[-1] == POLICY.stop_id


def test_until_the_buffer_is_full_it_is_grpo():
    method = Relift(buffer=9)
    lessons, _ = lessons_of(method, set())
    credit = method.credit(lessons, attempts(ITEMS, {0}))
    assert credit.stats == {"demonstrations": 0, "shown": 0}
    assert len(credit.sequences.items) == 8


# --- mending, the remedy without a page ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("+71#16-42#29", "+70"),
        ("+70#15-41#29", "+70#16"),
        ("+70#16-42#28", "+70#16-42#29"),
        ("", "+70"),
        ("+70#16", "+70#16-42"),  # the step that is missing
        (" +70#1", "+70#16"),
        ("+70#16-42#29", None),
    ],
)
def test_the_first_wrong_step_is_mended(text, mended):
    assert intervention(GAPS, HARD, text) == mended


def test_of_each_failed_problem_one_rollout_is_mended():
    (phase,) = Mending(weight=2.0).phases(train_config())
    method, lessons = Mending(weight=2.0), []
    rollouts = method.roll_out(lambda *_, **__: attempts(ITEMS, {0, 1}), lessons, POLICY, GAPS, ITEMS, generator=None)
    (texts,) = lessons
    assert texts.items == ITEMS[2:]
    assert [text for (text,) in texts.answers] == [intervention(GAPS, item, "+70") for item in ITEMS[2:]]
    # The end is not learned: what follows the step is left open.
    assert texts.ids[0][texts.own[0]].tolist()[-1] != POLICY.stop_id
    credit = method.credit(lessons, rollouts)
    # Weight 2 over four problems, times the ten rows of the batch.
    assert credit.advantages[8][credit.sequences.own[8]].unique().tolist() == pytest.approx([5.0])
    assert credit.stats["shown"] == 6
    assert phase.name == "mending" and phase.stats == signal


def test_nothing_to_mend():
    method, lessons = Mending(), []
    rolls = lambda *_, **__: attempts(ITEMS, {0, 1, 2, 3})  # noqa: E731
    rollouts = method.roll_out(rolls, lessons, POLICY, GAPS, ITEMS, generator=None)
    assert lessons == [] and len(method.credit(lessons, rollouts).sequences.items) == 8


def test_another_task_has_no_steps_to_mend():
    with pytest.raises(ConfigError, match=r"^task: 'add' has no steps to mend; take 'gaps'$"):
        Mending().roll_out(None, [], POLICY, get("add"), [], generator=None)


# --- phases and settings ---------------------------------------------------------------------------------------------


def test_one_phase_with_a_memory():
    (phase,) = Relift(buffer=5).phases(train_config())
    assert isinstance(phase, OnlinePhase)
    assert (phase.name, phase.updates, phase.stats) == ("ReLIFT", 10, signal)
    assert phase.memory.size == 5


def test_every_run_has_its_own_buffer():
    method = Relift()
    (one,), (two,) = method.phases(train_config()), method.phases(train_config())
    assert one.memory is not two.memory


@pytest.mark.parametrize("bad", [{"buffer": 0}, {"weight": -1}, {"whom": "nobody"}, {"shown": "none"}, {"size": 3}])
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(Relift, bad, "arms.relift")
