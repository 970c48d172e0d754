"""A data source from a user's own folder: its rows are processed like all others, and no change of it is missed."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from psychocounsel.data.dataset import build_dataset
from psychocounsel.data.selection import load_split
from psychocounsel.data.tokenise import ChatFormat
from psychocounsel.errors import USER_ERROR, UserError
from tests.support.composed import check, compose
from tests.support.harness import ROOT, TINY, cli, metrics_of
from tests.support.own_folder import docs_example, write_own

_PAGE = (ROOT / "docs" / "extend.md").read_text()
_CODE, _SETTINGS = docs_example(_PAGE, "# my/answers.py"), docs_example(_PAGE, "# my/data/answers.yaml")


def write_table(file: Path, rows: int = 10, good: str = "Since when?", first: int = 0) -> Path:
    lines = [f"I can't sleep ({n}).;{good} {n};Sleep well. {n}\n" for n in range(first, first + rows)]
    file.write_text("client;good;bad\n" + "".join(lines))
    return file


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_own(tmp_path / "my", "data", "answers", _CODE, _SETTINGS)
    write_table(tmp_path / "table.csv")
    return tmp_path


@pytest.mark.slow
def test_all_commands_read_its_rows(small_model: Path, home: Path) -> None:
    own = ["--config-dir", "my", "data=answers", "data.path=table.csv", "data.delimiter=';'", "data.dev_fraction=0.2"]
    model = [f"model.path={small_model}", "max_length=256"]
    assert ": 8 training groups, 2 held-out groups of 2 prompts" in cli("prepare", *own, *model, cwd=home).stdout
    short = ["max_steps=1", "global_batch_size=4", "cluster.threads=1", "run_dir=run"]
    cli("train", *own, *model, *short, cwd=home)
    assert [line["step"] for line in metrics_of(home / "run")][-1] == 1
    cli("evaluate", *own, "reward=tiny", "part=all", "run_dir=evaluation", cwd=home)
    scored = [json.loads(line) for line in (home / "evaluation" / "scores.jsonl").read_text().splitlines()]
    assert sorted(row["id"] for row in scored) == sorted(f"table.csv line {number}" for number in range(2, 12))


@pytest.fixture
def own(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return overrides that select the source, class Own of module own, in a configuration composed in this process."""
    name = f"own_{home.name}"  # each test imports its own module
    (home / f"{name}.py").write_text(_CODE)
    monkeypatch.syspath_prepend(home)
    own = ["data=local", f"+data._target_={name}.Answers", f"data.path={home / 'table.csv'}", "+data.delimiter=';'"]
    return [*own, f"paths.cache={home / 'cache'}"]


def test_its_keys_are_checked(own: list[str]) -> None:
    for wrong, said in [
        ("+data.delimeter=x", r"unknown key data.delimeter: did you mean data.delimiter\?"),
        ("data.delimiter=abc", "data.delimiter=abc: must be one of"),
        ("data.dev_fraction=2", "data.dev_fraction=2.0: must be less than 1"),
        ("data.path=/nowhere.csv", "data.path=/nowhere.csv: no such file"),
        ("data.mix=[{path: builtin:sample, rows: 3}]", "data.mix: cannot be mixed with rows that own_"),
    ]:
        with pytest.raises(UserError, match=said):
            check(compose([*own, wrong]))


def test_it_cannot_be_an_entry_of_a_mixture(home: Path) -> None:
    given = ["--config-dir", "my", "data=local", "data.mix=[{name: answers, rows: 3}]"]
    found = cli("train", *given, cwd=home, check_code=USER_ERROR).stderr
    assert "data.mix: answers reads its rows by answers.Answers" in found and found.count("\n") == 1


def test_held_out_data_may_be_a_file_of_their_own(own: list[str], home: Path) -> None:
    other = write_table(home / "other.csv", 3, first=7)
    said: list[str] = []
    train, held_out = load_split(check(compose([*own, f"data.eval_path={other}"])).data, said.append)
    assert [example.where for example in held_out] == [f"other.csv line {number}" for number in (2, 3, 4)]
    assert len(train) == 7 and said == ["3 training rows dropped (their prompt is in the held-out data)"]


def test_rows_that_cannot_be_used_are_named_and_not_quoted(own: list[str], home: Path) -> None:
    def refused(*more: str) -> str:
        with pytest.raises(UserError) as caught:
            load_split(check(compose([*own, *more])).data, print)
        assert "sleep" not in str(caught.value)
        return str(caught.value)

    (home / "table.csv").write_text("client;good\nI can't sleep.;Since when?\n")
    assert refused().startswith("table.csv line 2: has no rejected; a preference row needs")
    (home / "table.csv").write_bytes("client;good;bad\ncaf\u00e9;a;b\n".encode("latin-1"))
    assert refused().endswith("table.csv: cannot be read (is not UTF-8 text)")
    module = home / f"own_bare_{home.name}.py"
    module.write_text(_CODE.replace("yield where, {", "yield {"))
    write_table(home / "table.csv")
    assert "Answers.rows returned dict of 3; it must return pairs of a row's place and the row" in refused(
        f"data._target_={module.stem}.Answers"
    )


def test_tokenised_data_are_kept_only_while_nothing_that_is_declared_changes(own: list[str], home: Path) -> None:
    chat = ChatFormat(AutoTokenizer.from_pretrained(TINY), {}, "tiny")

    def made(*more: str) -> tuple[list[str], int]:
        found = build_dataset(check(compose([*own, *more])), chat, "pairs", str)
        return [group.completions[0].text for group in found.train], len(list(home.glob("cache/tokenised/*.groups")))

    texts, entries = made()
    assert (made(), entries) == ((texts, 1), 1), "the second comes from the cache"
    write_table(home / "table.csv", good="Tell me more.")
    changed, entries = made()
    assert entries == 2 and changed != texts and all("Tell me more." in text for text in changed)
    code = home / f"own_{home.name}.py"
    code.write_text(_CODE + "\n# read otherwise\n")
    assert made()[1] == 3
    assert made("data.too_long=shorten")[1] == 4
    undeclared = home / f"own_undeclared_{home.name}.py"
    undeclared.write_text(_CODE.replace("def files", "def unused"))
    for good in ("Since when?", "And then?"):
        write_table(home / "table.csv", good=good)
        texts, entries = made(f"data._target_={undeclared.stem}.Answers")
        assert entries == 4 and all(good in text for text in texts)


def test_an_entry_is_as_private_as_the_files_it_was_made_of(own: list[str], home: Path) -> None:
    (home / "table.csv").chmod(0o600)
    build_dataset(check(compose(own)), ChatFormat(AutoTokenizer.from_pretrained(TINY), {}, "tiny"), "pairs", str)
    (entry,) = home.glob("cache/tokenised/*.groups")
    assert entry.stat().st_mode & 0o777 == 0o600
