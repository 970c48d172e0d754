"""`psychocounsel serve --port 8000 model=llama3_1_8b`: writes replies with vLLM for runs with rollout.addresses."""

import argparse
import os

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from psychocounsel.commands.composing import composer
from psychocounsel.errors import DONE, UserError
from psychocounsel.rollout.vllm_server import KEY_VARIABLE
from psychocounsel.settings.command_line import Parser, run
from psychocounsel.settings.overrides import check_overrides
from psychocounsel.train import COMMAND as TRAIN

_FIXED = ("algo=", "rollout=", "rollout.addresses=")


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a number from 1 to 65535")
    return int(text)


def _parser() -> Parser:
    parser = Parser(prog="psychocounsel serve", description=__doc__)
    parser.add_argument("--port", type=_port, default=8000, help="default: 8000")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; default: 127.0.0.1 (0.0.0.0: all addresses)"
    )
    parser.add_argument("overrides", nargs="*", help="model=..., max_length=..., rollout.KEY=..., as for training")
    return parser


def main(arguments: list[str]) -> int:
    given = _parser().parse_args(arguments)
    check_overrides(given.overrides, ["algo", "model", "rollout", "reward"])
    if fixed := [text for text in given.overrides if text.lstrip("+").startswith(_FIXED)]:
        raise UserError(f"{fixed[0]}: a server writes replies for any run; leave it out")
    with composer([]) as made:
        typed = made.overrides(TRAIN, ["algo=online_dpo", "rollout=vllm_server", *given.overrides])
        config = made.checked(TRAIN, made.composed(TRAIN, typed))
    key = os.environ.get(KEY_VARIABLE)
    if not key:
        raise UserError(f"{KEY_VARIABLE} is not set: set it to a secret of your own, here and where you train")
    from psychocounsel.rollout.server import serve

    print(f"serving {config.model.path} on {given.host}:{given.port}; it waits for a run's weights", flush=True)
    serve(config, given.port, key, given.host)
    return DONE


if __name__ == "__main__":
    run(main, HydraException, OmegaConfBaseException, ValueError)
