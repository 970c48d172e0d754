"""Confidential texts are sent only to allowed hosts. A command that would send them elsewhere is refused in one line."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import DictConfig

from psychocounsel.errors import UserError
from psychocounsel.rollout.vllm_server import KEY_VARIABLE
from tests.support.composed import checked as composed_and_checked
from tests.support.reviewing import pairs_file

SECRET = ["data.confidential=true"]
GRPO = ["algo=grpo", "rollout.max_tokens=8"]
SERVED = ["algo=grpo", "reward.path=builtin:tiny_reward"]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv(KEY_VARIABLE, "key")
    monkeypatch.setenv("WANDB_BASE_URL", "https://track.example")


def checked(*overrides: str, name: str = "train") -> DictConfig:
    """Return the configuration after a command's checks."""
    return composed_and_checked(*overrides, name=name)


ENDPOINTS = {
    "a reward by servers": (
        [*SERVED, "reward=openrlhf_server", "reward.addresses=[http://127.0.0.1:1,http://Score.Example:2/x]"],
        "reward.addresses",
        ["127.0.0.1", "score.example"],
    ),
    "vLLM's classifier": ([*SERVED, "reward=vllm_server", "reward.addresses=['https://[::1]:8']"], "reward.addresses", ["::1"]),
    "a member of an ensemble": (
        [*GRPO, "reward=ensemble", "reward.members=[builtin:tiny_reward,{name: vllm_server, path: 'builtin:tiny_reward', "
         "addresses: ['http://far.example:8000']}]"],
        "reward.members[1].addresses",
        ["far.example"],
    ),
    "a rollout by servers": (
        [*GRPO, "rollout=vllm_server", "rollout.addresses=[http://node7:8000]"], "rollout.addresses", ["node7"]
    ),
    "a tracker with texts": (["tracker=wandb", "tracker.texts=true"], "tracker.texts", ["track.example"]),
}  # fmt: skip


@pytest.mark.parametrize(
    "address",
    ["ftp://me:s3cret@edit.example/v1", "http://me:s3cret@edit.example:lots/v1", "http://edit.example/v1?key=s3cret"],
)
def test_an_address_that_may_hold_a_secret_is_refused_and_not_shown(address: str) -> None:
    served = ["reward=openrlhf_server", "reward.path=builtin:tiny_reward"]
    given = [*served, f"reward.addresses=[http://127.0.0.1:1,'{address}']"]
    with pytest.raises(UserError, match=r"^reward.addresses: address 2 may hold a secret") as caught:
        checked(*given, name="evaluate")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ENDPOINTS)
def test_texts_go_to_allowed_hosts_alone(name: str) -> None:
    overrides, key, hosts = ENDPOINTS[name]
    checked(*overrides)  # the refusal must be about confidentiality
    with pytest.raises(UserError) as refusal:
        checked(*overrides, *SECRET)
    assert str(refusal.value).startswith(f"{key}: would send texts to {hosts[0]},")
    assert f"data.allowed_hosts=[{hosts[0]}]" in str(refusal.value).replace("'", "") and "\n" not in str(refusal.value)
    checked(*overrides, *SECRET, f"data.allowed_hosts={[*hosts]}".replace("'", '"'))
    with pytest.raises(UserError, match=hosts[-1]):
        checked(*overrides, *SECRET, f"data.allowed_hosts={['other.example', *hosts[:-1]]}".replace("'", '"'))


def test_an_evaluation_is_held_to_it_as_well() -> None:
    given = ["reward=openrlhf_server", "reward.path=builtin:tiny_reward", "reward.addresses=[http://far.example:1]"]
    with pytest.raises(UserError, match=r"^reward.addresses: would send texts to far.example"):
        checked(*given, *SECRET, name="evaluate")
    compared = (
        "compare=[tiny_2,{use: vllm_server, path: 'builtin:tiny_reward', addresses: ['http://far.example:8000']}]"
    )
    with pytest.raises(UserError, match=r"^compare\[1\].addresses: would send texts to far.example"):
        checked(compared, *SECRET, name="evaluate")
    checked(compared, *SECRET, "data.allowed_hosts=[far.example]", name="evaluate")


NEEDS_VLLM = [pytest.mark.slow, pytest.mark.skipif(find_spec("vllm") is None, reason="make test-slow installs vLLM")]
LOCAL = [
    [],
    GRPO,
    pytest.param([*GRPO, "rollout=vllm_server"], marks=NEEDS_VLLM),
    ["tracker=wandb"],
    ["tracker=tensorboard", "tracker.texts=true"],
]


@pytest.mark.parametrize("given", LOCAL)
def test_what_stays_on_the_machine_is_not_refused(given: list[str]) -> None:
    assert checked(*given, *SECRET).data.confidential


def test_a_proxy_on_the_way_must_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    given = [*SERVED, "reward=openrlhf_server", "reward.addresses=[http://near:1]", *SECRET]
    with pytest.raises(UserError, match=r"^reward.addresses: would send texts to the proxy HTTP_PROXY=proxy.example"):
        checked(*given, "data.allowed_hosts=[near]")
    checked(*given, "data.allowed_hosts=[near,proxy.example]")
    monkeypatch.setenv("NO_PROXY", "near")
    checked(*given, "data.allowed_hosts=[near]")


@pytest.mark.parametrize("host", ["http://a.example", "a.example:80", "a/b"])
def test_hosts_are_names_alone(host: str) -> None:
    with pytest.raises(UserError, match=r"^data.allowed_hosts: .*is not a host name; give only the name"):
        checked(*SECRET, f'data.allowed_hosts=["{host}"]')


def test_allowed_hosts_without_confidential_data_are_refused() -> None:
    with pytest.raises(UserError, match=r"add data.confidential=true"):
        checked("data.allowed_hosts=[a.example]")


def test_texts_for_no_tracker_are_refused() -> None:
    with pytest.raises(UserError, match=r"^tracker.texts=true: tracker=none sends nothing anywhere"):
        checked("tracker.texts=true")


def test_files_of_a_confidential_folder_are_confidential_without_the_key(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    rows, link = pairs_file(tmp_path / "set", 4), tmp_path / "link.jsonl"
    link.symlink_to(rows)
    settings = tmp_path / "set" / "config.yaml"
    settings.write_text("speeches: {confidential: true, allowed_hosts: [score.example]}\n")
    served = [*SERVED, "reward=openrlhf_server"]
    for data in (rows, link):
        with pytest.raises(
            UserError, match=r"^reward\.addresses: would send texts of .*set, which is confidential, to far\.example: "
        ):
            checked(*served, f"data.path={data}", "reward.addresses=[http://far.example:1]")
    checked(*served, f"data.path={rows}", "reward.addresses=[http://score.example:1]")
    settings.write_text("speeches: {confidential: [")
    with pytest.raises(UserError, match=r"config\.yaml cannot be read, so .* may be confidential"):
        checked(*served, f"data.path={rows}", "reward.addresses=[http://score.example:1]")
    checked(f"data.path={rows}")  # no text leaves the machine
    settings.write_text("host: !ENV HOST\n")  # another program's
    checked(*served, f"data.path={rows}", "reward.addresses=[http://score.example:1]")
    (tmp_path / "set" / "overrides.txt").write_text("speeches=local\n")  # a damaged one of ours
    with pytest.raises(UserError, match=r"config\.yaml cannot be read, so .* may be confidential"):
        checked(*served, f"data.path={rows}", "reward.addresses=[http://score.example:1]")
