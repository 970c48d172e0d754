"""`psychocounsel chat`: holds a conversation with trained models in a terminal."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from omegaconf import DictConfig

from psychocounsel.asking.model_groups import check_models, resolve_models
from psychocounsel.chatting.settings import ChatConfig, check_chat, idle_chat, resolve_chat
from psychocounsel.evaluation.audit.settings import leave_out_reward
from psychocounsel.evaluation.contestants.entries import contestant_paths
from psychocounsel.reward.sections import check_reward_paths, check_rewards, resolve_rewards, settle_rewards
from psychocounsel.reward.shipped import refuse_shipped_rewards
from psychocounsel.settings.command import Command, Presets
from psychocounsel.settings.config import typed_groups

if TYPE_CHECKING:
    from psychocounsel.rundir.run import Run


class Chat(Command):
    """A conversation in this process; it starts no jobs."""

    name: ClassVar[str] = "chat"
    module: ClassVar[str] = "psychocounsel.chat"
    section: ClassVar[str] = "transcript"
    texts: ClassVar[str] = ""
    nullable: ClassVar[tuple[str, ...]] = ("reward", "annotator")

    def resolve(self, composed: DictConfig, presets: Presets) -> None:
        resolve_rewards(composed, presets.section)
        resolve_chat(composed, presets.section)
        resolve_models(composed, presets.section)

    def leave_out(self, plain: DictConfig) -> None:
        leave_out_reward(plain)

    def schema(self, plain: DictConfig) -> type:
        return ChatConfig

    def check(self, config: DictConfig, plain: DictConfig) -> None:
        check_rewards(config, typed_groups)
        check_models(config, typed_groups)
        check_reward_paths(config)
        check_chat(config)
        settle_rewards(config)
        refuse_shipped_rewards(plain, contestant_paths(plain))

    def idle(self, config: DictConfig) -> Iterator[tuple[str, str]]:
        return idle_chat(config)

    def converse(self, config: DictConfig) -> int:
        """Hold the conversation until the user leaves or the input ends; returns the exit code."""
        from psychocounsel.chatting.conversation import talk
        from psychocounsel.remote.hub import set_cache_directories

        set_cache_directories(config.paths.cache)
        if config.get("reward") is not None:
            from psychocounsel.model.quiet import quiet_libraries

            quiet_libraries()  # it imports the libraries, which conversations with servers alone do not need
        return talk(config)

    def work(self, run: "Run") -> int:
        return self.converse(run.config)


COMMAND = Chat()

if __name__ == "__main__":
    from psychocounsel.commands.application import main_here

    main_here("psychocounsel.chat", COMMAND.converse)
