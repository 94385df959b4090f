"""Episodes: which tokens are the policy's own, what it saw, how attempts score, and what the sampling depends on."""

import pytest
import torch
from stand_ins import Lenient, sharp_policy

from minirl.policy import fast
from minirl.policy.logprobs import pad_rows, token_logprobs
from minirl.rollouts import episodes
from minirl.rollouts.episodes import Rollouts, roll_out
from minirl.tasks import Item, get, to_dataset
from minirl.tasks.add import Addition

ADD = get("add")
# 3 + 4 = 07 and 5 + 9 = 14; an attempt at level 1 has at most 3 tokens: two digits and the stop token.
SEVEN, FOURTEEN = Item("add", 0, 0, 1, "3+4=", "07"), Item("add", 0, 1, 1, "5+9=", "14")


POLICY = sharp_policy()


class Script:
    """A decoder without a model: row b says ``lines[b]`` token by token and remembers all it was told."""

    def __init__(self, lines: list[list[int]]) -> None:
        self.lines = lines
        self.context: list[list[int]] = [[] for _ in lines]
        self.appends = [0] * len(lines)  # the first is the prompt; each further one has said one more token

    def append(self, ids: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        for b, (row, count) in enumerate(zip(ids.tolist(), counts.tolist(), strict=True)):
            self.context[b] += row[:count]
            self.appends[b] += count > 0
        wanted = torch.tensor([line[min(n, len(line)) - 1] for line, n in zip(self.lines, self.appends, strict=True)])
        return 50.0 * torch.nn.functional.one_hot(wanted, 87)


def encode(text: str) -> list[int]:
    """Token ids; ``$`` stands for the stop token."""
    return POLICY.tokenizer.convert_tokens_to_ids(["<eos>" if c == "$" else c for c in text])


@pytest.fixture
def scripted(monkeypatch):
    """``scripted("08$7$", …)`` makes the next roll-out say these attempts; returns the decoder."""

    def install(*lines: str) -> Script:
        script = Script([encode(line) for line in lines])
        monkeypatch.setattr(episodes, "make_decoder", lambda model, batch: script)
        return script

    return install


@pytest.mark.parametrize(("feedback", "signs"), [("nudge", "??"), ("binary", "-+")])
def test_two_turns_by_hand(scripted, feedback, signs):
    # The first policy is wrong, then right; the second right, then cut off after three tokens, and wrong.
    script = scripted("08$7$", "14$141")
    rollouts = roll_out(POLICY, ADD, [SEVEN, FOURTEEN], turns=2, feedback=feedback)

    texts = [f"3+4=08${signs[0]}3+4=7$", f"5+9=14${signs[1]}5+9=141"]
    assert rollouts.ids.tolist() == [[*encode(texts[0]), POLICY.pad_id], encode(texts[1])]
    #         prompt      attempt 1  feedback    attempt 2  padding
    turns = [[-1] * 4 + [0] * 3 + [-1] * 5 + [1] * 2 + [-1], [-1] * 4 + [0] * 3 + [-1] * 5 + [1] * 3]
    assert rollouts.turn.tolist() == turns
    assert rollouts.own.tolist() == [[turn >= 0 for turn in row] for row in turns]
    assert rollouts.generated_tokens() == 5 + 6  # stop tokens count, feedback does not
    assert rollouts.answers == [["08", "7"], ["14", "141"]]
    assert rollouts.scores.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert rollouts.group.tolist() == [0, 1]
    assert rollouts.items == [SEVEN, FOURTEEN]
    # A logit of 50 against zeros: log-prob 0 to single precision, exactly 0 elsewhere.
    assert rollouts.logprobs.abs().max().item() < 1e-6
    # The policy has read exactly these ids, each once, but not its very last token.
    assert script.context == [encode(text)[:-1] for text in texts]


def test_one_turn_by_hand(scripted):
    scripted("07$", "$")
    rollouts = roll_out(POLICY, ADD, [SEVEN, FOURTEEN])
    assert rollouts.ids.tolist() == [encode("3+4=07$"), encode("5+9=$") + [POLICY.pad_id] * 2]
    assert rollouts.turn.tolist() == [[-1] * 4 + [0] * 3, [-1] * 4 + [0, -1, -1]]
    assert rollouts.answers == [["07"], [""]] and rollouts.scores.tolist() == [[1.0], [0.0]]


def test_limit_on_new_tokens(scripted):
    scripted("07$")
    rollouts = roll_out(POLICY, ADD, [SEVEN], max_new_tokens=1)
    assert rollouts.answers == [["0"]] and rollouts.generated_tokens() == 1


def test_records_become_a_dataset(scripted):
    scripted("08$7$", "14$141")
    records = roll_out(POLICY, ADD, [SEVEN, FOURTEEN], turns=2).records()
    assert records[0] == {
        "prompt": "3+4=",
        "reference": "07",
        "attempts": ["08", "7"],
        "scores": [0.0, 1.0],
        "group": 0,
    }
    dataset = to_dataset(records)
    assert dataset.num_rows == 2
    assert dataset["attempts"][1] == ["14", "141"] and dataset["scores"][1] == [1.0, 0.0] and dataset["group"][1] == 1


def test_an_attempt_that_was_cut_off_is_closed_by_a_stop_token_that_is_context(scripted):
    script = scripted("08907$")  # the limit is three tokens: 089, then 07 and the stop token
    rollouts = roll_out(POLICY, ADD, [SEVEN], turns=2)
    assert rollouts.ids.tolist() == [encode("3+4=089$?3+4=07$")]
    #                                         prompt      089       $ and feedback  07$
    assert rollouts.turn.tolist() == [[-1] * 4 + [0] * 3 + [-1] * 6 + [1] * 3]
    assert rollouts.generated_tokens() == 6  # nobody sampled the first stop token
    assert script.context == [encode("3+4=089$?3+4=07")]  # but the policy has read it


def rolled(items, seed=0, policy=POLICY, **settings):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return roll_out(policy, ADD, items, generator=generator, **settings)


def rows(rollouts, which=slice(None)):
    """What was written, row by row, without padding."""
    ids, turn = rollouts.ids.tolist(), rollouts.turn.tolist()
    return [
        [i for i, t in zip(a, b, strict=True) if t >= 0] for a, b in list(zip(ids, turn, strict=True))[which]
    ], rollouts.answers[which]


ITEMS = ADD.items(0, range(6), 2)


def test_pieces_are_prompt_attempt_feedback_attempt():
    rollouts = rolled(ITEMS, turns=3, samples=2)
    for b, item in enumerate(rollouts.items):
        ids, turn = rollouts.ids[b], rollouts.turn[b]
        attempts = [ids[turn == t].tolist() for t in range(3)]
        expected = encode(item.prompt)
        for t, attempt in enumerate(attempts):
            assert 1 <= len(attempt) <= 4  # level 2: three digits and the stop token
            assert POLICY.stop_id not in attempt[:-1]
            assert rollouts.answers[b][t] == POLICY.decode([attempt])[0]
            assert rollouts.scores[b, t].item() == ADD.score(item, rollouts.answers[b][t])
            expected += attempt
            if t < 2:  # the next turn finds every attempt closed; a stop token that had to be added is context
                expected += [POLICY.stop_id] * (attempt[-1] != POLICY.stop_id)
                expected += encode(f"?{item.prompt}")
        assert ids.tolist() == expected + [POLICY.pad_id] * (len(ids) - len(expected))
    assert rollouts.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [item.index for item in rollouts.items] == rollouts.group.tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_those_of_the_whole_episode(temperature):
    # Sampled piece by piece through the cache; read back in one forward pass over the finished episode.
    rollouts = rolled(ITEMS, turns=3, samples=2, temperature=temperature)
    logits = POLICY.logits(rollouts.ids)[:, :-1] / temperature
    logprobs = token_logprobs(logits, rollouts.ids[:, 1:]).detach()
    own = rollouts.own[:, 1:]
    torch.testing.assert_close(rollouts.logprobs[:, 1:][own], logprobs[own], atol=1e-4, rtol=1e-4)
    assert rollouts.logprobs[~rollouts.own].tolist() == [0.0] * int((~rollouts.own).sum())
    assert not rollouts.own[:, 0].any()


def test_greedy_is_the_most_likely_and_repeatable():
    one, two = rolled(ITEMS, None, turns=2), rolled(ITEMS, None, turns=2, temperature=0.3)
    assert one.ids.tolist() == two.ids.tolist()
    likeliest = POLICY.logits(one.ids)[:, :-1].argmax(-1)
    own = one.own[:, 1:]
    assert likeliest[own].tolist() == one.ids[:, 1:][own].tolist()


def test_the_generators_seed_decides():
    one, same, other = (rolled(ITEMS, seed, turns=2, samples=2) for seed in (5, 5, 6))
    assert one.ids.tolist() == same.ids.tolist() and torch.equal(one.logprobs, same.logprobs)
    assert one.answers != other.answers


def test_the_global_generator_is_left_alone():
    state = torch.random.get_rng_state()
    rolled(ITEMS, 0, turns=2)
    assert torch.equal(torch.random.get_rng_state(), state)


class Shrug:
    """A decoder that finds all tokens equally likely, whatever it has read."""

    def __init__(self, model, batch: int) -> None:
        self.batch = batch

    def append(self, ids: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        return torch.zeros(self.batch, 87)


def test_every_turn_has_numbers_of_its_own(monkeypatch):
    monkeypatch.setattr(episodes, "make_decoder", Shrug)
    attempts = [answer for answers in rolled(ITEMS, turns=3).answers for answer in answers]
    assert len(set(attempts)) == 18


def test_an_item_does_not_notice_the_others():
    whole = rolled(ITEMS, turns=2, samples=2)
    # Noise is drawn in item order: the first items of a batch get the same numbers alone …
    first = rolled(ITEMS[:2], turns=2, samples=2)
    assert rows(first) == rows(whole, slice(0, 4))
    # … and a generator that has served them goes on to the others.
    generator = torch.Generator().manual_seed(0)
    parts = [
        roll_out(POLICY, ADD, ITEMS[a:b], turns=2, samples=2, generator=generator) for a, b in ((0, 1), (1, 4), (4, 6))
    ]
    assert [row for part in parts for row in rows(part)[1]] == whole.answers


def test_other_neighbours_change_nothing():
    # The same noise rows for items 0 and 2; between and after them problems with shorter and longer prompts.
    short, long = Item("add", 9, 0, 2, "1+2=", "003"), Item("add", 9, 1, 2, "0000001+0000002=", "003")
    mixed = [ITEMS[0], short, ITEMS[2], long, short, long]
    one, two = rolled(ITEMS, turns=2), rolled(mixed, turns=2)
    for b in (0, 2):
        assert one.answers[b] == two.answers[b]
        torch.testing.assert_close(one.logprobs[b][one.own[b]], two.logprobs[b][two.own[b]], atol=1e-5, rtol=1e-5)
    assert one.answers[1] != two.answers[1]


def test_neighbours_of_another_level_change_nothing():
    alone, together = rolled(ITEMS[:2], turns=2), rolled([*ITEMS[:2], ADD.item(0, 0, 5)], turns=2)
    assert alone.answers == together.answers[:2]


def test_a_group_prefilled_once_is_every_sample_by_itself():
    group = rolled(ITEMS[:2], turns=2, samples=3)
    single = rolled([item for item in ITEMS[:2] for _ in range(3)], turns=2, samples=1)
    assert group.ids.tolist() == single.ids.tolist() and group.answers == single.answers
    torch.testing.assert_close(group.logprobs, single.logprobs, atol=1e-5, rtol=1e-5)
    assert group.group.tolist() == [0, 0, 0, 1, 1, 1]
    assert len({tuple(answers) for answers in group.answers}) == 6  # samples of a prompt differ


def test_feedback_reaches_the_policy():
    # The same noise, another sign in front of the restated problem: the second attempts differ, the first do not.
    nudge, binary = rolled(ITEMS, turns=2), rolled(ITEMS, turns=2, feedback="binary")
    assert [a[0] for a in nudge.answers] == [a[0] for a in binary.answers]
    assert [a[1] for a in nudge.answers] != [a[1] for a in binary.answers]


class Talkative(Addition):
    """Addition whose feedback is much longer than its problems."""

    def feedback(self, item, completion, grade="nudge"):
        return "look again " * 20


def test_long_feedback_is_read_to_the_end():
    generator = torch.Generator().manual_seed(0)
    rollouts = roll_out(POLICY, Talkative(), ITEMS[:2], turns=2, generator=generator)
    logprobs = token_logprobs(POLICY.logits(rollouts.ids)[:, :-1], rollouts.ids[:, 1:]).detach()
    own = rollouts.own[:, 1:]
    torch.testing.assert_close(rollouts.logprobs[:, 1:][own], logprobs[own], atol=1e-4, rtol=1e-4)


# --- episodes that end with the first right attempt -----------------------------------------------------------------


def test_until_solved_by_hand(scripted):
    # Right at once; right at the second attempt; never right.
    script = scripted("07$", "15$14$", "8$9$10$")
    rollouts = roll_out(POLICY, ADD, [SEVEN, FOURTEEN, SEVEN], turns=3, feedback="binary", until_solved=True)

    texts = ["3+4=07$", "5+9=15$-5+9=14$", "3+4=8$-3+4=9$-3+4=10$"]
    assert rollouts.ids.tolist() == pad_rows([encode(text) for text in texts], POLICY.pad_id)[0].tolist()
    first, second = [-1] * 4 + [0] * 3, [-1] * 4 + [0] * 3 + [-1] * 5 + [1] * 3
    third = [-1] * 4 + [0] * 2 + [-1] * 5 + [1] * 2 + [-1] * 5 + [2] * 3
    assert rollouts.turn.tolist() == pad_rows([first, second, third], -1)[0].tolist()
    assert rollouts.answers == [["07"], ["15", "14"], ["8", "9", "10"]]
    # An attempt that was not made scores 0; what tells it from one that failed is ``alive``.
    assert rollouts.scores.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert rollouts.alive.tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert rollouts.generated_tokens() == 3 + (3 + 3) + (2 + 2 + 3)
    assert rollouts.longest == 3 * 3  # what a row could have had, not what one has
    # An episode that has ended is told nothing more: no feedback, and no token of another row.
    assert script.context == [encode(text)[:-1] for text in texts]


def test_when_all_are_solved_there_is_no_further_turn(scripted):
    scripted("07$", "14$")
    rollouts = roll_out(POLICY, ADD, [SEVEN, FOURTEEN], turns=3, until_solved=True)
    assert rollouts.ids.tolist() == [encode("3+4=07$"), encode("5+9=14$")]
    # The shape is still that of three turns, so that batches can be joined and compared.
    assert rollouts.scores.tolist() == [[1, 0, 0]] * 2 and rollouts.alive.tolist() == [[True, False, False]] * 2


def test_a_right_answer_that_was_cut_off_ends_the_episode_as_it_stands(scripted):
    scripted("00707$")  # three tokens are the limit, and 007 is right
    rollouts = roll_out(POLICY, ADD, [SEVEN], turns=2, until_solved=True)
    assert rollouts.ids.tolist() == [encode("3+4=007")]  # no stop token: nothing follows that it would have to close


class Generous(Addition):
    """Half the credit for what is nearly right."""

    def check(self, item, answer):
        return 0.5 if answer == "08" else super().check(item, answer)


def test_partial_credit_does_not_end_an_episode(scripted):
    scripted("08$07$")
    rollouts = roll_out(POLICY, Generous(), [SEVEN], turns=2, until_solved=True)
    assert rollouts.scores.tolist() == [[0.5, 1.0]] and rollouts.answers == [["08", "07"]]


@pytest.fixture(params=["fast", "model"])
def decoder_kind(request, monkeypatch) -> str:
    """Run a test once with each decoder."""
    if request.param == "model":
        monkeypatch.setattr(fast, "supports", lambda model: False)
    return request.param


def lenient(**settings) -> Rollouts:
    """Three turns, four samples of each of six problems; always the same noise."""
    generator = torch.Generator().manual_seed(0)
    return roll_out(
        POLICY, Lenient(), ITEMS, generator=generator, **{"turns": 3, "samples": 4, "feedback": "binary", **settings}
    )


def test_ending_early_cuts_episodes_off_and_changes_nothing_else(decoder_kind):
    # The same noise with and without: every row is the long episode up to the end of its first right attempt, although
    # its neighbours end at other turns or not at all.
    whole, early = lenient(), lenient(until_solved=True)
    made = [len(answers) for answers in early.answers]
    assert set(made) == {1, 2, 3}
    for b, count in enumerate(made):
        assert early.answers[b] == whole.answers[b][:count]
        scores = whole.scores[b].tolist()
        assert 1.0 not in scores[: count - 1] and (count == 3 or scores[count - 1] == 1.0)
        assert early.scores[b].tolist() == scores[:count] + [0.0] * (3 - count)
        end = int((whole.turn[b] == count - 1).nonzero().max()) + 1
        assert early.ids[b, :end].tolist() == whole.ids[b, :end].tolist()
        assert early.turn[b, :end].tolist() == whole.turn[b, :end].tolist()
        torch.testing.assert_close(early.logprobs[b, :end], whole.logprobs[b, :end], atol=1e-5, rtol=1e-5)
        assert not early.own[b, end:].any() and (early.ids[b, end:] == POLICY.pad_id).all()
        assert not early.logprobs[b, end:].any()


def test_both_decoders_end_the_same_episodes_with_the_same_tokens(monkeypatch):
    one = lenient(until_solved=True)
    monkeypatch.setattr(fast, "supports", lambda model: False)
    two = lenient(until_solved=True)
    assert one.ids.tolist() == two.ids.tolist() and one.turn.tolist() == two.turn.tolist()
    assert one.answers == two.answers
    torch.testing.assert_close(one.logprobs, two.logprobs, atol=1e-5, rtol=1e-5)


class Ending(Addition):
    """Every attempt at a problem of ``ending`` is right, and no other."""

    def __init__(self, *ending: int) -> None:
        self.ending = ending

    def score(self, item, completion):
        return float(item.index in self.ending)


@pytest.mark.parametrize("ending", [(0,), (1, 4), (0, 1, 2, 3, 4)])
def test_whoever_goes_on_does_not_notice_who_has_ended(decoder_kind, ending):
    def play(*ended: int) -> Rollouts:
        generator = torch.Generator().manual_seed(1)
        return roll_out(POLICY, Ending(*ended), ITEMS, turns=3, generator=generator, until_solved=True)

    nobody, some = play(), play(*ending)
    for b in range(6):
        own = some.turn[b] >= 0
        if b in ending:
            assert some.answers[b] == nobody.answers[b][:1]
        else:
            assert some.answers[b] == nobody.answers[b]
            assert some.ids[b][own].tolist() == nobody.ids[b][nobody.own[b]].tolist()
            torch.testing.assert_close(some.logprobs[b][own], nobody.logprobs[b][nobody.own[b]], atol=1e-5, rtol=1e-5)


# --- attempts put into the policy's mouth ---------------------------------------------------------------------------


@pytest.mark.parametrize(("feedback", "signs"), [("nudge", "??"), ("binary", "-+")])
def test_given_attempts_by_hand(scripted, feedback, signs):
    # A wrong attempt and a right one that the policy never made; then one of its own at each problem.
    script = scripted("07$", "1$")
    rollouts = roll_out(POLICY, ADD, [SEVEN, FOURTEEN], feedback=feedback, given=[["08"], ["14"]])

    texts = [f"3+4=08${signs[0]}3+4=07$", f"5+9=14${signs[1]}5+9=1$"]
    assert rollouts.ids.tolist() == [encode(texts[0]), [*encode(texts[1]), POLICY.pad_id]]
    #                                   given and feedback    its own
    assert rollouts.turn.tolist() == [[-1] * 4 + [-1] * 8 + [0] * 3, [-1] * 4 + [-1] * 8 + [0] * 2 + [-1]]
    assert rollouts.answers == [["07"], ["1"]] and rollouts.scores.tolist() == [[1.0], [0.0]]
    assert rollouts.generated_tokens() == 3 + 2  # nobody sampled the others
    assert rollouts.longest == 3 and rollouts.logprobs[:, :12].tolist() == [[0.0] * 12] * 2
    assert rollouts.items == [SEVEN, FOURTEEN]
    assert script.context == [encode(text)[:-1] for text in texts]


def test_given_attempts_token_by_token(scripted):
    scripted("07$")
    (ids,) = roll_out(POLICY, ADD, [SEVEN], feedback="binary", given=[["08"]]).ids.tolist()
    # The digits are 3 to 12, + is 13, - is 14, = is 17, and the stop token 1.
    #              3   +  4   =  0   8  $   -  3   +  4   =  0   7  $
    assert ids == [6, 13, 7, 17, 3, 11, 1, 14, 6, 13, 7, 17, 3, 10, 1]


def test_items_may_be_given_different_numbers_of_attempts(scripted):
    scripted("07$", "15$", "7$")
    rollouts = roll_out(POLICY, ADD, [SEVEN, FOURTEEN, SEVEN], given=[[], ["8", "9"], [""]])
    texts = ["3+4=07$", "5+9=8$?5+9=9$?5+9=15$", "3+4=$?3+4=7$"]
    assert rollouts.ids.tolist() == pad_rows([encode(text) for text in texts], POLICY.pad_id)[0].tolist()
    turns = [[-1] * 4 + [0] * 3, [-1] * 18 + [0] * 3, [-1] * 10 + [0] * 2]
    assert rollouts.turn.tolist() == pad_rows(turns, -1)[0].tolist()


def test_own_turns_begin_at_0_whatever_was_given(scripted):
    # The given attempt is right, which ends nothing: the policy's own first attempt is still to come.
    scripted("8$07$", "14$")
    settings = {"turns": 3, "feedback": "binary", "until_solved": True}
    rollouts = roll_out(POLICY, ADD, [SEVEN, FOURTEEN], given=[["07"], ["14"]], **settings)
    texts = ["3+4=07$+3+4=8$-3+4=07$", "5+9=14$+5+9=14$"]
    assert rollouts.ids.tolist() == pad_rows([encode(text) for text in texts], POLICY.pad_id)[0].tolist()
    turns = [[-1] * 12 + [0] * 2 + [-1] * 5 + [1] * 3, [-1] * 12 + [0] * 3]
    assert rollouts.turn.tolist() == pad_rows(turns, -1)[0].tolist()
    assert rollouts.answers == [["8", "07"], ["14"]]
    assert rollouts.scores.tolist() == [[0, 1, 0], [1, 0, 0]]
    assert rollouts.alive.tolist() == [[True, True, False], [True, False, False]]
    assert rollouts.longest == 3 * 3  # of its own: what was given does not count


@pytest.mark.parametrize(("lines", "first"), [(("08$7$", "14$141"), ("08", "14")), (("08907$", "$14$"), ("089", ""))])
def test_a_given_attempt_is_context_as_if_it_had_been_written(scripted, lines, first):
    # In the second case one attempt was cut off and is closed, as every given one is.
    whole = scripted(*lines)
    written = roll_out(POLICY, ADD, [SEVEN, FOURTEEN], turns=2, feedback="binary")
    assert [answers[0] for answers in written.answers] == list(first)
    tails = [line[len(text) :].removeprefix("$") for line, text in zip(lines, first, strict=True)]
    rest = scripted(*tails)
    given = roll_out(POLICY, ADD, [SEVEN, FOURTEEN], feedback="binary", given=[[text] for text in first])
    assert given.ids.tolist() == written.ids.tolist() and rest.context == whole.context
    assert given.turn.tolist() == torch.where(written.turn == 1, 0, -1).tolist()
    assert [answers[0] for answers in given.answers] == [answers[1] for answers in written.answers]


def test_a_policy_goes_on_from_a_given_attempt_as_from_its_own(decoder_kind):
    # Greedily, so that the same context has the same continuation. Special tokens of an untrained policy's attempts
    # cannot be given as text.
    items = [
        item for item, (first, _) in zip(ITEMS, rolled(ITEMS, None, turns=2).answers, strict=True) if "<" not in first
    ]
    assert len(items) > 2
    written = rolled(items, None, turns=2)
    given = rolled(items, None, given=[answers[:1] for answers in written.answers])
    assert given.ids.tolist() == written.ids.tolist()
    assert given.turn.tolist() == torch.where(written.turn == 1, 0, -1).tolist()
    assert given.answers == [answers[1:] for answers in written.answers]
    own = given.own
    torch.testing.assert_close(given.logprobs[own], written.logprobs[own], atol=1e-5, rtol=1e-5)
    assert given.answers != rolled(items, None).answers  # it has read what it was given


def test_all_samples_of_an_item_are_given_its_attempts():
    said = [["012"], ["98", "7"]]
    group = rolled(ITEMS[:2], samples=3, given=said)
    single = rolled([ITEMS[0]] * 3 + [ITEMS[1]] * 3, given=[said[0]] * 3 + [said[1]] * 3)
    assert group.ids.tolist() == single.ids.tolist() and group.answers == single.answers
    starts = [f"{ITEMS[0].prompt}012$?{ITEMS[0].prompt}"] * 3
    starts += [f"{ITEMS[1].prompt}98$?{ITEMS[1].prompt}7$?{ITEMS[1].prompt}"] * 3
    for ids, own, start in zip(group.ids.tolist(), group.own.tolist(), starts, strict=True):
        assert ids[: own.index(True)] == encode(start)


def test_what_was_given_is_shared():
    # 6 tokens of prompt, 3 of the attempt, the stop token, and 7 of feedback; the last predicts an own token.
    rollouts = rolled(ITEMS[:1], samples=3, given=[["012"]])
    assert rollouts.shared == 6 + 3 + 1 + 7 - 1
    assert rolled(ITEMS[:1], samples=3).shared == 6 - 1
    logits = POLICY.logits(rollouts.ids[:, :-1], 3, rollouts.shared)
    by_row = torch.cat([POLICY.logits(row[None, :-1])[:, rollouts.shared :] for row in rollouts.ids])
    torch.testing.assert_close(logits, by_row, atol=1e-4, rtol=1e-4)
    # Of two problems the shorter context decides: 6 + 1 + 1 + 7 tokens.
    assert rolled(ITEMS[:2], samples=3, given=[["012"], ["9"]]).shared == 6 + 1 + 1 + 7 - 1


def test_nothing_given_is_no_change():
    plain, empty = rolled(ITEMS, turns=2, samples=2), rolled(ITEMS, turns=2, samples=2, given=[[]] * 6)
    assert plain.ids.tolist() == empty.ids.tolist() and plain.turn.tolist() == empty.turn.tolist()
    assert torch.equal(plain.logprobs, empty.logprobs)


@pytest.mark.parametrize("lists", [0, 1, 3])
def test_attempts_are_given_item_by_item(lists):
    with pytest.raises(ValueError, match=r"argument 3 is (shorter|longer)"):
        rolled(ITEMS[:2], given=[["08"]] * lists)


# --- what is read off a batch, and other batches made from it -------------------------------------------------------


def made(rows: list[list[int]], turns: list[list[int]], group: list[int]) -> Rollouts:
    """Rollouts of given ids and turns; the log-prob of the token at [b, l] is −(10 b + l)."""
    size = (len(rows), len(rows[0]))
    return Rollouts(
        ids=torch.tensor(rows),
        turn=torch.tensor(turns),
        logprobs=-(10.0 * torch.arange(size[0])[:, None] + torch.arange(size[1])),
        scores=torch.tensor([[b, b + 0.5] for b in range(len(rows))]),
        group=torch.tensor(group),
        answers=[[f"first of {b}", f"second of {b}"] for b in range(len(rows))],
        items=[SEVEN] * len(rows),
        longest=6,
    )


@pytest.mark.parametrize(
    ("group", "samples"),
    [
        ([0, 0, 0, 1, 1, 1], 3),
        ([0, 1, 2], 1),
        ([4, 4], 2),
        ([0, 0, 1], 1),  # not equally many: no number of rows is a group
        ([0, 0, 1, 1, 1, 1], 1),
    ],
)
def test_samples_are_the_rows_per_prompt(group, samples):
    assert made([[3]] * len(group), [[0]] * len(group), group).samples == samples


SHARED = {
    # Four tokens of prompt in the first group, six in the second: four are equal everywhere, and the fourth predicts
    # the first own token of the shorter rows.
    "prompts of different lengths": (
        [[3, 4, 5, 6, 9, 9, 0, 0], [3, 4, 5, 6, 8, 0, 0, 0], [7, 4, 7, 4, 7, 4, 9, 9], [7, 4, 7, 4, 7, 4, 8, 0]],
        [[-1] * 4 + [0, 0, -1, -1], [-1] * 4 + [0] + [-1] * 3, [-1] * 6 + [0, 0], [-1] * 6 + [0, -1]],
        [0, 0, 1, 1],
        3,
    ),
    # Rows of the first group read different contexts from their third token on, as after feedback.
    "rows that differ inside a group": (
        [[3, 4, 5, 6, 9], [3, 4, 8, 6, 9], [7, 7, 7, 7, 9], [7, 7, 7, 7, 9]],
        [[-1, -1, -1, -1, 0]] * 4,
        [0, 0, 1, 1],
        1,
    ),
    "rows that differ in another group": (
        [[7, 7, 7, 7, 9], [7, 7, 7, 7, 9], [3, 4, 5, 6, 9], [3, 4, 8, 6, 9]],
        [[-1, -1, -1, -1, 0]] * 4,
        [0, 0, 1, 1],
        1,
    ),
    # Both rows said the same. Own tokens are what is learned, so logits are needed there, however equal they are.
    "own tokens that are equal": ([[3, 4, 9, 9, 5], [3, 4, 9, 9, 5]], [[-1, -1, 0, 0, -1]] * 2, [0, 0], 1),
    # Equal tokens behind a difference help nobody: they were read after different things.
    "equal again later": ([[3, 4, 5, 5, 9], [3, 8, 5, 5, 9]], [[-1, -1, -1, -1, 0]] * 2, [0, 0], 0),
    "every row its own group": ([[3, 4, 5, 9], [8, 4, 9, 9]], [[-1, -1, -1, 0], [-1, -1, 0, 0]], [0, 1], 1),
    "nothing in common": ([[3, 9], [4, 9]], [[-1, 0], [-1, 0]], [0, 0], 0),
    "nothing but own tokens": ([[9, 9], [9, 9]], [[0, 0], [0, 0]], [0, 0], 0),
}


@pytest.mark.parametrize("case", SHARED)
def test_shared_by_hand(case):
    rows, turns, group, shared = SHARED[case]
    assert made(rows, turns, group).shared == shared


@pytest.mark.parametrize("keep", ["everything", "the second attempts", "feedback and second attempts"])
def test_what_is_shared_may_be_read_once_a_group(keep):
    # The meaning of ``shared``: the prompt of a group computed once gives the logits that each row gets by itself, at
    # all positions that predict own tokens.
    whole = rolled([*ITEMS[:2], ADD.item(0, 0, 5)], turns=2, samples=3)
    after_first = (whole.turn == 0).cumsum(1) == (whole.turn == 0).sum(1, keepdim=True)
    rollouts = {
        "everything": whole,
        "the second attempts": whole.keep((whole.own.cumsum(1) == 0) | (whole.turn == 1)),
        "feedback and second attempts": whole.keep(after_first & (whole.turn != 0)),
    }[keep]
    assert rollouts.samples == 3
    start = rollouts.shared
    assert (start > 0) == (keep != "feedback and second attempts")  # some feedback is preceded by a stop token
    logits = POLICY.logits(rollouts.ids[:, :-1], 3, start)
    by_row = torch.cat([POLICY.logits(row[None, :-1])[:, start:] for row in rollouts.ids])
    torch.testing.assert_close(logits, by_row, atol=1e-4, rtol=1e-4)
    assert not rollouts.own[:, : start + 1].any()


# Two episodes of two attempts: prompt 3 4, attempt 5, feedback 6 7, attempt 8 9; and the second without feedback but
# with a longer first attempt.
TWO = made(
    [[3, 4, 5, 6, 7, 8, 9], [3, 4, 5, 5, 6, 8, 0]], [[-1, -1, 0, -1, -1, 1, 1], [-1, -1, 0, 0, -1, 1, -1]], [0, 0]
)


def test_keep_drops_the_first_attempt_and_the_feedback():
    prompt = torch.tensor([[1, 1, 0, 0, 0, 0, 0]] * 2).bool()
    kept = TWO.keep(prompt | (TWO.turn == 1))
    assert kept.ids.tolist() == [[3, 4, 8, 9], [3, 4, 8, 0]]  # as long as the longest; the rest is padding
    assert kept.turn.tolist() == [[-1, -1, 1, 1], [-1, -1, 1, -1]]
    # Log-probs move along with their tokens; they are those of sampling, when the whole episode was in view.
    assert kept.logprobs.tolist() == [[0, -1, -5, -6], [-10, -11, -15, 0]]
    assert kept.generated_tokens() == 3 and kept.own.tolist() == [
        [False, False, True, True],
        [False, False, True, False],
    ]
    assert torch.equal(kept.scores, TWO.scores) and kept.answers == TWO.answers and kept.items == TWO.items
    assert kept.samples == 2 and kept.shared == 1
    assert TWO.ids.shape == (2, 7) and TWO.generated_tokens() == 3 + 3  # the episodes themselves are as they were


def test_keep_can_say_which_tokens_are_own():
    # Feedback to be learned, as if the policy had written it in its first turn.
    said = torch.tensor([[0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 0, 0]]).bool()
    everything = torch.tensor([[1] * 7, [1] * 6 + [0]]).bool()
    kept = TWO.keep(everything, turn=torch.where(said, 0, TWO.turn))
    assert kept.ids.tolist() == TWO.ids.tolist() and kept.logprobs[0].tolist() == TWO.logprobs[0].tolist()
    assert kept.turn.tolist() == [[-1, -1, 0, 0, 0, 1, 1], [-1, -1, 0, 0, 0, 1, -1]]
    assert kept.generated_tokens() == 6 + 3
    # Both at once: the turns are stated for the episode as it was, before anything is dropped.
    alone = TWO.keep(said | (TWO.turn == 1), turn=torch.where(said, 0, TWO.turn))
    assert alone.ids.tolist() == [[6, 7, 8, 9], [6, 8, 0, 0]] and alone.turn.tolist() == [[0, 0, 1, 1], [0, 1, -1, -1]]


def test_join_by_hand():
    wide = made([[3, 4, 5, 6, 7]] * 2, [[-1, -1, 0, -1, 1]] * 2, [0, 1])
    narrow = made([[8, 9]] * 2, [[-1, 0]] * 2, [0, 0])
    narrow.longest = 4
    joined = Rollouts.join([wide, narrow, wide])
    assert joined.ids.tolist() == [[3, 4, 5, 6, 7]] * 2 + [[8, 9, 0, 0, 0]] * 2 + [[3, 4, 5, 6, 7]] * 2
    assert joined.turn[2].tolist() == [-1, 0, -1, -1, -1]  # what was added is nobody's own
    assert joined.logprobs[2:4].tolist() == [[0, -1, 0, 0, 0], [-10, -11, 0, 0, 0]]
    assert joined.group.tolist() == [0, 1, 2, 2, 3, 4]  # the same number in two parts is not the same prompt
    assert joined.scores.tolist() == [[0, 0.5], [1, 1.5]] * 3
    assert joined.answers == wide.answers * 3 and joined.items == [SEVEN] * 6
    assert joined.longest == 6 and joined.generated_tokens() == 4 + 2 + 4


def test_parts_joined_are_the_batch():
    # Rolled out one after the other with one generator, which goes on where it stood.
    whole = lenient(until_solved=True)
    generator = torch.Generator().manual_seed(0)
    settings = {"turns": 3, "samples": 4, "feedback": "binary", "until_solved": True, "generator": generator}
    parts = [roll_out(POLICY, Lenient(), ITEMS[a:b], **settings) for a, b in ((0, 1), (1, 4), (4, 6))]
    joined = Rollouts.join(parts)
    assert joined.ids.tolist() == whole.ids.tolist() and joined.turn.tolist() == whole.turn.tolist()
    assert joined.scores.tolist() == whole.scores.tolist() and joined.group.tolist() == whole.group.tolist()
    assert joined.answers == whole.answers and joined.items == whole.items and joined.longest == whole.longest
    torch.testing.assert_close(joined.logprobs, whole.logprobs, atol=1e-5, rtol=1e-5)
