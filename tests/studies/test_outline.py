"""Output of `dry_run=true` for a study."""

import re
from pathlib import Path

from psychocounsel.cluster.local import Local
from psychocounsel.studies.outline import outline
from tests.support.small_study import planned


def test_what_the_cells_of_a_stage_ask_is_said_once_with_their_number(tmp_path: Path) -> None:
    lines = outline(planned(tmp_path), Local()).splitlines()
    assert any("└─ each_health  (for each cell of dpo; after sft)" in line for line in lines)
    asked = [line for line in lines if line.startswith("each_health")]
    assert asked and all(line.startswith("each_health, each of 2 runs: ") for line in asked), asked
    assert len(set(asked)) == len(asked) and any(re.search(r": its model: \d+ calls", line) for line in asked)
    assert any(line.startswith("health: ") for line in lines), "one run is not counted"
