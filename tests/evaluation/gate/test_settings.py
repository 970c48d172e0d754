"""Wrong keys of the gate are refused at submission, in one line that names the remedy."""

from pathlib import Path

import pytest

from psychocounsel.errors import UserError
from psychocounsel.evaluation.gate.keys import GateKeys
from psychocounsel.evaluation.health.reply import LIMITS
from psychocounsel.settings.targets import build
from tests.evaluation.gate.runs import prepare
from tests.support.contests import contest, replies

REFUSED = {
    "shards=2": "shards=2: a gate cannot be sharded; run evaluation=safety and the other parts with shards, then",
    "gate.parts=[safety,sesion]": "gate.parts: unknown part sesion; the parts are safety, session, health",
    "gate.parts=[safety,safety]": "name at least one of [safety,session,health], each only once",
    "gate.parts=[]": "name at least one of [safety,session,health], each only once",
    "+gate.health.lop=0.1": "gate.health.lop: is not a figure with a limit; did you mean loop?",
    "gate.health.loop=2": "gate.health.loop=2.0: must be above 0 and at most 1, or null",
    "+gate.strata={age.old: {missed: 0.1}}": "gate.strata: unknown stratum age; the strata are kind, disclosure",
    "+gate.strata={kind.selfharm: {missed: 0.1}}": "gate.strata.kind.selfharm: unknown kind; did you mean self_harm?",
    "+gate.strata={kind.self_harm: {mist: 0.1}}": "gate.strata.kind.self_harm.mist: unknown figure; the figures are missed",
    "+gate.strata={kind.self_harm: {missed: 2}}": "gate.strata.kind.self_harm.missed=2: must be above 0 and at most 1",
    "+gate.strata={kind.self_harm: 0.1}": "gate.strata.kind.self_harm: must hold ceilings by figure, for instance {missed: 0.1}",
    "gate.adjudicated=[no.csv]": "no.csv: no such file",
    "gate.from=[no]": "no: is not the directory of an evaluation (it has no config.yaml)",
    "+gate.strata={kind.suicide: {missed: 0.1}}": "gate.strata.kind.suicide: unknown kind; they are suicidal_thoughts,",
    "+gate.health.colour=0.1": "gate.health.colour: is not a figure with a limit; they are empty, refusal,",
    "gate.missed.margin=null": "gate.missed.margin: cannot be null; give a value, or leave it out",
    "gate.missed.ceiling=0": "gate.missed.ceiling=0.0: must be greater than 0",
    "gate.missed.ceiling=1": "gate.missed.ceiling=1.0: must be less than 1",
    "gate.passes=0": "gate.passes=0: must be at least 1",
    "against=null": "against: a gate compares with one base, and none is known; give against=BASE",
    "+gate.resolved={safety-1: ''}": "gate.resolved.safety-1: must name the person who decided",
    "judge=tiny": "scores replies and answers no questions; give judge=checks",
    "gate.parts=[session]": "is a file of replies, and a session needs a model that answers",
}


def submit(options: list[str], run_dir: Path) -> None:
    """Run the checks of a submission."""
    config = contest("evaluation=gate", *options)
    config.run_dir = str(run_dir)
    build(config, "evaluation").prepare(config, run_dir)


@pytest.mark.parametrize("option", REFUSED)
def test_a_key_that_cannot_work_is_refused(tmp_path: Path, option: str) -> None:
    files = [replies(tmp_path / f"{name}.jsonl", lambda prompt: "What keeps you awake?") for name in ("mine", "base")]
    prepare(tmp_path)
    usual = [f"model.path={files[0]}", f"against={files[1]}", f"personas.folder={tmp_path}/scripts"]
    with pytest.raises(UserError) as refused:
        submit([*usual, "gate.parts=[safety,health]", option], tmp_path / "gate")
    assert REFUSED[option] in str(refused.value) and "\n" not in str(refused.value)


def test_the_file_of_options_has_the_defaults_of_the_code() -> None:
    keys = contest("evaluation=gate").gate
    own = GateKeys()
    assert {name: keys.health[name] for name in keys.health} == LIMITS == own.health
    for figure in ("missed", "over_escalation", "under_triage"):
        assert keys[figure] == vars(getattr(own, figure))
    assert (keys.passes, keys.wrong_labels, keys.resolved) == (own.passes, own.wrong_labels, own.resolved)
    assert keys.strata == own.strata


def test_strata_may_be_nested_and_under_triage_switched_off() -> None:
    options = ["+gate.strata={kind: {self_harm: {missed: 0.1}}}", "gate.under_triage.margin=null"]
    config = contest("evaluation=gate", *options)
    from psychocounsel.evaluation.gate.decision_step import limits_of

    found = limits_of(config)
    emergencies = {"expected_action.emergency": {"under_triage": 0.1}}
    assert found.strata == {"kind.self_harm": {"missed": 0.1}, **emergencies} and found.margin["under_triage"] is None
