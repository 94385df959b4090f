"""CL/CS: the bounds and the score between them by hand, and which examples a mixture is made of.

The attempts that mixtures are worked out on, two problems with four attempts each (``$`` is the stop token)::

    row    0    1    2   3     4    5    6   7
    3+4=  08$  07$  9$  7$    5+9=  14$  15$  5$  $
           ✗    ✓   ✗   ✓            ✓    ✗   ✗  ✗

Five corrections (0→1, 2→3, 5→4, 6→4, 7→4) and three right attempts to keep (1, 3, 4): a mixture has three examples.
"""

import itertools

import pytest
import torch
from stand_ins import written

from minirl.config import TaskConfig, TrainConfig, validate
from minirl.errors import ConfigError, TrainingError
from minirl.evaluation.attempts import Evaluation
from minirl.evaluation.correction import correction_metrics
from minirl.loops import Learner
from minirl.policy.models import tiny_llama
from minirl.rollouts.episodes import Rollouts
from minirl.tasks import Item
from minirl.tasks.add import Addition
from minirl.techniques.base import SupervisedPhase
from minirl.techniques.baselines import PairSFT
from minirl.techniques.self_correction import cl_cs
from minirl.techniques.self_correction.cl_cs import CCT, bounds, evaluate, mixture, rss

POLICY = tiny_llama(16, 1, 2)
TRAIN = TrainConfig(updates=1, prompts=2, samples=2, turns=2, learning_rate=1e-2)
PROBLEMS = [Item("add", 0, 0, 1, "3+4=", "07"), Item("add", 0, 1, 1, "5+9=", "14")]
ANSWERS = ["08$", "07$", "9$", "7$", "14$", "15$", "5$", "$"]
FIX, KEEP = [(0, 1), (2, 3), (5, 4), (6, 4), (7, 4)], [(1, 1), (3, 3), (4, 4)]


def attempts(answers=ANSWERS, samples: int = 4) -> Rollouts:
    """Single-turn episodes in groups of ``samples``."""
    return written(POLICY, PROBLEMS, answers, samples)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- bounds and score -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "low", "high"),
    # 0.6² and 1 − 0.4²; where everything is right, or nothing, there is one value only
    [(0.6, 0.36, 0.84), (0.5, 0.25, 0.75), (0.1, 0.01, 0.19), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)],
)
def test_bounds_by_hand(first, low, high):
    assert bounds(first) == pytest.approx((low, high), abs=1e-15)


def test_bounds_are_the_worst_and_the_best_choice_between_two_answers():
    # Old and new answer, each right with probability 0.3 on its own: all four cases, and what is chosen in each.
    worst = best = 0.0
    for old, new in itertools.product((True, False), repeat=2):
        chance = (0.3 if old else 0.7) * (0.3 if new else 0.7)
        worst += chance * min(old, new)
        best += chance * max(old, new)
    assert bounds(0.3) == pytest.approx((worst, best))


@pytest.mark.parametrize(
    ("second", "score"),
    [
        (0.36, 0.0),  # the lower bound
        (0.84, 1.0),  # the upper bound
        (0.6, 0.5),  # nothing changed
        (0.64, 7 / 12),  # 0.28 of 0.48
        (0.0, -0.75),  # worse than any choice: −0.36 of 0.48
        (1.0, 4 / 3),  # better than any choice: 0.64 of 0.48
    ],
)
def test_score_by_hand(second, score):
    assert rss(0.6, second) == pytest.approx(score)


@pytest.mark.parametrize(("first", "second"), [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.2)])
def test_without_anything_to_choose_the_score_is_a_half(first, second):
    assert rss(first, second) == 0.5


@pytest.mark.parametrize("first", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(("confidence", "critique"), [(1.0, 0.0), (0.8, 0.3), (0.2, 0.9), (0.0, 1.0)])
def test_score_is_the_mean_of_two_skills(first, confidence, critique):
    """Each against answering anew, with CL = CS = acc₁: (CL − acc₁) / (1 − acc₁) and CS / acc₁."""
    second = first * confidence + (1 - first) * critique
    skills = (confidence - first) / (1 - first), critique / first
    assert rss(first, second) == pytest.approx(sum(skills) / 2)


# --- mixtures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "fixes", "keeps"),
    # Three examples in all: as many as there are to keep. 0.75 is not enough for one of them, 1.5 rounds to 2.
    [(0.0, 0, 3), (0.25, 1, 2), (0.5, 2, 1), (0.75, 2, 1), (1.0, 3, 0), (0.1, 0, 3)],
)
def test_a_mixture_has_its_share_of_fixes(share, fixes, keeps):
    for seed in range(20):
        pairs = mixture(FIX, KEEP, share, seeded(seed))
        assert len(pairs) == len(set(pairs)) == 3  # nothing twice
        assert sum(pair in FIX for pair in pairs) == fixes
        assert sum(pair in KEEP for pair in pairs) == keeps


def test_a_mixture_is_drawn_from_everything_there_is():
    drawn = [mixture(FIX, KEEP, 0.5, seeded(seed)) for seed in range(60)]
    assert {pair for pairs in drawn for pair in pairs} == {*FIX, *KEEP}
    assert mixture(FIX, KEEP, 0.5, seeded(7)) == drawn[7]


def test_mixtures_share_their_examples():
    """The same draw: turning the dial exchanges examples one by one and leaves the others in place."""
    fix, keep = [(i, 100 + i) for i in range(12)], [(i, i) for i in range(20)]
    few, many = (mixture(fix, keep, share, seeded()) for share in (0.25, 0.75))
    assert set(few) & set(fix) < set(many) & set(fix)  # 3 of 12, then 9 of 12
    assert set(many) & set(keep) < set(few) & set(keep)  # 9, then 3


@pytest.mark.parametrize(("fix", "keep"), [([], KEEP), (FIX, []), ([], [])])
def test_without_one_of_the_kinds_there_is_no_mixture(fix, keep):
    # Not even of the other kind alone: all shares have equally many examples.
    assert [mixture(fix, keep, share, seeded()) for share in (0.0, 0.5, 1.0)] == [[], [], []]


def test_pairs_by_hand():
    # The shorter list is taken whole: every right attempt is kept, as its own second look.
    assert sorted(CCT(fix=0.0).pairs(attempts(), seeded())) == KEEP
    only_fixes = CCT(fix=1.0).pairs(attempts(), seeded())
    assert len(only_fixes) == 3 and set(only_fixes) < set(FIX)
    assert CCT(fix=0.5).pairs(attempts(), seeded(3)) == mixture(FIX, KEEP, 0.5, seeded(3))


# --- what is learned ------------------------------------------------------------------------------------------------


@pytest.fixture
def learner(monkeypatch):
    """A learner whose base makes the attempts of the table."""
    monkeypatch.setattr(CCT, "attempts", lambda self, learner, update: attempts())
    return Learner(POLICY, TaskConfig(name="add", level=1), TRAIN, 0)


def texts_of(examples) -> set[tuple[str, str]]:
    """(context, what is learned after it), as text with ``$`` for the stop token."""
    found = set()
    for ids, learn in zip(examples.ids.tolist(), examples.learn.tolist(), strict=True):
        start, count = learn.index(True), sum(learn)
        assert all(learn[start : start + count])  # one stretch
        pieces = POLICY.tokenizer.batch_decode([ids[:start], ids[start : start + count]])
        found.add(tuple(piece.replace("<eos>", "$") for piece in pieces))
    return found


def test_examples_that_keep_by_hand(learner):
    # The first attempt, the nudge with the problem once more, and the same attempt again. Only the last is learned.
    examples = CCT(fix=0.0).collect(learner)
    assert texts_of(examples) == {("3+4=07$?3+4=", "07$"), ("3+4=7$?3+4=", "7$"), ("5+9=14$?5+9=", "14$")}
    assert examples.generated_tokens == 3 + 3 + 2 + 2 + 3 + 3 + 2 + 1  # all attempts, used or not


def test_examples_that_fix_by_hand(learner):
    # Three of five: wrong, then right, for the same problem.
    texts = {("3+4=08$?3+4=", "07$"), ("3+4=9$?3+4=", "7$")}
    texts |= {("5+9=15$?5+9=", "14$"), ("5+9=5$?5+9=", "14$"), ("5+9=$?5+9=", "14$")}
    found = texts_of(CCT(fix=1.0).collect(learner))
    assert len(found) == 3 and found < texts


def test_every_mixture_teaches_from_equally_many_examples(learner):
    learner.train = TRAIN.model_copy(update={"updates": 4})
    collected = [CCT(fix=share).collect(learner) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert {len(examples.ids) for examples in collected} == {4 * 3}
    assert len({examples.generated_tokens for examples in collected}) == 1
    # Batches are drawn one by one: the same attempts do not give the same three corrections every time.
    assert len({tuple(row) for row in collected[-1].ids.tolist()}) > 3


def test_when_all_attempts_are_right_there_is_nothing_to_learn(learner, monkeypatch):
    right = ["07$", "7$", "007$", "07$"]
    monkeypatch.setattr(CCT, "attempts", lambda self, learner, update: attempts(right))
    with pytest.raises(TrainingError, match="nothing to learn from"):
        CCT(fix=0.0).collect(learner)


def test_shuffled_labels_keep_and_fix_at_random():
    # Of two problems all attempts at one are right and all at the other wrong, so that there is nothing to fix. With
    # the scores of other rows there is, and some of the attempts that are kept are wrong.
    class Half(Addition):
        def check(self, item, answer):
            return item.index % 2 == 0

    train = TRAIN.model_copy(update={"samples": 8})
    learner = Learner(tiny_llama(16, 1, 2), TaskConfig(name="add", level=1), train, 0)
    learner.task = Half()
    kept = {}
    for shuffle in (False, True):
        method = CCT(fix=0.0, shuffle_scores=shuffle)
        rollouts = method.attempts(learner, 0)
        right = [item.index % 2 == 0 for item in rollouts.items]
        assert rollouts.scores.sum() == 16 == sum(right)
        kept[shuffle] = [right[row] for row, _ in method.pairs(rollouts, seeded())]
    assert kept[False] == [] and 0 < sum(kept[True]) < len(kept[True])


def test_it_is_one_supervised_phase():
    (phase,) = CCT(fix=0.5).phases(TRAIN.model_copy(update={"updates": 7}))
    assert isinstance(phase, SupervisedPhase) and phase.updates == 7
    assert issubclass(CCT, PairSFT) and CCT.name == "cct"


@pytest.mark.parametrize("bad", [{"fix": -0.1}, {"fix": 1.5}, {"fix": None}, {"fix": 0.5, "share": 1}, {}])
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ConfigError, match="share" if "share" in bad else "fix"):
        validate(CCT, bad, "arms.rho")


# --- evaluation -----------------------------------------------------------------------------------------------------


def two_turns(*scores) -> Rollouts:
    rows = len(scores)
    return Rollouts(
        ids=torch.zeros(rows, 3, dtype=torch.long),
        turn=torch.tensor([[-1, 0, 1]] * rows),
        logprobs=torch.zeros(rows, 3),
        scores=torch.tensor(scores),
        group=torch.arange(rows),
        answers=[["a", "b"]] * rows,
        items=PROBLEMS[:1] * rows,
        longest=2,
    )


def test_accuracy_is_made_of_the_two_levels():
    # Right before: two of three stay right. Wrong before: one of two is rescued.
    metrics = correction_metrics(two_turns([1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0])).metrics
    first, confidence, critique = (metrics[key] for key in ("accuracy@1", "confidence_level", "critique_level"))
    assert (first, confidence, critique) == pytest.approx((0.6, 2 / 3, 1 / 2))
    # 0.6 · 2/3 + 0.4 · 1/2 = 0.4 + 0.2
    assert metrics["accuracy@2"] == pytest.approx(0.6) == pytest.approx(first * confidence + (1 - first) * critique)


def test_evaluation_is_the_matrix_and_the_score(monkeypatch):
    matrix = correction_metrics(two_turns([1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]))
    asked = []

    def fake(*args, **settings):
        asked.append((args, settings))
        return matrix, "rollouts"

    monkeypatch.setattr(cl_cs, "evaluate_correction", fake)
    evaluation, rollouts = evaluate("policy", "task", ["items"], seed=3, turns=2)
    assert asked == [(("policy", "task", ["items"]), {"seed": 3, "turns": 2})]
    assert isinstance(evaluation, Evaluation) and rollouts == "rollouts"
    # accuracy 0.6 before and 0.8 after: 0.44 of 0.48
    assert evaluation.metrics.pop("rss") == pytest.approx(11 / 12)
    assert evaluation.metrics == matrix.metrics
    assert evaluation.items is matrix.items  # of a ratio of means there is no value per item
