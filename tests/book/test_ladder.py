"""The ladder: rungs differ in their base alone, bases are alike in what they can do, and nothing is left out."""

import pytest

from book import ladder, rungs
from minirl.experiments.registry import BITS_16, RUNG, published, result_files, technique, techniques
from minirl.experiments.report import claim_entry
from minirl.experiments.resolve import load_experiment

ROOM = 0.1  # between the competence of two bases, on metrics that are shares or a few units
RUNGS = [(slug, size) for slug in ladder.CLIMBERS for size in ladder.SIZES]


@pytest.mark.parametrize(("slug", "size"), RUNGS)
def test_a_rung_is_the_tier_with_another_base_and_learning_rate(slug, size):
    own, rung = (load_experiment(slug, "tiny", variant=variant) for variant in ("", size))
    assert rung.base == f"{own.base}-{size}"
    train = rung.train.model_copy(update={"learning_rate": own.train.learning_rate})
    assert rung.model_copy(update={"base": own.base, "train": train, "budget": own.budget}) == own


@pytest.mark.parametrize(("slug", "size"), RUNGS)
def test_the_bases_of_a_claim_can_do_the_same(slug, size):
    alone = [claim_entry(technique(slug), "tiny", variant)["arms"]["base"]["metrics"] for variant in ("", size)]
    for metric in ladder.CLIMBERS[slug].competence:
        assert alone[0][metric] == pytest.approx(alone[1][metric], abs=ROOM), metric


def test_every_rung_that_was_run_is_on_the_page():
    run = {(item.slug, variant) for item in techniques() for _, variant in published(item) if RUNG.fullmatch(variant)}
    assert run == set(RUNGS)
    rows = ladder.ladder_table().splitlines()[2:]
    assert len(rows) == len(ladder.CLIMBERS) * (1 + len(ladder.SIZES))
    for slug, climber in ladder.CLIMBERS.items():
        mine = [row for row in rows if f"/{slug}.ipynb" in row]
        verdicts = [claim_entry(technique(slug), "tiny", size)["verdict"] for size in ("", *ladder.SIZES)]
        assert [verdict in row for verdict, row in zip(verdicts, mine, strict=True)] == [True] * len(mine)
        assert all(f"| {climber.effect} " in row and "k |" in row for row in mine)


def test_rungs_that_were_not_run_are_named():
    text = ladder.not_run_table()
    assert all(f"{size}, from scratch" in text for size in ladder.HIGHER)
    assert ("smollm2" in text) == (not result_files(technique("score"), "small"))


def test_the_figure_has_a_panel_a_claim_and_a_point_a_rung():
    panels = ladder.ladder_figure().get_axes()
    assert [axes.get_title(loc="left") for axes in panels] == [f"{s}: {c.effect}" for s, c in ladder.CLIMBERS.items()]
    for slug, axes in zip(ladder.CLIMBERS, panels, strict=True):
        lines = ladder.drawn(slug)
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert len(dots) == sum(map(len, lines.values())) == len(lines) * (1 + len(ladder.SIZES))
        for points in lines.values():
            assert [point["parameters"] for point in points] == sorted(point["parameters"] for point in points)
            assert all(point["low"] < point["effect"] < point["high"] for point in points)
        assert axes.get_xscale() == "log"
    assert ladder.ladder_markdown().count(" at ") == sum(
        len(p) for s in ladder.CLIMBERS for p in ladder.drawn(s).values()
    )


# --- The same with updates in 16 bits -------------------------------------------------------------------------------

IN_16_BITS = {item.slug for item in techniques() for _, variant in published(item) if variant == BITS_16}


@pytest.mark.parametrize("slug", sorted(IN_16_BITS))
def test_nothing_but_the_precision_of_updates_differs(slug):
    own, other = (load_experiment(slug, "tiny", variant=variant) for variant in ("", BITS_16))
    train = own.train.model_copy(update={"autocast": "bfloat16"})
    assert other == own.model_copy(update={"train": train})


def test_a_claim_of_every_family_was_settled_in_16_bits():
    assert {technique(slug).family for slug in IN_16_BITS} == {item.family for item in techniques()}
    rows = rungs.precision_table().splitlines()
    for slug in IN_16_BITS:
        mine = [row.split("|") for row in rows if f"/{slug}.ipynb" in row]
        assert [row[2].strip() for row in mine] == ["float32", "bfloat16"]
        verdicts = [claim_entry(technique(slug), "tiny", variant)["verdict"] for variant in ("", BITS_16)]
        assert [row[4].strip(" *").split(",")[0].strip("*") for row in mine] == verdicts
