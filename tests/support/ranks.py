"""Runner of functions in several ranks of one process group, without a command."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch

from psychocounsel.distributed.world import World
from psychocounsel.model.cpu import prepare_process
from psychocounsel.model.quiet import quiet_libraries


def in_ranks(count: int, work: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of `work(world, *arguments)` on rank 0 of `count` processes.

    `work` must be a module-level function. The ranks are forked from a process that has done the imports of training,
    and find each other through a file.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["psychocounsel.engine.preload", "psychocounsel.commands.application"])
    with tempfile.TemporaryDirectory(prefix="psychocounsel-ranks-") as place:
        ours, theirs = context.Pipe(duplex=False)
        ranks = [
            context.Process(target=_rank, args=(rank, count, place, theirs, work, arguments)) for rank in range(count)
        ]
        for each in ranks:
            each.start()
        theirs.close()
        try:
            found = ours.recv()
        except EOFError:
            found = RuntimeError("a rank ended without an answer")
        for each in ranks:
            each.join(60)
            each.kill()
    if isinstance(found, BaseException):
        raise found
    return found


def _rank(rank: int, count: int, place: str, answer: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update({"PSYCHOCOUNSEL_RENDEZVOUS": f"file://{place}/store", "LOCAL_RANK": str(rank)})
    quiet_libraries()
    torch.set_num_threads(1)
    prepare_process()
    found: Any
    try:
        found = work(World(rank, count, 2.0), *arguments)
    except BaseException as error:
        found = RuntimeError(f"rank {rank}: {type(error).__name__}: {error}")
    if rank == 0 or isinstance(found, BaseException):
        answer.send(found)
    os._exit(0)
