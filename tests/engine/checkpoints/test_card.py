"""The card's licence is the strictest licence of the model's sources, in terms that the hub accepts."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants
from omegaconf import DictConfig, OmegaConf

from psychocounsel.data import licences
from psychocounsel.data.licences import strictest
from psychocounsel.engine.checkpoints.model_folder import model_card, model_licence
from tests.support.composed import check, compose
from tests.support.harness import TINY
from tests.support.hub_server import pairs

# Values of `license` that the hub accepts in addition to `other`, as far as cards here use them (huggingface_hub issue
# 4218).
HUB = {
    *("apache-2.0", "mit", "openrail", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"),
    *("cc-by-nc-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "gpl-3.0", "odc-by", "unlicense"),
    *("llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "gemma"),
}


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (["mit"], "mit"),
        (["mit", "apache-2.0"], "apache-2.0"),  # equally strict; the order does not matter
        (["apache-2.0", "mit"], "apache-2.0"),
        (["apache-2.0", "cc-by-nc-4.0"], "cc-by-nc-4.0"),
        (["llama3.1", "cc-by-nc-4.0"], "cc-by-nc-4.0"),
        (["llama3.1", "apache-2.0"], "llama3.1"),
        (["cc-by-sa-4.0", "llama3.2", "mit"], "llama3.2"),
        (["gpl-3.0", "gpl-3.0", "mit"], "gpl-3.0"),
        (["llama3", "gemma"], "other"),  # neither includes the other
        (["cc-by-nc-4.0", "cc-by-nc-sa-4.0"], "other"),
        (["mit", None], "other"),
        ([None], "other"),
        (["cc-by-nc-4.0", "my-license-1.0"], "other"),
    ],
)
def test_strictest_licence_wins(licences: list[str | None], expected: str) -> None:
    assert strictest(licences) == strictest(licences[::-1]) == expected


def test_every_licence_that_a_card_names_is_one_of_the_hub() -> None:
    assert set().union(*licences._LICENCES) <= HUB


def model(path: Path | str, **more: Any) -> DictConfig:
    return OmegaConf.create({"path": str(path), "revision": None, "license": None, **more})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: llama3.1\n---\n# Base\n", "llama3.1"),
        ("\ufeff---\r\ntags: [chat]\r\nlicense: mit\r\n---\r\n# Base\r\n", "mit"),
        ("---\nlicense: MIT\n---\n", "mit"),
        ("---\nlicense: other\nlicense_name: qwen-research\n---\n", "qwen-research"),
        ("---\nlicense: other\nlicense_name: 2.0\n---\n", "2.0"),
        ("---\nlicense: other\nlicense_name: Our Own, 2nd edition\n---\n", "our-own-2nd-edition"),
        ("---\nlicense: other\n---\n", None),
        ("---\nlicense: [mit]\n---\n", "mit"),
        ("---\nlicense: [mit, llama3]\n---\n", "llama3-and-mit"),
        ("---\nlicense: []\n---\n", None),
        ("---\nlicense:\n---\n", None),
        ("---\nlicense: mit\ndate: 2024-13-45\n---\n", None),  # YAML checks dates
        ("---\nlicense: [mit\n---\n", None),
        ("---\n- mit\n---\n", None),
        ("---\n", None),
        ("", None),
        ("# Base\n\nOf another model:\n\n---\nlicense: mit\n---\n", None),
    ],
)
def test_licence_of_a_local_model_is_that_of_its_own_card(text: str, expected: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(text.encode())
    assert model_licence(model(tmp_path)) == expected
    assert model_licence(model(tmp_path, license="Apache-2.0")) == "apache-2.0", "the user's setting has priority"


def test_licence_of_what_is_not_there_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_bytes(b"---\nlicense: mit\nauthor: M\xfcller\n---\n")  # Latin-1
    assert model_licence(model(tmp_path)) == "mit"
    assert model_licence(model(TINY)) is None
    assert model_licence(model(tmp_path / "gone" / "since")) is None
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert model_licence(model("acme/chat")) is None


def test_licence_of_a_hub_model_is_that_of_its_card_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commits = {"a" * 40: "llama3", "b" * 40: "gemma"}
    for commit, licence in commits.items():
        folder = tmp_path / "models--acme--chat" / "snapshots" / commit
        folder.mkdir(parents=True)
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    (tmp_path / "models--acme--chat" / "refs").mkdir()
    (tmp_path / "models--acme--chat" / "refs" / "main").write_text("a" * 40)
    assert model_licence(model("acme/chat")) == "llama3"
    assert model_licence(model("acme/chat", revision="b" * 40)) == "gemma"


def front_matter(text: str) -> dict[str, Any]:
    loaded = yaml.safe_load(text.split("---\n")[1])
    assert loaded["license"] in HUB or (loaded["license"] == "other" and loaded["license_name"])
    return dict(loaded)


def test_hub_ids_are_named_and_folders_are_not(tmp_path: Path) -> None:
    for folder in ("ann", "bob"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.jsonl").write_bytes(pairs("I can't sleep.")["data/train.jsonl"])
    entries = [
        "{name: psychocounsel, rows: 5}",
        "{path: Psychotherapy-LLM/PsychoCounsel-Preference, split: test, rows: 5}",
        f"{{path: {tmp_path}/ann/train.jsonl, license: gemma, rows: 5}}",
        f"{{path: {tmp_path}/bob/train.jsonl, license: My Own, rows: 5}}",
        "{name: sample, path: 'builtin:sample', rows: 5}",
    ]
    entries[0] = (
        "{name: psychocounsel, path: Psychotherapy-LLM/PsychoCounsel-Preference, license: cc-by-nc-4.0, rows: 5}"
    )
    config = check(compose(["model=llama3_1_8b", "model.lora.rank=8", f"data.mix=[{', '.join(entries)}]"]))
    text = model_card(config, {"step": 7})
    assert str(tmp_path) not in text and "ann" not in text.split() and "on Psychotherapy-LLM/" in text
    for line in ("psychocounsel: cc-by-nc-4.0", "train.jsonl: gemma", "train.jsonl: my-own"):
        assert f"- data {line}\n" in text, "two files with the same name have two licences"
    front = front_matter(text)
    assert front["base_model"] == "meta-llama/Llama-3.1-8B-Instruct" and front["library_name"] == "peft"
    assert front["datasets"] == ["Psychotherapy-LLM/PsychoCounsel-Preference"]
    assert front["license"] == "other"
    assert front["license_name"] == "cc-by-nc-4.0-and-gemma-and-llama3.1-and-my-own-and-unknown"


@pytest.mark.parametrize(
    ("overrides", "licence", "name"),
    [
        ([], "apache-2.0", None),
        (["data=psychocounsel"], "cc-by-nc-4.0", None),
        (["model=llama3_2_3b"], "llama3.2", None),
        (["model=qwen3_8b", "data=psychocounsel"], "cc-by-nc-4.0", None),
        (["data.license=Proprietary"], "other", "apache-2.0-and-proprietary"),
        (["model=local", "model.path=acme/chat"], "other", "apache-2.0-and-unknown"),
        (["model=local", "model.path=acme/chat", "model.license=mit"], "apache-2.0", None),
    ],
)
def test_licence_of_presets(overrides: list[str], licence: str, name: str | None) -> None:
    front = front_matter(model_card(check(compose(overrides)), {"step": 1, "eval/loss": 0.5}))
    assert (front["license"], front.get("license_name")) == (licence, name)
