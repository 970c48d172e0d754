"""An evaluation and a judge in a user's own folder work with one Python file and one YAML file each."""

from pathlib import Path

from psychocounsel.errors import USER_ERROR
from psychocounsel.storage.files import read_json
from tests.support.contests import data, replies
from tests.support.harness import cli
from tests.support.own_folder import write_own

COMMAS = """
    from dataclasses import dataclass
    from typing import ClassVar

    from psychocounsel.data.selection import load_split
    from psychocounsel.errors import DONE
    from psychocounsel.evaluation.base import Evaluation
    from psychocounsel.rundir.results import FINISHED, write_summary


    @dataclass(kw_only=True)
    class Commas(Evaluation):
        metric: ClassVar[str] = "commas"

        mark: str = ","

        def work(self, run, bar):
            train, held_out = load_split(run.config.data, run.say)
            rows = [*train, *held_out]
            count = sum(example.replies[0].count(self.mark) for example in rows)
            write_summary(run.dir, FINISHED, metrics={"commas": count / len(rows)})
            return DONE
"""
SHORT = """
    import json
    from concurrent.futures import Future
    from dataclasses import dataclass
    from typing import ClassVar

    from psychocounsel.asking.language_model import TEXT, Answer, Answerer, LanguageModel


    class Reading(Answerer):
        def submit(self, ask, seed):
            found = Future()
            scores = [-float(len(reply)) for reply in ask.replies]
            found.set_result(Answer(TEXT, json.dumps(dict(zip(("first", "second"), scores)))))
            return found


    @dataclass(kw_only=True)
    class Short(LanguageModel):
        reads_prompts: ClassVar[bool] = False

        def open(self, key):
            return Reading()
"""


def test_an_evaluation_of_ones_own_is_one_python_and_one_yaml_file(tmp_path: Path) -> None:
    write_own(tmp_path / "my", "evaluation", "commas", COMMAS, "_target_: commas.Commas\nname: commas\nmark: ','\n")
    given = ["evaluate", "--config-dir=my", "evaluation=commas", *data(tmp_path), "part=all"]
    cli(*given, "evaluation.mark='?'", "run_dir=out", cwd=tmp_path)
    assert read_json(tmp_path / "out" / "summary.json")["metrics"] == {"commas": 1.0}
    wrong = cli(*given, "evaluation.marks=x", cwd=tmp_path, check_code=USER_ERROR)
    assert "evaluation.marks" in wrong.stderr and "evaluation.mark" in wrong.stderr
    idle = cli(*given, "judge=reward", cwd=tmp_path, check_code=USER_ERROR)
    assert "evaluation=commas does not read it" in idle.stderr


def test_a_judge_of_ones_own_is_one_python_and_one_yaml_file(tmp_path: Path) -> None:
    write_own(tmp_path / "my", "judge", "short", SHORT, "_target_: short.Short\nname: short\n")
    for name, words in (("mine", "a long and patient reply"), ("base", "no")):
        replies(tmp_path / f"{name}.jsonl", lambda prompt, words=words: words)  # type: ignore[misc]
    given = ["evaluate", "--config-dir=my", "evaluation=winrate", *data(tmp_path), "judge=short"]
    cli(*given, "model.path=mine.jsonl", "against=base.jsonl", "run_dir=out", cwd=tmp_path)
    assert read_json(tmp_path / "out" / "summary.json")["metrics"]["win_rate"] == 0.0
