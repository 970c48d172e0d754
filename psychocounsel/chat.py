"""`python -m psychocounsel.chat`: a conversation with trained models in a terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig


def converse(config: "DictConfig") -> int:
    """Talk until the user leaves or the input ends; returns the exit code."""
    from psychocounsel.chatting.talking import talk
    from psychocounsel.remote.hub import set_cache_directories

    set_cache_directories(config.paths.cache)
    return talk(config)


if __name__ == "__main__":
    from psychocounsel.settings.typed.early_stop import until_imported

    until_imported()
    from psychocounsel.cluster.application import main_here

    main_here("chat", converse)
