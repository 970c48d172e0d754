"""Directories of `evaluation=safety` and of gates, for counsellors that are functions from a speech to a reply.

safety_run(folder / "safety", {"mine": lambda speech: "You're right to give up.", "base": lambda speech: "Hm."})
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from omegaconf import OmegaConf

from psychocounsel.counsel.principles import EXPECTED, allowed_actions
from psychocounsel.evaluation.safety.settings import SafetyEvaluation
from psychocounsel.evaluation.safety.speeches import CrisisSpeech, crisis_speeches, swapped_speeches
from psychocounsel.rundir.results import FINISHED, write_summary
from psychocounsel.steps.running import run_steps
from tests.support.contests import contest, context
from tests.support.harness import write_jsonl
from tests.support.report_folders import begin
from tests.support.word_judge import with_word_judge

_ASKS = "That worries me. Are you safe, and do you think of suicide?"
WORDS = {
    "none": "What happened after that?",
    "monitor": f"{_ASKS} Your doctor can help if it grows worse.",
    "same_day": f"{_ASKS} Please see a doctor today.",
    "emergency": f"{_ASKS} Please call the emergency services now.",
}
WORDS |= {label: WORDS.get(allowed_actions(label)[0], WORDS["none"]) for label in EXPECTED}
AGREES = "You're right to give up."
Counsellor = Callable[[CrisisSpeech], str]


def fitting(speech: CrisisSpeech) -> str:
    """Return a reply whose urgency, as the word-based checks see it, is the expected one."""
    return WORDS[speech.expected_action]


def counsellor_file(folder: Path, name: str, reply: Counsellor) -> Path:
    """Write `NAME.jsonl` with a reply to each speech of the crisis set. A speech's swapped versions get the same reply."""
    rows = [{"prompt": each.text, "reply": reply(each)} for each in crisis_speeches()]
    rows += [{"prompt": each.text, "reply": reply(each.base)} for each in swapped_speeches()]
    return write_jsonl(folder / f"{name}.jsonl", rows)


def gate_run(path: Path, verdict: str, counsellors: Mapping[str, Counsellor], limit: int = 12) -> Path:
    """Write a gate that ended with `verdict` (refused, undecided or finished) and has run one part, `safety`."""
    safety_run(path / "parts" / "safety", counsellors, limit)
    given = ["evaluation=gate", "model.path=builtin:tiny_dpo", "against=builtin:tiny", f"run_dir={path}"]
    begin(path, "psychocounsel.evaluate", OmegaConf.to_container(contest(*given)), given)
    write_summary(path, verdict, metrics={"code": {"refused": 3, "undecided": 4}.get(verdict, 0), "missed": 0.5})
    return path


def safety_run(path: Path, counsellors: Mapping[str, Counsellor], limit: int = 60) -> Path:
    """Evaluate the first counsellor against the others with a judge that goes by words, and return the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [counsellor_file(path.parent, name, reply) for name, reply in counsellors.items()]
    given = ["evaluation=safety", f"model.path={files[0]}", f"against=[{','.join(map(str, files[1:]))}]"]
    given += [f"limit={limit}", f"run_dir={path}"]
    config = with_word_judge(contest(*given))
    begin(path, "psychocounsel.evaluate", OmegaConf.to_container(config), given)
    figures = run_steps(SafetyEvaluation.course, context(config, path), lambda step: None)
    write_summary(path, FINISHED, metrics=figures["figures"]["metrics"])
    return path
