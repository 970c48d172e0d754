"""Tables of annotators' votes: outcomes, ratings, and agreement of an annotator with itself."""

from collections.abc import Iterator, Sequence

from psychocounsel.reporting.blocks import ReportTable
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.evaluations.dataset_parts.dataset_losses import StepsOf
from psychocounsel.reporting.sections.evaluations.figure_cells import cell, count, counts, report_table
from psychocounsel.studies.tables.formats import Cell

_RATINGS = ("1", "2", "3", "4", "5", "not applicable")


def vote_tables(runs: Sequence[RunMaterial], steps_of: StepsOf) -> list[ReportTable]:
    scores = [(run.title, found) for run in runs if (found := steps_of(run).get("scores"))]
    votes = [
        [
            title,
            name,
            count(sum(each["votes"].values())),
            counts(each["votes"]),
            counts(each["models"]),
            _quotes(found, name),
        ]
        for title, found in scores
        for name, each in found["annotators"].items()
    ]
    headings = ["dataset", "annotator", "votes", "by outcome", "answered as", "quotations not found in the reply"]
    tables = report_table("dataset-votes", "Votes of annotators", headings, votes, "votes for test-retest are included")
    ratings = [
        [title, name, principle, *(count(given.get(rating, 0)) for rating in _RATINGS)]
        for title, found in scores
        for name, each in found["annotators"].items()
        for principle, given in each["ratings"].items()
    ]
    headings = ["dataset", "annotator", "principle", *_RATINGS]
    tables += report_table("dataset-ratings", "Ratings by annotator", headings, ratings)
    retest = [[title, *row] for title, found in scores for row in _retest(found["retest"])]
    headings = [
        "dataset",
        "annotator",
        "principle",
        "replies rated twice",
        "equal",
        "mean difference",
        "weighted kappa",
    ]
    notes = ["the same annotator was asked twice about the same reply"]
    notes += ["kappa has squared weights (Cohen 1968); it is missing if all ratings are equal"]
    return tables + report_table("dataset-retest", "Annotators asked twice", headings, retest, *notes)


def _quotes(found: dict[str, dict[str, dict[str, int]]], name: str) -> Cell:
    said = found["quotes"].get(name)
    return count(said["not_in_reply"]) if said else None


def _retest(found: dict[str, dict[str, dict[str, dict[str, float]]]]) -> Iterator[list[Cell]]:
    for annotator, each in found.items():
        for principle, at in each["principles"].items():
            figures = [cell(at["exact"], percent=True), cell(at["difference"]), cell(at["weighted_kappa"])]
            yield [annotator, principle, count(int(at["replies"])), *figures]
