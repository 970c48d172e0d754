"""`annotate` accepts files in place of a choice, and takes missing overrides from its directory."""

from dataclasses import fields
from pathlib import Path

import pytest

from psychocounsel.annotation.speeches.settings import SpeechSource
from psychocounsel.errors import UserError
from psychocounsel.steps.stored_overrides import OF_ONE_SOURCE, annotate_arguments, lasting, merged_overrides
from psychocounsel.storage.files import write_json
from tests.support.composed import compose

CHOICES = ["local", "sample"]


def arguments(*overrides: str) -> list[str]:
    return annotate_arguments([], overrides, CHOICES)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("one.jsonl", "it's two.parquet", "sample"):
        (tmp_path / name).touch()
    return tmp_path


def made_by(folder: Path, module: str, *overrides: str) -> None:
    folder.mkdir()
    write_json(folder / "job.json", {"module": module, "index": 0, "after": []})
    (folder / "overrides.txt").write_text("".join(f"{text}\n" for text in overrides))


def test_files_in_the_place_of_a_choice(here: Path) -> None:
    assert arguments("speeches=one.jsonl") == ["speeches=local", f"speeches.path='{here}/one.jsonl'"]
    several = arguments("""speeches=[one.jsonl,"it's two.parquet"]""")
    assert several == [
        "speeches=local",
        f"speeches.sources=[{{path:'{here}/one.jsonl'}},{{path:'{here}/it\\'s two.parquet'}}]",
    ]
    assert arguments("speeches=sample") == ["speeches=sample"], "a choice comes before a file of its name"
    assert arguments("speeches=./sample") == ["speeches=local", f"speeches.path='{here}/sample'"]
    with pytest.raises(UserError, match=r"speeches=two.jsonl: no such file"):
        arguments("speeches=two.jsonl")
    assert arguments("speeches=sampel") == ["speeches=sampel"], "Hydra names the choices"
    for place in ("speeches.sources=[{path: a.jsonl}]", "speeches.path=acme/pairs"):  # not with the sample's limit
        assert arguments(place, "out=new") == ["speeches=local", place, "out=new"]
        assert arguments("speeches=mine", place) == ["speeches=mine", place]


def test_a_directory_is_typed_again_with_what_changes(here: Path) -> None:
    stored = [
        "speeches=local",
        "speeches.path='/data/a.jsonl'",
        "annotator=openai",
        "annotator.model=x",
        "pairs.min_gap=1",
    ]
    made_by(here / "out", "psychocounsel.annotate", *stored)
    assert arguments("out=out") == [*stored, "out=out"]
    assert arguments("out=out", "pairs.min_gap=2")[-2:] == ["out=out", "pairs.min_gap=2"]
    assert "pairs.min_gap=1" not in arguments("out=out", "pairs.min_gap=2")
    other = arguments("out=out", "annotator=rules")
    assert "annotator.model=x" not in other and "annotator=openai" not in other
    same = arguments("out=out", "annotator=openai")
    assert "annotator.model=x" in same, "the same choice again keeps its keys"
    assert "speeches.path='/data/a.jsonl'" not in arguments("out=out", "speeches=one.jsonl")
    assert arguments("out=new", "pairs.min_gap=2") == ["out=new", "pairs.min_gap=2"]


def test_one_source_and_several_replace_each_other(here: Path) -> None:
    assert {field.name for field in fields(SpeechSource)} - {"name"} == {*OF_ONE_SOURCE}
    kept = "speeches.confidential=true"
    one = ["speeches=local", "speeches.path='/data/a.jsonl'", "speeches.license=mit", kept]
    made_by(here / "out", "psychocounsel.annotate", *one)
    several = arguments("out=out", "speeches=[one.jsonl,sample]")
    assert kept in several and not {"speeches.path='/data/a.jsonl'", "speeches.license=mit"} & {*several}
    made_by(here / "more", "psychocounsel.annotate", "speeches=local", "speeches.sources=[{path:/data/a.jsonl}]", kept)
    again = arguments("out=more", "speeches=one.jsonl")
    assert kept in again and not any(text.startswith("speeches.sources") for text in again)


def test_what_is_said_of_one_command_does_not_last() -> None:
    typed = ["steps=[pairs]", "dry_run=true", "remove=ids.txt", "out=x", "pairs.min_gap=2", "+writers.extra=1"]
    assert lasting(typed) == ["pairs.min_gap=2", "+writers.extra=1"]
    assert merged_overrides(["steps=[pairs]", "pairs.min_gap=1"], ["+pairs.min_gap=3"]) == ["+pairs.min_gap=3"]


def test_a_directory_may_be_used_from_another_folder(here: Path) -> None:
    """The stored paths are absolute, also those within lists and mappings; names of choices and of the hub stay."""
    sources = "speeches.sources=[{name:one,path:one.jsonl,license:mit},{path:org/name,limit:3,safe:true,topic:null}]"
    made = f"[{{name:'one',path:'{here}/one.jsonl',license:'mit'}},{{path:'org/name',limit:3,safe:true,topic:null}}]"
    assert arguments(sources) == ["speeches=local", f"speeches.sources={made}"]
    others = ["judge.members=[sample,./sample]", 'against="it\'s two.parquet"', "data.path=org/name", "limit=3"]
    escaped = f"against='{here}/it\\'s two.parquet'"
    assert lasting(others) == [f"judge.members=['sample','{here}/sample']", escaped, *others[2:]]
    typed = "compare=[{path:one.jsonl,use:local},tiny]"
    [stored] = lasting([typed])
    assert compose([stored], "evaluate").compare == [{"path": f"{here}/one.jsonl", "use": "local"}, "tiny"]


def test_refusals(here: Path) -> None:
    made_by(here / "run", "psychocounsel.train")
    with pytest.raises(UserError, match=r"out=run: holds a run of `psychocounsel train`; give another"):
        arguments("out=run")
    for text in ("run_dir=x", "sweep_dir=x"):
        with pytest.raises(UserError, match=f"{text}: name the directory of annotate by out=x"):
            arguments(text)
    with pytest.raises(UserError, match="one dataset per command"):
        annotate_arguments(["-m"], [], CHOICES)
    (here / "out").mkdir()
    (here / "out" / "job.json").write_text('{"module": "psychocounsel.annotate"}')
    (here / "out" / "overrides.txt").write_text("writers._target_=evil.Thing\n")
    (here / "out" / "overrides.txt").chmod(0o666)
    with pytest.raises(UserError, match="can be written by everyone"):
        arguments("out=out")


def test_the_papers_pairs_have_no_veto_and_its_gap() -> None:
    usual, paper = compose([], "annotate").pairs, compose(["pairs=paper"], "annotate").pairs
    assert (paper.min_gap, paper.safety_veto) == (1.0, False) and usual.safety_veto
    assert {key: value for key, value in paper.items() if usual[key] != value}.keys() == {"min_gap", "safety_veto"}


def test_another_choice_of_pairs_replaces_its_keys() -> None:
    assert merged_overrides(["pairs.min_gap=0.5", "seed=1"], ["pairs=paper"]) == ["seed=1", "pairs=paper"]
