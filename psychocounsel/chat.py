"""`python -m psychocounsel.chat`: holds a conversation with trained models in a terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig


def converse(config: "DictConfig") -> int:
    """Hold the conversation until the user leaves or the input ends; returns the exit code."""
    from psychocounsel.chatting.talking import talk
    from psychocounsel.remote.hub import set_cache_directories

    set_cache_directories(config.paths.cache)
    if "reward" in config or any("addresses" not in model for model in config.contestants.members):
        from psychocounsel.engine.telemetry.progress import quiet_libraries

        quiet_libraries()  # called only here because it imports the libraries, which server-only conversations do not need
    return talk(config)


if __name__ == "__main__":
    from psychocounsel.settings.typed.early_stop import until_imported

    until_imported()
    from psychocounsel.cluster.application import main_here

    main_here("chat", converse)
