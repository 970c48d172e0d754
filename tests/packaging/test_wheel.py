"""Tests of the built wheel in an empty folder, and of hub ids that are loaded from an offline cache."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from psychocounsel.data.shipped_rows import sample_files
from psychocounsel.storage.files import read_json
from tests.support.doc_blocks import RUN
from tests.support.doc_runs import marked, run_marked
from tests.support.harness import ROOT, TINY, cli


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel, built from the repository's files."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignore = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", "tests", ".mypy_cache", ".ruff_cache")
    shutil.copytree(ROOT, source, ignore=ignore)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(source),
    ]
    subprocess.run(build, check=True, capture_output=True)
    shutil.rmtree(source)
    (found,) = folder.glob("psychocounsel-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder with nothing but the unpacked wheel."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheel.parent / "site")
    return wheel.parent / "site"


@pytest.fixture(scope="module")
def fresh_python(wheel: Path) -> Path:
    """The interpreter of a new environment with the wheel; what it depends on is found in the environment of the tests."""
    folder = wheel.parent / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python, below = folder / "bin" / "python", sysconfig.get_path("purelib")
    where = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    (Path(where.stdout.strip()) / "below.pth").write_text(f"import site; site.addsitedir({below!r})\n")
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    subprocess.run([*install, "--ignore-installed"], check=True, capture_output=True)
    return python


# Overrides that shorten the commands of the tutorial, which takes minutes as printed.
_LESS = {"train": " max_steps=4 eval.limit=8", "evaluate": " limit=8"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "less", [pytest.param(_LESS, id="shorter"), pytest.param({}, id="as_printed", marks=pytest.mark.proof)]
)
def test_wheel_in_a_fresh_environment_runs_the_tutorial(
    less: dict[str, str], fresh_python: Path, tmp_path: Path
) -> None:
    printed = (ROOT / "docs" / "tutorial.md").read_text()
    page = tmp_path / "tutorial.md"
    command = r"(?m)^psychocounsel (train|evaluate) .*$"
    page.write_text(re.sub(command, lambda line: line[0] + less.get(line[1], ""), printed))
    assert len(marked(page)) == printed.count(RUN) > 5
    environment = {"PYTHONPATH": "", "PSYCHOCOUNSEL_CACHE": str(tmp_path / "cache")}
    run_marked(page, tmp_path, fresh_python, **environment)
    where = [str(fresh_python), "-c", "import psychocounsel; print(psychocounsel.__file__)"]
    found = subprocess.run(
        where, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith(str(fresh_python.parents[1]))


@pytest.mark.slow
def test_wheel_holds_configurations_studies_templates_model_sample_and_rubric(installed: Path) -> None:
    package = installed / "psychocounsel"
    for name in ("conf", "launch", "slurm"):
        files = {path.relative_to(ROOT / name) for path in (ROOT / name).rglob("*") if path.is_file()}
        assert files == {path.relative_to(package / "share" / name) for path in (package / "share" / name).rglob("*.*")}
    weights = sorted((package / "model" / "shipped").glob("*/model.safetensors"))
    assert [file.parent.name for file in weights] == ["tiny", "tiny_dpo", "tiny_reward", "tiny_reward_2"]
    assert all(file.stat().st_size < 8e6 for file in weights)
    assert len(list((package / "data" / "sample").rglob("*.yaml"))) == len(sample_files()) == 17
    rubric = {path.name for path in (package / "counsel" / "principles" / "en").iterdir()}
    assert rubric == {path.name for path in (ROOT / "psychocounsel" / "counsel" / "principles" / "en").iterdir()}
    for room in ("annotation", "counsel", "data", "evaluation"):  # words, cues, topics, the sample and scripted clients
        kept = {path.relative_to(ROOT / "psychocounsel") for path in (ROOT / "psychocounsel" / room).rglob("*.yaml")}
        assert kept and all((package / path).is_file() for path in kept)
    tops = {path.name for path in installed.iterdir()}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"psychocounsel"}


@pytest.mark.slow
def test_wheel_trains_and_sweeps_from_an_empty_folder(installed: Path, small_model: Path, tmp_path: Path) -> None:
    where = "import psychocounsel; print(psychocounsel.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment(installed),
        check=True,
    )
    assert found.stdout.startswith(str(installed))
    result = cli("train", "debug=fast", f"model.path={small_model}", cwd=tmp_path, cold=True, PYTHONPATH=str(installed))
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert read_json(run_dir / "summary.json")["status"] == "finished"
    assert f"runs/{run_dir.name}" in result.stderr, "printed paths are relative to the working directory"
    assert (run_dir / "code.txt").read_text() == "psychocounsel 0.1.0\n", "no commit is recorded outside a checkout"
    cli("train", "-m", "seed=1,2", "dry_run=true", cwd=tmp_path, cold=True, PYTHONPATH=str(installed))


def environment(installed: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(installed)}


@pytest.mark.slow
def test_hub_id_is_loaded_from_the_offline_cache_and_pinned(tmp_path: Path) -> None:
    """A job on a node without network loads a model that was downloaded earlier by its hub id."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(TINY, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    base = ["debug=fast", "model=local", "model.path=someone/tiny", "algo.lr=1e-4", "max_steps=1"]
    hub = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    cli("train", *base, "run_dir=run", cwd=tmp_path, **hub)
    assert read_json(tmp_path / "run" / "environment.json")["weights"] == f"someone/tiny@{commit}"
    other = cli("train", *base, f"model.revision={'f' * 40}", "run_dir=other", cwd=tmp_path, check_code=2, **hub)
    assert "model.path=someone/tiny: its tokenizer cannot be loaded" in other.stderr
