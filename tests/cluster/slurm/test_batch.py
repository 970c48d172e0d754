"""Requests to SLURM, tested without SLURM: times, refusals, the batch script, verdicts on attempts, copies of code."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.cluster.job import Job
from psychocounsel.cluster.slurm import allocation, attempt, queue, server_node
from psychocounsel.cluster.slurm.array_request import arrays
from psychocounsel.cluster.slurm.request import SlurmRequest, megabytes_of, parse_slurm_time, seconds_of, slurm_time
from psychocounsel.cluster.slurm.script import directives, render
from psychocounsel.errors import UserError
from psychocounsel.remote import server_access
from psychocounsel.rundir import submissions
from psychocounsel.rundir.run import attempts, ended_servers
from psychocounsel.settings.command import command_of
from tests.support.composed import check, compose

# -- times and sizes


SERVERS = ("cluster.servers.command=[x]", "cluster.servers.per_node=3")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("24h", 86400), ("90m", 5400), ("1.5h", 5400), ("2d", 172800), ("1-12:00:00", 129600), ("24:00:00", 86400)],
)
def test_times_people_write_come_back_from_slurm(text: str, seconds: int) -> None:
    assert seconds_of(text, "cluster.time") == seconds
    assert parse_slurm_time(slurm_time(seconds)) == seconds


@pytest.mark.parametrize("wrong", [86400, "86400", "24", "1:00", "24:00:61", "1-30:00:00", "soon", "-3h", "30s", True])
def test_what_is_no_time_is_refused_and_so_is_what_yaml_makes_of_one(wrong: Any) -> None:
    with pytest.raises(UserError, match=r"cluster\.time="):
        seconds_of(wrong, "cluster.time")


def test_squeue_prints_times_in_several_lengths() -> None:
    assert [parse_slurm_time(text) for text in ("0:07", "12:34", "1:02:03", "2-00:00:01")] == [7, 754, 3723, 172801]
    assert parse_slurm_time("UNLIMITED") == float("inf")


def test_sizes() -> None:
    assert [megabytes_of(text, "m") for text in ("64G", "64000M", "1T", "0", 0, "2GB")] == [
        65536, 64000, 1048576, 0, 0, 2048,
    ]  # fmt: skip
    with pytest.raises(UserError, match="cluster.memory=64: is not a size"):
        megabytes_of(64, "cluster.memory")


# -- refusals


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cluster.time=86400"], "a number without a unit"),
        (["cluster.time=4m"], "leaves no time before"),
        (
            ["cluster.time=48h", "cluster.stop_before_limit=20h"],
            "cluster.stop_before_limit=20h: SLURM warns at most 18h before the limit",
        ),
        (["cluster.nodes=2", "cluster.processes=3"], "must be a multiple of cluster.nodes=2"),
        (["cluster.gpus_per_node=4", "cluster.processes=5"], "has 4 GPUs"),
        (["cluster.gpus_per_node=4", "cluster.runs_side_by_side=3"], "must divide cluster.gpus_per_node=4"),
        (["cluster.nodes=2", "cluster.gpus_per_node=2", "cluster.runs_side_by_side=2"], "use cluster.nodes=1"),
        (["cluster.gpus_per_node=0", "cluster.device=cuda"], "needs cluster.gpus_per_node=1"),
        (["cluster.segments=3"], "add cluster.requeue=false"),
        (["+cluster.sbatch.array=1-3"], "cluster.sbatch.array: submission sets it"),
        (["+cluster.sbatch.partition=gpu"], "use cluster.partition"),
        (
            ["+cluster.environment.WANDB_API_KEY=abc"],
            "cluster.environment.WANDB_API_KEY: a secret (WANDB_API_KEY) would",
        ),
        (["+cluster.environment.DEPLOY_KEY=abc"], "cluster.environment.DEPLOY_KEY: a secret"),
        (["+cluster.environment.GIT_PAT=abc"], "cluster.environment.GIT_PAT: a secret"),
        (["+cluster.environment.DB_PASSWORD=abc"], "cluster.environment.DB_PASSWORD: a secret"),
        (["+cluster.environment.MASTER=hf_abcdefghijklmnopqrstu"], "cluster.environment.MASTER: a secret"),
        (["+cluster.environment={A-B: 1}"], "cluster.environment: 'A-B' is not the name of a variable"),
        (["+cluster.environment.PYTHONPATH=/x"], "cluster.environment.PYTHONPATH: jobs run a copy of the code"),
        (["+cluster.environment.PSYCHOCOUNSEL_CODE=/x"], "cluster.environment.PSYCHOCOUNSEL_CODE: submission sets it"),
        (["+cluster.environment.PSYCHOCOUNSEL_DEVICE=cpu"], "PSYCHOCOUNSEL_DEVICE: use cluster.device"),
        (["cluster.environment={A: null}"], "cluster.environment.A=null: give it a value ('' for an empty one)"),
        (
            ["cluster.setup=[module purge,'export HF_TOKEN=abc']"],
            "cluster.setup[1]: a secret (HF_TOKEN) would be in the batch script, which others can read: export it in the "
            "submitting shell, whose environment jobs inherit, or read it from your own file by "
            """'cluster.setup=["export HF_TOKEN=$(cat FILE)"]'""",
        ),
        (["cluster.setup=['WANDB_API_KEY=\"abc\" wandb login']"], "cluster.setup[0]: a secret (WANDB_API_KEY)"),
        (["cluster.setup=['wandb login 0123456789abcdef0123456789abcdef']"], "cluster.setup[0]: a secret"),
        (
            ["cluster.setup=['pip install --index-url https://me:abc@index.example.org x']"],
            "cluster.setup[0]: a secret",
        ),
        (["cluster.setup=['hf auth login --token abc']"], "cluster.setup[0]: a secret (token)"),
        (["cluster.container.arguments=[--env,'HF_TOKEN=abc']"], "cluster.container.arguments: a secret (HF_TOKEN)"),
        (["cluster.container.arguments=['--env=HF_TOKEN=abc']"], "cluster.container.arguments: a secret (HF_TOKEN)"),
        (["cluster.srun=['--export=ALL,HF_TOKEN=abc']"], "cluster.srun: a secret (HF_TOKEN)"),
        (["cluster.servers.command=[vllm,--api-key,abc]"], "cluster.servers.command: a secret (api-key)"),
        (["cluster.account='a\n#SBATCH --uid=0'"], "cluster.account: contains a newline or another control character"),
        (["cluster.setup=['true\nfalse']"], "cluster.setup[0]: contains a newline"),
        (["cluster.modules=['cuda\r']"], "cluster.modules[0]: contains a newline or another control character"),
        (["+cluster.environment.A='1\n2'"], "cluster.environment.A: contains a newline"),
        (["+cluster.sbatch.comment='1\n#SBATCH -A other'"], "cluster.sbatch.comment: contains a newline"),
        (["cluster.container.binds=['/a\t/b']"], "cluster.container.binds[0]: contains a newline"),
        (["run_dir='/runs/a\nb'"], "run_dir: contains a newline"),
        (["sweep_dir='/runs/a\u2028b'"], "sweep_dir: contains a newline"),
        (["paths.cache='/runs/\x1b[31m'"], "paths.cache: contains a newline"),
        (["after=['/runs/a\nb']"], "after[0]: contains a newline"),
        (["cluster.container.image=nowhere.sif"], "no such file"),
        (["cluster.container.image=nowhere.sqsh", "cluster.container.command=pyxis"], "no such file"),
        (["cluster.container.command=pyxis"], "cluster.container.command=pyxis needs an image"),
        (["cluster.container.image=a.sif", "cluster.container.command=pyxis"], "is an image for Apptainer"),
        (["cluster.container.image=a.sqsh"], "is an image for enroot"),
        (["cluster.server_nodes=1"], "needs a command"),
        (
            ["cluster.server_nodes=1", *SERVERS, "cluster.gpus_per_node=2"],
            "per_node=3 is more than cluster.gpus_per_node=2",
        ),
        (
            [
                "cluster.server_nodes=1",
                *SERVERS,
                "cluster.gpus_per_node=4",
                "cluster.processes=1",
                "cluster.cpus_per_process=2",
            ],
            "per_node=3 servers need a CPU each, but the job has 2 on a node: raise cluster.cpus_per_process",
        ),
        (["cluster.partion=gpu"], "did you mean cluster.partition"),
        (["cluster.memory=lots"], "is not a size"),
        (["cluster.memory_per=gpu"], "cluster.memory_per=gpu needs cluster.memory=SIZE"),
        (
            ["cluster.memory=9G", "cluster.memory_per=gpu", "cluster.gpus_per_node=0"],
            "cluster.memory_per=gpu needs a GPU and cluster.memory=SIZE",
        ),
        (
            ["cluster.gpu_request=gpus_per_task", "cluster.gpus_per_node=3", "cluster.processes=2"],
            "type cluster.gpus_per_node=2, one for each of the 2 processes on a node",
        ),
        (
            ["cluster.gpu_request=gpus_per_task", "cluster.gpus_per_node=6", "cluster.processes=3"],
            "type cluster.gpus_per_node=3, one for each of the 3 processes on a node",
        ),
        (
            ["cluster.gpu_request=gpus", "cluster.gpus_per_node=4", "cluster.runs_side_by_side=2"],
            "cluster.gpu_request=gpus: runs side by side and server nodes need gres or gpus_per_node",
        ),
        (["cluster.sbatch={mem-per-gpu: 64G}"], "use cluster.memory and cluster.memory_per=gpu"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(overrides: list[str], message: str) -> None:
    from psychocounsel.settings.messages import one_line

    with pytest.raises(Exception, match=".*") as raised:
        check(compose(["cluster=slurm", *overrides]))
    said = one_line(raised.value, ["cluster=slurm", *overrides])
    assert message in said
    assert "\n" not in said and "abc" not in said, "one line, without the secret"


@pytest.mark.parametrize(
    "overrides",
    [
        ["+cluster.environment.TOKENIZERS_PARALLELISM=false", "+cluster.environment.MAX_TOKENS=8"],
        ["cluster.setup=['export HF_TOKEN=$(cat ~/.hf_token)','export WANDB_API_KEY=\"$MINE\"']"],
        ['cluster.setup=["export HF_TOKEN=$(cat ~/.hf_token)"]'],
        ["cluster.setup=['export HF_TOKEN_PATH=/home/me/.token','source activate mine','export SSL_MODE=on']"],
        ["cluster.servers.command=[vllm,--max-num-batched-tokens,'8192',--tokenizer,mine]"],
    ],
)
def test_what_is_no_secret_or_only_says_where_one_is_may_stand_there(overrides: list[str]) -> None:
    check(compose(["cluster=slurm", *overrides]))


def test_an_override_of_several_lines_is_refused_whatever_its_key(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], own_environment: None
) -> None:
    from psychocounsel.commands.application import main

    monkeypatch.setattr("sys.argv", ["train", "algo.beta=0.1", "data.name='a\n#SBATCH --wrap=b'", "dry_run=true"])
    with pytest.raises(SystemExit) as ended:
        main("psychocounsel.train")
    (line,) = capfd.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.startswith("error: data.name: contains a newline")


def test_a_resubmission_is_held_to_the_same(tmp_path: Path) -> None:
    from psychocounsel.cluster.resubmission import _job, _override
    from psychocounsel.cluster.states import Row
    from psychocounsel.rundir.run_config import write_config, write_job
    from psychocounsel.settings.own_code import agree_to_own

    write_job(tmp_path, "psychocounsel.train", 0, [])
    config = check(compose(["cluster=slurm", f"run_dir={tmp_path}"]))
    for given, message in (
        (["cluster.account='a\n#SBATCH --uid=0'"], "cluster.account: contains a newline"),
        (["cluster.environment.DEPLOY_KEY=abc"], "cluster.environment.DEPLOY_KEY: a secret"),
        (["cluster.setup=['export HF_TOKEN=abc']"], r"cluster.setup\[0\]: a secret"),
    ):
        write_config(tmp_path, config)
        with pytest.raises(UserError, match=message):
            _job(Row(0, tmp_path, ""), [_override(text) for text in given])
    config.cluster.setup = ["true\nfalse"]  # written by an older version without this check
    write_config(tmp_path, config)
    agree_to_own(tmp_path)
    with pytest.raises(UserError, match=r"cluster.setup\[0\]: contains a newline"):
        _job(Row(0, tmp_path, ""), [])


@pytest.mark.parametrize("key", ["environment", "sbatch"])
def test_a_resubmission_can_remove_an_entry(key: str) -> None:
    from psychocounsel.cluster.resubmission import _apply, _override

    config = check(compose(["cluster=slurm", f"cluster.{key}={{a: 1, b: 2}}"]))
    _apply(config, _override(f"cluster.{key}.c=3"))
    assert config.cluster[key] == {"a": 1, "b": 2, "c": 3}
    _apply(config, _override(f"cluster.{key}={{b: 4}}"))
    assert config.cluster[key] == {"b": 4}
    _apply(config, _override(f"cluster.{key}={{}}"))
    assert config.cluster[key] == {}


@pytest.mark.parametrize("text", ["cluster.time=(1", 'cluster.environment={"A-B": 1}'])
def test_what_a_resubmission_cannot_read_is_refused_in_one_line(text: str) -> None:
    from psychocounsel.cluster.resubmission import _override

    with pytest.raises(UserError) as refused:
        _override(text)
    assert str(refused.value).startswith(f"{text}: cannot be read") and "\n" not in str(refused.value)


def test_a_folder_of_an_older_run_brings_no_lines_into_the_script() -> None:
    with pytest.raises(UserError, match="its folder: contains a newline"):
        render(SlurmRequest(), "name", Path("/runs/a\n#SBATCH --uid=0"), 1, [Path("/code")], [])


# -- the script


def script(tasks: int = 1, **settings: Any) -> str:
    return render(SlurmRequest(**settings), "name", Path("/runs/s"), tasks, [Path("/runs/s/code/x")], ["/runs/s"])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"modules": ["cuda/12.8", "gcc"], "setup": ["source activate mine"], "environment": {"A": "b c'd"}},
        {"server_nodes": 2, "nodes": 2},
        {"server_nodes": 1, "servers": {"command": ["x"], "per_node": 2}},
        {"requeue": False, "segments": 3},
        {"gpus_per_node": 8, "runs_side_by_side": 4, "memory": "64G"},
        {"container": {"image": "/images/my image.sif", "binds": ["/data:/data"]}},
        {"container": {"image": "/images/my image.sqsh", "command": "pyxis"}, "server_nodes": 1},
    ],
)
def test_the_script_is_valid_shell(settings: dict[str, Any], tmp_path: Path) -> None:
    text = script(**settings)
    (tmp_path / "job.sbatch").write_text(text)
    subprocess.run(["bash", "-n", str(tmp_path / "job.sbatch")], check=True)
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash"
    last = max(number for number, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert not any(line and not line.startswith("#") for line in lines[:last]), "sbatch reads no option after a command"


def test_a_truth_value_is_exported_as_yaml_writes_it() -> None:
    lines = script(environment={"A": True, "B": False, "C": "True"}).splitlines()
    assert {"export A=true", "export B=false", "export C=True"} <= {*lines}


def test_servers_share_the_cpus_of_a_node() -> None:
    text = script(server_nodes=2, gpus_per_node=4, cpus_per_process=6, servers={"command": ["x"], "per_node": 2})
    assert "--nodes=2 --ntasks=4 --ntasks-per-node=2 \\\n    --cpus-per-task=12 --kill" in text
    assert 'server_node wait "${runs[0]}" 4' in text


def test_addresses_of_servers_whose_node_failed_are_forgotten_before_new_servers_start(tmp_path: Path) -> None:
    (folder := tmp_path / "servers").mkdir()
    for name in ("0.json", "1.ended", "key"):
        (folder / name).write_text("{}")
    before = script(server_nodes=1, servers={"command": ["x"]}).partition("# -- servers")[2].partition("srun ")[0]
    subprocess.run(["bash", "-euc", f"runs=('{tmp_path}') nodes=(a b)\n#{before}"], check=True)
    assert not list(folder.iterdir())


def test_a_server_that_is_not_ready_in_time_is_stopped_and_the_limit_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    idle = [sys.executable, "-c", "import time; time.sleep(60)"]
    servers = {"command": idle, "health": "/", "start_minutes": 0.005, "per_node": 1}
    (tmp_path / "config.yaml").write_text(json.dumps({"cluster": {"servers": servers}}))
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert server_node.run(tmp_path) == 1
    finally:
        signal.signal(signal.SIGTERM, handler)
    said = capfd.readouterr().out
    assert said == "server 0 was not ready within cluster.servers.start_minutes=0.005 and is stopped\n"


def test_a_server_that_ends_at_its_start_ends_the_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = {"command": ["false"], "health": "/", "start_minutes": 20, "per_node": 1}
    (tmp_path / "config.yaml").write_text(json.dumps({"cluster": {"servers": servers}}))
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert server_node.run(tmp_path) == 1
    finally:
        signal.signal(signal.SIGTERM, handler)
    with pytest.raises(UserError, match=r"^server 0 has ended \(exit code 1\); see servers-12-0.out next to the batch"):
        server_node.wait(tmp_path, 1)
    assert ended_servers(tmp_path) == {0: "has ended (exit code 1)"}
    monkeypatch.setenv("SLURM_JOB_ID", "13")
    assert not ended_servers(tmp_path), "of another job"


def test_the_address_of_a_server_is_the_nodes_name_where_slurm_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    for does, address in (("echo 'NodeName=n1 NodeAddr=10.0.0.7 x'", "10.0.0.7"), ("exit 1", socket.gethostname())):
        (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / "scontrol").chmod(0o755)
        assert server_node._host() == address


def test_an_allocation_of_unknown_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho n1\necho n2\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    for name in ("SLURM_STEP_ID", "SLURM_JOB_CPUS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="allocation 12: SLURM_JOB_CPUS_PER_NODE is not set"):
        allocation.around.__wrapped__()


def test_what_a_request_says() -> None:
    asked = directives(
        SlurmRequest(
            nodes=2,
            gpus_per_node=4,
            gpu_type="a100",
            memory="0",
            time="2d",
            max_parallel=4,
            mail_user="me@site.org",
            mail_type="FAIL, END",
            sbatch={"hint": "nomultithread", "hold": False, "overcommit": True},
        ),
        "name",
        Path("/runs/50% of it"),
        12,
        "afterok:7",
    )
    assert {
        "--array=0-11%4", "--nodes=2", "--ntasks-per-node=4", "--gres=gpu:a100:4", "--mem=0", "--time=2-00:00:00",
        "--signal=B:USR1@300", "--requeue", "--dependency=afterok:7", "--kill-on-invalid-dep=yes", "--hint=nomultithread",
        "--open-mode=append", '--output="/runs/50%% of it/slurm-%A_%a.out"', "--mail-type=FAIL,END", "--overcommit",
    } <= set(asked)  # fmt: skip
    assert not any("hold" in line for line in asked)
    for settings, line in (
        ({"gpu_type": "h100", "gpu_request": "gpus_per_node"}, "--gpus-per-node=h100:8"),
        ({"nodes": 2, "gpu_type": "3g.40gb", "gpu_request": "gpus"}, "--gpus=3g.40gb:16"),
        ({"processes": 1, "gpu_request": "gpus_per_task"}, "--gpus-per-task=8"),
        ({"memory": "64G", "memory_per": "gpu"}, "--mem-per-gpu=65536M"),
        ({"memory": "4G", "memory_per": "cpu"}, "--mem-per-cpu=4096M"),
    ):
        lines = directives(SlurmRequest(gpus_per_node=8, **settings), "n", Path("/r"), 1)  # type: ignore[arg-type]
        assert line in lines and "--gres" not in "".join(lines) * ("gpu_request" in settings)


def test_a_python_and_an_image_become_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Because the batch script quotes its words, and jobs may start in another folder."""
    from psychocounsel.settings.paths import make_cluster_absolute

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.sif").touch()
    for python, image, expected in (
        ("~/env/bin/python", "~/mine.sif", (f"{tmp_path}/env/bin/python", f"{tmp_path}/mine.sif")),
        ("env/bin/python", "mine.sif", (f"{tmp_path}/env/bin/python", f"{tmp_path}/mine.sif")),
        ("python3.12", "docker://org/image:1", ("python3.12", "docker://org/image:1")),
    ):
        config = check(compose(["cluster=slurm", f"cluster.python='{python}'", f"cluster.container.image='{image}'"]))
        assert (config.cluster.python, config.cluster.container.image) == expected
    make_cluster_absolute(config := check(compose(["cluster=slurm"])))
    assert (config.cluster.python, config.cluster.container.image) == (None, None)


def test_a_container_gets_the_gpus_and_the_folders() -> None:
    text = script(container={"image": "/i.sif", "arguments": ["--cleanenv"]})
    assert "python=(apptainer exec --nv --bind /runs/s --cleanenv /i.sif python3 -P)" in text
    assert "--nv" not in script(container={"image": "/i.sif"}, device="cpu")


def test_with_pyxis_srun_starts_the_container_and_the_batch_script_stays_outside() -> None:
    image = {"image": "nvcr.io#nvidia/pytorch:25.01-py3", "command": "pyxis", "binds": ["/data", "/a:/b:ro"]}
    text = script(
        container={**image, "arguments": ["--container-writable"]}, environment={"A": "b"}, python="/env/python"
    )
    assert "python=(/env/python -P)" in text and "worker=(python3 -P)" in text
    variables = "PYTHONPATH,PSYCHOCOUNSEL_CODE,PSYCHOCOUNSEL_DEVICE,OMP_NUM_THREADS,OMP_WAIT_POLICY,A,HF_HUB_OFFLINE,"
    variables += "PYTHONUNBUFFERED,NCCL_DEBUG,TORCH_NCCL_ASYNC_ERROR_HANDLING"
    inside = (
        "'--container-image=nvcr.io#nvidia/pytorch:25.01-py3' --container-mounts=/runs/s:/runs/s,/data:/data,/a:/b:ro "
        f"--container-env={variables} --container-writable"
    )
    start = '"${python[@]}" -m psychocounsel.cluster.slurm.attempt begin "$1"'
    assert f'{inside} --kill-on-bad-exit=1 --output="${{logs//%/%%}}/rank-%t.out"' in text and start in text
    assert '"${worker[@]}" -m psychocounsel.worker "$1"' in text
    assert "--container" not in script(container={"image": "/i.sif"}) and 'worker=("${python[@]}")' in script()
    serving = script(container=image, server_nodes=1, servers={"command": ["x"]})
    assert (
        serving.count("--container-image=") == 2
        and 'worker[@]}" -m psychocounsel.cluster.slurm.server_node run' in serving
    )
    with pytest.raises(UserError, match="/runs/a,b: contains a comma or a colon"):
        render(SlurmRequest(container=image), "n", Path("/runs/s"), 1, [Path("/code")], ["/runs/a,b"])


def test_runs_side_by_side_share_a_node() -> None:
    cluster = SlurmRequest(gpus_per_node=8, runs_side_by_side=4, memory="64G")
    assert (cluster.process_count(), cluster.group) == (2, 4)
    text = script(gpus_per_node=8, runs_side_by_side=4, memory="64G")
    assert "--ntasks-per-node=8" in text
    assert re.search(r"srun --nodes=1 --ntasks=2 .*--exact --mem=16384M --gres=gpu:2", text)


# -- one array for each request


def job(index: int, *overrides: str) -> Job:
    return Job(
        command_of("psychocounsel.train"), check(compose(["cluster=slurm", *overrides])), Path(f"/runs/{index}"), index
    )


def test_jobs_are_grouped_by_what_they_ask_for_and_cut_at_the_largest_array() -> None:
    jobs = [job(number, f"cluster.nodes={1 + number % 2}") for number in range(5)]
    found = [[[each.index for each in task] for task in batch.tasks] for batch in arrays(jobs, 2)]
    assert found == [[[0], [2]], [[4]], [[1], [3]]]
    packed = arrays([job(number, "cluster.runs_per_job=2") for number in range(5)], 100)
    assert [[each.index for each in task] for task in packed[0].tasks] == [[0, 1], [2, 3], [4]]


# -- attempts


def test_the_rank_that_failed_first_gives_the_exit_code() -> None:
    text = (
        "srun: error: n2: task 3: Killed\n"
        "srun: launch/slurm: _step_signal: Terminating StepId=7.0\n"
        "srun: error: n1: tasks 0-1: Exited with exit code 75\n"
    )
    causes = attempt.failed_tasks(text)
    assert [(task.rank, task.code) for task in causes] == [(3, 137), (0, 75), (1, 75)]
    assert attempt.cause(causes, 137, stop_requested=False) == (3, 137)
    found_an_owner = attempt.failed_tasks(
        "srun: error: n1: task 0: Exited with exit code 75\nsrun: error: n2: tasks 1-2: Killed\n"
    )
    assert attempt.cause(found_an_owner, 137, stop_requested=False) == (None, 75), "srun killed the others for it"
    wrong = attempt.failed_tasks(
        "srun: error: n1: task 1: Exited with exit code 1\nsrun: error: n1: task 0: Exited with exit code 2"
    )
    assert attempt.cause(wrong, 2, stop_requested=False) == (0, 2)


@pytest.mark.parametrize(
    ("code", "rank", "node", "proof", "memory", "said"),
    [
        (137, 3, "n2", "", None, "rank 3 on n2 was ended by SIGKILL, often for lack of memory: raise cluster.memory"),
        (
            137,
            0,
            "n1",
            "srun reports it",
            "2G",
            "SIGKILL, for lack of memory (srun reports it): raise cluster.memory=2G",
        ),
        (137, None, "", "", None, "a process was ended by SIGKILL, often for lack of memory"),
        (139, 1, "n1", "", "2G", "rank 1 on n1 was ended by SIGSEGV"),
        (128 + 77, 1, "n1", "", None, "rank 1 on n1 was ended by signal 77"),
    ],
)
def test_a_killed_process_is_named_with_its_signal_and_the_key_that_helps(
    code: int, rank: int | None, node: str, proof: str, memory: str | None, said: str
) -> None:
    words = attempt.killed_words(code, rank, node, proof, memory)
    assert said in words and ("memory" in words) == (code == 137)


def test_a_lack_of_memory_is_shown_by_srun_or_the_jobs_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, own = tmp_path / "system.slice" / "slurmstepd.scope" / "job_12", tmp_path / "cgroup"
    (job / "step_batch" / "user" / "task_0").mkdir(parents=True)
    own.write_text("0::/system.slice/slurmstepd.scope/job_12/step_batch/user/task_0\n")
    monkeypatch.setenv("PATH", str(tmp_path))  # no sacct
    for events, said in (("oom 1\noom_kill 0\n", ""), ("oom 3\noom_kill 2\n", "oom_kill in its memory.events")):
        (job / "memory.events").write_text(events)
        assert attempt.out_of_memory("srun: error: n2: task 3: Killed\n", tmp_path, own) == said
    assert (
        attempt.out_of_memory("srun: error: n2: task 3: Out Of Memory\n", tmp_path / "none", own) == "srun reports it"
    )
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert attempt.out_of_memory("", tmp_path / "none", own) == ""
    sacct = tmp_path / "sacct"
    sacct.write_text("#!/bin/sh\necho FAILED; echo OUT_OF_MEMORY\n")
    sacct.chmod(0o755)
    assert attempt.out_of_memory("", tmp_path / "none", own) == "sacct reports it"


def test_a_rank_that_dies_of_the_request_to_stop_has_stopped() -> None:
    causes = attempt.failed_tasks("srun: error: n1: task 0: User defined signal 1\n")
    assert attempt.cause(causes, 138, stop_requested=True) == (None, 75)
    assert attempt.cause(causes, 138, stop_requested=False) == (0, 138)


def test_an_attempt_is_numbered_and_not_made_again_when_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text("cluster: {max_requeues: 5}\n")
    (tmp_path / "state.json").write_text('{"step": 3}')
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert attempt.begin(tmp_path) == ("01", 0)
    assert attempt.end(tmp_path, 1, 75, "USR1") == "again"
    (tmp_path / "owner.json").write_text('{"job": "11"}')
    assert attempt.begin(tmp_path) == ("02", 0)
    assert (tmp_path / "owner.json").exists(), "another job's"
    (tmp_path / "owner.json").write_text('{"job": "12"}')  # of the attempt that SLURM ended
    assert attempt.begin(tmp_path) == ("03", 0)
    assert not (tmp_path / "owner.json").exists()
    assert (tmp_path / "logs" / "latest").readlink() == Path("03")
    (tmp_path / "logs" / "03" / "rank-0.out").write_text("the last words\n")
    assert attempt.end(tmp_path, 3, 2, "no") == "2"
    assert "the last words" in (tmp_path / "logs" / "03" / "failure.txt").read_text()
    assert attempt.begin(tmp_path) == ("", 2), "given up in this submission"
    monkeypatch.setenv("SLURM_JOB_ID", "13")
    assert attempt.begin(tmp_path) == ("04", 0), "submitted again"
    (tmp_path / "summary.json").write_text('{"status": "finished"}')
    assert attempt.begin(tmp_path) == ("", 0)


def test_a_run_that_is_stopped_by_its_file_goes_on_only_when_it_is_submitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text("cluster: {max_requeues: 5}\n")
    (tmp_path / "state.json").write_text('{"step": 3}')
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    submissions.write(submissions.new_submission(tmp_path), tmp_path, ["12", "13"], [[tmp_path]], [])
    assert attempt.begin(tmp_path) == ("01", 0)
    (tmp_path / "stop").touch()
    assert attempt.end(tmp_path, 1, 75, "no") == "75"
    assert not (tmp_path / "stop").exists()
    said = attempts(tmp_path)[-1]
    assert (said["verdict"], said["requeued"], said["reason"]) == ("stopped", False, "stopped at step 3 (stop file)")
    assert attempt.begin(tmp_path) == ("", 75), "the job was requeued for another of its runs"
    monkeypatch.setenv("SLURM_JOB_ID", "13")
    assert attempt.begin(tmp_path) == ("", 75), "a later segment"
    monkeypatch.setenv("SLURM_JOB_ID", "40")
    submissions.write(submissions.new_submission(tmp_path), tmp_path, ["40"], [[tmp_path]], [])
    assert attempt.begin(tmp_path) == ("02", 0), "submitted again"
    (tmp_path / "stop").touch()
    assert attempt.end(tmp_path, 2, 1, "no") == "again", "a crash is tried again"


@pytest.mark.parametrize(("array", "jobs"), [(None, ["12", "13", "14"]), ("11", ["11", "13", "14"])])
def test_later_segments_do_not_start_a_run_that_was_given_up(
    array: str | None, jobs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text("cluster: {max_requeues: 5}\n")
    submission = submissions.new_submission(tmp_path)
    submissions.write(submission, tmp_path, jobs, [[tmp_path]], [])
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    if array:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", array)
    assert attempt.begin(tmp_path) == ("01", 0)
    assert attempt.end(tmp_path, 1, 2, "no") == "2"
    monkeypatch.setenv("SLURM_JOB_ID", "23" if array else "13")
    if array:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "13")
    assert attempt.begin(tmp_path) == ("", 2)
    monkeypatch.setenv("SLURM_JOB_ID", "40")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    submissions.write(submissions.new_submission(tmp_path), tmp_path, ["40"], [[tmp_path]], [])
    assert attempt.begin(tmp_path) == ("02", 0), "submitted again"


def test_srun_that_ends_with_0_before_the_run_has_finished_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise jobs that wait for this one would start on a partial model, for instance after a node was lost."""
    (tmp_path / "config.yaml").write_text("cluster: {max_requeues: 5}\n")
    (tmp_path / "state.json").write_text('{"step": 45}')
    assert attempt.begin(tmp_path) == ("01", 0)
    assert attempt.end(tmp_path, 1, 0, "no") == "again"
    said = attempts(tmp_path)[-1]
    assert (said["verdict"], said["code"]) == ("stopped", 75)
    assert said["reason"] == "stopped at step 45: srun ended without an error before the run was finished"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "5")
    assert attempt.begin(tmp_path) == ("02", 0)
    assert attempt.end(tmp_path, 2, 0, "no") == "75", "the job does not end with 0"
    assert attempt.begin(tmp_path) == ("03", 0)
    (tmp_path / "summary.json").write_text('{"status": "finished"}')
    assert attempt.end(tmp_path, 3, 0, "no") == "0"


@pytest.mark.parametrize(
    ("status", "reason"),
    [("budget spent", "the budget is spent"), ("refused", "the gate refused"), ("stopped", "a `guard` limit stopped")],
)
def test_the_record_of_an_attempt_names_the_limit_that_ended_it(status: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("cluster: {max_requeues: 5}\n")
    assert attempt.begin(tmp_path) == ("01", 0)
    (tmp_path / "summary.json").write_text(json.dumps({"status": status}))
    assert attempt.end(tmp_path, 1, 3, "no") == "3"
    assert attempts(tmp_path)[-1]["reason"].startswith(reason)


def test_the_ranks_of_an_attempt_meet_at_a_random_port_that_is_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for number in ("01", "02", "03"):
        with pytest.raises(SystemExit):
            attempt.main(["begin", str(tmp_path)])
        said, port = capsys.readouterr().out.split()
        assert said == number
        socket.create_server(("", int(port))).close()
        found.append(int(port))
    assert len(set(found)) > 1 and all(10000 <= port < 32768 for port in found)
    assert "SLURM_JOB_ID *" not in script() and 'read -r number port <<<"$begun"' in script()
    with socket.create_server(("", server_access.free_port())) as taken:
        drawn = iter((taken.getsockname()[1], found[0]))
        monkeypatch.setattr(server_access.secrets, "randbelow", lambda _: next(drawn) - 10000)
        assert server_access.free_port() == found[0], "another one, where one is taken"


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        (
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates "
            "accounting/QOS policy (job submit limit, user's size and/or time limits)",
            "QOSMaxSubmitJobPerUserLimit; .*cluster.runs_per_job=N puts N runs into one job",
        ),
        (
            "sbatch: error: resolve_ctls_from_dns_srv: res_nsearch error\nsbatch: fatal: Could not establish a "
            "configuration source",
            "^sbatch refused: sbatch: fatal: Could not establish a configuration source$",
        ),
    ],
)
def test_what_slurm_says_is_shown_with_what_helps(
    says: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sbatch").write_text(f'#!/bin/sh\nprintf "%s\\n" "{says}" >&2\nexit 1\n')
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(UserError, match=expected):
        queue.submit(tmp_path / "job.sbatch")


@pytest.mark.slow
def test_a_dry_run_goes_on_without_an_answer_and_says_what_was_not_checked(tmp_path: Path) -> None:
    from tests.support.harness import cli

    for name in ("scontrol", "squeue", "sinfo"):
        words = f"{name}: fatal: Could not establish a configuration source"
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{words}" >&2\nexit 1\n')
        (tmp_path / name).chmod(0o755)
    path, slurm = f"{tmp_path}{os.pathsep}{os.environ['PATH']}", ["cluster=slurm_cpu", "dry_run=true"]
    given = ["algo=dpo", "seed=1,2", f"sweep_dir={tmp_path}/sweep"]
    said = cli("train", "-m", *given, *slurm, cwd=tmp_path, PATH=path).stdout
    assert "not checked: limits of the partition, and runs that wait in the queue (" in said
    assert "at most " in said and "would be" in said and said.count(" new ") == 2
    shared = ["evaluate", "evaluation=health", "model.path=builtin:tiny_dpo", "shards=2"]
    for command in (["train"], shared):
        refused = cli(*command, *slurm, f"after=[{tmp_path}/never]", cwd=tmp_path, check_code=2, PATH=path)
        assert f"after={tmp_path}/never: is neither a run nor a sweep" in refused.stderr


def test_submission_needs_slurm_and_leaves_nothing_without(tmp_path: Path) -> None:
    from tests.support.harness import cli

    done = cli("train", "cluster=slurm", cwd=tmp_path, check_code=2, PATH="/usr/nowhere")
    assert "the command `scontrol` is missing" in done.stderr or "the command `sbatch` is missing" in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == done.stderr.splitlines()[-1:]
    assert json.dumps([path.name for path in tmp_path.iterdir()]) == "[]"
