"""The house rules that a reader can check from the source alone: who imports whom, who writes, how big things are."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("layers")  # one process parses the modules

ROOT = Path(__file__).parent.parent / "quantkit"
MODULES = sorted(ROOT.rglob("*.py"))

# The floors, from the ground up: a module or package imports only from floors below its own.
FLOORS = (
    ("records",),
    (
        "blocksums",
        "errors",
        "events",
        "filenames",
        "jsontext",
        "metadata",
        "placeholders",
        "platforms",
        "tensors",
        "version",
    ),
    ("discovery", "extras", "machine", "patterns", "units"),
    ("storage", "untrusted"),
    ("qtypes",),
    ("formats", "families", "report"),
    ("tokenizer",),
    ("methods", "source"),
    ("recipes",),
    ("calibration", "hub", "plan", "schemas"),
    ("batch", "consumers", "filling", "quality"),
    ("evaluation", "ollama", "tuning"),
    ("pipeline",),
    ("__init__",),
    ("cli",),
    ("__main__",),
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}

# Libraries that are slow to import, or that only one part of the house may know.
ONLY_IN = {
    "torch": ("methods", "calibration", "filling", "quality", "evaluation", "tuning"),
    "transformers": ("calibration", "quality"),
    "numba": ("qtypes",),
    "gguf": ("quality",),
    "xllamacpp": ("quality",),
    "lm_eval": ("evaluation/harness.py",),
    "distributed": ("batch",),
    "dask": ("batch",),
    "tokenizers": ("tokenizer",),
    "sentencepiece": ("tokenizer",),
    "jinja2": ("tokenizer", "calibration"),
    "huggingface_hub": ("source", "calibration", "hub", "evaluation/harness.py"),
    "safetensors": ("quality",),
    "model_signing": ("pipeline/signing.py",),
    "cryptography": ("pipeline/signing.py",),
    "typer": ("cli",),
    "rich": ("cli",),
    "click": (),  # Typer vendors its own
    "pickle": (),
    "tempfile": (),
}

CONTAINERS_AND_SCHEMES = ("quantkit.formats.containers", "quantkit.qtypes.schemes")
SCHEMES = {"Affine", "Codebook", "Float8", "Halves", "Integers", "MXFP4", "NVFP4", "RowInt8"}

MODULE_LINES, FUNCTION_LINES, PARAMETERS = 400, 60, 6
DATA_TABLES: frozenset[str] = frozenset()  # modules that are nothing but a table of facts
COMPILERS = {"compiled", "kept", "inlined", "called", "intrinsic", "njit"}  # their functions cannot take a dataclass


@dataclass(frozen=True)
class Source:
    """One module: its path in the package and its tree, parsed when it is asked for."""

    name: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse((ROOT / self.name).read_text("utf-8"))

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @property
    def part(self) -> str:
        return self.name.removesuffix(".py").partition("/")[0]


SOURCES = [Source(path.relative_to(ROOT).as_posix()) for path in MODULES]


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every imported module with its line; `from quantkit import x` counts as quantkit.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            if node.module == "quantkit":
                yield from ((node.lineno, f"quantkit.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module or ""


NAMES = {".".join(Path("quantkit", source.name).with_suffix("").parts).removesuffix(".__init__") for source in SOURCES}


def known_modules(source: Source) -> set[str]:
    """The modules of quantkit that a module imports: also inside functions, and for type checkers only."""
    found = set()
    for node in source.nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & NAMES) or {node.module or ""}
    return found & NAMES


def test_scripts_import_what_there_is() -> None:
    """Nobody else reads them before they are run: not mypy, and not a test of the module where a name was."""
    defined = {
        ".".join(Path("quantkit", source.name).with_suffix("").parts).removesuffix(".__init__"): {
            name
            for node in source.tree.body
            for name in (
                *([node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else ()),
                *(target.id for target in ast.walk(node) if isinstance(target, ast.Name)),
                *(alias.asname or alias.name for alias in getattr(node, "names", ()) if isinstance(alias, ast.alias)),
            )
        }
        for source in SOURCES
    }
    wrong = [
        f"{path.name}:{node.lineno}: {node.module}.{alias.name}"
        for path in sorted((ROOT.parent / "scripts").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("quantkit.")
        for alias in node.names
        if f"{node.module}.{alias.name}" not in NAMES and alias.name not in defined.get(node.module or "", ())
    ]
    assert wrong == []


def part_of(module: str) -> str:
    """The package or module right below quantkit; "__init__" for quantkit itself."""
    return [*module.split("."), "__init__"][1]


def test_imports_point_down() -> None:
    known = [(source, name, part_of(name)) for source in SOURCES for name in known_modules(source)]
    wrong = [
        f"{source.name} may not know {name}"
        for source, name, part in known
        if part != source.part and FLOOR[part] >= FLOOR[source.part]
    ]
    assert wrong == []


def test_no_two_files_need_each_other() -> None:
    """A topological sort over files: a circle is named by the files in it."""
    graph = {
        ".".join(Path("quantkit", s.name).with_suffix("").parts).removesuffix(".__init__"): known_modules(s)
        for s in SOURCES
    }
    for module, known in graph.items():
        known.discard(module)
    try:
        assert len(list(TopologicalSorter(graph).static_order())) == len(graph)
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


PROTOCOLS = {"Layout", "WriteLayout"}  # seams, no classes


def test_only_containers_know_their_layouts_and_schemes() -> None:
    """Everyone else asks the `Layout` at hand: whoever cannot name a class cannot ask for it."""
    for source in SOURCES:
        if source.name.startswith(("formats/containers/", "formats/gguf/layout", "qtypes/schemes/")):
            continue
        for node in source.nodes:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(CONTAINERS_AND_SCHEMES):
                classes = {a.name for a in node.names if a.name in SCHEMES or a.name.endswith("Layout")} - PROTOCOLS
                assert not classes, f"{source.name}:{node.lineno}: {classes}"


def test_nobody_asks_which_kind_of_recipe_or_plan() -> None:
    """There is one of each: what differs is a field of it."""
    for source in SOURCES:
        for node in source.nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                asked = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
                assert not asked & {"Plan", "Unit", "Recipe", "Rule", "Weights"}, f"{source.name}:{node.lineno}"


def test_floors_name_what_exists() -> None:
    assert set(FLOOR) == {source.part for source in SOURCES}


def test_libraries_stay_where_they_belong() -> None:
    wrong = [
        f"{source.name}:{line}: {name}"
        for source in SOURCES
        for line, name in imports(source.tree)
        for allowed in [ONLY_IN.get(name.partition(".")[0])]
        if allowed is not None and source.part not in allowed and source.name not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("module", ["quantkit", "quantkit.cli.main", "quantkit.storage", "quantkit.methods.settings"])
def test_heavy_libraries_load_when_needed(module: str) -> None:
    heavy = [
        "torch",
        "transformers",
        "numba",
        "gguf",
        "tokenizers",
        "sentencepiece",
        "huggingface_hub",
        "jinja2",
        "rich",
    ]
    code = f"import sys, {module}; print(*(name for name in {heavy} if name in sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.split() == []


# Nothing but storage writes files

WRITE_FLAGS = {"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND", "O_TMPFILE"}
OS_WRITES = {
    "write", "pwrite", "writev", "pwritev", "sendfile", "copy_file_range", "truncate", "ftruncate", "posix_fallocate",
    "rename", "renames", "replace", "link", "symlink", "unlink", "remove", "mkdir", "makedirs", "rmdir", "removedirs",
    "mkfifo", "mknod", "chmod", "chown", "utime", "setxattr", "fdopen",
}  # fmt: skip
METHOD_WRITES = {
    "write_text", "write_bytes", "touch", "mkdir", "rmdir", "unlink", "rename", "symlink_to", "hardlink_to", "chmod",
    "truncate", "tofile", "savez", "savez_compressed", "savetxt", "open_memmap", "save_file", "save_model",
    "save_pretrained", "FileHandler", "ZipFile",
}  # fmt: skip
SHUTIL_READS = {"which", "disk_usage", "get_terminal_size"}
# the weights of a block; a request
NO_FILES = {"view.replace", "block.replace", "self.replace", "build_opener(ProxyHandler({})).open"}


def writes(tree: ast.AST) -> Iterator[str]:
    """Everything in a module that may write to a file system."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if (
                node.attr in WRITE_FLAGS
                or (owner == "os" and node.attr in OS_WRITES)
                or (owner == "shutil" and node.attr not in SHUTIL_READS)
                or (owner in ("np", "numpy", "torch") and node.attr == "save")
                or (owner != "os" and node.attr in METHOD_WRITES)
            ):
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            yield from (
                f"line {node.lineno}: from {node.module} import {a.name}" for a in node.names if a.name != "PathLike"
            )
        elif isinstance(node, ast.Call) and call_writes(node):
            yield f"line {node.lineno}: {ast.unparse(node)}"


def call_writes(call: ast.Call) -> bool:
    if ast.unparse(call.func) in NO_FILES:
        return False
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    method = isinstance(call.func, ast.Attribute)
    owner = call.func.value.id if method and isinstance(call.func.value, ast.Name) else ""
    if name == "open" and owner not in ("os", "Image"):
        bound = method and owner not in ("io", "gzip", "bz2", "lzma", "codecs")  # path.open(mode) or open(path, mode)
        return not reads(argument(call, 0 if bound else 1, "mode"), "r", "rb", "rt")
    if name == "memmap":
        return not reads(argument(call, 2, "mode") or ast.Constant(""), "r", "c")
    if name == "mmap" and owner == "mmap":
        return "READ" not in ast.unparse(argument(call, 3, "access") or argument(call, 3, "prot") or ast.Constant(""))
    return name == "replace" and method and len(call.args) == 1 and not call.keywords  # Path.replace, not str.replace


def argument(call: ast.Call, position: int, keyword: str) -> ast.expr | None:
    given = [k.value for k in call.keywords if k.arg == keyword]
    return given[0] if given else call.args[position] if len(call.args) > position else None


def reads(mode: ast.expr | None, *modes: str) -> bool:
    return mode is None or (isinstance(mode, ast.Constant) and mode.value in modes)


def test_only_storage_writes() -> None:
    others = [source for source in SOURCES if source.part != "storage"]
    assert [f"{source.name}, {found}" for source in others for found in writes(source.tree)] == []


@pytest.mark.parametrize(
    "code",
    [
        "open('f', 'w')", "open('f', mode='ab')", "open('f', 'r+b')", "open('f', mode)", "open('f', 'xb')",
        "path.open('w')", "path.open(mode='a')", "io.open('f', 'w')", "gzip.open('f', 'wb')", "Path('f').open('rb+')",
        "path.write_text('')", "path.write_bytes(b'')", "path.touch()", "path.mkdir()", "path.unlink()",
        "path.rename(other)", "path.replace(other)", "os.replace(a, b)", "move = os.rename", "os.write(1, b'')",
        "os.open('f', os.O_CREAT)", "os.open('f', os.O_RDONLY | os.O_APPEND)", "from os import replace",
        "shutil.rmtree(a)", "shutil.copyfile(a, b)", "from shutil import copy", "file.truncate(0)",
        "np.save('f', a)", "np.savez('f', a)", "a.tofile('f')", "np.memmap('f', np.uint8, 'r+')", "np.memmap('f')",
        "np.memmap('f', mode='w+')", "np.lib.format.open_memmap('f')", "mmap.mmap(fd, 0)", "torch.save(a, 'f')",
        "safetensors.numpy.save_file(a, 'f')", "logging.FileHandler('f')", "model.save_pretrained('f')",
    ],
)  # fmt: skip
def test_writing_is_recognised(code: str) -> None:
    assert list(writes(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "open('f')", "open('f', 'rb')", "path.open()", "path.open('rb')", "os.open('f', os.O_RDONLY)",
        "text.replace('a', 'b')",
        "replace(part, name='x')", "dataclasses.replace(a, b=1)", "now.replace(hour=0)", "shutil.disk_usage('/')",
        "np.memmap('f', np.uint8, 'r')", "np.memmap('f', mode='r')", "mmap.mmap(fd, 0, access=mmap.ACCESS_READ)",
        "os.stat('f')", "from os import PathLike", "stream.write(text)", "write_small(path, data, overwrite=True)",
    ],
)  # fmt: skip
def test_reading_is_not_writing(code: str) -> None:
    assert list(writes(ast.parse(code))) == []


# What is said, caught, and how long things are


CHILD_PROCESSES = {
    "calibration/text/template_process.py",
    "quality/engines/llamacpp_process.py",
    "tokenizer/native_process.py",
}  # their output is read by the process that started it


def test_only_the_command_line_talks() -> None:
    silent = [source for source in SOURCES if source.part != "cli" and source.name not in CHILD_PROCESSES]
    assert [f"{source.name}:{node.lineno}" for source in silent for node in source.nodes if talks(node)] == []


def talks(node: ast.AST) -> bool:
    """Whether a node is `print`, a standard stream or `warnings.warn`."""
    if isinstance(node, ast.Attribute):
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        return f"{owner}.{node.attr}" in ("sys.stdout", "sys.stderr", "warnings.warn")
    return isinstance(node, ast.Name) and node.id == "print"


def test_nothing_is_caught_by_accident() -> None:
    """A handler names what it expects; one for everything must raise again. cli/main.py is where errors end."""
    wrong = [
        f"{source.name}:{node.lineno}"
        for source in SOURCES
        for node in source.nodes
        if isinstance(node, ast.ExceptHandler) and source.name != "cli/main.py" and swallows(node)
    ]
    assert wrong == []


def swallows(handler: ast.ExceptHandler) -> bool:
    """Whether a handler takes every exception and does not end with raising one."""
    kind = handler.type
    caught = {n.id for n in ast.walk(kind) if isinstance(n, ast.Name)} if kind else {"BaseException"}
    return not isinstance(handler.body[-1], ast.Raise) and bool(caught & {"Exception", "BaseException"})


def test_modules_and_functions_stay_small() -> None:
    assert [fault for source in SOURCES for fault in too_large(source)] == []


def too_large(source: Source) -> Iterator[str]:
    """What of a module is longer, or takes more parameters, than the house allows."""
    lines = len((ROOT / source.name).read_text("utf-8").splitlines())
    if lines > MODULE_LINES and source.name not in DATA_TABLES:
        yield f"{source.name}: {lines} lines"
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            place = f"{source.name}:{node.name}"
            if (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES:
                yield f"{place}: too long"
            if parameters(node) > PARAMETERS and not takes_many(source, node):
                yield f"{place}: {parameters(node)} parameters"


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return len([a for a in given if a.arg not in ("self", "cls")])


def takes_many(source: Source, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A command has a parameter for each option, a compiled loop one for each array."""
    decorators = {n.id for d in function.decorator_list for n in ast.walk(d) if isinstance(n, ast.Name)}
    return source.name.startswith("cli/commands/") or (source.part == "qtypes" and bool(decorators & COMPILERS))


def test_exemptions_are_needed() -> None:
    assert {source.name for source in SOURCES} >= DATA_TABLES | CHILD_PROCESSES
