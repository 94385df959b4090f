"""CYCLE: what the mask hides, and which examples are made of failed and right programs, token by token.

The attempts that examples are worked out on, two problems with four attempts each (``$`` is the stop token)::

    row    0    1    2   3     4    5    6   7
    3+4=  08$  07$  9$  7$    5+9=  14$  15$  5$  $
           ✗    ✓   ✗   ✓            ✓    ✗   ✗  ✗

Five repairs (0→1, 0 and 2→3, 5→4, 5 and 6→4, 7→4), three right attempts for plain examples (1, 3, 4). ``_`` is a hidden
token.
"""

import pytest
import torch
from stand_ins import Lenient, encode, written

from minirl.config import TaskConfig, TrainConfig, validate
from minirl.errors import ConfigError, TrainingError
from minirl.evaluation.attempts import Evaluation
from minirl.loops import Learner, run_phases
from minirl.policy.logprobs import pad_rows
from minirl.policy.models import tiny_llama
from minirl.rollouts.episodes import CONTEXT, Rollouts
from minirl.tasks import Item
from minirl.tasks.spec import UnitTests
from minirl.techniques.base import SupervisedPhase
from minirl.techniques.baselines import AnswerSFT, PairSFT
from minirl.techniques.self_correction import cycle
from minirl.techniques.self_correction.cycle import Cycle, evaluate, past_generation_mask, repaired

POLICY = tiny_llama(16, 1, 2)
TRAIN = TrainConfig(updates=1, prompts=2, samples=2, turns=2, learning_rate=1e-2, feedback="binary")
PROBLEMS = [Item("add", 0, 0, 1, "3+4=", "07"), Item("add", 0, 1, 1, "5+9=", "14")]
ANSWERS = ["08$", "07$", "9$", "7$", "14$", "15$", "5$", "$"]
PLAIN = [("3+4=", "07$"), ("3+4=", "7$"), ("5+9=", "14$")]


def spelled(ids) -> str:
    """Token ids as text: ``$`` is the stop token, ``_`` a hidden one."""
    return POLICY.tokenizer.decode(ids).replace("<eos>", "$").replace("<pad>", "_")


def attempts(answers=ANSWERS, samples: int = 4, scores=None) -> Rollouts:
    """Single-turn episodes in groups of ``samples``."""
    return written(POLICY, PROBLEMS, answers, samples, scores)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masked(rollouts: Rollouts, rate: float, seed: int = 0) -> list[str]:
    """Rows after the mask, as text; padded to the width of the longest."""
    hidden = past_generation_mask(rollouts, rate, POLICY.pad_id, POLICY.stop_id, seeded(seed))
    return [spelled(row) for row in hidden.ids.tolist()]


# --- the mask -------------------------------------------------------------------------------------------------------

AS_THEY_ARE = ["3+4=08$", "3+4=07$", "3+4=9$_", "3+4=7$_", "5+9=14$", "5+9=15$", "5+9=5$_", "5+9=$__"]
ALL_HIDDEN = ["3+4=__$", "3+4=07$", "3+4=_$_", "3+4=7$_", "5+9=14$", "5+9=__$", "5+9=_$_", "5+9=$__"]


@pytest.mark.parametrize(("rate", "rows"), [(0.0, AS_THEY_ARE), (1.0, ALL_HIDDEN)])
def test_the_mask_at_its_ends(rate, rows):
    # Hidden are the letters of failed attempts: no prompt, no stop token, no right attempt, whatever the noise is.
    for seed in range(5):
        assert masked(attempts(), rate, seed) == rows


def test_a_token_is_hidden_where_its_random_number_is_below_the_rate():
    # One number a position, drawn for the whole batch [8, 7] at once: letters stand in columns 4 and 5.
    noise = torch.rand(8, 7, generator=seeded(3))
    expected = [list(row) for row in AS_THEY_ARE]
    for row, columns in {0: (4, 5), 2: (4,), 5: (4, 5), 6: (4,)}.items():
        for column in columns:
            if noise[row, column] < 0.5:
                expected[row][column] = "_"
    assert masked(attempts(), 0.5, seed=3) == ["".join(row) for row in expected]
    assert ["".join(row) for row in expected] not in (AS_THEY_ARE, ALL_HIDDEN)  # some, and not all


def test_the_rate_is_the_share_that_is_hidden():
    many = attempts(["0123456789$"] * 400, samples=400, scores=[0.0] * 400)
    for rate in (0.25, 0.5, 0.9):  # of 4000 letters: three standard deviations are at most 0.024
        assert sum(row.count("_") for row in masked(many, rate)) / 4000 == pytest.approx(rate, abs=0.024)


def test_a_higher_rate_hides_the_same_and_more():
    few, many = ("".join(masked(attempts(), rate, seed=5)) for rate in (0.3, 0.8))
    assert all(b == "_" for a, b in zip(few, many, strict=True) if a == "_")
    assert few.count("_") < many.count("_")


def test_what_is_right_in_part_has_failed():
    assert masked(attempts(["08$", "07$"], 2, [0.5, 1.0]), 1.0) == ["3+4=__$", "3+4=07$"]


def test_attempts_that_were_cut_off_are_hidden_to_the_end():
    # 141 never ended: it has no stop token of its own, and the one that closes it stands in the context.
    rollouts = attempts(["141", "07$"], 2)
    assert masked(rollouts, 1.0) == ["3+4=___", "3+4=07$"]


def test_the_mask_changes_nothing_but_ids():
    rollouts = attempts()
    before = rollouts.ids.clone()
    hidden = past_generation_mask(rollouts, 1.0, POLICY.pad_id, POLICY.stop_id, seeded())
    assert torch.equal(rollouts.ids, before) and not torch.equal(hidden.ids, before)
    assert hidden.answers == rollouts.answers  # what is scored and told about
    for name in ("turn", "scores", "group", "logprobs"):
        assert getattr(hidden, name) is getattr(rollouts, name)


# --- examples -------------------------------------------------------------------------------------------------------


@pytest.fixture
def learner(monkeypatch):
    """A learner whose base makes the attempts of the table."""
    monkeypatch.setattr(AnswerSFT, "attempts", lambda self, learner, update: attempts())
    return Learner(POLICY, TaskConfig(name="add", level=1), TRAIN, 0)


def texts_of(examples) -> list[tuple[str, str]]:
    """(context, what is learned after it), as text."""
    found = []
    for ids, learn in zip(examples.ids.tolist(), examples.learn.tolist(), strict=True):
        start, count = learn.index(True), sum(learn)
        assert all(learn[start : start + count])  # one stretch
        assert not any(i != POLICY.pad_id for i in ids[start + count :])
        found.append((spelled(ids[:start]), spelled(ids[start : start + count])))
    return found


def test_repairs_by_hand(learner):
    # Whatever is hidden in the context, the right attempt behind it is whole.
    assert texts_of(Cycle(mask=1.0, mixture=False).collect(learner)) == [
        ("3+4=__$-3+4=", "07$"),
        ("3+4=__$-3+4=_$-3+4=", "7$"),  # every other one after the failed one before it
        ("5+9=__$-5+9=", "14$"),
        ("5+9=__$-5+9=_$-5+9=", "14$"),
        ("5+9=$-5+9=", "14$"),  # an empty attempt has nothing to hide
    ]


def test_the_mixture_adds_as_many_plain_examples(learner):
    # Five repairs, three right attempts: five are drawn from these.
    texts = texts_of(Cycle().collect(learner))
    assert len(texts) == 10
    assert set(texts[5:]) <= set(PLAIN)
    assert all("$" in context for context, _ in texts[:5]) and not any("$" in context for context, _ in texts[5:])


def test_plain_examples_are_drawn_from_all_right_attempts(learner):
    learner.train = TRAIN.model_copy(update={"updates": 20})
    assert set(texts_of(Cycle().collect(learner))) >= set(PLAIN)  # each is missed with probability (2/3)¹⁰⁰


def test_without_mask_mixture_and_longer_chains_it_is_pair_sft(learner, monkeypatch):
    monkeypatch.setattr(Cycle, "pairs", PairSFT.pairs)
    ours, theirs = Cycle(mask=0.0, mixture=False).collect(learner), PairSFT().collect(learner)
    assert torch.equal(ours.ids, theirs.ids) and torch.equal(ours.learn, theirs.learn)
    assert ours.generated_tokens == theirs.generated_tokens


def test_a_mask_needs_a_token_of_its_own(learner, monkeypatch):
    # Many hub models pad with the stop token: a program full of ends would be another lesson.
    monkeypatch.setattr(type(POLICY), "pad_id", property(lambda self: self.stop_id))
    with pytest.raises(ConfigError, match="no padding token"):
        Cycle().collect(learner)
    Cycle(mask=0.0).collect(learner)


def test_the_mask_hides_tokens_of_the_same_examples(learner):
    plain, hidden = (texts_of(Cycle(mask=rate).collect(learner)) for rate in (0.0, 0.5))
    assert [target for _, target in plain] == [target for _, target in hidden]
    for (whole, _), (partly, _) in zip(plain, hidden, strict=True):
        assert all(b in (a, "_") for a, b in zip(whole, partly, strict=True))
    assert plain != hidden


def test_every_update_hides_other_tokens_and_always_the_same(learner):
    learner.train = TRAIN.model_copy(update={"updates": 6})
    texts = texts_of(Cycle(mixture=False).collect(learner))
    updates = [tuple(texts[i : i + 5]) for i in range(0, 30, 5)]
    assert len(set(updates)) > 1
    assert texts_of(Cycle(mixture=False).collect(learner)) == texts  # as in a run that is resumed


@pytest.mark.parametrize("mixture", [True, False])
def test_what_is_charged_is_what_the_base_wrote(learner, mixture):
    # All attempts, used or not, once, and however many examples are made of them.
    assert Cycle(mixture=mixture).collect(learner).generated_tokens == 3 + 3 + 2 + 2 + 3 + 3 + 2 + 1


@pytest.mark.parametrize("answers", [["07$", "7$", "07$", "007$"], ["08$", "9$", "$", "17$"]])
def test_without_pairs_there_is_nothing_to_learn(learner, monkeypatch, answers):
    # All right: nothing was repaired, and no plain example comes without a repair. All wrong: nothing to repair with.
    monkeypatch.setattr(AnswerSFT, "attempts", lambda *_: attempts(answers))
    with pytest.raises(TrainingError, match="nothing to learn from"):
        Cycle().collect(learner)


def test_with_shuffled_scores_what_counts_as_failed_is_hidden(learner, monkeypatch):
    # 08 counts as right and 07 as failed: the failed one is hidden, and what is told of it stays true (+).
    monkeypatch.setattr(AnswerSFT, "attempts", lambda *_: attempts(["08$", "07$"], 2, [1.0, 0.0]))
    assert texts_of(Cycle(mask=1.0).collect(learner)) == [("3+4=__$+3+4=", "08$"), ("3+4=", "08$")]


@pytest.mark.parametrize("failed", ["r", "rd", "x", ""])
def test_the_tests_still_say_what_a_hidden_program_gave(learner, monkeypatch, failed):
    # Hidden is the program. What follows it was said of the program itself, and shows what it made of a test.
    task, item = UnitTests(), Item("spec", 0, 0, 2, "53>64=", "i")
    rollouts = attempts([f"{failed}$", "i$"], 2, [0.0, 1.0])
    rollouts.items = [item] * 2
    rollouts.ids = pad_rows([encode(POLICY, f"53>64={text}$") for text in (failed, "i")], POLICY.pad_id)[0]
    rollouts.turn = pad_rows([[CONTEXT] * 6 + [0] * (len(text) + 1) for text in (failed, "i")], CONTEXT)[0]
    monkeypatch.setattr(AnswerSFT, "attempts", lambda *_: rollouts)
    learner.task, learner.train = task, TRAIN.model_copy(update={"feedback": "test"})
    (context, target), *_ = texts_of(Cycle(mask=1.0).collect(learner))
    assert target == "i$"
    assert context == f"53>64={'_' * len(failed)}$" + task.feedback(item, failed, "test")


# --- the method -----------------------------------------------------------------------------------------------------


def test_it_is_one_supervised_phase():
    (phase,) = Cycle().phases(TRAIN.model_copy(update={"updates": 7}))
    assert isinstance(phase, SupervisedPhase) and phase.updates == 7
    assert (Cycle.name, Cycle().mask, Cycle().mixture, Cycle().evaluation()) == ("cycle", 0.5, True, {})


@pytest.mark.parametrize("bad", [{"mask": -0.1}, {"mask": 1.5}, {"mask": None}, {"mixture": 3}, {"masks": 0.5}])
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(Cycle, bad, "arms.cycle")


def test_it_runs_from_end_to_end():
    train = TRAIN.model_copy(update={"updates": 12})
    learner = Learner(tiny_llama(16, 1, 2), TaskConfig(name="add", level=1), train, 0)
    learner.task = Lenient()
    records = list(run_phases(learner, Cycle().phases(train)))
    assert len(records) == 12
    assert records[-1]["loss/supervised"] < records[0]["loss/supervised"]
    assert records[-1]["generated_tokens"] == AnswerSFT().collect(learner).generated_tokens  # as the baseline's


# --- evaluation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "solved", "share"),
    [
        (0.4, 0.7, 0.5),  # 30 of 60
        (0.6, 0.72, 0.3),  # 12 of 40: more is solved, less is repaired
        (0.2, 0.2, 0.0),  # nothing
        (0.2, 1.0, 1.0),  # everything
        (0.0, 0.25, 0.25),
        (1.0, 1.0, 0.0),  # nothing has failed
    ],
)
def test_repaired_by_hand(first, solved, share):
    assert repaired(first, solved) == pytest.approx(share)


def test_evaluation_is_that_of_attempts_and_what_was_repaired(monkeypatch):
    metrics = {"accuracy@1": 0.4, "solved@2": 0.55, "solved@3": 0.7}
    asked = []

    def fake(*args, **settings):
        asked.append((args, settings))
        return Evaluation(dict(metrics), {"solved@3": [1, 0]}, 17), "rollouts"

    monkeypatch.setattr(cycle, "evaluate_attempts", fake)
    for turns, share in ((3, 0.5), (2, 0.25)):  # 30 and 15 of 60
        evaluation, rollouts = evaluate("policy", "task", ["items"], seed=3, turns=turns)
        assert asked.pop() == (("policy", "task", ["items"]), {"seed": 3, "turns": turns})
        assert evaluation.metrics.pop("repaired") == pytest.approx(share)
        assert evaluation.metrics == metrics and rollouts == "rollouts"
        assert (evaluation.items, evaluation.generated_tokens) == ({"solved@3": [1, 0]}, 17)
