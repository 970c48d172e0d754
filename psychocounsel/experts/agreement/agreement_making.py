"""Agreement command: turns a table of answers into `agreement.json`, a list of disagreements, and terminal lines."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from psychocounsel.data.sources import StandardSource, read_rows
from psychocounsel.errors import UserError
from psychocounsel.evaluation.statistics.measure import plain
from psychocounsel.experts.agreement.adjudication import COLUMNS, Row, disagreements
from psychocounsel.experts.agreement.agreement_parts import Found, Resampling, every_part
from psychocounsel.experts.agreement.answers_table import COLUMNS as ANSWER_COLUMNS
from psychocounsel.experts.agreement.answers_table import AnswerFormat, ExpertAnswer, read_answers
from psychocounsel.experts.agreement.coding import CountingRules, choice_codes, refuse_sides_without_label
from psychocounsel.experts.agreement.figure_lines import lines_of
from psychocounsel.experts.agreement.rater_errors import Consensus, consensus
from psychocounsel.rundir.paths import ReviewDir
from psychocounsel.storage.files import write_atomically, write_json

_MOST_FITS = 200  # resamples for the model of rater errors, which takes a tenth of a second each


def make_agreement(config: Any) -> list[str]:
    """Measure the agreement of the answers in `config.data` and write the results. Return lines for the terminal.

    Raises:
        UserError: if the table or a library is missing, a row is not a valid answer, or an option does not fit.
    """
    _require_packages()
    table = _table_of(Path(config.data).expanduser())
    options = config.agreement
    answers = read_answers(read_rows(StandardSource(), str(table), "train", None), _format(options))
    rules = CountingRules(options.sides, options.ties, options.harmful)
    refuse_sides_without_label(answers, rules)
    rated = [answer for answer in answers if answer.rater not in options.adjudicators]
    if unknown := set(options.adjudicators) - {answer.rater for answer in answers}:
        raise UserError(f"agreement.adjudicators: the table has no answer by {sorted(unknown)[0]}")
    sampling = Resampling(options.samples, options.seed, options.least_items)
    parts = list(every_part(rated, rules, options.weights, sampling))
    raters, likely = _errors(rated, rules, sampling)
    rows = disagreements(answers, list(options.adjudicators), likely)
    folder = Path(config.out).expanduser() if config.out else table.parent / "agreement"
    _write(folder, config, answers, parts, raters, rows)
    counts = f"{len(answers):,} answers by {len({answer.rater for answer in answers})} raters about "
    counts += (
        f"{len({answer.item for answer in answers}):,} items of {len({answer.speech for answer in answers}):,} speeches"
    )
    counted = f"; sides={rules.sides}, ties={rules.ties}, harmful={rules.harmful}"
    head = f"{table}: {counts}{counted if any(answer.choice for answer in answers) else ''}"
    return [head, *lines_of(parts, raters, len(rows)), f"written to {folder}"]


def _require_packages() -> None:
    """Refuse to start without the libraries of the extra [agreement].

    Raises:
        UserError: naming the first missing library.
    """
    missing = next((name for name in ("statsmodels", "krippendorff", "crowdkit") if find_spec(name) is None), None)
    if missing:
        raise UserError(f"agreement: {missing} is not installed; run: pip install -c constraints.txt -e '.[agreement]'")


def _table_of(path: Path) -> Path:
    """Return the table's file, or the file of answers in a folder.

    Raises:
        UserError: if it does not exist.
    """
    if path.is_file():
        return path
    found = next((file for file in (ReviewDir(path).answers, ReviewDir.of(path).answers) if file.is_file()), None)
    if found is None:
        raise UserError(f"data={path}: not a table of answers, nor a folder with answers.jsonl")
    return found


def _format(options: Any) -> AnswerFormat:
    columns, values = dict(options["columns"]), dict(options["values"])
    if wrong := set(columns) - set(ANSWER_COLUMNS):
        raise UserError(f"agreement.columns: {sorted(wrong)[0]}: unknown name; choose from {', '.join(ANSWER_COLUMNS)}")
    return AnswerFormat(columns, values, list(options.dimensions), list(options.rating_range))


def _errors(
    answers: Sequence[ExpertAnswer], rules: CountingRules, sampling: Resampling
) -> tuple[Consensus | None, dict[str, tuple[str, float]]]:
    """Return the model of rater errors, and the likely choice of each item with its probability."""
    codes = choice_codes([answer for answer in answers if not answer.repeat], replace(rules, sides="shown"))
    found = consensus(codes, min(sampling.samples, _MOST_FITS), sampling.seed) if codes else None
    if codes is None or found is None:
        return None, {}
    likely = {
        item: (str(codes.categories[int(category)]), round(float(probability), 4))
        for (item, _), category, probability in zip(codes.units, found.likely, found.probability, strict=True)
    }
    return found, likely


def _write(
    folder: Path,
    config: Any,
    answers: Sequence[ExpertAnswer],
    parts: Sequence[Found],
    raters: Consensus | None,
    rows: Sequence[Row],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "settings": OmegaConf.to_container(config.agreement),
        "counts": {name: len({getattr(answer, name) for answer in answers}) for name in ("item", "speech", "rater")},
        "parts": plain([asdict(each) for each in parts]),
        "accuracy": plain({name: asdict(value) for name, value in raters.accuracy.items()}) if raters else None,
        "disagreements": len(rows),
    }
    write_json(folder / "agreement.json", content)
    made = io.StringIO()
    writer = csv.DictWriter(made, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / "disagreements.csv", made.getvalue())
