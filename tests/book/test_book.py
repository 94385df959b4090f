"""The book: how pages are assembled, what is checked before they are built, and what after."""

import dataclasses
import json
import re

import pytest
import yaml

from book import assemble, check, reference, results, systems, trust, typed
from minirl.config import TrainConfig
from minirl.errors import ConfigError
from minirl.experiments.claims import load_claim
from minirl.experiments.registry import claim_path, project_root, technique, techniques

ROOT = project_root()
TOC = list(assemble.toc_files(yaml.safe_load((assemble.BOOK / "_toc.yml").read_text(encoding="utf-8"))))


# --- Numbers typed by hand ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("SCoRe gains 0.09 here.", ["0.09"]),
        ("It rose by +9.4 points.", ["+9.4"]),
        ("one\nabout 30 % of them\nthree", ["30 %"]),
        ("12 percent and 3.5 % of it", ["12 percent", "3.5 %"]),
        ("`x`\n\nbut 0.5 in prose, `0.7` in code", ["0.5"]),
        ("the share is (0.92)", ["0.92"]),
        ("half of 95 % is 47.5", ["95 %", "47.5"]),  # not the level of an interval
        ("a range, 0.1–0.2", ["0.1", "0.2"]),
    ],
)
def test_a_typed_number_is_found(text, numbers):
    (found,) = typed.typed_numbers(text)
    assert found.split(" in: ")[0] == ", ".join(numbers)


@pytest.mark.parametrize(
    "text",
    [
        "with `lr` = `1e-3` and `train.x=0.5`",
        "```python\nx = 0.5\n```",
        "$p = 0.5$ and $$\n0.25\n$$",
        "[arXiv 2409.12917](https://arxiv.org/abs/2409.12917), version 1.0.4, Python 3.11",
        "with its 95 % interval, and 95 % t-intervals over seeds",
        "stands at 100 %, or 0 %",
        "**1.** By hand: a model is right on 60 % of the problems.",
        "**Exercise 2.** With 0.5?",
        "margin 0.02 <!-- typed: the margin of the claim -->",
        "accuracy@2, 24 prompts, on 2026-11-21, seeds 0-4, one in 216",
        "",
    ],
)
def test_what_is_no_measured_number_may_be_typed(text):
    assert typed.typed_numbers(text) == []


def test_an_exemption_gives_a_reason_and_holds_for_its_line_only():
    assert typed.typed_numbers("margin 0.02 <!-- typed: -->") != []
    assert len(typed.typed_numbers("margin 0.02 <!-- typed: the claim's -->\nand 0.03")) == 1


def test_no_number_of_the_project_is_typed():
    assert typed.all_typed(ROOT) == []
    places = {where for where, _ in typed.prose(ROOT)}  # and these were looked at
    assert "book/index.md" in places
    assert any(where.startswith("notebooks/self_correction/score.ipynb") for where in places)
    assert not any("_source" in where or "objectives" in where for where in places)


# --- Numbers that are measured --------------------------------------------------------------------------------------


def test_a_measured_number_is_that_of_the_results():
    documents = [
        json.loads(path.read_text()) for path in sorted((ROOT / "reproductions/score/results/tiny").glob("seed-*"))
    ]
    means = {
        arm: sum(d["arms"][arm]["metrics"]["delta"] for d in documents) / len(documents) for arm in ("score", "naive")
    }
    entry = results.settled("score").entry
    low, high = entry["conditions"][0]["interval"]  # delta, score − naive: the same interval as the verdict's
    effect = f"+{means['score'] - means['naive']:.3f} [+{low:.3f}, +{high:.3f}]"
    assert results.measured("score:delta:score-naive") == effect
    assert results.measured("score:delta:score").startswith(f"{means['score']:.3f} [0.")
    assert results.measured("score:verdict") == entry["verdict"]
    assert results.measured("score:seeds") == "5"
    assert results.measured("score:items") == "1024"
    assert results.measured("score@700k:verdict") == results.settled("score", variant="700k").entry["verdict"]
    assert results.measured("score@700k:delta:score-naive") != effect
    text = "By {measured}`score:delta:score-naive`; written `` {measured}`score:verdict` ``."
    assert results.resolve(text, "x.md") == f"By {effect}; written `` {{measured}}`score:verdict` ``."


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("scor:verdict", "unknown technique 'scor'. Did you mean 'score'?"),
        ("score:verdikt", "unknown key 'verdikt'. Did you mean 'verdict'?"),
        ("score:dleta:score", "unknown metric 'dleta'. Did you mean 'delta'?"),
        ("score:delta:score-naiv", "unknown arm 'naiv'. Did you mean 'naive'?"),
        ("score:delta:score-naive-base", "a difference is between two arms"),
        ("score", "is not SLUG:METRIC:ARM"),
        ("score@9k:seeds", "score has no committed results at tiny-9k, so its page"),
    ],
)
def test_an_unknown_measured_number_names_page_and_nearest(wrong, said):
    with pytest.raises(ConfigError, match=re.escape(said)) as error:
        results.resolve(f"x {{measured}}`{wrong}` y", "book/x.md")
    assert str(error.value).startswith("book/x.md: ")


# --- How results are written ----------------------------------------------------------------------------------------


def test_numbers_are_written_alike():
    assert results.effect_text(-0.0041, (-0.0213, 0.013)) == "−0.004 [−0.021, +0.013]"
    assert results.effect_text(0.5, (None, None)) == "+0.500 [−∞, +∞]"
    assert [results.count_text(n) for n in (0, 999, 8_063, 806_278, 1_250_000)] == [
        "0",
        "999",
        "8.06 k",
        "806 k",
        "1.25 M",
    ]
    assert results.ranges([2, 0, 1]) == "0–2"
    assert results.ranges([0, 2, 3]) == "0, 2, 3"
    assert results.commit_text("8e3307bdac24181f21ec-dirty") == "`8e3307bdac` with uncommitted changes"
    assert results.table(("a", "b"), [("1", "2")], "lr") == "| a | b |\n| --- | ---: |\n| 1 | 2 |\n"


def condition(kind="superiority", verdict="supported", effect=0.1, **others):
    arms = (
        {"treatment": "new", "comparator": "old"} if "order" not in others else {"treatment": None, "comparator": None}
    )
    numbers = {"margin": 0.02, "effect": effect, "interval": [0.05, None], "verdict": verdict}
    return {"metric": "accuracy@1", "kind": kind, **arms, **numbers, **others}


def test_conditions_are_written_as_registered():
    assert results.arms_text(condition()) == "`new` − `old`"
    assert results.arms_text(condition(kind="trend", order=["a", "b", "c"])) == "`a` → `b` → `c`"
    assert results.region_of(condition(kind="equivalence")) == (-0.02, 0.02)
    assert (
        "| accuracy@1 | `new` − `old` | > 0.02 | +0.100\u00a0[+0.050,\u00a0+∞] | **inconclusive** |"
        in results.condition_table({"conditions": [condition(verdict="inconclusive")]})
    )


def test_rows_of_the_forest_are_in_order_and_have_their_margins():
    rows = results.forest_rows([("a", condition(effect=0.1)), ("b", condition(kind="null", effect=0.3))])
    assert [row["label"].splitlines()[0] for row in rows] == ["b", "a"]
    assert [row["margin"] for row in rows] == [[-0.02, 0.02], [0.02]]


def test_the_box_has_all_that_is_promised():
    one = dataclasses.replace(results.settled("score"), stale=())  # which it is between a change and `minirl verify`
    box = results.box(one, "A title")
    assert box.startswith(
        f":::{{admonition}} Claim at tier tiny: {one.entry['verdict']}\n:class: claim {one.entry['verdict']}"
    )
    assert one.claim.statement.strip() in box
    assert "*A title*, [arXiv 2409.12917](https://arxiv.org/abs/2409.12917). Gain of SCoRe" in box
    assert box.count(" | supported |") == 6
    manifest = one.documents[0]["manifest"]
    for part in ("Seeds 0–4, 1024 held-out items", "core-seconds", "MB", "2 cores", manifest["commit"][:10]):
        assert part in box
    assert "stale" not in box
    stale = results.box(dataclasses.replace(one, stale=("minirl/loops.py", "base")), None)
    assert '<span class="stale">stale</span> Changed since these runs: `minirl/loops.py`, `base`.' in stale


def test_a_page_ends_with_the_commands_for_all_its_numbers():
    assert results.rerun_commands(technique("score")) == [
        "minirl reproduce score --tier smoke --seeds 0",
        "minirl reproduce score --tier tiny",
        "minirl sweep score --tier tiny --variant 700k",
        "minirl sweep score --tier tiny --variant ablations",
        "minirl sweep score --tier tiny --variant second-base",
        "minirl claims",
    ]


# --- The list of systems --------------------------------------------------------------------------------------------


def test_the_list_of_systems_matches_the_registry():
    rows = {row["slug"]: row for row in systems.systems()}
    assert len(rows) == len(systems.systems())  # no slug twice
    by_arxiv = {row["arxiv"]: slug for slug, row in rows.items() if row["arxiv"]}
    pages = {item.slug for item in techniques()}
    for item in techniques():
        arxiv = load_claim(claim_path(item, "tiny")).paper.arxiv
        if item.slug in rows:
            assert (rows[item.slug]["arxiv"], rows[item.slug]["family"]) == (arxiv, item.family)
        else:  # after a paper that is not on the list (not one under another name), or that has its own page
            assert by_arxiv.get(arxiv) in {None, *pages}, f"{item.slug} is {by_arxiv.get(arxiv)!r} on the list"
    assert rows.keys() & pages


def test_systems_outside_language_models_say_why():
    for row in systems.systems():
        outside = row["family"] == "beyond_language"
        assert outside == (row["class"] == "D") == bool(row["why"]), row["slug"]
        assert row["family"] in systems.FAMILY_NAMES
        assert row["kind"] in ("technique", "evaluation")
        assert re.fullmatch(r"(\d{4}\.\d{5})?", row["arxiv"])


def test_the_status_of_a_system_is_that_of_the_registry():
    rows = {row["slug"]: row for row in systems.systems()}
    one = results.settled("score")
    link = f"[{one.entry['verdict']}](self_correction/score.ipynb)"
    assert systems.status(rows["score"]) == link + (' <span class="stale">stale</span>' if one.stale else "")
    assert systems.status({"slug": "no-such", "why": ""}) == "planned"
    assert systems.status({"slug": "no-such", "why": "image diffusion"}) == "outside: image diffusion"
    assert systems.paper_title("no-such", "2409.12917") == rows["score"]["title"]


# --- Assembling -----------------------------------------------------------------------------------------------------


def cell(kind, source, **others):
    return {"cell_type": kind, "source": source, "metadata": {}, **others}


def test_a_technique_page_is_title_box_story_and_commands():
    notebook = {
        "cells": [
            cell("markdown", ["# Title\n", "\n", "**Question.** Why?"]),
            cell("code", "tier = 'tiny'") | {"metadata": {"tags": ["injected-parameters"]}},
            cell("code", "run()"),
        ],
        "nbformat": 4,
    }
    page = assemble.technique_notebook(notebook, "BOX", "AGAIN")
    sources = ["# Title", "BOX", "\n**Question.** Why?", "run()", "AGAIN"]
    assert [part["source"] for part in page["cells"]] == sources
    assert page["nbformat"] == 4
    with pytest.raises(ConfigError, match="begins with its title"):
        assemble.technique_notebook({"cells": [cell("markdown", "no title")]}, "", "")


def test_figures_get_the_heading_above_as_their_text():
    image = {"output_type": "display_data", "data": {"image/png": "…"}}
    cells = [cell("markdown", "# A\n\n## `B` and\n"), cell("code", "", outputs=[image]), cell("code", "", outputs=[])]
    with_text, without = assemble.with_alternatives({"cells": cells})["cells"][1:]
    assert with_text["metadata"]["mystnb"]["image"]["alt"] == "Figure: B and, drawn by the cell above"
    assert without["metadata"] == {}


def test_every_technique_must_have_its_page():
    assemble.check_toc(TOC, techniques())  # and has
    with pytest.raises(ConfigError, match=r"lacks the page of score; add it as `- file: FAMILY/SLUG`"):
        assemble.check_toc([name for name in TOC if not name.endswith("/score")], techniques())


def test_every_chapter_is_in_the_table_of_contents():
    chapters = {path.relative_to(assemble.BOOK).with_suffix("") for path in assemble.BOOK.rglob("*.md")}
    assert {str(name) for name in chapters if not name.parts[0].startswith("_")} <= set(TOC)


def test_a_technique_without_results_stops_the_build(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "results_directory", lambda *_: tmp_path)
    with pytest.raises(ConfigError, match=r"score has no committed results at tiny, .* run `minirl reproduce score"):
        results.settled.__wrapped__("score")


def test_the_table_of_contents_is_read_to_its_leaves():
    toc = {"root": "a", "parts": [{"caption": "x", "chapters": [{"file": "b", "sections": [{"file": "c/d"}]}]}]}
    assert list(assemble.toc_files(toc)) == ["a", "b", "c/d"]


def test_a_page_without_source_and_an_unknown_insertion_are_errors():
    with pytest.raises(ConfigError, match="'no/such'"):
        assemble.page("no/such")
    with pytest.raises(
        ConfigError, match=re.escape("x.md: nothing is called 'verdict' to insert. Did you mean 'verdicts'?")
    ):
        assemble.chapter("<!-- insert: verdict -->", "x.md")


def test_every_insertion_is_used_and_known():
    texts = [path.read_text(encoding="utf-8") for path in assemble.BOOK.rglob("*.md") if "/_" not in str(path)]
    used = {name for text in texts for name in assemble.INSERT.findall(text)}
    assert used == assemble.INSERTS.keys()


def test_the_table_of_trust_counts_what_the_pages_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(trust, "REFERENCE", tmp_path)
    monkeypatch.setattr(trust, "project_root", lambda: tmp_path)
    head = "| what goes wrong | where | what becomes of it |\n|---|---|---|\n"
    (tmp_path / "faults.md").write_text(f"# x\n\n{head}| a | b | c |\n| d | e | f |\n\n2 rows.\n")
    attacks = "| kind | attack | monty | bubblewrap | naive |\n|---|---|---|---|---|\n| r | x | passed | failed | – |\n"
    (tmp_path / "sandbox.md").write_text(
        f"{attacks}| r | y | failed | failed or passed | – |\n| r | z | failed | – | – |\n"
    )
    fuzzed = "| input | what is tried | examples of each |\n|---|---|--:|\n| a | b | 60 |\n| c | d | 150 |\n"
    (tmp_path / "bad-input.md").write_text(f"{fuzzed}\n| input | case | outcome |\n|---|---|---|\n| a | b | c |\n")
    part = {"kills": 1234, "differing": ["x"], "lost": [], "runs": 56}
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    log = {"library": part, "notebooks": {**part, "differing": [], "lost": ["y", "z"], "kills": 11}}
    (tmp_path / "benchmarks" / "results" / "soak.json").write_text(json.dumps(log))
    counted = [line.split(" | ")[1:3] for line in trust.trust_table().splitlines()[2:]]
    assert [number for number, _ in counted] == ["2 kinds", "1,234", "11", "3", "1", "210 of each kind"]
    assert counted[1][1] == "1 files differ, 0 results lost, in 56 runs"
    assert counted[2][1] == "0 files differ, 2 results lost, in 56 runs"
    assert counted[3][1] == "2 pass"
    (tmp_path / "faults.md").write_text("nothing")
    with pytest.raises(ConfigError, match=r"faults.md: no table whose head begins with '\| what goes wrong'"):
        trust.trust_table()


# --- Reference ------------------------------------------------------------------------------------------------------


def test_docstrings_become_markdown():
    docstring = """
    Does it; raises :class:`~minirl.errors.ConfigError`, see :func:`load`, :mod:`minirl.loops` and :mod:`CHAIN <a.b>`.

    ===== ==========
    name  meaning
    ===== ==========
    ``a`` one | two
          and more
    b     three
    ===== ==========

    ::

        plain text
    """
    text = reference.markdown(re.sub(r"^    ", "", docstring, flags=re.MULTILINE))
    assert text.startswith("Does it; raises `ConfigError`, see `load`, `minirl.loops` and CHAIN.")
    assert "| name | meaning |\n| --- | --- |\n| `a` | one \\| two and more |\n| b | three |\n" in text
    assert text.endswith("```text\nplain text\n```")


def test_the_keys_of_a_config_are_listed_with_type_limits_and_default():
    lines = reference.model_table(TrainConfig).splitlines()
    assert (
        "| `samples` | `int` ≥ 2 | *required* | attempts per prompt; the group baseline needs at least two |" in lines
    )
    assert "| `weight_decay` | `float` ≥ 0 | `0.0` |  |" in lines
    assert "| `kl` | one of `exact`, `k1`, `k2`, `k3` or none | `none` |  |" in lines
    assert len(lines) == 2 + len(TrainConfig.model_fields)


def test_signatures_are_those_of_the_source():
    source = '@dataclass(frozen=True)\nclass A(B):\n    "doc"\n\ndef f(x: int, *, y: str = "a") -> bool:\n    "doc"\n'
    tree = reference.ast.parse(source + "def _hidden():\n    'doc'\ndef undocumented(): pass\n")
    first, second = reference.members(tree)
    assert reference.signature(first) == "@dataclass(frozen=True)\nclass A(B)"
    assert reference.signature(second) == "def f(x: int, *, y: str='a') -> bool"


def test_every_command_and_every_part_of_the_package_is_in_the_reference():
    cli = reference.cli_reference()
    for command in ("minirl", "minirl reproduce", "minirl bases build"):
        assert f"## {command}\n" in cli
    pages = {name.removeprefix("reference/api/") for name in TOC if name.startswith("reference/api/")}
    parts = {path.stem for path in (ROOT / "minirl").iterdir() if not path.name.startswith("_")}
    assert pages == parts - {
        "cli",
        "errors",
    }  # commands have a page of their own; errors are named where they are raised
    assert "### t_interval" in reference.api_page("evaluation")


# --- The built pages ------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path):
    """A book of two pages in which everything is right."""
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static" / "a.css").write_text("body { background: url(b.png) }")
    (tmp_path / "_static" / "a.js").write_text('// see https://example.org\nfetch("c.json")')
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "index.html").write_text(
        '<link rel="stylesheet" href="_static/a.css"><script src="_static/a.js?v=1"></script>'
        '<a href="sub/page.html#there">x</a> <a href="https://example.org">out</a> <a href="#here" id="here">y</a>'
        '<img src="b.png" alt="b"><img src="data:image/png;base64,AA" alt=""><p>https://example.org</p>'
        '<svg xmlns="http://www.w3.org/2000/svg"></svg><script>let space = "http://www.w3.org/2000/svg"</script>'
    )
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "page.html").write_text(
        '<h1 id="there">t</h1><a href="../index.html#here">z</a><a href="../">r</a>'
    )
    return tmp_path


def test_a_book_in_which_everything_is_right(site, capsys):
    assert check.problems(site, ["index", "sub/page"]) == []


@pytest.mark.parametrize(
    ("html", "said"),
    [
        ('<script src="https://cdn.org/x.js"></script>', "<script src> loads https://cdn.org/x.js from the network"),
        ('<link rel="stylesheet" href="//cdn.org/x.css">', "<link href> loads //cdn.org/x.css"),
        ('<img src="http://x.org/a.png" alt="">', "<img src> loads http://x.org/a.png"),
        ('<img srcset="b.png 1x, https://x.org/a.png 2x" alt="">', "<img srcset> loads https://x.org/a.png"),
        ('<iframe src="https://x.org"></iframe>', "<iframe src> loads"),
        ('<style>@import "https://x.org/f.css";</style>', "<style> names https://x.org/f.css"),
        ('<p style="background: url(https://x.org/a.png)">', "style of <p> names https://x.org/a.png"),
        ('<script>const THEBE = "https://unpkg.com/thebe"</script>', "<script> names https://unpkg.com/thebe"),
        ('<a href="nowhere.html">x</a>', "<a href> 'nowhere.html': no such file"),
        ('<a href="sub/page.html#nowhere">x</a>', "<a href> 'sub/page.html#nowhere': no anchor 'nowhere' there"),
        ('<a href="#nowhere">x</a>', "<a href> '#nowhere': no anchor 'nowhere' there"),
        ('<a href="../secret.html">x</a>', "<a href> '../secret.html': leads out of the book"),
        ('<a href="/index.html">x</a>', "begins with /"),
        ('<img src="c.png" alt="c">', "<img src> 'c.png': no such file"),
        ('<img src="b.png">', "the image b.png has no alternative text"),
    ],
)
def test_what_is_wrong_with_a_page_is_named_with_the_page(site, html, said):
    (site / "index.html").write_text(html)
    first, *rest = check.problems(site, ["index", "sub/page"])
    assert first.startswith("index.html: ")
    assert said in first
    assert [line for line in rest if "#here" not in line] == []  # the other page links to what was replaced


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.css", "@font-face { src: url('https://fonts.org/a.woff') }"),
        ("a.css", "@import url(https://fonts.org/a.css);"),
        ("a.js", 'fetch("https://x.org/a.json")'),
        ("a.js", 'script.src = "https://x.org/a.js"'),
        ("a.js", 'import("https://x.org/a.js")'),
        ("a.js", 'request.open("GET", "https://x.org/a")'),
    ],
)
def test_styles_and_scripts_that_fetch_are_found(site, name, content):
    (site / "_static" / name).write_text(content)
    (found,) = check.problems(site, [])
    assert found.startswith(f"_static/{name}: loads https://")


def test_a_missing_page_is_named_and_the_check_fails(site, capsys):
    assert check.problems(site, ["index", "gone"]) == ["gone.html: the page is missing"]
    assert check.main(str(site)) == 1
    assert "self_correction/score.html: the page is missing" in capsys.readouterr().out
