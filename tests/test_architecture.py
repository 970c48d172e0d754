"""Tests of the rooms (docs/architecture.md): direction of imports, no circles, no torch on submission.

The import graph comes from the source. Imports inside functions and under TYPE_CHECKING count like all others.
"""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from tests.support.harness import ROOT

PACKAGE = ROOT / "psychocounsel"

# A room imports only earlier rooms of this list. The commands and api.py at the package's root may import all rooms, and no
# room imports them.
ORDER = ["errors", "storage", "rundir", "counsel", "settings", "remote", "data", "model", "distributed", "reward"]
ORDER += [
    "blocks",
    "metrics",
    "algo",
    "rollout",
    "asking",
    "steps",
    "grading",
    "evaluation",
    "experts",
    "annotation",
    "chatting",
    "engine",
    "search",
    "cluster",
    "commands",
    "studies",
    "reporting",
]
KNOWS_ERRORS_ALONE = "distributed"

TORCH_FREE = [
    "settings",
    "storage",
    "rundir",
    "counsel",
    "blocks",
    "algo",
    "asking",
    "steps",
    "grading",
    "experts",
    "annotation",
    "chatting",
    "search",
    "cluster",
    "commands",
    "studies",
    "reporting",
    "remote",
]
RUN_ON_IMPORT = {"psychocounsel.worker", "psychocounsel.cluster.rank"}  # they start a rank when they are imported
NEEDS_AN_EXTRA = {"psychocounsel.environment"}

Graph = dict[str, set[str]]


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


@cache
def imports() -> Graph:
    """Return the modules of the package that each module imports anywhere in its file."""
    graph: Graph = {name: set() for name in modules()}
    for name, file in modules().items():
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.ImportFrom):
                assert not node.level, f"{file}:{node.lineno}: a relative import"
                from_ = node.module or ""
                graph[name] |= {full if (full := f"{from_}.{each.name}") in modules() else from_ for each in node.names}
            elif isinstance(node, ast.Import):
                graph[name] |= {each.name for each in node.names}
        graph[name] &= modules().keys() - {"psychocounsel"}
    return graph


def room_of(module: str) -> str:
    """Return the room of a module: the folder below the package, "errors", or "root" for commands and api.py."""
    file = modules()[module].relative_to(PACKAGE)
    return file.parts[0] if len(file.parts) > 1 else "errors" if file.stem == "errors" else "root"


def arrows() -> Iterator[tuple[str, str]]:
    for module, found in imports().items():
        yield from ((module, other) for other in found)


def circles(graph: Graph) -> list[set[str]]:
    """Return the sets of nodes that reach each other."""

    def reached(start: str) -> frozenset[str]:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            new = graph[ahead.pop()] - seen
            seen |= new
            ahead += new
        return frozenset(seen)

    reach = {node: reached(node) for node in graph}
    found = {frozenset(other for other in reach[node] if node in reach[other]) for node in graph if node in reach[node]}
    return [set(each) for each in found]


def test_every_room_stands_in_the_order() -> None:
    assert {room_of(module) for module in modules()} - {"root"} == set(ORDER)


def test_the_page_on_architecture_lists_the_rooms_in_this_order() -> None:
    rows = re.findall(r"^\| `([a-z]+)(?:/|\.py)` \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    assert rows == ORDER


def test_a_room_imports_only_rooms_before_it() -> None:
    places = {room: place for place, room in enumerate(ORDER)}
    back = [
        f"{module} imports {other}"
        for module, other in arrows()
        if (room := room_of(module)) not in ("root", there := room_of(other))
        and (there == "root" or places[there] > places[room])
    ]
    assert not back
    more = [other for module, other in arrows() if room_of(module) == KNOWS_ERRORS_ALONE != room_of(other)]
    assert set(more) <= {"psychocounsel.errors"}


def test_no_circle_of_files() -> None:
    assert circles(imports()) == []


def test_the_graph_and_its_circles_are_drawn_rightly() -> None:
    """Check the import graph and the search for circles, because the tests above rely on them."""
    assert "psychocounsel.engine.trainer" in imports()["psychocounsel.train"], "imported inside a function"
    assert "psychocounsel.data.group" in imports()["psychocounsel.api"], "imported under TYPE_CHECKING"
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [{"b", "c"}]


def test_the_folder_of_cpu_kernels_has_one_door() -> None:
    inside = "psychocounsel.model.cpu"
    through_the_wall = [
        f"{module} imports {other}"
        for module, other in arrows()
        if other.startswith(f"{inside}.") and not module.startswith(inside)
    ]
    assert not through_the_wall


def test_no_two_public_classes_have_the_same_name() -> None:
    names = Counter(
        node.name for file in modules().values() for node in parsed(file).body if isinstance(node, ast.ClassDef)
    )
    assert not [name for name, count in names.items() if count > 1 and not name.startswith("_")]


def test_composing_checking_and_submitting_import_no_torch() -> None:
    names = [name for name in modules() if room_of(name) in ("root", *TORCH_FREE)]
    loaded = imported(sorted({*names} - RUN_ON_IMPORT - NEEDS_AN_EXTRA))
    assert not loaded & {"torch", "transformers", "deepspeed"}
    assert "hydra" in loaded, "the modules were imported"


def test_the_algorithms_rollouts_and_clusters_of_configs_import_neither_torch_nor_numpy() -> None:
    """A submission imports these classes to check its settings, and login nodes often read packages slowly."""
    files = [file for group in ("algo", "rollout", "cluster") for file in (ROOT / "conf" / group).glob("*.yaml")]
    targets = {
        name for file in files for name in re.findall(r"_target_: (psychocounsel\.[\w.]+)\.\w+", file.read_text())
    }
    assert {"psychocounsel.algo.dpo", "psychocounsel.rollout.hf", "psychocounsel.cluster.local"} <= targets
    assert not imported(sorted(targets)) & {"torch", "transformers", "numpy"}


def imported(names: Iterable[str]) -> set[str]:
    """Return the names in `sys.modules` of a new interpreter after it has imported the modules `names`."""
    script = "import sys\nfrom importlib import import_module\n"
    script += f"for name in {list(names)}:\n    import_module(name)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_no_code_asks_which_command_a_configuration_belongs_to() -> None:
    """Commands answer by their own methods (settings/command.py); only optional groups may be looked up, by `.get`."""
    probe = re.compile(r'"\w+" (?:not )?in (?:\w+\.)*(?:config|composed|plain)\b(?![\w.\[])')
    probes = [
        f"{name}: {line.strip()}"
        for name, file in modules().items()
        for line in file.read_text().splitlines()
        if probe.search(line)
    ]
    assert not probes


def test_jobs_and_clusters_know_no_command() -> None:
    features = ("psychocounsel.annotation", "psychocounsel.evaluation")
    known = [
        f"{module} imports {other}"
        for module, other in arrows()
        if module.startswith("psychocounsel.cluster.") and other.startswith(features)
    ]
    assert known == ["psychocounsel.cluster.job_rows imports psychocounsel.evaluation.part"]
