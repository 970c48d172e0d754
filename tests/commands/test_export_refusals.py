"""Tests of refused and interrupted exports: existing files stay."""

import os
import pickle
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.export import main as export
from tests.support.export_runs import content, copy_of
from tests.support.harness import TINY, cli, small_lm

pytestmark = pytest.mark.usefixtures("own_environment")


@pytest.mark.parametrize(("owner", "function", "call"), [(os, "fsync", 1), (Path, "rename", 1), (Path, "rename", 2)])
def test_killed_export_leaves_the_old_one(
    owner: Any, function: str, call: int, policy_run: Path, tmp_path: Path
) -> None:
    """An export is killed while it writes, before it moves the old export aside, and before it renames the new one."""
    run = copy_of(policy_run, tmp_path / "run", "checkpoints")
    export([str(run)])
    old = content(run / "export")
    (run / "model" / "vocab.txt").write_text("a better model")
    child = os.fork()
    if child == 0:
        calls, original = [0], getattr(owner, function)

        def killed(*arguments: Any) -> Any:
            calls[0] += 1
            if calls[0] == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)

        setattr(owner, function, killed)
        try:
            export([str(run)])
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    if call == 1:
        assert content(run / "export") == old
    with pytest.raises(UserError, match="no complete checkpoint"):
        export([str(run), "step=9"])  # any next export puts the old one back
    assert content(run / "export") == old
    export([str(run)])
    assert content(run / "export") == old | {"vocab.txt": b"a better model"}
    assert not list(run.glob(".*")), "temporary folders are removed"


def test_what_does_not_end_well_is_one_line(policy_run: Path, tmp_path: Path) -> None:
    result = cli("export", str(policy_run), "step=7", cwd=tmp_path, check_code=USER_ERROR)
    assert result.stderr.splitlines()[-1] == (
        f"error: step=7: {policy_run} has no complete checkpoint of this step, only of: 1, 2, 3, 4 "
        "(checkpoint.keep_last keeps more)"
    )
    assert "Traceback" not in result.stderr and not result.stdout
    (tmp_path / "file").touch()
    result = cli("export", "file", cwd=tmp_path, check_code=USER_ERROR)
    assert result.stderr == "error: file/job.json: Not a directory\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one run directory"),
        (["RUN", "RUN"], "give one run directory"),
        (["RUN", "stepp=2"], "unknown key stepp: the keys are step, merge, to, push, public"),
        (["RUN", "step=last"], "step=last: give the number of a checkpoint"),
        (["RUN", "step=-1"], "give the number of a checkpoint"),
        (["RUN", "step=²"], "give the number of a checkpoint"),
        (["RUN", "merge=yes"], "merge=yes: give true or false"),
        (["RUN", "public=1", "push=me/mine"], "public=1: give true or false"),
        (["RUN", "public=true"], "add push=ORG/NAME"),
        (["RUN", "push=mine"], "push=mine: give ORG/NAME"),
        (["RUN", "push=https://huggingface.co/me/mine"], "give ORG/NAME"),
        (["RUN", "merge=true"], "has no adapter to merge, because all weights were trained; leave out merge=true"),
        (["RUN", "to=RUN"], "lies in the run RUN; give a folder outside of it"),
        (["RUN", "to=RUN/model"], "lies in the run RUN"),
        (["RUN", "to=RUN/export/../model"], "lies in the run RUN"),
        (["RUN", "to=RUN/checkpoints"], "lies in the run RUN"),
        (["RUN", "to=RUN/mine"], "lies in the run RUN"),
        (["RUN", "to=RUN/export/mine"], "lies in the run RUN"),
        (["RUN", "to=OTHER/model"], "lies in the run OTHER"),
        (["RUN", "to=OTHER/export"], "lies in the run OTHER"),
        (["RUN", "to=HERE/link"], "lies in the run OTHER"),
        (["RUN", "to=HERE"], "holds other files than an export, such as 'export'; give a new or empty folder"),
        (["RUN", "to=HERE/export"], "holds other files than an export, such as 'a run'; give a new or empty folder"),
        (["RUN", "to=HERE/export/a run"], "holds other files than an export; give a new or empty folder"),
        (["RUN", "to=HERE/file"], "is a file; give a folder"),
        (["HERE"], "is not a run directory"),
        (["HERE/nothing"], "is not a run directory"),
        (["OTHER"], "has no model yet"),
        (["OTHER", "step=1"], "only of: none"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    arguments: list[str], message: str, policy_run: Path, tmp_path: Path
) -> None:
    other = copy_of(policy_run, tmp_path / "other", "checkpoints", "model")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(other)
    (tmp_path / "export" / "a run").mkdir(parents=True)  # whoever replaces the folder would delete the run
    for name in ("export/psychocounsel.json", "export/a run/config.json"):
        (tmp_path / name).write_text("{}")
    before = content(tmp_path), content(policy_run)
    names = {"RUN": policy_run, "OTHER": other, "HERE": tmp_path}
    for name, path in names.items():
        arguments = [text.replace(name, str(path)) for text in arguments]
        message = message.replace(f"run {name}", f"run {path}")
    with pytest.raises(UserError) as refusal:
        export(arguments)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)
    assert (content(tmp_path), content(policy_run)) == before


PICKLE = pickle.dumps({"a": "weight"})


@pytest.mark.parametrize(
    ("name", "content_of_it", "message"),
    [
        ("model.safetensors", PICKLE, "model.safetensors: is not a safetensors file"),
        ("model.safetensors", b"", "model.safetensors: is not a safetensors file"),
        ("adapter_model.safetensors", PICKLE, "adapter_model.safetensors: is not a safetensors file"),
        ("model-00001-of-00002.safetensors", PICKLE, "of-00002.safetensors: is not a safetensors file"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "b.safetensors"}}', "b.safetensors: is missing"),
        ("config.json", PICKLE, "config.json: is not valid JSON"),
        ("tokenizer.json", b"[]", "tokenizer.json: holds a list instead of a mapping"),
        ("vocab.txt", PICKLE, "vocab.txt: is not UTF-8 text"),
        ("chat_template.jinja", PICKLE, "chat_template.jinja: is not UTF-8 text"),
        ("tokenizer.model", PICKLE, "tokenizer.model: is not UTF-8 text"),
        ("merges.txt", Path("file"), "merges.txt: is a link or a folder"),
        ("config.json", Path("file"), "config.json: is a link or a folder"),
        ("vocab.txt", Path("nowhere"), "vocab.txt: is a link or a folder"),
    ],
)
def test_a_file_of_the_model_with_other_content_than_its_name_says_is_refused(
    name: str, content_of_it: bytes | Path, message: str, policy_run: Path, tmp_path: Path
) -> None:
    run = copy_of(policy_run, tmp_path / "run", "checkpoints")
    (tmp_path / "file").write_text("{}")
    file = run / "model" / name
    file.unlink(missing_ok=True)
    if isinstance(content_of_it, Path):
        file.symlink_to(tmp_path / content_of_it)
    else:
        file.write_bytes(content_of_it)
    before = content(tmp_path)
    with pytest.raises(UserError) as refusal:
        export([str(run), f"to={tmp_path / 'out'}"])
    assert message in str(refusal.value) and "\n" not in str(refusal.value)
    assert content(tmp_path) == before


def test_only_files_that_training_writes_are_exported(
    policy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(policy_run, tmp_path / "run", "checkpoints")
    for name in (
        "evil.py",
        "modeling_evil.py",
        "pytorch_model.bin",
        "model.safetensors.py",
        "training_args.json",
        ".env",
    ):
        (run / "model" / name).write_bytes(PICKLE)
    (run / "model" / "more").mkdir()
    (run / "model" / "more" / "config.json").write_text("{}")
    export([str(run), f"to={tmp_path / 'out'}"])
    assert content(tmp_path / "out") == content(policy_run / "model")
    assert "left out '.env', 'evil.py', 'model.safetensors.py', 'modeling_evil.py', 'more', 'pytorch_model.bin'," in (
        capsys.readouterr().out
    )


def test_empty_folder_is_filled_wherever_it_is(
    policy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("here")
    export([str(policy_run), f"to={tmp_path / 'link'}"])
    assert content(tmp_path / "here") == content(policy_run / "model") and (tmp_path / "link").is_symlink()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    export([str(policy_run), "to=."])
    assert content(tmp_path / "there") == content(policy_run / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "link", "there"]


def test_weights_that_no_longer_fit_their_base_are_refused(policy_run: Path, adapter_run: Path, tmp_path: Path) -> None:
    def with_base(run: Path, base: Path) -> str:
        moved = copy_of(run, tmp_path / f"{run.name}-{base.name}")
        config = (moved / "config.yaml").read_text().replace(str(run.parent / "base"), str(base))
        (moved / "config.yaml").write_text(config)
        return str(moved)

    shutil.copytree(policy_run.parent / "base", tmp_path / "other")
    wider = len(AutoTokenizer.from_pretrained(TINY)) + 1
    small_lm(seed=1, vocab_size=wider, tie_word_embeddings=True).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=r"/other: changed since .* so the adapter no longer fits"):
        export([with_base(adapter_run, tmp_path / "other"), "merge=true"])
    shutil.rmtree(tmp_path / "other")
    shutil.copytree(policy_run.parent / "base", tmp_path / "other")
    small_lm(intermediate_size=32, vocab_size=wider, tie_word_embeddings=True).save_pretrained(tmp_path / "other")
    with pytest.raises(
        UserError, match=r"do not fit .*/other \(size mismatch .* did this model change since"
    ) as refusal:
        export([with_base(policy_run, tmp_path / "other"), "step=1"])
    assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="gone: its tokenizer cannot be loaded"):
        export([with_base(policy_run, tmp_path / "gone"), "step=1"])
    export([str(tmp_path / "policy-gone")])
    assert "license: other\nlicense_name: apache-2.0-and-unknown" in (
        (tmp_path / "policy-gone" / "export" / "README.md").read_text()
    )


def test_best_model_of_a_run_that_goes_on_is_of_one_step(
    policy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(policy_run, tmp_path / "run", "checkpoints")
    (run / "model" / "vocab.txt").write_text("of the old model")
    shutil.copytree(policy_run / "model", run / "next")
    copy, swapped = shutil.copy2, list[str]()

    def copy_while_training(source: Path, target: Path) -> None:
        copy(source, target)
        if not swapped:
            swapped.append("once")
            (run / "model").rename(run / "before")
            (run / "next").rename(run / "model")

    monkeypatch.setattr(shutil, "copy2", copy_while_training)
    export([str(run), f"to={tmp_path / 'out'}"])
    assert swapped and content(tmp_path / "out") == content(policy_run / "model")
