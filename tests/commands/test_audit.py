"""Tests of the whole `audit` command: the table, audit.json, the gate, and no data text in any output."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.selection import load_split
from psychocounsel.errors import CONTINUE_LATER, DONE, GATE_NO, GATE_UNDECIDED, USER_ERROR, worst
from psychocounsel.evaluation.audit.auditing import audit, load_others
from psychocounsel.evaluation.audit.pairs import pairs_from
from psychocounsel.storage.files import read_json
from tests.support.composed import check, compose
from tests.support.harness import ROOT, cli, write_jsonl
from tests.support.preferences import first_sample, random_pairs

SECRET = "zugzwangerl"  # part of each speech and each reply
QUICK = ["audit.permutations=100", "cluster.threads=1"]


def rows(count: int, end: str = ".", **more: Any) -> list[dict[str, Any]]:
    """Return pairs in which `end` closes the chosen reply four times out of five, and otherwise the rejected reply."""
    return [
        {
            "id": f"row{number}",
            "prompt": f"{SECRET} {pair.prompt[0]['content']}",
            "chosen": f"{SECRET} {pair.replies[number % 5 == 0]}",
            "rejected": f"{SECRET} {pair.replies[number % 5 != 0]}",
            **more,
        }
        for number, pair in enumerate(random_pairs(count, 2, end))
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    write_jsonl(folder / "pairs.jsonl", rows(120, "!"))
    write_jsonl(folder / "other.jsonl", [*rows(120)[:10], {"prompt": "Another one.", "completion": "Yes."}])
    return folder


def test_the_gate_is_an_exit_code_and_leaves_the_run_unfinished(home: Path) -> None:
    given = ["audit", "data.path=pairs.jsonl", *QUICK]
    said = {}
    for limit, code, word in ((0.6, GATE_NO, "refused"), (0.8, GATE_UNDECIDED, "undecided"), (0.95, DONE, "passed")):
        result = cli(*given, f"audit.max_blind={limit}", f"run_dir={word}", cwd=home, check_code=code)
        said[word] = result.stderr
        assert f"gate audit.max_blind={limit:g}: {word}, because the" in result.stderr
        found = read_json(home / word / "audit.json")
        assert found["gate"]["verdict"] == word
        best = found["blind"]["baselines"][found["gate"]["baseline"]]["by_prompt"]
        assert {GATE_NO: best["low"] > limit, DONE: best["high"] <= limit}.get(
            code, best["low"] <= limit < best["high"]
        )
        summary = read_json(home / word / "summary.json")
        assert summary["status"] == ("finished" if code == DONE else word)
        assert summary["metrics"]["blind_accuracy"] == best["accuracy"]
    again = cli(*given, "audit.max_blind=0.6", "run_dir=refused", cwd=home, check_code=GATE_NO)
    assert again.stderr == said["refused"], "a second audit of the same data gives the same verdict"
    assert "is already finished" in cli(*given, "audit.max_blind=0.95", "run_dir=passed", cwd=home).stdout


def test_in_a_sweep_a_sure_refusal_outweighs_an_open_verdict(home: Path) -> None:
    limits = "audit.max_blind=0.6,0.8,0.95"
    given = ["audit", "-m", "data.path=pairs.jsonl", *QUICK, limits, "sweep_dir=sweep"]
    *_, first, second, third, _, look = cli(*given, cwd=home, check_code=GATE_NO).stdout.splitlines()
    assert look == "report: psychocounsel report sweep"
    table = [first, second, third]
    assert [line.split()[0] for line in table] == ["refused", "undecided", "done"]
    assert worst([DONE, GATE_UNDECIDED]) == GATE_UNDECIDED
    for code in (1, USER_ERROR, GATE_NO, CONTINUE_LATER, 137):
        assert worst([GATE_UNDECIDED, code, DONE]) == code


def test_what_it_says_and_writes(home: Path) -> None:
    result = cli(
        "audit", "data.path=pairs.jsonl", "audit.against=[other.jsonl,sample]", *QUICK, "run_dir=run", cwd=home
    )
    found = read_json(home / "run" / "audit.json")
    assert found["counts"]["pairs"] == found["counts"]["components"] == 120
    assert found["blind"]["best"] == "exclamations" and found["blind"]["cues"]["exclamations"]["accuracy"] == 0.8
    assert found["topics"] == {"source": "clusters", "count": 8} and found["halo"] is found["disagreement"] is None
    assert found["against"]["other.jsonl"]["prompts"] == 10 and found["against"]["sample"]["pairs"] == 0
    assert found["against"]["other.jsonl"]["rows"] == 11 and found["settings"]["audit"]["permutations"] == 100
    train, held_out = load_split(check(compose([f"data.path={home}/pairs.jsonl"], name="audit")).data, print)
    assert found["fingerprint"] == pairs_from([*train, *held_out]).fingerprint()
    assert len(result.stderr.splitlines()) <= 10
    printed = " ".join((home / "run" / "tables.txt").read_text().split())
    for line in (
        "pairs 120 120 240 120 1",
        "leaving out each of 8 clusters of prompts, because not all rows name a topic",
        "(exclamations) wins 80.0 %; with random labels the best would win",
        "the data have no ratings",
        "other.jsonl 11 10 ",
    ):
        assert line in printed
    assert "NaN" not in (home / "run" / "audit.json").read_text(), "the file must be strict JSON"
    assert "numpy" in read_json(home / "run" / "environment.json")["versions"]


@pytest.mark.parametrize("confidential", [False, True])
def test_no_text_of_the_data_is_shown_or_written(confidential: bool, home: Path) -> None:
    name = f"private-{confidential}"
    given = ["data.path=pairs.jsonl", "audit.against=[other.jsonl]", f"data.confidential={confidential}", *QUICK]
    result = cli("audit", *given, f"run_dir={name}", cwd=home)
    assert SECRET not in result.stdout + result.stderr
    for file in (home / name).rglob("*"):
        assert not file.is_file() or SECRET not in file.read_text(), file


def test_rated_rows_of_the_first_sample(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "rated.jsonl", first_sample(6))
    said: list[str] = []
    config = check(compose([f"data.path={data}", "data.min_gap=1", "audit.permutations=200"], name="audit"))
    assert audit(config, tmp_path / "run", said.append, lambda names, text: names, None) == DONE
    found = read_json(tmp_path / "run" / "audit.json")
    assert found["topics"] == {"source": "data", "count": 8} and found["counts"]["prompts"] == 36
    assert found["halo"]["replies"] == 144 and found["halo"]["alpha"] > 0.9
    assert set(found["halo"]["principles"]) == set(PRINCIPLES)
    assert found["blind"]["best"] == "ending" and "position" in found["blind"]["cues"]
    tables = (tmp_path / "run" / "tables.txt").read_text()
    assert "  * disagreement is unknown, because no reply has several different ratings" in tables
    assert not any("Cronbach" in line for line in said)


@pytest.mark.slow
def test_a_reward_model_in_two_processes_is_scored_as_in_one(home: Path) -> None:
    given = ["audit", "data.path=pairs.jsonl", "limit=30", "reward=tiny", *QUICK]
    for name, processes in (("one", 1), ("two", 2)):
        cli(*given, f"cluster.processes={processes}", f"run_dir={name}", cwd=home)
    one, two = (read_json(home / name / "audit.json") for name in ("one", "two"))
    assert one["reading"]["reward"] == two["reading"]["reward"] and one["blind"] == two["blind"]
    assert set(one["reading"]["reward"]) == {
        "own",
        "swapped",
        "removed",
        "gains",
        "left_out",
        "flipped",
        "beyond_overlap",
    }


@pytest.mark.slow
def test_without_a_reward_model_no_torch_is_imported(home: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from psychocounsel.evaluation.audit.auditing import audit\n"
        "from psychocounsel.api import compose\n"
        f"config = compose(['data.path=pairs.jsonl', 'limit=40', '{QUICK[0]}'], name='audit')\n"
        "audit(config, Path('no-torch'), print, lambda names, text: names, None)\n"
        "assert not {'torch', 'transformers', 'deepspeed'} & set(sys.modules)\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_too_few_clients_are_refused_and_leave_nothing(home: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "few.jsonl", [*rows(4), {**rows(5)[4], "chosen": rows(1)[0]["chosen"]}])
    result = cli("audit", "data.path=few.jsonl", "run_dir=run", cwd=tmp_path, check_code=USER_ERROR)
    assert "error: the pairs form 4 components that share no text, but an audit needs at least 5: add " in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("command", "name"), [("audit", "evaluate"), ("evaluate", "audit"), ("audit", "train")])
def test_the_configuration_of_another_command_is_refused(command: str, name: str, tmp_path: Path) -> None:
    result = cli(command, "--config-name", name, cwd=tmp_path, check_code=USER_ERROR)
    assert (
        result.stderr
        == f"error: --config-name: names a configuration that does not belong to psychocounsel.{command}\n"
    )
    assert not list(tmp_path.iterdir())


def test_other_sets_that_cannot_be_read_are_said_before_any_work(home: Path) -> None:
    """Sets without readable rows are refused, because a count of zero shared texts would be a false all-clear."""
    write_jsonl(home / "unknown.jsonl", [{"instruction": "Help.", "output": "Yes."}] * 3)
    write_jsonl(home / "partly.jsonl", [*rows(120, "!")[:10], {"instruction": "Help.", "output": "Yes."}])
    given = ["audit", "data.path=pairs.jsonl", *QUICK]
    refused = cli(*given, "audit.against=[unknown.jsonl]", "run_dir=unknown", cwd=home, check_code=USER_ERROR)
    assert (
        "unknown.jsonl: none of its rows can be used" in refused.stderr and "without the client" not in refused.stderr
    )
    result = cli(*given, "audit.against=[partly.jsonl]", "run_dir=partly", cwd=home)
    assert "partly.jsonl: 1 bad row dropped" in result.stderr
    named = [
        "data.columns={prompt: instruction, chosen: output}",
        f"audit.against=[{{path: {home}/unknown.jsonl}},{{path: 'builtin:sample'}}]",
    ]
    write_jsonl(home / "unknown.jsonl", [{"instruction": "Help.", "output": "Yes.", "rejected": "No."}] * 3)
    others = load_others(check(compose([f"data.path={home}/pairs.jsonl", *named], name="audit")), print)
    assert [len(rows) for rows in others.values()] == [3, 356]
    assert "partly.jsonl 10 10 " in " ".join((home / "partly" / "tables.txt").read_text().split())
