"""`data.balance`: cues that there are, each once, and an algorithm whose loss weighs pairs."""

from typing import Any

from omegaconf import DictConfig

from psychocounsel.counsel.cues import CUES
from psychocounsel.errors import UserError
from psychocounsel.settings.schema import suggestion


def check_balance(config: DictConfig, algorithm: Any) -> None:
    """Refuse cues that there are not, and an algorithm that cannot use weights of pairs.

    Raises:
        UserError: naming the cue, or the algorithms to use instead.
    """
    names = config.data.balance or []
    for name in names:
        if name not in CUES:
            near = suggestion(name, list(CUES)) if suggestion(name, list(CUES)).startswith("did") else ""
            raise UserError(f"data.balance: there is no cue {name}; {near or 'cues are ' + ', '.join(CUES)}")
    if len(set(names)) < len(names):
        raise UserError(f"data.balance=[{','.join(names)}]: names a cue twice; give each once")
    if names and not algorithm.needs.weights:
        raise UserError(
            f"data.balance=[{','.join(names)}]: weighs pairs of the data, and the loss of algo={type(algorithm).__name__} "
            "has no use for such weights: use algo=reward, dpo, simpo or orpo, or leave data.balance out"
        )
