"""Critiques: what counts as one, which context it is written in, and what becomes of an attempt that heeds it."""

import random
from string import ascii_lowercase

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import encode, sharp_policy

from minirl.policy.logprobs import pad_rows
from minirl.rollouts import critiques, episodes
from minirl.rollouts.critiques import (
    critic_episodes,
    criticise,
    critique_and_refine,
    load_actor,
    read_critique,
    refine,
)
from minirl.rollouts.episodes import roll_out
from minirl.tasks import Item, get
from minirl.tasks.chain import write

TALLY = get("tally")
# 3+7 = 10 → 0; 0-4 = -4 → 6. An attempt at level k has at most 3k tokens and the stop token, a critique three.
ONE, TWO = Item("tally", 0, 0, 1, "3+7=", "+70"), Item("tally", 0, 1, 2, "3+7-4=", "+70-46")
ACTOR, CRITIC = sharp_policy(0), sharp_policy(1)


class Script:
    """A decoder without a model: row b says ``lines[b]`` token by token and remembers all it was told. Rows of a group
    read the same and are told apart by noise, which there is none of here: their lines begin with the same token."""

    def __init__(self, model, batch: int, lines: list[list[int]]) -> None:
        self.model, self.lines = model, lines
        self.context: list[list[int]] = [[] for _ in range(batch)]
        self.appends = [0] * batch  # the first is the prompt; each further one has said one more token

    def expand(self, times: int) -> None:
        self.context = [list(row) for row in self.context for _ in range(times)]
        self.appends = [n for n in self.appends for _ in range(times)]

    def append(self, ids: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        samples = len(self.lines) // len(self.context)  # as many until the decoder is expanded, then 1
        wanted = []
        for b, (row, count) in enumerate(zip(ids.tolist(), counts.tolist(), strict=True)):
            self.context[b] += row[:count]
            self.appends[b] += count > 0
            lines = self.lines[b * samples : (b + 1) * samples]
            assert len({line[0] for line in lines}) == 1
            wanted.append(lines[0][min(self.appends[b], len(lines[0])) - 1])
        return 50.0 * torch.nn.functional.one_hot(torch.tensor(wanted), 87)


@pytest.fixture
def scripted(monkeypatch):
    """``scripted(["+71$"], ["-a$"], …)`` makes the next roll-outs say these lines, a list for each; returns the
    decoders, which are added as they are made."""

    def install(*parts: list[str]) -> list[Script]:
        left, made = list(parts), []

        def make_decoder(model, batch):
            made.append(Script(model, batch, [encode(ACTOR, line) for line in left.pop(0)]))
            return made[-1]

        monkeypatch.setattr(episodes, "make_decoder", make_decoder)
        return made

    return install


def padded(texts: list[str]) -> list[list[int]]:
    return pad_rows([encode(ACTOR, text) for text in texts], ACTOR.pad_id)[0].tolist()


def sampler(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "steps", "critique"),
    [
        ("+", 3, (True, None)),
        ("-a", 3, (False, 0)),
        ("-b", 3, (False, 1)),
        ("-c", 3, (False, 2)),
        ("-d", 3, None),  # there is no fourth step
        ("-d", 4, (False, 3)),
        ("-h", 8, (False, 7)),
        ("-a", 1, (False, 0)),
        ("-b", 1, None),
        ("-a", 0, None),
        (" +\n", 3, (True, None)),  # space around it is forgiven
        ("\t-b ", 3, (False, 1)),
        ("", 3, None),
        (" ", 3, None),
        ("-", 3, None),  # wrong, but where?
        ("++", 3, None),
        ("+a", 3, None),
        ("+-", 3, None),
        ("--", 3, None),
        ("-+", 3, None),
        ("a", 3, None),
        ("ab", 3, None),
        ("a-", 3, None),
        ("-ab", 3, None),
        ("-abc", 3, None),  # "abc" is the alphabet of three steps, and no letter
        ("- a", 3, None),
        ("-A", 3, None),
        ("-1", 3, None),
        ("?", 3, None),
        ("!", 3, None),
        ("-b3+7=", 3, None),  # as located feedback goes on
        ("+70", 3, None),  # an attempt
        ("-a\0", 3, None),
        ("-<eos>", 3, None),
        ("<unk>", 3, None),
        ("−a", 3, None),  # U+2212
        ("＋", 3, None),
        ("-а", 3, None),  # Cyrillic
        ("-ａ", 3, None),
        ("-á", 3, None),
        ("\ud800", 3, None),
        ("+" + " " * 255, 3, (True, None)),
        ("+" + " " * 256, 3, None),  # too long before anyone looks at what is in it
        ("-a" * 10**6, 3, None),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_read_by_hand(text: str, steps: int, critique: critiques.Critique | None) -> None:
    assert read_critique(text, steps) == critique


@pytest.mark.parametrize("text", ["+\xa0", "\u3000-a", "\u2028+", "+\x85"], ids=ascii)
def test_what_is_not_ascii_is_no_critique(text: str) -> None:
    assert read_critique(text, 3) is None and TALLY.read(text) == ""


READABLE = {"+": (True, None), **{f"-{letter}": (False, i) for i, letter in enumerate(ascii_lowercase)}}


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text(st.characters(codec="ascii"), max_size=6) | st.text("+-ab \n", max_size=4), st.integers(0, 26))
def test_reading_is_a_table(text: str, steps: int) -> None:
    said = READABLE.get(text.strip())
    assert read_critique(text, steps) == (said if said and (said[0] or said[1] < steps) else None)


@pytest.mark.parametrize("level", TALLY.levels)
def test_true_critiques_are_read_as_what_they_say(level: int) -> None:
    for item in TALLY.items(0, range(20), level):
        rng = random.Random(item.index)
        for _ in range(5):
            answer = write(item.prompt, {rng.randrange(level): rng.randrange(10) for _ in range(2)})
            said = read_critique(TALLY.critique(item, answer), level)
            right = TALLY.score(item, answer) == 1
            assert said == ((True, None) if right else (False, TALLY.first_error(item, answer)))


# --- criticise -------------------------------------------------------------------------------------------------------


def test_a_critique_stands_after_attempt_and_question(scripted):
    made = scripted(["-a$", "+$"])
    rollouts = criticise(CRITIC, TALLY, [ONE, TWO], ["+71", "+70-46"])
    texts = ["3+7=+71$!-a$", "3+7-4=+70-46$!+$"]
    assert rollouts.ids.tolist() == padded(texts)
    #                                    prompt     attempt and $  !      critique  padding
    assert rollouts.turn.tolist() == [[-1] * 4 + [-1] * 4 + [-1] + [0] * 3 + [-1] * 4, [-1] * 6 + [-1] * 8 + [0] * 2]
    assert rollouts.answers == [["-a"], ["+"]] and rollouts.items == [ONE, TWO]
    assert rollouts.generated_tokens() == 3 + 2  # the attempts are not the critic's
    assert rollouts.longest == 3
    (script,) = made
    assert script.model is CRITIC.model
    assert script.context == [encode(CRITIC, text)[:-1] for text in texts]


def test_a_critique_token_by_token(scripted):
    scripted(["-a$"])
    (ids,) = criticise(CRITIC, TALLY, [ONE], ["+71"]).ids.tolist()
    # The digits are 3 to 12, + is 13, - is 14, = is 17, ! is 25, a is 35, and the stop token 1.
    #              3   +  7   =   +   7  1  $   !   -   a  $
    assert ids == [6, 13, 10, 17, 13, 10, 4, 1, 25, 14, 35, 1]


def test_a_critique_has_three_tokens_and_no_more(scripted):
    scripted(["-ab$", "+  $"])
    rollouts = criticise(CRITIC, TALLY, [ONE, TWO], ["+71", "+70-46"])
    assert rollouts.answers == [["-ab"], ["+  "]] and rollouts.generated_tokens() == 6  # cut off before the stop token


def test_an_attempt_is_whatever_was_said(scripted):
    # An actor's special tokens are put into the context as what they were.
    scripted(["-a$", "-a$"])
    rollouts = criticise(CRITIC, TALLY, [ONE, ONE], ["", "<unk>7"])
    assert rollouts.ids[0].tolist()[:-1] == [*encode(CRITIC, "3+7=$!-a$"), CRITIC.pad_id]
    assert rollouts.ids[1].tolist() == [*encode(CRITIC, "3+7="), 2, *encode(CRITIC, "7$!-a$")]


def test_several_critiques_of_one_attempt_are_a_group():
    items, attempts = [ONE, TWO], ["+71", "+70-46"]
    rollouts = criticise(CRITIC, TALLY, items, attempts, samples=3, generator=sampler(), temperature=0.7)
    assert rollouts.group.tolist() == [0, 0, 0, 1, 1, 1] and rollouts.samples == 3
    contexts = [encode(CRITIC, text) for text in ("3+7=+71$!", "3+7-4=+70-46$!") for _ in range(3)]
    for ids, own, context in zip(rollouts.ids.tolist(), rollouts.own.tolist(), contexts, strict=True):
        assert ids[: own.index(True)] == context
    assert len({said for (said,) in rollouts.answers}) > 2  # each has noise of its own
    again = criticise(CRITIC, TALLY, items, attempts, samples=3, generator=sampler(), temperature=0.7)
    hotter = criticise(CRITIC, TALLY, items, attempts, samples=3, generator=sampler(), temperature=2.0)
    assert again.answers == rollouts.answers != hotter.answers


# --- refine ----------------------------------------------------------------------------------------------------------


def test_a_refinement_stands_after_the_critique_in_place_of_feedback(scripted):
    made = scripted(["+70$", "+70-46$", "+71$"])
    rollouts = refine(ACTOR, TALLY, [ONE, TWO, ONE], ["+71", "+70-47", "+70"], ["-a", "-b", "+"])
    texts = ["3+7=+71$-a3+7=+70$", "3+7-4=+70-47$-b3+7-4=+70-46$", "3+7=+70$+3+7=+71$"]
    assert rollouts.ids.tolist() == padded(texts)
    own = [ids[turn == 0].tolist() for ids, turn in zip(rollouts.ids, rollouts.turn, strict=True)]
    assert own == [encode(ACTOR, text) for text in ("+70$", "+70-46$", "+71$")]
    assert rollouts.answers == [["+70"], ["+70-46"], ["+71"]]
    assert rollouts.scores.tolist() == [[1], [1], [0]]  # the task is asked, not the critic
    (script,) = made
    assert script.model is ACTOR.model
    assert script.context == [encode(ACTOR, text)[:-1] for text in texts]


def test_every_row_reads_its_own_critique():
    # Thirty rows of mixed levels, among them the same problem and attempt with different critiques.
    items = [TALLY.item(0, index, level) for index in range(5) for level in (3, 1, 2)] * 2
    attempts = [TALLY.corrupt(item, random.Random(0)) for item in items]
    said = [random.Random(row).choice(["+", "-a", "-b", "-c", "?!", ""]) for row in range(30)]
    assert len(set(said[:15])) > 3 and said[:15] != said[15:]
    for samples in (1, 2):
        rollouts = refine(ACTOR, TALLY, items, attempts, said, samples=samples, generator=sampler())
        for row, (ids, own) in enumerate(zip(rollouts.ids.tolist(), rollouts.own.tolist(), strict=True)):
            item, attempt, critique = (of_all[row // samples] for of_all in (items, attempts, said))
            assert ids[: own.index(True)] == encode(ACTOR, f"{item.prompt}{attempt}${critique}{item.prompt}")


@pytest.mark.parametrize("seed", [None, 0])
def test_a_true_critique_is_located_feedback(seed):
    items = TALLY.items(0, range(8), 2)
    attempts = [item.answer if item.index % 2 else TALLY.corrupt(item, random.Random(0)) for item in items]
    truth = [TALLY.critique(item, text) for item, text in zip(items, attempts, strict=True)]
    assert {"+", "-a", "-b"} == set(truth)
    one, other = (seed if seed is None else sampler(seed) for _ in range(2))
    told = refine(ACTOR, TALLY, items, attempts, truth, samples=2, generator=one)
    given_ = [[text] for text in attempts]
    located = roll_out(ACTOR, TALLY, items, samples=2, generator=other, feedback="located", given=given_)
    assert told.ids.tolist() == located.ids.tolist() and told.turn.tolist() == located.turn.tolist()
    assert told.answers == located.answers and torch.equal(told.logprobs, located.logprobs)


@pytest.mark.parametrize("critiques_", [[], ["-a"], ["-a", "+", "-a"]])
def test_every_attempt_has_its_critique(critiques_):
    with pytest.raises(ValueError, match=f"2 attempts at them and {len(critiques_)} critiques"):
        refine(ACTOR, TALLY, [ONE, TWO], ["+71", "+70"], critiques_)


# --- attempt, critiques, refinements ---------------------------------------------------------------------------------


def test_attempts_critiques_and_refinements_by_hand(scripted):
    # Two attempts, one of them right. Two critiques of each, of which every second cannot be read: ONE has one step,
    # and no step b. One refinement for each of the others: the first is right, the second spoils what was right.
    made = scripted(["+71$", "+70-46$"], ["-a$", "-b$", "-b$", "--$"], ["+70$", "+70-47$"])
    rollouts = critique_and_refine(CRITIC, TALLY, [ONE, TWO], actor=ACTOR, samples=2, generator=None)
    assert rollouts.answers == [["+71", "-a", "+70"], ["+71", "-b"], ["+70-46", "-b", "+70-47"], ["+70-46", "--"]]
    #                                   attempt, is the verdict right, refinement
    assert rollouts.scores.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0], [1, 0, 1]]  # unreadable: as it was, 0 and 1
    assert rollouts.items == [ONE, ONE, TWO, TWO] and rollouts.group.tolist() == [0, 0, 1, 1]
    # The rows are the critic's, and its turn is 1.
    texts = ["3+7=+71$!-a$", "3+7=+71$!-b$", "3+7-4=+70-46$!-b$", "3+7-4=+70-46$!--$"]
    assert rollouts.ids.tolist() == padded(texts)
    assert rollouts.turn.tolist() == [[-1] * 9 + [1] * 3 + [-1] * 5] * 2 + [[-1] * 14 + [1] * 3] * 2
    assert rollouts.logprobs.shape == rollouts.ids.shape == (4, 17)
    assert rollouts.generated_tokens() == 4 * 3 and rollouts.longest == 3
    assert rollouts.alive.tolist() == [[False, True, False]] * 4
    # Who was asked, and what each had read: nobody is asked to heed what cannot be read.
    assert [script.model for script in made] == [ACTOR.model, CRITIC.model, ACTOR.model]
    read = [["3+7=+71", "3+7-4=+70-46"], [text[:-1] for text in texts]]
    read += [["3+7=+71$-a3+7=+70", "3+7-4=+70-46$-b3+7-4=+70-47"]]
    assert [script.context for script in made] == [[encode(ACTOR, text) for text in part] for part in read]


def test_verdicts_by_hand(scripted):
    # Accepted and right, accepted and wrong, rejected and wrong (at the wrong step: the verdict is right all the same),
    # rejected and right; and what is no answer at all, accepted.
    items = [TWO] * 5
    attempts, said = ["+70-46$", "+70-47$", "+70-47$", "+70-46$", "7$"], ["+$", "+$", "-a$", "-b$", "+$"]
    scripted(attempts, said, ["+70-46$", "+70-46$", "+71-47$", "+70-46$", "7$"])
    rollouts = critique_and_refine(CRITIC, TALLY, items, actor=ACTOR, samples=1, generator=None)
    # After a "+", too, what the actor then writes is what counts: the second gets it right in spite of its critic.
    assert rollouts.scores.tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 0], [1, 0, 1], [0, 0, 0]]
    assert [answers[1] for answers in rollouts.answers] == ["+", "+", "-a", "-b", "+"]
    assert rollouts.samples == 1 and rollouts.group.tolist() == [0, 1, 2, 3, 4]


def test_an_actor_hears_what_was_said_and_its_letter_may_be_false(scripted):
    made = scripted(["+70-47$"], ["-a$"], ["+70-46$"])
    critique_and_refine(CRITIC, TALLY, [TWO], actor=ACTOR, samples=1, generator=None)
    assert made[2].context == [encode(ACTOR, "3+7-4=+70-47$-a3+7-4=+70-46")]


def test_without_refinements_nobody_is_asked_for_any(scripted):
    made = scripted(["+71$", "+70-46$"], ["-a$", "-x$", "-b$", "--$"])
    rollouts = critique_and_refine(CRITIC, TALLY, [ONE, TWO], actor=ACTOR, samples=2, generator=None, refinements=0)
    assert len(made) == 2
    assert rollouts.answers == [["+71", "-a"], ["+71", "-x"], ["+70-46", "-b"], ["+70-46", "--"]]
    assert rollouts.scores.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]]  # the last column means nothing
    assert rollouts.turn.max() == 1


def test_where_nothing_can_be_read_all_stays_as_it_is(scripted):
    made = scripted(["+71$", "+70-46$"], ["!$", "-7$"])
    rollouts = critique_and_refine(CRITIC, TALLY, [ONE, TWO], actor=ACTOR, samples=1, generator=None)
    assert len(made) == 2 and rollouts.scores.tolist() == [[0, 0, 0], [1, 0, 1]]


def test_several_refinements_are_averaged(scripted):
    # Of four refinements of the first attempt one is right, of the second three; the critique in between is none.
    made = scripted(
        ["+71$", "+71$", "+70-47$"],
        ["-a$", "$", "-b$"],
        [*("+71$", "+70$", "+72$", "+73$"), *("+70-46$", "+70-46$", "+70-47$", "+70-46$")],
    )
    rollouts = critique_and_refine(
        CRITIC, TALLY, [ONE, ONE, TWO], actor=ACTOR, samples=1, generator=sampler(), refinements=4
    )
    assert rollouts.scores.tolist() == [[0, 1, 0.25], [0, 0, 0], [0, 1, 0.75]]
    assert rollouts.answers == [
        ["+71", "-a", "+71", "+70", "+72", "+73"],
        ["+71", ""],
        ["+70-47", "-b", "+70-46", "+70-46", "+70-47", "+70-46"],
    ]
    assert len(made[2].context) == 8 and rollouts.ids.shape[0] == 3  # refinements are no rows


@pytest.mark.parametrize(("refinements", "noisy"), [(1, False), (2, True)])
def test_one_refinement_is_greedy_and_several_are_sampled(scripted, monkeypatch, refinements, noisy):
    scripted(["+71$"], ["-a$"], ["+70$"] * refinements)
    generator, seen = sampler(), []

    def listening(*args, **how):
        seen.append((how["samples"], how["generator"]))
        return refine(*args, **how)

    monkeypatch.setattr(critiques, "refine", listening)
    critique_and_refine(CRITIC, TALLY, [ONE], actor=ACTOR, samples=1, generator=generator, refinements=refinements)
    assert seen == [(refinements, generator if noisy else None)]


@pytest.mark.parametrize("refinements", [0, 1])
def test_a_critic_in_training_has_a_frozen_actor(monkeypatch, refinements):
    asked: list[str] = []
    monkeypatch.setattr(critiques, "load_actor", lambda name, *_: (asked.append(name), ACTOR)[1])
    items, how = TALLY.items(0, range(3), 2), {"samples": 2, "temperature": 0.5, "refinements": refinements}
    ours = critic_episodes(CRITIC, TALLY, items, actor="somebody", generator=sampler(4), **how)
    theirs = critique_and_refine(CRITIC, TALLY, items, actor=ACTOR, generator=sampler(4), **how)
    assert asked == ["somebody"]
    assert ours.answers == theirs.answers and ours.ids.tolist() == theirs.ids.tolist()
    assert ours.scores.tolist() == theirs.scores.tolist() and ours.scores.shape == (6, 3)
    assert set(ours.turn.flatten().tolist()) == {-1, 1}
    # Both critics of a problem have read the same attempt.
    assert [said[0] for said in ours.answers[::2]] == [said[0] for said in ours.answers[1::2]]


def test_an_actor_is_loaded_once(tmp_path):
    ACTOR.save(tmp_path / "actor")
    first = load_actor(str(tmp_path / "actor"))
    assert load_actor(str(tmp_path / "actor")) is first
    for ours, theirs in zip(first.model.parameters(), ACTOR.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_parts_are_roll_outs_one_after_the_other(monkeypatch, temperature):
    # Policies without a script. Nothing that they write can be read; to reach the refinements a reader is stood in, for
    # whom everything with a digit in it rejects the first step.
    def digits_reject(text, steps):
        return (False, 0) if any(letter.isdigit() for letter in text) else None

    monkeypatch.setattr(critiques, "read_critique", digits_reject)
    items = TALLY.items(0, range(4), 2)
    settings_ = {"samples": 3, "temperature": temperature, "refinements": 2}
    rollouts = critique_and_refine(CRITIC, TALLY, items, actor=ACTOR, generator=sampler(5), **settings_)

    generator = sampler(5)  # one for all three, which goes on where it stood
    tried = roll_out(ACTOR, TALLY, items, generator=generator, temperature=temperature)
    attempts = [text for (text,) in tried.answers]
    said = criticise(CRITIC, TALLY, items, attempts, samples=3, generator=generator, temperature=temperature)
    assert rollouts.ids.tolist() == said.ids.tolist() and torch.equal(rollouts.logprobs, said.logprobs)
    assert rollouts.turn.tolist() == torch.where(said.turn == 0, 1, -1).tolist()
    told = [row for row in range(12) if digits_reject(said.answers[row][0], 2)]
    assert 0 < len(told) < 12
    of_told = [[of_all[row] for row in told] for of_all in (said.items, [a for a in attempts for _ in range(3)])]
    new = refine(ACTOR, TALLY, *of_told, [said.answers[row][0] for row in told], samples=2, generator=generator)
    expected = [[attempts[row // 3], said.answers[row][0]] for row in range(12)]
    for i, row in enumerate(told):
        expected[row] += [new.answers[2 * i][0], new.answers[2 * i + 1][0]]
    assert rollouts.answers == expected
    # All are wrong, so that every objection is right, and what is none is not.
    assert rollouts.scores.tolist() == [[0, float(row in told), 0] for row in range(12)]
