"""Tests of pushing exports to a hub: private by default, complete, and refused with one line."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from psychocounsel.engine.checkpoints.publish import push
from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.export import main as export
from tests.support.export_runs import best_step, content
from tests.support.harness import cli
from tests.support.hub_http import Handler, Refusal
from tests.support.hub_server import Hub
from tests.support.in_process import run_here

pytestmark = pytest.mark.usefixtures("own_environment")


def address(hub: Hub) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name, value in {"ENDPOINT": url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
        monkeypatch.setattr(constants, name, value)


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Yield a running hub that this process also uses. No user is logged in."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    running = Hub(tmp_path / "hub")
    running.start()
    use_endpoint(monkeypatch, running.url)
    yield running
    running.stop()


@pytest.mark.slow
def test_best_model_goes_to_a_private_repository_with_its_card(policy_run: Path, tmp_path: Path, online: Hub) -> None:
    result = cli(
        "export", str(policy_run), "to=out", "push=me/mine", cwd=tmp_path, HF_TOKEN="hf_good", **address(online)
    )
    best = best_step(policy_run)
    assert f"out: the weights of step {best}" in result.stdout
    assert f"pushed to {online.url}/me/mine (private)" in result.stdout
    exported = content(tmp_path / "out")
    assert exported == content(policy_run / "model")
    pushed = online.repos["models/me/mine"]
    assert pushed.private
    assert {name: data for name, data in pushed.files("main").items() if name != ".gitattributes"} == exported
    assert {path.name for path in tmp_path.iterdir()} == {"out", "hub"}, "no incomplete files stay"


def refused_push(run: Path, *arguments: str) -> str:
    with pytest.raises(UserError) as refusal:
        export([str(run), *arguments])
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_public_only_where_both_sides_say_so(
    policy_run: Path, tmp_path: Path, online: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    to = f"to={tmp_path / 'out'}"
    export([str(policy_run), to, "push=me/shown", "public=true"])
    shown = online.repos["models/me/shown"]
    assert not shown.private and f"pushed to {online.url}/me/shown (public)" in capsys.readouterr().out
    commit = shown.refs["main"]
    assert "exists and is public; add public=true" in refused_push(policy_run, to, "push=me/shown")
    export([str(policy_run), to, "push=me/hidden"])
    hidden = online.repos["models/me/hidden"]
    assert "exists and is private" in refused_push(policy_run, to, "push=me/hidden", "public=true")
    assert hidden.private and shown.refs["main"] == commit and len(hidden.commits) == 2


def test_second_push_leaves_no_weights_of_the_first(
    policy_run: Path, tmp_path: Path, online: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old weight files in the repository are deleted, because they would be loaded in place of the new model."""
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    left = ["adapter_config.json", "adapter_model.safetensors", "model-00001-of-00002.safetensors"]
    mine = {"LICENSE": b"mine", ".gitattributes": b"*.safetensors filter=lfs\n"}
    old = dict.fromkeys([*left, "model.safetensors.index.json", "README.md"], b"old")
    online.commit("models/me/mine", old | mine)
    online.repos["models/me/mine"].private = True
    export([str(policy_run), f"to={tmp_path / 'out'}", "push=me/mine"])
    assert online.repos["models/me/mine"].files("main") == content(tmp_path / "out") | mine


def test_the_hosts_allowed_for_confidential_data_are_not_uploaded(
    policy_run: Path, tmp_path: Path, online: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    shutil.copytree(policy_run / "model", out := tmp_path / "out")
    (out / "confidential.json").write_text('{"allowed_hosts": ["hub.clinic.example"]}')
    push(out, "me/mine", public=False)
    assert {"README.md", "model.safetensors"} <= (names := set(online.repos["models/me/mine"].files("main")))
    assert "confidential.json" not in names


@pytest.mark.slow
def test_adapter_on_a_base_that_nobody_else_has_is_not_pushed(
    adapter_run: Path, tmp_path: Path, online: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    line = refused_push(adapter_run, f"to={tmp_path / 'out'}", "push=me/mine")
    assert "refers to its base by a path on this machine" in line and "add merge=true" in line
    assert not online.log
    shutil.copytree(adapter_run, run := tmp_path / "run")
    settings = json.loads((run / "model" / "adapter_config.json").read_text())
    (run / "model" / "adapter_config.json").write_text(
        json.dumps(settings | {"base_model_name_or_path": "acme/chat"})  # as if the base model came from the hub
    )
    export([str(run), "push=me/adapter"])
    assert "adapter_model.safetensors" in online.repos["models/me/adapter"].files("main")
    export([str(adapter_run), f"to={tmp_path / 'out'}", "merge=true", "push=me/mine"])
    assert "model.safetensors" in online.repos["models/me/mine"].files("main")


def test_push_without_the_right_token_is_one_line(
    policy_run: Path, tmp_path: Path, online: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_here(f"export {policy_run} to=out push=me/mine")
    assert result.code == USER_ERROR
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert line.startswith("error: push=me/mine: ") and line.endswith("`hf auth login`, or HF_TOKEN")
    assert "401" in line and "Traceback" not in result.stderr
    assert not online.repos and (tmp_path / "out" / "model.safetensors").exists()


def test_pushes_that_the_hub_does_not_take_are_one_line(
    policy_run: Path, tmp_path: Path, online: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = f"to={tmp_path / 'out'}"
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    assert "401" in refused_push(policy_run, to, "push=me/mine")
    assert "Repo id must" in refused_push(policy_run, to, "push=me/")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    with serving(_ReadOnly) as url:
        use_endpoint(monkeypatch, url)
        line = refused_push(policy_run, to, "push=me/mine")
        assert "403" in line and "a token that may write there" in line
    with serving(_Strict) as url:
        use_endpoint(monkeypatch, url)
        assert 'README.md. - "license" must be one of' in refused_push(policy_run, to, "push=me/mine")
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    assert "push=me/mine: " in (line := refused_push(policy_run, to, "push=me/mine")) and "token" not in line
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "offline mode is enabled" in refused_push(policy_run, to, "push=me/mine")


class serving:
    """Serve answers of `handler` until the block ends, and yield the server's address."""

    def __init__(self, handler: type[Handler]) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class _ReadOnly(Handler):
    """Hub that accepts the token but gives it no right to write."""

    def refuse(self) -> None:
        raise Refusal(403, "")


class _Strict(Handler):
    """Hub that rejects every licence."""

    def create(self) -> None:
        self.answer_json({"url": "http://127.0.0.1/me/mine", "name": "me/mine"})

    def info(self) -> None:
        self.answer_json({"_id": "0", "id": "me/mine", "private": True, "tags": [], "siblings": []})

    def tree(self) -> None:
        self.answer_json([])

    def validate(self) -> None:
        self.answer_json({"errors": [{"message": '"license" must be one of [mit]'}], "warnings": []}, 400)


_ReadOnly.routes = [(r".*", _ReadOnly.refuse)]
_Strict.routes = [
    (r"POST /api/repos/create", _Strict.create),
    (r"GET /api/models/me/mine", _Strict.info),
    (r"GET /api/models/me/mine/tree/main", _Strict.tree),
    (r"POST /api/validate-yaml", _Strict.validate),
]
