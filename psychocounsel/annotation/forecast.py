"""`dry_run=true`: what each step would ask, of whom, and at what price. Speeches are read; nobody is asked."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from psychocounsel.annotation.asking.answers import Answers
from psychocounsel.annotation.asking.budget import Estimate
from psychocounsel.annotation.asking.language_model import LanguageModel
from psychocounsel.annotation.asking.parties import is_own
from psychocounsel.annotation.context import Context
from psychocounsel.annotation.plan import planned
from psychocounsel.annotation.replies.step import reply_asks
from psychocounsel.annotation.scores.step import rating_asks
from psychocounsel.annotation.speeches.step import run as read_speeches
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.settings.sections.server_access import host_of
from psychocounsel.settings.targets import build
