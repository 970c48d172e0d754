"""`cluster=local` inside `salloc`: srun starts the ranks of a job on the nodes of the allocation."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from psychocounsel.cluster.local_ranks import passed_on
from psychocounsel.cluster.slurm.attempt import cause, failed_tasks
from psychocounsel.cluster.slurm.queue import call, end_with_parent
from psychocounsel.errors import CONTINUE_LATER, UserError
from psychocounsel.remote.server_access import free_port
from psychocounsel.rundir.paths import AttemptDir

_INTERACTIVE = "4294967290"  # SLURM's number for the step of salloc's shell at some sites
_RANK = 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS exec "$@"'


@dataclass(frozen=True)
class Allocation:
    """Nodes that SLURM has allocated to this shell, with the CPUs and GPUs of each."""

    job: str
    nodes: tuple[str, ...]
    cpus: int
    gpus: int

    def nodes_for(self, processes: int) -> int:
        """Return the number of nodes for this many processes.

        Raises:
            UserError: if the processes cannot be spread evenly.
        """
        nodes = min(len(self.nodes), processes)
        if processes % nodes:
            raise UserError(
                f"cluster.processes={processes} cannot be spread evenly over the {nodes} nodes of allocation {self.job}: "
                f"use {nodes * (processes // nodes)} or {nodes * (processes // nodes + 1)}"
            )
        return nodes

    def rendezvous(self) -> dict[str, str]:
        """Return the rendezvous of the ranks as an environment variable: a random port that is free on this node."""
        match = re.search(r"NodeAddr=(\S+)", call("scontrol", "show", "node", self.nodes[0]))
        return {"PSYCHOCOUNSEL_RENDEZVOUS": f"tcp://{match[1] if match else self.nodes[0]}:{free_port()}"}

    def run(
        self, run_dir: Path, processes: int, environment: dict[str, str], attempt: AttemptDir, when_stopped: str
    ) -> tuple[int, int]:
        """Run the ranks and show the output of rank 0; the files of `attempt` contain all output.

        The first forwarded stop request prints `when_stopped`.

        Returns the exit code and number of the rank that failed first (0, 0 if none failed).
        """
        nodes = self.nodes_for(processes)
        tasks = processes // nodes
        command = ["srun", f"--nodes={nodes}", f"--ntasks={processes}", f"--ntasks-per-node={tasks}"]
        command += [f"--cpus-per-task={max(1, self.cpus // tasks)}", "--kill-on-bad-exit=1"]
        escaped = AttemptDir(Path(str(attempt.path).replace("%", "%%")))  # in --output, % begins a pattern
        command += [f"--output={escaped.output('%t')}", "bash", "-c", _RANK, "rank"]
        command += [sys.executable, "-m", "psychocounsel.worker", str(run_dir)]
        with open(attempt.srun_errors, "wb") as errors:
            srun = subprocess.Popen(
                command, env={**os.environ, **environment}, stderr=errors, preexec_fn=_end_with_this_process
            )
        shown = 0
        with passed_on(lambda number: srun.send_signal(number), when_stopped) as requests:
            while srun.poll() is None:
                shown = _show(attempt.output(0), shown)
                time.sleep(0.1)
        _show(attempt.output(0), shown)
        if len(requests) > 1 and srun.returncode < 0:  # the user repeated the request
            return CONTINUE_LATER, 0
        error_text = attempt.srun_errors.read_text(errors="replace")
        rank, code = cause(failed_tasks(error_text), srun.returncode, bool(requests))
        if code and rank is None:
            print(error_text, end="", file=sys.stderr)  # srun itself failed
        return code, rank or 0


@cache
def around() -> Allocation | None:
    """Return the allocation of this process, made by hand or by a batch script over several nodes.

    None inside a step (`srun --pty bash`), or on the only node of an allocation: there, processes are started directly.

    Raises:
        UserError: if SLURM does not tell the allocation's size.
    """
    job, step = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_STEP_ID", _INTERACTIVE)
    if not job or step != _INTERACTIVE:
        return None
    names = tuple(call("scontrol", "show", "hostnames", os.environ.get("SLURM_JOB_NODELIST", "")).split())
    if names == (os.environ.get("SLURMD_NODENAME"),):
        return None
    cpus = [int(number) for number in re.findall(r"(\d+)(?:\(|,|$)", os.environ.get("SLURM_JOB_CPUS_PER_NODE", ""))]
    if not cpus:
        raise UserError(
            f"allocation {job}: SLURM_JOB_CPUS_PER_NODE is not set; type the command in the shell that salloc opened, or "
            "unset SLURM_JOB_ID to use this machine alone"
        )
    shown = call("scontrol", "show", "job", job)
    return Allocation(job, names, min(cpus), gpus_of_node(shown, len(names)))


_GPUS = r"=\S*?gres[/:]gpu(?::[^\s,:=]+)?[:=](\d+)(?![^\s,])"


def gpus_of_node(shown: str, nodes: int) -> int:
    """Return the GPUs on each of `nodes` nodes, from the request in the output of `scontrol show job`."""
    per_node = re.search(f"TresPerNode{_GPUS}", shown)
    whole = re.search(f"(?:AllocTRES|TresPerJob){_GPUS}", shown)
    return int(per_node[1]) if per_node else int(whole[1]) // nodes if whole else 0


def _end_with_this_process() -> None:
    """Make srun a session of its own, so that only this process forwards Ctrl-C, and let it die with this process."""
    os.setsid()
    end_with_parent(signal.SIGTERM)


def _show(file: Path, start: int) -> int:
    """Print the content of `file` after `start`; return the new end."""
    if not file.exists():
        return start
    with open(file, "rb") as handle:
        handle.seek(start)
        text = handle.read()
    sys.stderr.write(text.decode(errors="replace"))
    sys.stderr.flush()
    return start + len(text)
