"""`evaluation=best_of`: picks and win rates against brute force over written replies, refusals, and the report's section."""

import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from psychocounsel.blocks.cells import Titled
from psychocounsel.errors import UserError
from psychocounsel.evaluate import COMMAND
from psychocounsel.evaluation.best_of.figures_step import _judges_that_chose, _values
from psychocounsel.evaluation.best_of.picks_step import SCHEMA as PICKS
from psychocounsel.evaluation.best_of.show import best_of_blocks
from psychocounsel.evaluation.judging.pairs import SCHEMA as VERDICTS
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.storage.files import read_json
from tests.algo.test_online_learning import mine
from tests.support.contests import PROMPTS, contest, data
from tests.support.harness import TINY, cli, write_jsonl
from tests.support.trained import trained_run

__all__ = ["mine"]
SAMPLES = 4


def share(text: str, letter: str) -> float:
    return text.count(letter) / len(text)


def test_win_rates_are_those_of_brute_force(mine: Path) -> None:
    rng = np.random.default_rng(0)
    texts = {prompt: ["".join(rng.choice(list("aeo x"), 30)).strip() for _ in range(SAMPLES)] for prompt in PROMPTS}
    rows = [{"prompt": prompt, "reply": text} for prompt, replies in texts.items() for text in replies]
    file = write_jsonl(mine / "replies.jsonl", rows)
    given = [f"model.path={file}", *data(mine / "data"), f"replies.samples={SAMPLES}", "evaluation.n=[1,2,4]"]
    given += ["reward=letter", "compare=[{use: letter, letter: o, name: other}]"]
    given += ["judge=reward", "judge.reward={use: letter, letter: a, name: judge}", "run_dir=run"]
    said = cli("evaluate", "--config-dir", "my", "evaluation=best_of", *given, cwd=mine).stderr
    assert "its own choices" not in said
    run = trained_run(mine / "online", "algo=online_dpo", "reward=tiny")
    judged = ["judge=reward", "judge.reward=tiny", f"model.path={run}", "dry_run=true"]
    planned = cli("evaluate", "evaluation=best_of", "reward=tiny_2", *judged, cwd=mine).stdout
    assert "the contestant learned to please this judge" in planned
    metrics = read_json(mine / "run" / "summary.json")["metrics"]
    figures = read_json(mine / "run" / "figures.json")
    for name, letter, ending in (("letter", "e", ""), ("other", "o", "/other")):
        for place, n in enumerate((1, 2, 4)):
            scores, rewards = [], []
            for replies in texts.values():
                best = max(replies[:n], key=lambda text: share(text, letter))
                gap = share(best, "a") - share(replies[0], "a")
                scores.append(0.5 if abs(gap) < 1e-9 else float(gap > 0))
                rewards.append(10 * share(best, letter))
            point = figures["reward_models"][name][place]
            assert (point["n"], point["speeches"]) == (n, len(PROMPTS))
            assert point["value"] == pytest.approx(np.mean(scores)) == metrics[f"win_rate_of_{n}{ending}"]
            assert point["reward"] == pytest.approx(np.mean(rewards), abs=1e-5)
            assert point["kl"] == pytest.approx(math.log(n) - (n - 1) / n)
    assert metrics["win_rate"] == metrics["win_rate_of_4"]
    chart, table = best_of_blocks([Titled("", figures)])
    assert [curve.title for curve in chart.curves] == ["letter", "other"]
    assert len(table.table.rows) == 6
    cli("report", "run", "--out", "page", cwd=mine)
    assert "Best of n replies" in (mine / "page" / "report.html").read_text()


def write_verdicts(files: EvaluationDir, given: list[tuple[str, str, int | None, float | None]]) -> None:
    """Write one pick of one speech, and verdicts about it: judge, order, verdict and score of the pick."""
    pick = {"speech": "s", "reward_model": "rm", "seed": 0, "n": 4, "sample": 1, "length_limit": None, "reward": 1.0}
    pq.write_table(pa.Table.from_pylist([pick], PICKS), files.picks)
    common = dict.fromkeys(VERDICTS.names) | {"speech": "s", "sample": 1, "first_setting": "m", "first_seed": 0}
    common |= {"first_reply": "a", "second_setting": "m", "second_seed": 0, "second_reply": "b", "outcome": "text"}
    rows = [
        {**common, "judge": judge, "order": order, "overall": overall, "first_score": score}
        for judge, order, overall, score in given
    ]
    rows = [row | ({"outcome": "empty"} if row["judge"] == "empty" else {}) for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, VERDICTS), files.verdicts)


@pytest.mark.parametrize(
    ("given", "score"),
    [
        ([("llm", "forward", 1, None), ("llm", "backward", None, None)], None),
        ([("llm", "forward", 1, None), ("llm", "backward", -1, None)], 0.5),
        ([("llm", "forward", 1, None), ("llm", "backward", 1, None), ("rm", "forward", -1, 0.2)], 0.5),
        ([("empty", "forward", None, None)], 1.0),
    ],
    ids=["one order", "both orders", "each judge counts once", "the first reply is empty"],
)
def test_a_pick_counts_in_both_orders_and_judges_count_alike(
    given: list[tuple[str, str, int | None, float | None]], score: float | None, tmp_path: Path
) -> None:
    write_verdicts(EvaluationDir(tmp_path), given)
    assert _values(EvaluationDir(tmp_path)) == ({} if score is None else {("rm", 4): {"s": [(score, 1.0)]}})


def test_the_largest_n_is_last_where_the_first_speech_has_no_first_reply(mine: Path) -> None:
    rows = [{"prompt": prompt, "reply": text} for prompt in PROMPTS for text in ("", "aaa")]
    for row in rows[2::2]:
        row["reply"] = "eee"
    given = [f"model.path={write_jsonl(mine / 'first.jsonl', rows)}", *data(mine / "data"), "replies.samples=2"]
    given += ["evaluation.n=[1,2]", "reward=letter", "reward.letter=a", "judge=reward", "run_dir=first"]
    given += ["judge.reward={use: letter, letter: a, name: judge}"]
    cli("evaluate", "--config-dir", "my", "evaluation=best_of", *given, cwd=mine)
    points = read_json(mine / "first" / "figures.json")["reward_models"]["letter"]
    metrics = read_json(mine / "first" / "summary.json")["metrics"]
    assert [point["n"] for point in points] == [1, 2] and metrics["win_rate"] == metrics["win_rate_of_2"] > 0.5


def test_speeches_that_no_judge_compares_are_in_no_win_rate(mine: Path) -> None:
    """The pick ties by definition where it is the first reply; without the others, these ties would hide what is chosen."""
    rows = [{"prompt": prompt, "reply": text} for prompt in PROMPTS for text in ("eee", "aaa")]
    rows[1::4] = [{**row, "reply": "xxx"} for row in rows[1::4]]  # the first reply is the best for every second speech
    file = write_jsonl(mine / "two.jsonl", rows)
    known = write_jsonl(mine / "known.jsonl", [{"prompt": prompt, "reply": "a"} for prompt in PROMPTS[::2]])
    given = [f"model.path={file}", *data(mine / "data"), "replies.samples=2", "evaluation.n=[1,2]"]
    given += ["reward=letter", "reward.letter=a", "judge=reward", "judge.reward={use: letter, letter: a, name: judge}"]
    cli(
        "evaluate",
        "--config-dir",
        "my",
        "evaluation=best_of",
        *given,
        f"trained_on=[{known}]",
        "run_dir=near",
        cwd=mine,
    )
    first, best = read_json(mine / "near" / "figures.json")["reward_models"]["letter"]
    assert first["speeches"] == best["speeches"] == len(PROMPTS) // 2
    assert best["value"] == 1


def test_a_shard_chooses_between_replies_and_verdicts(tmp_path: Path) -> None:
    config = contest("evaluation=best_of", "model.path=builtin:tiny", "shards=2", f"run_dir={tmp_path}/run")
    evaluation = build(config, "evaluation")
    config.steps, config.share = evaluation.shared_steps(config), 0
    config.run_dir = f"{tmp_path}/run/shards/000"
    assert [planned.step for planned in evaluation.planned(config)] == ["replies", "picks", "verdicts"]


@pytest.mark.slow
def test_a_dry_run_names_calls_and_price_before_and_after_the_picks(mine: Path) -> None:
    rows = [{"prompt": prompt, "reply": "aeox"[place] * 9} for prompt in PROMPTS for place in range(SAMPLES)]
    file = write_jsonl(mine / "four.jsonl", rows)
    line = ["--config-dir", "my", "evaluation=best_of", f"model.path={file}", *data(mine / "data"), "run_dir=dry"]
    line += [
        f"replies.samples={SAMPLES}",
        "evaluation.n=[1,2,4]",
        "reward=letter",
        "compare=[{use: letter, letter: o, name: o}]",
    ]
    line += ["judge=local_vllm", "judge.model=M", "judge.input_price=1", "judge.output_price=1"]

    def foreseen() -> list[str]:
        said = cli("evaluate", *line, "dry_run=true", cwd=mine).stdout.splitlines()
        return [text for text in said if text.startswith(("verdicts:", "replies:"))]

    replies, verdicts = foreseen()
    most = len(PROMPTS) * (SAMPLES - 1) * 2
    assert replies.startswith(f"replies: {len(PROMPTS) * SAMPLES} calls")
    assert verdicts.startswith(f"verdicts: {most} calls, 0 bought before; at most about ")
    cli("evaluate", *line, "steps=[replies,picks]", cwd=mine)
    # "letter" picks e as the best of two and of four, "o" picks a (the first reply) and o: two pairs in two orders
    assert [text.partition(",")[0] for text in foreseen()] == [f"verdicts: {len(PROMPTS) * 2 * 2} calls"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["evaluation.n=[1,32]"], "evaluation.n=[1, 32]: give numbers from 1 to replies.samples=16"),
        (["evaluation.n=[]"], "evaluation.n=[]"),
        (["against=builtin:tiny_dpo"], "compares a model with itself"),
        (["compare=[{use: llm, judge: {use: openai, model: a}}]"], "needs reward models"),
    ],
)
def test_what_cannot_work_is_refused(overrides: list[str], said: str, tmp_path: Path) -> None:
    config = contest("evaluation=best_of", "model.path=builtin:tiny", *overrides, f"run_dir={tmp_path}/run")
    with pytest.raises(UserError) as caught:
        COMMAND.prepare(config, tmp_path / "run")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_judge_that_chose_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same = contest("evaluation=best_of", "model.path=builtin:tiny", "reward=tiny", "judge=tiny")
    assert any("it agrees with its own choices" in line for line in _judges_that_chose(same))
    shutil.copytree(TINY.with_name("tiny_reward"), tmp_path / "rm")
    monkeypatch.chdir(tmp_path)  # a job may start elsewhere, and both relative paths mean the same model
    paths = contest(
        "evaluation=best_of", "model.path=builtin:tiny", "reward.path=rm", "judge=reward", "judge.reward=rm"
    )
    assert any("it agrees with its own choices" in line for line in _judges_that_chose(paths))
    assert paths.judge.reward.path == paths.reward.path == str(tmp_path / "rm")
