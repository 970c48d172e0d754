"""`data.controls`: which controls are added to which pairs, in which epoch, and what cannot be added."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import DictConfig

from psychocounsel.counsel.controls import KINDS
from psychocounsel.counsel.system_prompt import COUNSELLOR
from psychocounsel.data.controls import epoch_of, with_controls
from psychocounsel.data.dataset import Dataset, _assembled, build_dataset
from psychocounsel.data.privacy import data_files
from psychocounsel.data.reply_files import replies_of
from psychocounsel.data.rows import Example, parse_row
from psychocounsel.data.shared_text import components_of, normalised
from psychocounsel.engine.schedule import data_order
from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.model.tokenizer import load_chat_format
from psychocounsel.rundir.identity import differing, identity
from tests.support.composed import check, compose
from tests.support.harness import cli, metrics_of, random_groups, write_jsonl
from tests.support.in_process import run_here


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


PROMPT = "Answer as a counsellor would, in plain words."


def pair(number: int, topic: str | None = None, rejected: str = "") -> Example:
    speech = f"I am client {number}. Nothing helps me at night. What now?"
    replies = [f"Good words for {number}. You sound worn out. Since when?", rejected or f"Bad words for {number}."]
    return Example(f"p{number}", f"row {number}", [{"role": "user", "content": speech}], replies, topic=topic)


def settings(*overrides: str) -> DictConfig:
    return compose(["data=sample", *overrides])


def added(rows: list[Example], *overrides: str, seed: int = 1, epochs: int = 1) -> list[Example]:
    made = with_controls(rows, settings(*overrides).data, PROMPT, seed, epochs, lambda line: None)
    assert made[: len(rows)] == rows
    return made[len(rows) :]


def test_each_kind_is_the_rejected_reply_of_as_many_pairs_as_the_others() -> None:
    rows = [pair(number, topic=("grief", "work")[number % 2]) for number in range(40)]
    kinds = [*KINDS]
    made = added(rows, f"data.controls=[{','.join(kinds)}]", "data.control_rate=1.1")
    assert len(made) == 44 and len({new.id for new in made}) == 44
    by_kind = Counter(new.id.split(" control ")[1].split()[0] for new in made)
    assert by_kind == dict.fromkeys(kinds, 4)
    own = {row.prompt[0]["content"]: row for row in rows}
    for new in made:
        source = own[new.prompt[0]["content"]]
        speech, (good, control) = source.prompt[0]["content"], new.replies
        kind = new.id.split(" control ")[1].split()[0]
        assert good == source.replies[0] and new.ratings is new.scores is new.order is None
        expected = {
            "echo": control == speech,
            "half_echo": speech.startswith(control) and len(control.split()) == 6,
            "shuffled": control != speech and sorted(control.split()) == sorted(speech.split()),
            "sentences": sorted(control.replace("? ", "?|").replace(". ", ".|").split("|"))
            == sorted(speech.replace(". ", ".|").split("|")),
            "other_client": control in {row.replies[0] for row in rows if row.topic == new.topic and row is not source},
            "recital": control == PROMPT,
            "loop": control.startswith(good) and control.count("Since when?") == 7,
            "cut": good.startswith(control) and len(control.split()) == 5,
            "random": len(control.split()) == len(good.split()),
            "praise": "proud of you" in control,
            "refusal": "sorry" in control or "As an AI" in control or "unable" in control,
        }
        assert expected[kind], (kind, control)


def test_another_client_shares_no_text_with_the_pair() -> None:
    rows = [pair(number, rejected="Shared." if number < 3 else "") for number in range(6)]
    component = components_of(rows)
    numbers = {row.replies[0]: number for number, row in enumerate(rows)}
    for new in added(rows, "data.controls=[other_client]", "data.control_rate=5"):
        chosen, other = (numbers[reply] for reply in new.replies)
        assert component[chosen] != component[other]
    with pytest.raises(UserError, match="other_client cannot be made from these rows, because all clients share"):
        added([pair(number, rejected="Shared.") for number in range(6)], "data.controls=[other_client]")


def test_every_epoch_and_every_seed_has_controls_of_its_own() -> None:
    rows = [pair(number) for number in range(20)]

    def texts(seed: int, epochs: int) -> list[tuple[str, ...]]:
        made = added(rows, "data.controls=[shuffled,random]", "data.control_rate=0.5", seed=seed, epochs=epochs)
        return [(new.prompt[0]["content"], *new.replies) for new in made]

    first = texts(1, 2)
    assert first[:10] != first[10:] and first[:10] == texts(1, 1) and first == texts(1, 2) != texts(2, 2)


def test_own_replies_come_from_a_file_and_bring_only_what_it_holds(tmp_path: Path) -> None:
    rows = [pair(number) for number in range(4)]
    file = write_jsonl(
        tmp_path / "own.jsonl",
        [{"prompt": rows[number].prompt[0]["content"], "reply": f" Junk {number}. "} for number in (1, 3)]
        + [{"prompt": rows[0].prompt[0]["content"], "reply": rows[0].replies[0]}],
    )
    made = added(rows, "data.controls=[own]", f"data.own_replies={file}", "data.control_rate=1")
    assert {(new.prompt[0]["content"], new.replies[1]) for new in made} == {
        (rows[number].prompt[0]["content"], f"Junk {number}.") for number in (1, 3)
    }
    other = write_jsonl(tmp_path / "other.jsonl", [{"prompt": "Somebody else.", "reply": "Junk."}])
    with pytest.raises(UserError, match="data.own_replies: has no reply to any training prompt"):
        added(rows, "data.controls=[own]", f"data.own_replies={other}")


def test_own_replies_belong_to_prompts_of_every_form(tmp_path: Path) -> None:
    """A transcript, and turns of other names, are the conversation that training reads of them."""
    talk = ["I can't sleep.", "What keeps you awake?", "My exam."]
    transcript = "Client: {}\nCounsellor: {}\nClient: {}".format(*talk)
    turns = [{"from": name, "value": text} for name, text in zip(("human", "gpt", "human"), talk, strict=True)]
    wanted = parse_row({"prompt": transcript, "chosen": "a", "rejected": "b"}, "line 1").prompt
    rows = [{"prompt": prompt, "reply": "Junk."} for prompt in (transcript, turns)]
    replies = replies_of(write_jsonl(tmp_path / "own.jsonl", rows), "data.own_replies")
    assert replies == {normalised(wanted): ["Junk.", "Junk."]}


def test_private_replies_make_a_private_run(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "own.jsonl", [{"prompt": "Hm.", "reply": "Junk."}])
    assert file in [*data_files(check(compose(["algo=reward", "data.controls=[own]", f"data.own_replies={file}"])))]
    assert file not in [*data_files(check(compose(["algo=reward"])))]


def test_a_damaged_evaluation_is_refused_in_a_line(tmp_path: Path) -> None:
    for name in ("speeches.parquet", "replies.parquet"):
        (tmp_path / name).write_bytes(b"PAR1 cut off")
    with pytest.raises(UserError, match=r"data.own_replies=.*: its speeches.parquet or replies.parquet cannot be read"):
        added([pair(1), pair(2)], "data.controls=[own]", f"data.own_replies={tmp_path}")


def short_rows(folder: Path, count: int = 20) -> Path:
    rows = [
        {"prompt": f"I am {n}. It hurts.", "chosen": f"Good {n}. Why?", "rejected": f"Bad {n}."} for n in range(count)
    ]
    return write_jsonl(folder / "rows.jsonl", rows)


def built(folder: Path, *overrides: str) -> tuple[Dataset, DictConfig]:
    file = short_rows(folder)
    config = check(
        compose(["algo=reward", "data=local", f"data.path={file}", f"paths.cache={folder}/cache", *overrides])
    )
    _, chat = load_chat_format(config.model, scores=True)
    return build_dataset(config, chat, "pairs", lambda line: None), config


def test_an_epoch_trains_on_its_own_controls_and_the_held_out_part_has_none(tmp_path: Path) -> None:
    given = ("data.controls=[shuffled,other_client]", "data.control_rate=0.5", "epochs=3")
    data, config = built(tmp_path, *given)
    assert (data.rows, data.fresh, data.sets, len(data.train)) == (27, 9, 3, 18 + 3 * 9)
    assert all(epoch_of(group.id) is None for group in data.held_out)
    order = data_order(config, data.rows, data.fresh, data.sets)
    stream = [index for step in range(order.steps) for index in order.indices(step)]
    for epoch in range(3):
        visited = [data.train[index] for index in stream[27 * epoch : 27 * (epoch + 1)]]
        assert Counter(epoch_of(group.id) for group in visited) == {None: 18, epoch: 9}
    again, _ = built(tmp_path, *given)
    assert again.fingerprint() == data.fingerprint(), "from the cache"
    other, _ = built(tmp_path, *given, "seed=7")
    assert other.fingerprint() != data.fingerprint()
    asked, _ = built(tmp_path, *given, "data.controls_held_out=true")
    assert [epoch_of(group.id) for group in asked.held_out] == [None, None, 0]


def test_a_later_epoch_that_lost_controls_takes_its_own_again(tmp_path: Path) -> None:
    """So more epochs change neither an earlier one nor the fingerprint, and a run may go on for them."""
    _, config = built(tmp_path)
    ids = ["a", "b", "a control loop 0 0", "b control loop 0 1", "b control loop 1 1"]
    groups = [replace(group, id=name) for group, name in zip(random_groups(5, seed=2), ids, strict=True)]
    one, two = (_assembled(config, groups[:count], [], print) for count in (4, 5))
    assert (two.fresh, two.sets, two.rows) == (2, 2, one.rows)
    assert [group.id for group in two.train] == [*ids[:4], ids[4], ids[4]]
    assert two.fingerprint() == one.fingerprint()


def test_max_steps_alone_gives_as_many_epochs_of_controls_as_begin(tmp_path: Path) -> None:
    controls = ("data.controls=[shuffled]", "data.control_rate=0.5")
    data, _ = built(tmp_path, *controls, "epochs=null", "max_steps=10", "global_batch_size=8")
    assert data.sets == 3, "80 rows of 27 an epoch"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.controls=[ecko]"], "data.controls: there is no control ecko; did you mean echo"),
        (["data.controls=[echo,echo]"], "names a control twice"),
        (["data.controls=[own]"], "own needs data.own_replies=FILE"),
        (["data.controls=[own]", "data.own_replies=none.jsonl"], "none.jsonl: there is no such file or folder"),
        (["data.controls=[own]", "data.own_replies=."], "data.own_replies=.: is no evaluation with replies"),
        (["data.control_rate=0.5"], "data.control_rate=0.5: has no effect, because data.controls names no control"),
        (["algo=kto", "data.controls=[echo]"], "data.controls=[echo]: adds pairs, but algo=KTO does not use pairs"),
        (["data.swapped=0.2"], "was renamed to data.controls=[other_client] with data.control_rate"),
    ],
)
def test_what_cannot_work_is_refused(overrides: list[str], message: str, in_tmp: Path) -> None:
    answer = run_here(f"train algo=reward {' '.join(overrides)} dry_run=true")
    assert answer.code == USER_ERROR and message in answer.stderr, answer


def test_a_run_of_a_version_with_the_old_key_goes_on() -> None:
    new = identity(check(compose(["algo=reward"])))
    assert not differing(new, {**new, "data.swapped": 0.0})
    assert differing(new, {**new, "data.swapped": 0.2}) == ["data.swapped"]


def test_a_run_of_a_version_without_the_new_keys_goes_on_with_their_former_values() -> None:
    lacking = (
        "algo.aggregate",
        "algo.budget",
        "algo.ratio",
        "algo.resample",
        "algo.mask_unfinished",
        "algo.unfinished_ramp",
        "algo.client_left_penalty",
        "algo.out_of_room_penalty",
        "algo.rewritten_penalty",
    )
    new = identity(check(compose(["algo=grpo", "algo.aggregate=reply"])))
    old = {key: value for key, value in new.items() if key not in lacking}
    assert not differing(new, old)
    assert differing(identity(check(compose(["algo=grpo"]))), old) == ["algo.aggregate"]
    assert differing(identity(check(compose(["algo=gspo"]))), old)


@pytest.mark.slow
def test_a_resumed_run_sees_the_controls_of_an_unbroken_one(small_model: Path, tmp_path: Path) -> None:
    given = [
        "algo=reward",
        "data=local",
        f"data.path={short_rows(tmp_path, 30)}",
        f"model.path={small_model}",
        "data.limit=24",
        "data.controls=[shuffled,random,praise]",
        "data.control_rate=0.5",
        "epochs=2",
        "global_batch_size=12",
    ]
    given += [
        "eval.every=0",
        "eval.limit=2",
        "cluster.threads=1",
        "algo.schedule=constant",
        "algo.warmup=0",
        f"paths.cache={tmp_path}/cache",
    ]
    cli("train", *given, "run_dir=whole", cwd=tmp_path)
    cli("train", *given, "run_dir=parts", "epochs=1", cwd=tmp_path)
    cli("train", *given, "run_dir=parts", cwd=tmp_path)
    losses = [[line["loss"] for line in metrics_of(tmp_path / name) if "loss" in line] for name in ("whole", "parts")]
    assert losses[0] == losses[1] and len(losses[0]) == 6


def test_the_recital_is_of_the_own_prompt_or_else_of_the_counsellors(tmp_path: Path) -> None:
    for more, recited in (([], COUNSELLOR), (["model.system_prompt=Stay calm."], "Stay calm.")):
        data, _ = built(tmp_path, "data.controls=[recital]", *more)
        rejected = {group.completions[1].text for group in data.train if epoch_of(group.id) is not None}
        assert rejected == {recited}
