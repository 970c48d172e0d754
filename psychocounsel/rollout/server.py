"""HTTP server that writes replies by vLLM with weights that training sends; all routes but `/health` require a key.

`POST /generate` {"version", "prompts", "settings", "stop"} answers {"version", "replies"}. It answers 409 if the
weights are of another version, and another "version" with an "error" if the weights changed in the meantime. Until the
replies are ready, the server sends a space for each second in which the engine made tokens. A client's time-out
therefore ends a stuck server, not a busy one.

New weights arrive in one of three ways, each after `POST /weights/begin` and before `/weights/end?version=N`:
- `/weights/piece`, a safetensors file, as often as needed;
- `/weights/adapter`, once, for a low-rank adapter;
- `/weights/join` once, then `/weights/broadcast` for each piece: rank 0 of training sends the named parameters over a
  process group with the workers (`distributed/process_group.py`).
The last answers {"version", "missing"}: names of parameters of the model that did not arrive, and then no version.

Started by `python -m psychocounsel.rollout.server RUN PORT [HOST]`, or by `psychocounsel serve`.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from psychocounsel.errors import USER_ERROR, UserError, hide_words
from psychocounsel.remote.bounded import LONGEST_ANSWER
from psychocounsel.rollout.adapters import AdapterFolder
from psychocounsel.rollout.vllm_engine import prepare_cpu, prepare_environment, replies, sampling_params
from psychocounsel.rundir.run import server_secret
from psychocounsel.rundir.run_config import read_config
from psychocounsel.settings import config as configs
from psychocounsel.storage.files import memory_folder
from psychocounsel.storage.modes import let_nobody_else_write


class EngineProgress:
    """Counts engine steps that made tokens. It has the methods of vLLM's StatLoggerBase, but needs no vLLM installed."""

    def __init__(self) -> None:
        self.steps = 0

    def logger(self, config: Any, engine: int = 0) -> Any:
        """Return this object: vLLM accepts any object with the methods of a logger, but its types ask for a subclass."""
        return self

    def record(self, scheduler_stats: Any, iteration_stats: Any, *more: Any, **named: Any) -> None:
        self.steps += iteration_stats is not None

    def log_engine_initialized(self) -> None:
        """Required by vLLM; does nothing."""

    def log(self) -> None:
        """Required by vLLM; does nothing."""

    def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None:
        """Required by vLLM; does nothing."""


LONGEST_REQUEST = LONGEST_ANSWER  # bytes; weights may be larger, because they go to a file
_CONNECT_SECONDS = 10.0
_SPACE_SECONDS = 1.0  # between the spaces that report progress
LOOPBACK = "127.0.0.1"


class Server:
    """Routes of the server with its engine and the version of its weights. The engine writes `slots` replies at once."""

    def __init__(
        self, engine: Any, progress: EngineProgress, key: str, workers: int, slots: int, device: str, rank: int = 0
    ) -> None:
        self.engine, self.progress, self.key = engine, progress, key
        self.workers, self.slots, self.device = workers, slots, device
        self.adapter_rank, self.adapter = rank, AdapterFolder() if rank else None
        self.lora: Any = None  # vLLM's LoRARequest for the adapter of this version
        self.version: int | None = None  # None until complete weights have arrived
        self.count = 0

    def app(self) -> Any:
        from starlette.applications import Starlette
        from starlette.routing import Route

        routes = {
            "generate": self.generate,
            "weights/begin": self.begin,
            "weights/join": self.join,
            "weights/piece": self.piece,
            "weights/adapter": self.take_adapter,
            "weights/broadcast": self.broadcast,
            "weights/end": self.end,
        }
        return Starlette(
            routes=[
                Route("/health", self.health),
                *(Route(f"/{path}", self._with_key(route), methods=["POST"]) for path, route in routes.items()),
            ]
        )

    def _with_key(self, route: Any) -> Any:
        async def guarded(request: Any) -> Any:
            header = request.headers.get("authorization", "").encode()
            if not hmac.compare_digest(header, f"Bearer {self.key}".encode()):
                return _error(401, "the key is not this server's")
            try:
                return await route(request)
            except _TooLong:
                return _error(413, f"a request has at most {LONGEST_REQUEST >> 20} MiB")

        return guarded

    async def health(self, request: Any) -> Any:
        await self.engine.check_health()
        return _json({"version": self.version})

    async def generate(self, request: Any) -> Any:
        body = await _content(request)
        version = self.version
        if version is None or body["version"] != version:
            return _error(409, f"the weights here have version {version}, not {body['version']}")
        from starlette.responses import StreamingResponse

        return StreamingResponse(self._written(body, version), media_type="application/json")

    async def _written(self, body: Any, version: int) -> AsyncIterator[bytes]:
        """Yield the answer to `/generate`: a space for each second with progress, then JSON."""
        requests = map(self._reply, body["prompts"], body["settings"], [body["stop"]] * len(body["prompts"]))
        writing, steps = asyncio.gather(*requests), self.progress.steps
        try:
            while not (await asyncio.wait({writing}, timeout=_SPACE_SECONDS))[0]:
                if self.progress.steps != steps:
                    steps = self.progress.steps
                    yield b" "
            replies = await writing
        finally:
            writing.cancel()  # if the client is gone
        if self.version != version or any(None in of_prompt for of_prompt in replies):
            changed = f"the weights changed from version {version} while the replies were written"
            yield json.dumps({"version": self.version, "error": changed}).encode()
        else:
            yield json.dumps({"version": version, "replies": replies}).encode()

    async def _reply(self, prompt: list[int], settings: dict[str, Any], stop: list[int]) -> Any:
        self.count += 1
        name = f"request-{self.count}"
        written = self.engine.generate(
            {"prompt_token_ids": prompt}, sampling_params(settings, stop), name, lora_request=self.lora
        )
        async for output in written:
            if output.finished and all(reply.finish_reason in ("stop", "length") for reply in output.outputs):
                return replies(output)
        return [None]

    async def begin(self, request: Any) -> Any:
        self.version = None
        await self.engine.pause_generation(mode="abort", clear_cache=True)
        if not self.adapter:
            await self.engine.collective_rpc("begin_weights")
        place = await _content(request)
        here = {"workers": self.workers, "slots": self.slots, "device": self.device, "adapter_rank": self.adapter_rank}
        return _json({**here, "reached": await _reaches(**place)})

    async def join(self, request: Any) -> Any:
        await self.engine.collective_rpc("join_trainer", args=(await _content(request),))
        return _json({})

    async def broadcast(self, request: Any) -> Any:
        await self.engine.collective_rpc("take_broadcast", args=(await _content(request),))
        return _json({})

    async def piece(self, request: Any) -> Any:
        with tempfile.NamedTemporaryFile(dir=memory_folder()) as file:
            async for part in request.stream():
                file.write(part)
            file.flush()
            await self.engine.collective_rpc("take_weights", args=(file.name,))
        return _json({})

    async def take_adapter(self, request: Any) -> Any:
        body = bytearray()
        async for part in request.stream():
            body += part
        if self.adapter is None:
            return _error(409, "this server was started without model.lora.rank")
        try:
            self.adapter.unpack(bytes(body))
        except ValueError as error:
            return _error(422, f"the body {error}")
        if self.lora is not None:
            await self.engine.remove_lora(self.lora.lora_int_id)
        self.lora = self.adapter.request()
        await self.engine.add_lora(self.lora)
        return _json({})

    async def end(self, request: Any) -> Any:
        of_workers = [] if self.adapter else await self.engine.collective_rpc("end_weights")
        missing = sorted(set().union(*of_workers))
        await self.engine.reset_prefix_cache()
        await self.engine.resume_generation()
        self.version = None if missing else int(request.query_params["version"])
        return _json({"version": self.version, "missing": missing})


class _TooLong(Exception):
    """Error: a request has more than LONGEST_REQUEST bytes."""


async def _content(request: Any) -> Any:
    """Return the JSON of a request; {} if the body is empty."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_REQUEST:
            raise _TooLong
    return json.loads(body or b"{}")


async def _reaches(host: str = "", port: int = 0) -> bool:
    """Return True if this machine can connect to the trainer's address."""
    if not host:
        return False
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _CONNECT_SECONDS)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def _json(content: Any) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse(content)


def _error(status: int, text: str) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse({"error": text}, status)


def serve(config: Any, port: int, key: str, host: str = LOOPBACK) -> None:
    """Serve HTTP requests on `host` and `port` until the process ends. Only this machine can reach the default `host`.

    Raises:
        UserError: if the model cannot be loaded, or the GPU or the compiler that the engine needs is missing.
    """
    prepare_environment(config.paths.cache)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the workers of a server are on one machine
    import torch

    from psychocounsel.distributed.gpu import require_gpu
    from psychocounsel.model.gpu import require_compiler
    from psychocounsel.model.load import loading, model_dtype

    if os.environ.get("PSYCHOCOUNSEL_DEVICE") == "cuda":
        require_gpu()  # a server meant for the run's GPUs must not fall back to CPU
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        require_compiler("rollout=vllm_server", "rollout=hf")
    rollout = configs.build(config, "rollout")
    arguments = rollout.arguments(config, model_dtype(config.model, device), device, rollout.gpu_memory)
    if device.type == "cpu" and rollout.tensor_parallel == 1:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # saves a process that would only bind threads to cores
        arguments["distributed_executor_backend"] = "uni"
    with loading(config.model.path, "model"):
        import uvicorn

        prepare_cpu(arguments)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        progress = EngineProgress()
        engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=[progress.logger])
    about = (rollout.tensor_parallel, rollout.max_sequences, device.type, config.model.lora.rank or 0)
    server = Server(engine, progress, key, *about)
    uvicorn.run(server.app(), host=host, port=port, log_level="warning", timeout_graceful_shutdown=5)


def _end_with_parent() -> None:
    """Kill this process group, the engine's processes included, as soon as the parent process ends."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main(run_dir: Path, port: int, host: str = LOOPBACK) -> int:
    _end_with_parent()
    let_nobody_else_write()
    try:
        config = read_config(run_dir)
        hide_words(config.data.confidential)
        serve(config, port, server_secret(run_dir), host)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
