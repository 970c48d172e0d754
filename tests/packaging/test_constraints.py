"""Versions are pinned and files have hashes; the index resolves a CUDA installation by the packages' metadata."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.harness import ROOT

FILES = [ROOT / "constraints.txt", ROOT / "constraints-vllm-cuda.txt"]
HASHES = {line.split()[0]: set(line.split()[1:]) for line in (ROOT / "hashes.txt").read_text().splitlines()}
_CPU_BUILDS = ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT")  # may offer or demand builds for CPU
_LOST = re.compile(
    r"Connection|Timeout|IncompleteRead|ProtocolError|SSLError|HTTP error 5"
)  # errors of the network, not of versions


def pip(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in _CPU_BUILDS}
    command = [sys.executable, "-m", "pip", "--no-input", *map(str, arguments)]
    return subprocess.run(
        command, env={**kept, "PIP_CONFIG_FILE": os.devnull, **environment}, capture_output=True, text=True
    )


def test_every_pinned_or_required_package_has_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [
        *project["dependencies"],
        *(line for lines in project["optional-dependencies"].values() for line in lines),
    ]
    names = {_plain(re.split(r"[\[<=>]", line)[0]) for line in required} - {"psychocounsel"}
    for file in ROOT.glob("constraints*.txt"):
        names |= _pins(file)
    assert sorted(names - HASHES.keys()) == [], "make lock writes hashes.txt"


@pytest.mark.slow
def test_every_package_of_a_cuda_installation_is_pinned(tmp_path: Path) -> None:
    # Older ones download whole packages, several gigabytes, even for a dry run.
    newest = pip("install", "-q", "--retries=1", "--target", tmp_path / "pip", "pip>=26")
    if newest.returncode:
        pytest.skip(f"the package index cannot be reached: {newest.stderr.strip().splitlines()[-1]}")
    options = ["--dry-run", "--ignore-installed", "--use-feature=fast-deps", "--report", tmp_path / "report.json"]
    options += [option for file in FILES for option in ("-c", file)]
    done = pip("install", "-q", *options, f"{ROOT}[gpu,wandb,vllm,liger]", PYTHONPATH=str(tmp_path / "pip"))
    if _LOST.search(done.stderr):
        pytest.skip(f"the package index does not answer: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    packages = json.loads((tmp_path / "report.json").read_text())["install"]
    versions = {_plain(package["metadata"]["name"]): package["metadata"]["version"] for package in packages}
    assert sorted(versions.keys() - set.union(*map(_pins, FILES))) == ["psychocounsel"]
    files = {_plain(package["metadata"]["name"]): package["download_info"].get("archive_info") for package in packages}
    unknown = [
        name for name, file in files.items() if file and f"--hash=sha256:{file['hashes']['sha256']}" not in HASHES[name]
    ]
    assert unknown == [], "make lock writes hashes.txt"
    assert versions["cuda-toolkit"].startswith("13.0."), "docs/install.md names the driver that torch's build needs"


def _pins(file: Path) -> set[str]:
    return {_plain(re.split("[=<]=", line)[0]) for line in file.read_text().splitlines() if not line.startswith("#")}


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
