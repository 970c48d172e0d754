"""Opens a run's rollout. With `rollout.clients` it holds sessions: the rollout writes the policy's turns, clients answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from psychocounsel.data.messages import Message
from psychocounsel.errors import UserError
from psychocounsel.rollout.base import Rollout, RolloutSettings, Sampling, Shard, TrainedPolicy
from psychocounsel.rollout.clients import ClientSettings, SimulatedClients
from psychocounsel.settings.targets import require_kind, wrong_return

if TYPE_CHECKING:
    from pathlib import Path

    from omegaconf import DictConfig

    from psychocounsel.data.group import Completion, Group
    from psychocounsel.data.tokenise import ChatFormat
    from psychocounsel.distributed.world import World


def open_rollout(
    settings: RolloutSettings, config: DictConfig, engine: TrainedPolicy, chat: ChatFormat, world: World, answers: Path
) -> Rollout:
    """Return the result of `settings.open`; with `rollout.clients` it writes the policy's turns of sessions.

    `chat` is the policy's chat template. A language model that plays clients keeps its answers in the folder `answers`.

    Raises:
        UserError: as `open` does, or if the result is not a Rollout.
    """
    opened = settings.open(config, engine, chat.tokenizer, chat.ends(), world)
    rollout: Rollout = require_kind(settings, "open", opened, Rollout)
    if not settings.clients:
        return rollout
    simulated = settings.simulated()
    return SessionRollout(rollout, chat, settings.turns, world, lambda: _opened(simulated, config, answers))


class Session:
    """A session in progress: the prompt, then turns of the policy and the client.

    `ids` are the tokens that the policy reads: its own turns as it drew them, because other tokens for the same text would
    have other probabilities. `spelled` are the tokens of the same text by the tokenizer, from which the tokens of the
    client's turns are taken.
    """

    def __init__(self, prompt: Group, seed: int) -> None:
        self.prompt, self.seed, self.messages = prompt, seed, [*(prompt.messages or [])]
        self.ids = self.spelled = prompt.prompt_ids
        self.between = prompt.prompt_ids[:0]  # tokens between the policy's last turn and its next one
        self.stretch: Completion | None = None
        self.is_over = False

    @property
    def conversation(self) -> list[Message]:
        """The messages without the policy's system message."""
        return [message for message in self.messages if message["role"] != "system"]

    @property
    def completion(self) -> Completion:
        """The whole session after its prompt."""
        assert self.stretch is not None
        return replace(self.stretch, session=self.messages[len(self.prompt.messages or []) :])

    def say(self, reply: Completion) -> None:
        """Append the policy's reply. A reply that was cut ends the session, because no client would answer half a sentence."""
        import numpy as np

        self.stretch = reply if self.stretch is None else self.stretch.then(self.between, reply)
        self.ids = np.concatenate([self.ids, reply.ids])
        self.messages.append({"role": "assistant", "content": reply.text})
        self.is_over = reply.finish_reason == "length"

    def hear(self, words: str | None, chat: ChatFormat, room: int) -> None:
        """Append the client's words. The session ends if there are none, if fewer than `room` tokens would hold them, or if the
        chat template cannot continue the last reply as it was written.
        """
        import numpy as np

        assert self.stretch is not None
        if words is None or not words.strip():
            self._end("left")
            return
        client: Message = {"role": "user", "content": words.strip()}
        following = [*self.messages, client]
        between = self._between(following, chat)
        if between is None:  # the tokenizer may join a newline at the reply's beginning with the template's
            last: Message = {"role": "assistant", "content": self.messages[-1]["content"].strip()}
            following = [*self.messages[:-1], last, client]
            between = self._between(following, chat)
        if between is None or len(self.ids) + len(between) > room:
            self._end("rewritten" if between is None else "room")
            return
        self.messages, self.between = following, between
        self.ids = np.concatenate([self.ids, between])

    def _end(self, reason: str) -> None:
        """End the session for a reason of `SESSION_ENDS`."""
        assert self.stretch is not None
        self.is_over, self.stretch.finish_reason = True, reason

    def _between(self, following: Sequence[Message], chat: ChatFormat) -> Any:
        """Return the tokens from the end of the policy's last reply to the beginning of its next one, int32.

        None if the chat template refuses, changes or leaves out a part of the conversation, such as the reply's thoughts.
        """
        import numpy as np

        before, reply = following[:-2], following[-2]["content"]
        replies = spelled = None
        with suppress(UserError):
            replies = chat.encode_replies([chat.render(before, reply)], [self.spelled])
            (spelled,) = chat.encode_prompts([chat.render(following)])
        if replies is None or spelled is None:
            return None
        known = np.concatenate([self.spelled, replies[0]])
        if not np.array_equal(spelled[: len(known)], known):
            return None
        self.spelled = spelled
        return spelled[len(known) :]


class SessionRollout(Rollout):
    """Holds `Sampling.n` sessions from each prompt, with at most `turns` turns of the policy, which `rollout` writes.

    All sessions of a call advance together; those that are over leave. A session is one completion: the tokens of the
    policy's turns are trained, those of the client's turns are only read. A session ends early if a reply is cut, or as
    `SESSION_ENDS` says.

    `clients` is called on rank 0, and opens the simulated clients.
    """

    def __init__(
        self, rollout: Rollout, chat: ChatFormat, turns: int, world: World, clients: Callable[[], SimulatedClients]
    ) -> None:
        self.rollout, self.chat, self.turns, self.world = rollout, chat, turns, world
        self.draws_by_prompt, self.writes_with_a_copy = rollout.draws_by_prompt, rollout.writes_with_a_copy
        _probe(chat)
        self.clients = self._on_main(clients, lambda: None, share=False)

    def sync(self, version: int) -> None:
        self.rollout.sync(version)

    def rest(self) -> None:
        self.rollout.rest()

    def generate(self, groups: Sequence[Group], sampling: Sampling) -> list[Group]:
        return dict(self.write([(list(groups), sampling)], lambda: None)).get(0, [])

    def write(self, shards: Sequence[Shard], alive: Callable[[], None]) -> Iterator[tuple[int, list[Group]]]:
        """Implements `Rollout.write`. Where a prompt's replies depend on their seed alone, all shards advance together."""
        numbered = [*enumerate(shards)]
        for part in [numbered] if self.draws_by_prompt else [[shard] for shard in numbered]:
            yield from self._hold(part, alive)

    def _hold(
        self, shards: Sequence[tuple[int, Shard]], alive: Callable[[], None]
    ) -> Iterator[tuple[int, list[Group]]]:
        held = {number: _sessions(*shard) for number, shard in shards if shard[0]}
        _, sampling = shards[0][1]
        for turn in range(self.turns):
            live = [session for sessions in held.values() for session in sessions if not session.is_over]
            if not self.world.any(bool(live)):
                break
            self._reply(live, turn, sampling, alive)
            if turn + 1 < self.turns:
                self._listen(live, turn, sampling, alive)
            ended = [n for n in held if turn + 1 == self.turns or all(session.is_over for session in held[n])]
            for number in ended:
                yield number, _grouped(held.pop(number), sampling.n)

    def _reply(self, live: Sequence[Session], turn: int, sampling: Sampling, alive: Callable[[], None]) -> None:
        """Let the policy take its turn in all sessions."""
        from psychocounsel.data.group import Group

        seeds = tuple(_mixed(session.seed, turn, 0) for session in live)
        drawn = replace(sampling, n=1, seed=_mixed(sampling.seed, turn), seeds=seeds)
        groups = [Group(session.prompt.id, session.ids, messages=session.messages) for session in live]
        answered = dict(self.rollout.write([(groups, drawn)], alive)).get(0, [])
        for session, group in zip(live, answered, strict=True):
            session.say(group.completions[0])

    def _listen(self, live: Sequence[Session], turn: int, sampling: Sampling, alive: Callable[[], None]) -> None:
        """Let the clients take their turn in the sessions that go on."""
        waiting = [session for session in live if not session.is_over]
        of_ranks = self.world.gather([(session.conversation, _mixed(session.seed, turn, 1)) for session in waiting])
        asked = [question for of_rank in of_ranks for question in of_rank]
        if not asked:
            return
        words = self._on_main(lambda: _answers(self.clients, asked), alive)
        first = sum(map(len, of_ranks[: self.world.rank]))
        for session, said in zip(waiting, words[first : first + len(waiting)], strict=True):
            session.hear(said, self.chat, sampling.max_length - sampling.max_tokens)

    def _on_main(self, work: Callable[[], Any], alive: Callable[[], None], share: bool = True) -> Any:
        """Return the result of rank 0's `work`, with `share` on every rank, otherwise there alone.

        Raises:
            UserError: on every rank, if rank 0 raises it.
        """
        kept: list[Any] = []

        def done() -> Any:
            try:
                kept.append(work())
            except UserError as error:
                return error
            return kept[0] if share else None

        result = self.world.from_main(done, alive)
        if isinstance(result, UserError):
            raise result
        return result if share else next(iter(kept), None)


def _opened(settings: ClientSettings, config: DictConfig, answers: Path) -> SimulatedClients:
    opened = settings.open(config, answers)
    return require_kind(settings, "open", opened, SimulatedClients)


def _answers(clients: Any, asked: Sequence[tuple[list[Message], int]]) -> list[str | None]:
    words: Any = clients.answers([conversation for conversation, _ in asked], [seed for _, seed in asked])
    known = isinstance(words, list) and len(words) == len(asked) and all(isinstance(text, str | None) for text in words)
    if not known:
        raise wrong_return(
            clients, "answers", words, f"a list of {len(asked)} texts or None, one for each conversation"
        )
    said: list[str | None] = words
    return said


def _sessions(prompts: Sequence[Group], sampling: Sampling) -> list[Session]:
    """Return `n` new sessions for each prompt, in order."""
    samples = range(sampling.n)
    return [
        Session(prompt, _mixed(sampling.seed_of(place), n)) for place, prompt in enumerate(prompts) for n in samples
    ]


def _grouped(sessions: Sequence[Session], n: int) -> list[Group]:
    """Return the prompts of finished sessions, each with its `n` sessions as completions."""
    return [
        replace(sessions[first].prompt, completions=[session.completion for session in sessions[first : first + n]])
        for first in range(0, len(sessions), n)
    ]


def _mixed(*numbers: int) -> int:
    """Return a seed made of these numbers."""
    import numpy as np

    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)


def _probe(chat: ChatFormat) -> None:
    """Raise UserError if the chat template changes earlier turns, or refuses a conversation of two.

    A session is one sequence of tokens, so what the policy wrote must stay as it is when the client answers.
    """
    import numpy as np

    first: list[Message] = [{"role": "user", "content": "Hello."}]
    (prompt,) = chat.encode_prompts([chat.render(first)])
    (reply,) = chat.encode_replies([chat.render(first, "What happened?")], [prompt])
    both: list[Message] = [
        *first,
        {"role": "assistant", "content": "What happened?"},
        {"role": "user", "content": "I fell."},
    ]
    (following,) = chat.encode_prompts([chat.render(both)])
    known = np.concatenate([prompt, reply])
    if not np.array_equal(following[: len(known)], known):
        raise UserError(
            f"{chat.name}: its chat template changes a reply once another turn follows (it removes thoughts, or ends the last "
            "reply in another way), so no session can be held: give one that writes every reply alike with "
            "model.chat_template=FILE.jinja, such as a copy of the model's own without what depends on the last turn"
        )
