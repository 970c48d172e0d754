"""The card: its counts match the tables, `datasets` loads the folder by it, and foreign text is never markup or YAML."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from markdown_it import MarkdownIt

from psychocounsel.annotation.card import run, size_category
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.steps.course import StepContext
from psychocounsel.storage.files import write_json
from tests.support.annotated_dir import annotated, rows_of
from tests.support.annotation_tables import context as context_of

# The card: its counts match the tables, `datasets` loads the folder by it, and foreign text is never markup or YAML.

GIVEN = {"name": "Our pairs", "license": None, "lawful_basis": "consent", "contact": "privacy@clinic.example"}
HOSTILE = "---\nlicense: mit\n# Owned | a | b <script>alert(1)</script> [x](http://evil.example) `code` ![y](z) www.evil.example"


def context(
    files: AnnotationDir, card: dict[str, Any] = GIVEN, said: list[str] | None = None, **sections: Any
) -> StepContext[AnnotationDir]:
    return context_of(files, said, card=card, **sections)


def parts_of(files: AnnotationDir) -> tuple[dict[str, Any], str]:
    """Return the front matter and the page below it."""
    _, front, page = (files.dataset / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), page


def tables_of(page: str) -> list[list[list[str]]]:
    """Return every table as rows of cells, as a Markdown reader sees it."""
    found: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(page):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and found[-1] and token.level >= 4:
            found[-1][-1].append("".join(child.content for child in token.children or []))
    return found


def the_table(page: str, *head: str) -> list[list[str]]:
    (one,) = [rows[1:] for rows in tables_of(page) if tuple(rows[0][: len(head)]) == head]
    return one


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> AnnotationDir:
    files = annotated(tmp_path_factory.mktemp("card") / "out", range(20))
    run(context(files))
    return files


def test_datasets_reads_both_splits_by_the_front_matter(made: AnnotationDir, tmp_path: Path) -> None:
    loaded = datasets.load_dataset(str(made.dataset), cache_dir=str(tmp_path))
    assert {name: part.to_list() for name, part in loaded.items()} == {
        name: rows_of(made.dataset / f"{name}.parquet") for name in ("train", "test")
    }
    other = annotated(tmp_path / "other" / "out", range(20, 30))
    run(context(other))
    again = datasets.load_dataset(str(other.dataset), cache_dir=str(tmp_path))
    assert again["train"].to_list() == rows_of(other.dataset / "train.parquet"), (
        "rows of another folder with the same name"
    )
    front, _ = parts_of(made)
    assert front["license"] == "apache-2.0" and front["language"] == ["en"] and front["size_categories"] == ["n<1K"]


def test_counts_and_histograms_are_those_of_the_tables(made: AnnotationDir) -> None:
    _, page = parts_of(made)
    rows = {name: rows_of(made.dataset / f"{name}.parquet") for name in ("train", "test")}
    counts = [[name, str(len(found)), str(len({row["ID"] for row in found}))] for name, found in rows.items()]
    assert the_table(page, "split", "pairs", "clients") == counts
    train = page.split("### Histograms: train")[1].split("### Histograms: test")[0]
    for name, side, *cells in the_table(train, "ratings, rounded", "of"):
        expected = Counter(row[f"{side}_{name}_rating"] for row in rows["train"])
        assert cells == [str(expected[rating]) for rating in (1, 2, 3, 4, 5)]
    gaps = Counter(
        sum(row[f"chosen_{name}_rating"] - row[f"rejected_{name}_rating"] for name in PRINCIPLES) / 7 // 0.5 * 0.5
        for row in rows["train"]
    )
    found = {row[0]: int(row[1]) for row in the_table(train, "gap of mean ratings")}
    assert found == {f"{low:.1f} to below {low + 0.5:.1f}": count for low, count in gaps.items()}
    lengths = {row[0]: int(row[1]) for row in the_table(train, "length of chosen (characters)")}
    assert lengths == {"0 to 99": sum(len(row["chosen"]) < 100 for row in rows["train"])}
    topics = {row[0]: int(row[1]) for row in the_table(train, "topic")}
    assert topics == Counter(row["topic"] for row in rows["train"])


def test_writers_votes_and_identifiers_are_counted(made: AnnotationDir) -> None:
    _, page = parts_of(made)
    assert the_table(page, "writer") == [[f"writer-{n}", f"model-{n}", "apache-2.0", "20"] for n in range(3)]
    assert the_table(page, "annotator") == [["a", "judge-1", "60"]]
    speeches = rows_of(made.speeches)
    some = sum(row["identifiers"] > 0 for row in speeches)
    assert f"{sum(row['identifiers'] for row in speeches)} placeholders in {some} of 20 speeches" in page
    assert "This is not anonymisation" in page and "not legal advice" in page
    assert "Rubric: builtin\\:en" in page


def test_what_nobody_has_said_is_said_to_be_missing(made: AnnotationDir) -> None:
    fields = dict(the_table(parts_of(made)[1], "field", "value"))
    assert fields["Lawful basis of processing"] == "consent"
    assert fields["Contact, also for clients who withdraw"] == "privacy@clinic.example"
    missing = [title for title, value in fields.items() if value == "missing: not stated by the makers"]
    assert missing == ["Ethics approval", "Retention, and when the data are deleted", "Intended use"]
    said: list[str] = []
    assert run(context(made, said=said))["missing"] == ["ethics_approval", "retention", "intended_use"]
    assert said == [
        "the card lacks card.ethics_approval, card.retention, card.intended_use; it lists them as missing until you set them"
    ]


def test_the_audit_stands_in_the_card_or_why_there_is_none(made: AnnotationDir, tmp_path: Path) -> None:
    audit = parts_of(made)[1].split("## Audit")[1]
    assert "Predicting labels without the client's speech" in audit
    lines = [" ".join(line.split()) for line in audit.splitlines()]
    assert lines[lines.index("Audited data") + 2].startswith("40 20 ")
    few = annotated(tmp_path / "few", range(3))
    run(context(few))
    assert (
        "Not audited: the pairs form 3 components that share no text, but an audit needs at least 5" in parts_of(few)[1]
    )


def test_a_demonstration_says_so_first(made: AnnotationDir, tmp_path: Path) -> None:
    assert "demonstration" not in parts_of(made)[1]
    files = annotated(tmp_path / "out", range(2))
    votes = pq.read_table(files.votes)
    place = votes.column_names.index("model")
    pq.write_table(votes.set_column(place, "model", pa.array(["rules"] * len(votes))), files.votes)
    run(context(files))
    page = parts_of(files)[1]
    assert "**This is a demonstration.**" in page.split("## ")[0]


def test_steps_that_were_not_run_here_are_said_to_be_missing(tmp_path: Path) -> None:
    files = annotated(tmp_path / "out", range(2))
    for path in (files.speeches, files.replies, files.votes):
        path.unlink()
    run(context(files))
    page = parts_of(files)[1]
    for step in ("speeches", "replies", "scores"):
        assert f"Not known: the step `{step}` has not run in this directory." in page
    (files.dataset / "test.parquet").unlink()
    run(context(files))
    assert [each["split"] for each in parts_of(files)[0]["configs"][0]["data_files"]] == ["train"]
    (files.dataset / "train.parquet").unlink()
    with pytest.raises(UserError, match="run the step pairs first"):
        run(context(files))


def test_the_rule_of_the_pairs_stands_in_the_card(tmp_path: Path) -> None:
    files = annotated(tmp_path / "set", range(12))
    settings = {"pairs.min_gap": 1.0, "pairs.safety_veto": False, "pairs.principle_weights": {"safety": 2}}
    write_json(files.step("pairs"), {"settings": settings, "figures": {}})
    write_json(files.step("scores"), {"settings": {"scores.votes": 3, "annotator.model": "x|y"}, "figures": {}})
    run(context(files))
    rows = the_table(files.card.read_text(), "key", "value")
    weights = ["pairs.principle_weights", "{'safety': 2}"]
    assert rows == [["pairs.min_gap", "1.0"], weights, ["pairs.safety_veto", "false"], ["scores.votes", "3"]]


@pytest.mark.parametrize("averaged", [False, True])
def test_one_vote_per_reply_is_said_only_of_such_data_even_if_all_votes_agree(tmp_path: Path, averaged: bool) -> None:
    files = annotated(tmp_path / "set", range(12))
    write_json(files.step("pairs"), {"settings": {}, "figures": {"votes_averaged": averaged}})
    run(context(files))
    assert ("With one vote per reply" in files.card.read_text()) != averaged


def test_missing_ratings_and_retest_come_from_the_record_of_scores(tmp_path: Path) -> None:
    files = annotated(tmp_path / "out", range(2))
    counts = {
        "rated": 7,
        "refused": 2,
        "filtered": 1,
        "cut": 0,
        "unparsable": 0,
        "failed": 0,
        "not_asked": 0,
        "missing": 0.3,
    }
    never = {**dict.fromkeys(counts, 0), "not_asked": 4, "missing": 1.0}
    agreement = {"replies": 3, "exact": 2 / 3, "difference": 1 / 3, "weighted_kappa": None, "applicable_once": 0}
    retest = {"a": {"rated_twice": 3, "no_rating_twice": 0, "changed_outcome": 1, "principles": {"safety": agreement}}}
    figures = {"missing": {"risk": {"self_harm": counts, "abuse": never}}, "retest": retest}
    write_json(files.step("scores"), {"figures": figures})
    run(context(files))
    page = parts_of(files)[1]
    assert "- a: 3 replies rated twice, 1 with another outcome the second time." in page
    assert the_table(page, "risk", "ratings wanted") == [
        ["self_harm", "10", "30.0 %", "refused 2, filtered 1"],
        ["abuse", "4", "100.0 %", "not_asked 4"],
    ]
    table = pq.read_table(files.replies)
    outcomes = ["text", "refused", "cut"] * 2
    pq.write_table(table.set_column(table.column_names.index("outcome"), "outcome", pa.array(outcomes)), files.replies)
    write_json(files.step("speeches"), {"figures": {"planted": {"name": {"planted": 7, "found": 6, "recall": 6 / 7}}}})
    run(context(files))
    page = parts_of(files)[1]
    assert the_table(page, "risk", "calls") == [["none", "6", "66.7 %", "cut 2, refused 2"]]
    assert the_table(page, "kind", "planted") == [["name", "7", "85.7 %"]]
    assert the_table(page, "principle", "replies") == [["safety", "3", "0.67", "0.33", "unknown"]]


def test_nothing_foreign_is_markup_or_yaml(tmp_path: Path) -> None:
    changes = dict.fromkeys(("source", "license", "topic", "risk", "language"), HOSTILE)
    files = annotated(tmp_path / "out", range(6), **changes)
    for path, column in ((files.replies, "writer"), (files.replies, "terms"), (files.votes, "annotator")):
        table = pq.read_table(path)
        place = table.column_names.index(column)
        pq.write_table(table.set_column(place, column, pa.array([HOSTILE] * len(table))), path)
    write_json(files.step("scores"), {"figures": {"missing": {HOSTILE: {HOSTILE: {"rated": 1, "missing": 0.0}}}}})
    plain = annotated(tmp_path / "plain", range(6))
    for each, card in ((files, dict.fromkeys(GIVEN, HOSTILE)), (plain, GIVEN)):
        run(context(each, card, accept_terms=[HOSTILE]))
    front, page = parts_of(files)
    assert front.keys() == (parts_of(plain)[0].keys() | {"license_name"}) - {"language"}
    assert front["license"] == "other" and re.fullmatch("[a-z0-9.+-]+", front["license_name"])
    assert "\n" not in front["pretty_name"] and front["pretty_name"].startswith("--- license: mit # Owned")
    kinds, others = ([(token.type, token.tag) for token in _tokens(text)] for text in (page, parts_of(plain)[1]))
    assert {kind for kind in kinds if "html" in kind[0] or kind[0] in ("link_open", "image", "code_inline")} == {
        kind for kind in others if kind[0] == "code_inline"
    }
    headings = [kind for kind in kinds if kind[0] == "heading_open"]
    assert headings == [kind for kind in others if kind[0] == "heading_open"]
    assert all(len({len(row) for row in rows}) == 1 for rows in tables_of(page))
    assert datasets.load_dataset(str(files.dataset), cache_dir=str(tmp_path / "cache"))["train"].num_rows


def _tokens(page: str) -> list[Any]:
    """Yield all tokens, including those inside lines."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page)
    return [each for token in tokens for each in (token, *(token.children or []))]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (34_329, "10K<n<100K"), (5_000_000, "1M<n<10M"), (10**9, "n>1B")],
)
def test_sizes_are_those_of_the_hub(rows: int, expected: str) -> None:
    assert size_category(rows) == expected
