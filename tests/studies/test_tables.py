"""The tables of a study: every figure equals one computed by hand from the files, and nothing missing is hidden."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from psychocounsel.blocks.tables import Table, csv_of, latex_of, markdown_of
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import RunDir, StudyDir
from psychocounsel.storage.files import write_json
from psychocounsel.studies.study_file import Study, StudyStage
from psychocounsel.studies.tables import problems, write

Row = dict[str, str]


def stage(name: str, command: str = "train") -> StudyStage:
    return StudyStage(name, command, ())


def study(table: dict[str, Any], *names: str) -> Study:
    return Study("mine", "A study.", {}, {name: stage(name) for name in names}, table)


class MadeStudy:
    """A study's folder with runs whose files are written by hand."""

    def __init__(self, path: Path) -> None:
        self.files = StudyDir(path)
        self.stages: dict[str, Any] = {}

    def run(self, stage: str, folder: str, swept: dict[str, str], parent: str | None = None) -> RunDir:
        run_dir = self.files.stage(stage).cell(folder)
        run_dir.mkdir(parents=True)
        cells = self.stages.setdefault(stage, {"command": "train", "best": None, "cells": []})["cells"]
        cells.append(
            {"name": folder, "run_dir": f"{stage}/{folder}", "swept": swept, "fingerprint": "", "parent": parent}
        )
        write_json(self.files.cells, {"stages": self.stages})
        return RunDir(run_dir)

    def train(
        self,
        stage: str,
        folder: str,
        swept: dict[str, str],
        figures: list[dict[str, float]],
        status: str = "finished",
        processes: int = 1,
        seconds: float = 3.6,
    ) -> RunDir:
        """A training of 10 steps between evaluations; `figures` are those of each evaluation, the first before training."""
        files = self.run(stage, folder, swept)
        before, *later = ({f"eval/{key}": value for key, value in each.items()} for each in figures)
        lines = list[dict[str, Any]]()
        for number, found in enumerate(later, 1):
            lines += [
                {"step": step, "loss": 1.0, "step_seconds": seconds, "tokens_per_second": 100.0 * processes + step}
                for step in range(10 * number - 9, 10 * number + 1)
            ]
            lines[-1] |= found
        files.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
        files.config.write_text("global_batch_size: 4\ncheckpoint: {metric: eval/reward}\n")
        write_json(files.environment, {"nodes": [f"n{each}" for each in range(processes)], "processes": processes})
        best = {"step": 10 * len(later), **later[-1]} if later else {}
        metrics = {"before": before, "best": best, "last": later[-1] if later else {}}
        write_json(files.summary, {"status": status, "metrics": metrics})
        return files


@pytest.fixture
def made(tmp_path: Path) -> MadeStudy:
    return MadeStudy(tmp_path)


def rows_of(made: MadeStudy, wanted: Study, name: str) -> list[Row]:
    write(made.files, wanted)
    return list(csv.DictReader(io.StringIO(made.files.written_table(name, "csv").read_text())))


def test_a_setting_is_the_mean_over_its_seeds_with_an_honest_interval(made: MadeStudy) -> None:
    values = {"0.1": [0.5, 0.62, 0.55], "0.3": [0.7]}
    for beta, found in values.items():
        for seed, value in enumerate(found, 1):
            swept = {"algo.beta": beta, "seed": str(seed)}
            made.train("dpo", f"beta-{beta}_seed-{seed}", swept, [{"accuracy": 0.5}, {"accuracy": value}])
    layout = {"t": {"rows": ["dpo"], "columns": {"accuracy": {"metric": "eval/accuracy", "percent": True}}}}
    several, one = rows_of(made, study(layout, "dpo"), "t")
    assert (several["setting"], several["runs"], one["setting"]) == ("dpo, algo.beta=0.1", "3", "dpo, algo.beta=0.3")
    low, high = stats.t.interval(0.95, 2, np.mean(values["0.1"]), stats.sem(values["0.1"]))
    expected = [np.mean(values["0.1"]), np.std(values["0.1"], ddof=1), 3, low, high]
    assert [float(several[f"accuracy{part}"]) for part in ("", " sd", " n", " low", " high")] == pytest.approx(expected)
    assert (float(one["accuracy"]), one["accuracy sd"], one["accuracy low"]) == (0.7, "", "")
    page = made.files.written_table("t", "md").read_text()
    assert (
        "| accuracy (%) |" in page and "55.7 ± 6.0" in page and "| 70.0 |" in page and "its spread is unknown" in page
    )


def test_evaluations_are_grouped_by_the_setting_of_the_run_that_they_look_at(made: MadeStudy) -> None:
    for seed in (1, 2):
        made.train("dpo", f"seed-{seed}", {"seed": str(seed)}, [{"accuracy": 0.5}, {"accuracy": 0.6}])
        files = made.run("winrate", f"seed-{seed}", {}, f"dpo/seed-{seed}")
        figures = {"win_rate": 0.5 + seed / 10, "win_rate_low": 0.4, "win_rate_high": 0.9}
        write_json(files.summary, {"status": "finished", "metrics": figures})
    (row,) = rows_of(
        made, study({"t": {"rows": {"ours": "winrate"}, "columns": {"wins": "win_rate"}}}, "winrate", "dpo"), "t"
    )
    assert (row["setting"], row["runs"], row["wins n"]) == ("ours, dpo", "2", "2")
    assert float(row["wins"]) == pytest.approx(0.65)


def test_a_win_rate_in_doubt_says_so_below_the_table(made: MadeStudy) -> None:
    for seed in (1, 2):
        files = made.run("winrate", f"seed-{seed}", {"seed": str(seed)})
        summary = {
            "status": "finished",
            "metrics": {"win_rate": 0.6},
            "doubts": ["judge j can't tell replies from loops"],
        }
        write_json(files.summary, summary)
    rows_of(made, study({"t": {"rows": ["winrate"], "columns": {"wins": "win_rate"}}}, "winrate"), "t")
    for ending in ("md", "tex"):
        page = made.files.written_table("t", ending).read_text()
        assert page.count("judge j can't tell replies from loops") == 1


def test_one_evaluation_keeps_its_own_interval(made: MadeStudy) -> None:
    files = made.run("winrate", "run", {})
    figures = {"win_rate": 0.6, "win_rate_low": 0.4, "win_rate_high": 0.8}
    write_json(files.summary, {"status": "finished", "metrics": figures})
    (row,) = rows_of(made, study({"t": {"rows": ["winrate"], "columns": {"wins": "win_rate"}}}, "winrate"), "t")
    assert [row[f"wins{part}"] for part in ("", " n", " low", " high")] == ["0.6", "1", "0.4", "0.8"]
    assert "0.6 (0.4 to 0.8)" in made.files.written_table("t", "md").read_text()


def test_failed_and_missing_runs_are_shown(made: MadeStudy) -> None:
    made.train("dpo", "seed-1", {"seed": "1"}, [{"accuracy": 0.5}, {"accuracy": 0.6}])
    made.train("dpo", "seed-2", {"seed": "2"}, [{"accuracy": 0.5}, {"accuracy": 0.9}], status="failed")
    made.run("dpo", "seed-3", {"seed": "3"})
    layout = {"t": {"rows": ["dpo", "ppo"], "columns": {"accuracy": "eval/accuracy"}}}
    dpo, ppo = rows_of(made, study(layout, "dpo", "ppo"), "t")
    assert dpo["runs"] == "1 of 3 (1 failed, 1 not run)" and float(dpo["accuracy"]) == 0.6
    assert (ppo["setting"], ppo["runs"], ppo["accuracy"]) == ("ppo", "0", "")
    assert "not measured, or not finished" in made.files.written_table("t", "md").read_text()


def test_cuts_lie_on_the_line_between_evaluations_and_never_beyond(made: MadeStudy) -> None:
    rewards = [[0.0, 1.0, 3.0], [1.0, 2.0, 2.5]]
    nats = [[0.0, 4.0, 8.0], [0.0, 1.0, 2.0]]
    for seed, (reward, kl) in enumerate(zip(rewards, nats, strict=True), 1):
        evaluations = [{"reward": r, "kl": k} for r, k in zip(reward, kl, strict=True)]
        made.train("ppo", f"seed-{seed}", {"seed": str(seed)}, evaluations, processes=2)
    at = {"steps": [15, 21], "prompts": [20], "gpu_hours": [0.03], "kl": [1.5, 3]}
    (row,) = rows_of(
        made, study({"t": {"kind": "cuts", "rows": ["ppo"], "metric": "eval/reward", "at": at}}, "ppo"), "t"
    )

    def by_hand(place: float, axes: list[list[float]]) -> float:
        return float(np.mean([np.interp(place, axis, reward) for axis, reward in zip(axes, rewards, strict=True)]))

    steps = [[0.0, 10.0, 20.0]] * 2
    assert float(row["15 steps"]) == pytest.approx(by_hand(15, steps))
    assert float(row["20 prompts"]) == pytest.approx(by_hand(5, steps))  # of 4 prompts a step
    assert float(row["0.03 GPU-hours"]) == pytest.approx(by_hand(15, steps))  # 3.6 s a step on two processes
    assert float(row["1.5 nats"]) == pytest.approx(by_hand(1.5, nats))
    assert row["21 steps"] == "not reached (2 of 2)" and row["3 nats"] == "not reached (1 of 2)"


def test_a_cut_at_a_divergence_that_nobody_measured_says_so(made: MadeStudy) -> None:
    made.train("simpo", "run", {}, [{"reward": 0.0}, {"reward": 1.0}])
    layout = {"t": {"kind": "cuts", "rows": ["simpo"], "metric": "eval/reward", "at": {"kl": [2], "steps": [5, 30]}}}
    (row,) = rows_of(made, study(layout, "simpo"), "t")
    assert (row["2 nats"], row["5 steps"], row["30 steps"]) == ("not measured", "0.5", "not reached (1 of 1)")


def test_values_that_hydra_needs_quoted_are_shown_plain(made: MadeStudy) -> None:
    for number, path in enumerate((r"builtin\:tiny", "'my model'", "runs/beta")):
        files = made.run("base", f"run-{number}", {"model.path": path})
        write_json(files.summary, {"status": "finished", "metrics": {"win_rate": 0.5}})
    rows = rows_of(made, study({"t": {"rows": ["base"], "columns": {"wins": "win_rate"}}}, "base"), "t")
    shown = ["builtin:tiny", "my model", "runs/beta"]
    assert [row["setting"] for row in rows] == [f"base, model.path={path}" for path in shown]


def test_the_interval_of_a_share_ends_where_shares_end(made: MadeStudy) -> None:
    for seed, (wins, gain) in enumerate([(1.0, 0.5), (0.9, -0.4)], 1):
        files = made.run("winrate", f"seed-{seed}", {"seed": str(seed)})
        write_json(files.summary, {"status": "finished", "metrics": {"win_rate": wins, "gain": gain}})
    columns = {"wins": "win_rate", "gain": "gain"}
    (row,) = rows_of(made, study({"t": {"rows": ["winrate"], "columns": columns}}, "winrate"), "t")
    low, _ = stats.t.interval(0.95, 1, 0.95, stats.sem([1.0, 0.9]))
    assert (float(row["wins low"]), float(row["wins high"])) == pytest.approx((max(low, 0.0), 1.0))
    assert float(row["gain low"]) < -1 and float(row["gain high"]) > 1


def test_a_divergence_that_falls_again_is_cut_where_it_is_first_reached(made: MadeStudy) -> None:
    evaluations = [{"reward": r, "kl": k} for r, k in [(0.0, 0.0), (1.0, 4.0), (5.0, 1.0), (9.0, 6.0)]]
    made.train("ppo", "run", {}, evaluations)
    layout = {"t": {"kind": "cuts", "rows": ["ppo"], "metric": "eval/reward", "at": {"kl": [2, 5]}}}
    (row,) = rows_of(made, study(layout, "ppo"), "t")
    assert (float(row["2 nats"]), float(row["5 nats"])) == pytest.approx((0.5, 5.0 + 4 * 4 / 5))


def test_curves_hold_every_evaluation_over_seeds(made: MadeStudy) -> None:
    for seed in (1, 2):
        evaluations = [{"reward": step * seed, "reward_other": -step, "kl": step} for step in (0.0, 1.0, 2.0)]
        made.train("ppo", f"seed-{seed}", {"seed": str(seed)}, evaluations)
    columns = {"trained on": "eval/reward", "other": "eval/reward_other"}
    rows = rows_of(made, study({"t": {"kind": "curves", "rows": ["ppo"], "columns": columns}}, "ppo"), "t")
    assert [(row["step"], float(row["nats"]), float(row["trained on"]), float(row["other"])) for row in rows] == [
        ("0", 0.0, 0.0, 0.0),
        ("10", 1.0, 1.5, -1.0),
        ("20", 2.0, 3.0, -2.0),
    ]


def test_efficiency_is_against_the_fewest_processes(made: MadeStudy) -> None:
    for processes in (4, 1):
        made.train(f"n{processes}", "run", {}, [{"reward": 0.0}, {"reward": 1.0}], processes=processes)
    four, one = rows_of(made, study({"t": {"kind": "nodes", "rows": ["n4", "n1"]}}, "n4", "n1"), "t")
    assert (one["nodes"], one["efficiency"], four["nodes"], four["processes"]) == ("1", "1.0", "4", "4")
    assert float(four["tokens/s"]) == 406.5 and float(four["efficiency"]) == pytest.approx(406.5 / 4 / 106.5)


def test_a_layout_reads_the_values_of_the_study(made: MadeStudy) -> None:
    files = made.run("winrate", "run", {})
    write_json(files.summary, {"status": "finished", "metrics": {"win_rate_80_words": 0.7}})
    layout = {
        "t": {"title": "Within ${study.words}", "rows": ["winrate"], "columns": {"w": "win_rate_${study.words}_words"}}
    }
    wanted = Study("mine", "", {"words": 80}, {"winrate": stage("winrate", "evaluate")}, layout)
    assert rows_of(made, wanted, "t")[0]["w"] == "0.7"
    assert made.files.written_table("t", "md").read_text().startswith("# Within 80\n")


def test_the_papers_figures_stand_beside_ours(made: MadeStudy) -> None:
    files = made.run("winrate", "run", {})
    write_json(files.summary, {"status": "finished", "metrics": {"win_rate": 0.6, "short": 0.4}})
    columns = {
        "no length limit": {"metric": "win_rate", "percent": True},
        "length limit": {"metric": "short", "percent": True},
    }
    layout = {"t": {"rows": ["winrate"], "columns": columns, "paper": "win_rates"}}
    rows = rows_of(made, study(layout, "winrate"), "t")
    best = next(row for row in rows if row["setting"] == "8B + DPO-Iter (paper)")
    assert (float(best["no length limit"]), float(best["length limit"])) == (0.87, 0.77) and len(rows) == 7
    assert "| 87.0 | 77.0 |" in made.files.written_table("t", "md").read_text()


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ({"kind": "chart", "rows": ["dpo"]}, "table.t.kind=chart: is one of runs, cuts, curves, nodes"),
        ({"rows": ["dop"]}, "table.t.rows: no such stage dop; did you mean dpo?"),
        ({"rows": ["dpo"], "colums": {}}, "table.t: has no key colums; did you mean columns?"),
        ({"rows": []}, "table.t.rows: names stages"),
        ({"rows": ["dpo"], "kind": ["runs"]}, "table.t.kind=['runs']: is one of runs"),
        ({"rows": [{"dpo": "x"}]}, "table.t.rows: no such stage {'dpo': 'x'}"),
        ({"rows": ["dpo"], "columns": {"a": {"percent": True}}}, "table.t.columns.a: must be a metric"),
        ({"rows": ["dpo"], "paper": ["win_rates"]}, "table.t.paper=['win_rates']: no such published figures"),
        ({"rows": ["dpo"], "paper": "zz"}, "table.t.paper=zz: no such published figures; they are "),
        ({"rows": ["dpo"], "columns": {"a": 3}}, "table.t.columns.a: must be a metric"),
        ({"rows": ["dpo"], "columns": {"a": "b"}, "paper": "win_rates"}, "table.t.columns: length limit"),
        (
            {"kind": "cuts", "rows": ["dpo"], "metric": "loss", "at": {"kl": [1]}},
            "table.t.metric: must be a figure of eval",
        ),
        (
            {"kind": "cuts", "rows": ["dpo"], "metric": "eval/x", "at": {"time": [1]}},
            "table.t.at: must contain steps, prompts",
        ),
        ({"kind": "cuts", "rows": ["dpo"], "metric": "eval/x", "at": {"kl": 1}}, "table.t.at.kl: is a list of numbers"),
        ({"kind": "curves", "rows": ["dpo"]}, "table.t.columns: must contain HEADING: METRIC"),
    ],
)
def test_a_wrong_layout_is_told_in_a_line(made: MadeStudy, layout: dict[str, Any], said: str) -> None:
    wanted = study({"t": layout}, "dpo")
    assert next(problems(wanted)).startswith(said)
    with pytest.raises(UserError, match=re.escape(said)):
        write(made.files, wanted)


def test_a_table_cannot_have_the_name_of_a_stage(made: MadeStudy) -> None:
    for name in ("dpo", 1):
        assert "other than a stage" in next(problems(study({name: {"rows": ["dpo"]}}, "dpo")))  # type: ignore[dict-item]


def test_titles_that_yaml_reads_as_numbers_are_written(made: MadeStudy) -> None:
    made.train("dpo", "1", {}, [{"loss": 1.0}, {"loss": 0.5}])
    for layout in (
        {"rows": {2024: "dpo"}, "columns": {"a": "eval/loss"}},
        {"kind": "curves", "rows": ["dpo"], "columns": {7: "eval/loss"}},
    ):
        wanted = study({"t": layout}, "dpo")
        assert not [*problems(wanted)]
        write(made.files, wanted)
        assert {"2024", "7"} & {*made.files.written_table("t", "md").read_text().replace("|", " ").split()}


def test_foreign_signs_stay_text_in_every_format() -> None:
    table = Table("50 % & more_or_less", ["a|b", "c"], [["x_1 \\ {y} <b> $5 #1 ^~", None], ["plain", "50 %"]])
    latex = latex_of(table, "a_b")
    body = latex[latex.index(r"\midrule") : latex.index(r"\bottomrule")]
    assert (
        r"x\_1 \textbackslash{} \{y\} \textless{}b\textgreater{} \$5 \#1 \textasciicircum{}\textasciitilde{} & -"
        in body
    )
    assert r"\caption{50 \% \& more\_or\_less}" in latex and r"\label{tab:a-b}" in latex
    for opened in re.findall(r"\\begin\{(\w+)\}", latex):
        assert latex.count(rf"\end{{{opened}}}") == 1
    assert all(line.count("&") - line.count(r"\&") == 1 for line in body.splitlines()[1:])
    lines = markdown_of(table).splitlines()
    assert r"a\|b" in lines[2] and r"\<b\>" in lines[4]
    assert list(csv.reader(io.StringIO(csv_of(table))))[1] == ["x_1 \\ {y} <b> $5 #1 ^~", ""]
