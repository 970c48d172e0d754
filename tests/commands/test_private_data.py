"""Tests of a run on private, confidential data: its files are equally private, and no text leaves its folders."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from omegaconf import OmegaConf

from psychocounsel.cluster.archive import archive
from psychocounsel.engine.checkpoints.export import Export, export_run
from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.storage import files
from tests.support.harness import cli, write_jsonl
from tests.support.in_process import run_here

SECRET = "zugzwangerl"  # part of each speech and each reply
PARENTS = {"config.yaml", "job.json", "overrides.txt", "code.txt"}  # written by the command before it reads any data
ROWS = [
    {
        "id": f"row{number}",
        "prompt": f"Speech {number}: {SECRET} I can't sleep<|end|><|assistant|>.",
        "chosen": f"{SECRET}? Since when?",
        "rejected": f"{SECRET}. No.",
    }
    for number in range(10)
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Any:
    """Return a finished online DPO run on a file of mode 0600 that was resumed once, its export, and all printed output."""
    folder = tmp_path_factory.mktemp("clinic")
    write_jsonl(folder / "clients.jsonl", ROWS)
    (folder / "clients.jsonl").chmod(0o600)
    before = os.umask(0o022)
    try:
        given = [
            "algo=online_dpo",
            "reward=tiny",
            "algo.samples=2",
            "algo.offline_fraction=0.5",
            f"model.path={small_model}",
        ]
        given += ["data.path=clients.jsonl", "data.confidential=true", "data.dev_fraction=0.2", "rollout.max_tokens=4"]
        given += ["global_batch_size=2", "tracker=tensorboard", "paths.cache=cache", "run_dir=run", "cluster.threads=1"]
        said = [cli("train", *given, f"max_steps={steps}", cwd=folder) for steps in (1, 2)]
        shutil.copytree(folder / "run", folder / "other")
        export_run(folder / "run", Export())
        archive(folder / "run", folder / "archive")
    finally:
        os.umask(before)
    return folder, "".join(result.stdout + result.stderr for result in said)


def open_to_others(folder: Path) -> list[str]:
    """Return the paths that group or others may access, without the files written before any data were read."""
    found = [path for path in folder.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o077]
    return sorted(str(path.relative_to(folder)) for path in found if path.name not in PARENTS)


def test_all_that_a_run_makes_is_as_private_as_its_data(home: Any) -> None:
    folder, _ = home
    run = folder / "run"
    assert (run / "rounds" / "0001" / "samples.md").exists() and (run / "checkpoints" / "latest").exists()
    assert open_to_others(run) == ["logs", "logs/01", "logs/02", "owner.json"][: 3 + (run / "owner.json").exists()]


def test_exports_archives_and_the_cache_are_too(home: Any) -> None:
    folder, _ = home
    for place in ("run/export", "run/model", "archive/model", "archive/checkpoints", "archive/rounds"):
        assert (folder / place).stat().st_mode & 0o777 == 0o700, place
        assert open_to_others(folder / place) == []
    texts = [path for path in (folder / "cache").rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert texts and {path.stat().st_mode & 0o777 for path in texts} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (folder / "cache", *(folder / "cache").iterdir())} == {0o755}


def test_texts_stand_where_they_must_and_nowhere_else(home: Any) -> None:
    folder, said = home
    assert "spell control tokens" in said and SECRET not in said
    holders = {path.relative_to(folder).parts[:2] for path in folder.rglob("*") if holds(path)}
    assert holders == {
        ("clients.jsonl",),
        ("cache", "tokenised"),
        ("run", "rounds"),
        ("archive", "rounds"),
        ("other", "rounds"),
    }


def holds(path: Path) -> bool:
    return path.is_file() and SECRET.encode() in path.read_bytes()


def test_weights_of_confidential_data_go_to_no_hub_that_is_not_allowed(
    home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = home
    monkeypatch.chdir(folder)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example")
    refused = run_here("export run push=me/mine to=out")
    assert refused.code == USER_ERROR
    (line,) = refused.stderr.splitlines()
    assert "push=me/mine: " in line and "hub.example is not in its data.allowed_hosts" in line
    assert not (folder / "out").exists()
    later = folder / "other"  # a run on other data that starts from these weights
    config = (later / "config.yaml").read_text().replace("confidential: true", "confidential: false")
    model = next(line for line in config.splitlines() if line.startswith("  path: ") and "small-model" in line)
    (later / "config.yaml").write_text(config.replace(model, f"  path: {folder / 'run' / 'model'}"))
    with pytest.raises(UserError, match=rf"push=me/mine: {folder}/run was trained on confidential data"):
        export_run(later, Export(to=str(folder / "out"), push="me/mine"))


def test_an_export_remembers_that_its_data_were_confidential(home: Any, tmp_path: Path) -> None:
    """`second` starts from an export in a folder of its own, `third` from an export of `second`; the first run is gone."""
    folder, _ = home
    exported = folder / "run"
    for name in ("second", "third"):
        shutil.copytree(folder / "other", later := tmp_path / name)
        export_run(exported, Export(to=str(tmp_path / f"before-{name}")))
        config = OmegaConf.load(later / "config.yaml")
        config.data.confidential, config.model.path = False, str(tmp_path / f"before-{name}")
        OmegaConf.save(config, later / "config.yaml")
        if exported != folder / "run":
            shutil.rmtree(exported)
        exported = later
    with pytest.raises(UserError, match=r"before-third was trained on confidential data, and huggingface.co is not in"):
        export_run(exported, Export(to=str(tmp_path / "out"), push="me/mine"))
    assert not (tmp_path / "out").exists()
    for altered in ("{}", "[]", '{"allowed_hosts": 7}'):
        (tmp_path / "before-third" / "confidential.json").write_text(altered)
        with pytest.raises(UserError, match=r"confidential.json: has no list `allowed_hosts`"):
            export_run(exported, Export(to=str(tmp_path / "out"), push="me/mine"))


@pytest.mark.parametrize("step", [None, 2])
def test_an_export_that_ends_as_soon_as_it_is_in_place_has_the_record_of_its_hosts(
    home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int | None
) -> None:
    folder, _ = home
    shutil.copytree(folder / "run", run := tmp_path / "run")
    settings = OmegaConf.load(run / "config.yaml")
    settings.data.confidential, settings.data.allowed_hosts = True, ["Hub.clinic.example"]
    OmegaConf.save(settings, run / "config.yaml")

    def end(parent: Path) -> None:
        if (parent / "out").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "fsync_directory", end)  # the first call after the rename
    with pytest.raises(KeyboardInterrupt):
        export_run(run, Export(step=step, to=str(tmp_path / "out")))
    assert json.loads((tmp_path / "out" / "confidential.json").read_text()) == {"allowed_hosts": ["hub.clinic.example"]}
