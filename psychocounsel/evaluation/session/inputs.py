"""Checks of a session's inputs: clients or finished conversations, a rubric, and models that fit them."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.errors import UserError
from psychocounsel.evaluation.session.flows_step import flow_judges, flow_prompt
from psychocounsel.evaluation.session.personas import BUILTIN, PersonaSet
from psychocounsel.evaluation.session.scripted import ScriptedPersonas
from psychocounsel.evaluation.session.training_clients import ClientOpenings, training_clients
from psychocounsel.evaluation.session.transcripts import chosen_transcripts
from psychocounsel.rundir.run_config import read_config
from psychocounsel.rundir.trained_runs import runs_of
from psychocounsel.settings.targets import build
from psychocounsel.storage.text_hashes import text_id

LANGUAGE = "en"  # language of all clients, because the word checks only know English


def made_of(config: DictConfig) -> dict[str, Any]:
    """Return hashes of all clients or conversations, and of the rubric, so that changed files make the steps due again.

    {} if the files no longer exist or are wrong.
    """
    try:
        prompt = flow_prompt(config)
        rubric = {} if prompt is None else {"rubric": prompt.rubric.version}
        if config.evaluation.transcripts is not None:
            return {
                "transcripts": text_id(*sorted(transcript.id for transcript in chosen_transcripts(config))),
                **rubric,
            }
        return {"clients": text_id(*sorted(persona.id for persona in build(config, "personas").personas())), **rubric}
    except UserError:
        return {}


def check_inputs(config: DictConfig) -> None:
    """Read persona, rubric and transcript files, and check that the chosen models can work with them.

    Raises:
        UserError: if an input is wrong. The message names the file and line, or the key, and what to type instead.
    """
    if flow_prompt(config) is not None:
        flow_judges(config)
    if config.evaluation.transcripts is not None:
        _check_transcripts(config)
        return
    clients: PersonaSet = build(config, "personas")
    clients.check("personas")
    if clients.asks_client:
        _check_client(config, clients.name)
    for contestant in build(config, "contestants").models():
        _check_contestant(contestant)
        _refuse_known_clients(contestant, clients)


def idle_keys(config: DictConfig) -> dict[str, str]:
    """Return the sections that have no effect with these settings, each with the reason."""
    if config.evaluation.transcripts is not None:
        reason = "evaluation.transcripts names finished conversations, so neither a client nor a counsellor is asked"
        return dict.fromkeys(("model", "against", "personas", "client", "replies"), reason)
    clients: PersonaSet = build(config, "personas")
    return {} if clients.asks_client else {"client": f"personas={clients.name} asks no model"}


def _refuse_known_clients(contestant: LanguageModel, clients: PersonaSet) -> None:
    """Raise UserError if the contestant was trained in sessions with one of these clients (never the shipped ones)."""
    if not isinstance(clients, ScriptedPersonas) or clients.folder == BUILTIN:
        return
    names = {persona.id: persona.name for persona in clients.personas()}
    for run in runs_of(contestant.model):
        data = read_config(run).data
        trained = (
            training_clients(data.path) if str(data.get("_target_")).endswith(f".{ClientOpenings.__name__}") else ()
        )
        if known := [names[client.id] for client in trained if client.id in names]:
            raise UserError(
                f"personas.folder={clients.folder}: {contestant.name} was trained in sessions with {known[0]} "
                f"({len(known)} of these clients in all); use other clients, or personas.folder={BUILTIN}"
            )


def _check_transcripts(config: DictConfig) -> None:
    chosen_transcripts(config)
    if config.shards > 1:
        raise UserError("shards: a single job judges the conversations of evaluation.transcripts; leave shards out")
    for judge in build(config, "judge").models():
        if judge.is_third_party() and not config.crisis_to_third_parties:
            raise UserError(
                f"judge: {judge.name} is run by a third party, and conversations of evaluation.transcripts may be about a "
                "crisis; add crisis_to_third_parties=true if it may see them, or give your own model, such as judge=local_vllm"
            )


def _check_client(config: DictConfig, personas: str) -> None:
    """Raise UserError if no model plays the clients, or if the model has a contestant's name or another language."""
    if config.get("client") is None:
        raise UserError(
            f"personas={personas}: these clients need a language model that plays them; add client=local_vllm "
            "client.model=MODEL, or another file of conf/client"
        )
    names = {contestant.name for contestant in build(config, "contestants").models()}
    for client in build(config, "client").models():
        if client.name in names:
            raise UserError(
                f"client.name={client.name}: a contestant has the same name; add client.name=client, or another name"
            )
        if client.language not in (None, LANGUAGE):
            raise UserError(f"client.language={client.language}: clients speak {LANGUAGE}; leave client.language out")


def _check_contestant(contestant: LanguageModel) -> None:
    """Raise UserError if the contestant cannot hold a session with these clients."""
    from psychocounsel.evaluation.contestants.settings import ReplyFile

    if isinstance(contestant, ReplyFile):
        raise UserError(
            f"model, against: {contestant.name} is a file of replies, and a session needs a model that answers; give a run, a "
            "folder, a hub id or an address"
        )
    if contestant.language not in (None, LANGUAGE):
        raise UserError(
            f"model, against: {contestant.name} speaks {contestant.language}, but clients speak {LANGUAGE}; leave this model out"
        )
