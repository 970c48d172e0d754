"""The real model of `make smollm2`, which `make test-slow` calls; tests skip if the package index lacks its file."""

from pathlib import Path

import pytest

from tests.support.harness import ROOT


def smollm2() -> Path:
    """Return the folder of SmolLM2-135M-Instruct; skip the test if `make smollm2` has not written it."""
    folder = ROOT / "models" / "smollm2-135m"
    if not folder.is_dir():
        pytest.skip("models/smollm2-135m is missing: `make smollm2` could not download it from the package index")
    return folder
