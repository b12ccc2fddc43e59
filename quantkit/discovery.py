"""What can be added by a file: modules of a folder, found by their names and imported only when they are used.

A folder holds things of one kind (types, methods, transforms, commands); each module defines one under a name that all
of them share (TYPE, METHOD, TRANSFORM, COMMAND). Listing them imports none, so that what is slow stays out.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from quantkit.errors import UnsupportedError, did_you_mean


def modules(package: str, tools: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Names of a package's modules in alphabetical order, without packages in it and without its `tools`."""
    folder = importlib.import_module(package).__path__
    return tuple(sorted(m.name for m in pkgutil.iter_modules(folder) if not m.ispkg and m.name not in tools))


def mentioning(package: str, word: str) -> tuple[str, ...]:
    """Names of those modules whose source has `word` in double quotes, in alphabetical order; none is imported.

    What has no source, such as bytecode alone, may say anything: it is among them.
    """
    quoted = f'"{word}"'.encode("utf-8", "replace")
    sources = _sources(tuple(importlib.import_module(package).__path__))
    return tuple(name for name, source in sources.items() if source is None or quoted in source)


@cache
def _sources(folders: tuple[str, ...]) -> Mapping[str, bytes | None]:
    """The source of each module in these folders, None where there is none, in alphabetical order of the names."""
    found = {module.name: _source(module) for module in pkgutil.iter_modules(folders) if not module.ispkg}
    return dict(sorted(found.items()))


def _source(module: pkgutil.ModuleInfo) -> bytes | None:
    spec = module.module_finder.find_spec(module.name, None)
    if spec and spec.origin and spec.origin.endswith(".py") and spec.loader and hasattr(spec.loader, "get_data"):
        return bytes(spec.loader.get_data(spec.origin))
    return None


def defined(package: str, name: str, attribute: str) -> Any:
    """What a module of a package defines under a name."""
    return getattr(importlib.import_module(f"{package}.{name}"), attribute)


@cache
def declared(package: str, name: str, attribute: str) -> Mapping[str, Any]:
    """The keyword arguments in `ATTRIBUTE = Kind(..., keyword=value)` that are plain values, read without importing.

    Plans ask for such facts of methods, whose modules need torch.
    """
    spec = importlib.util.find_spec(f"{package}.{name}")
    source = spec.loader.get_source(spec.name) if spec and spec.loader and hasattr(spec.loader, "get_source") else ""
    for node in ast.parse(source or "").body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [attribute]:
            assert isinstance(node.value, ast.Call), f"{package}.{name}.{attribute} is not written as a call"
            return {k.arg: k.value.value for k in node.value.keywords if k.arg and isinstance(k.value, ast.Constant)}
    raise AssertionError(f"{package}.{name} does not define {attribute}")


def require_known(word: str, name: str, known: tuple[str, ...]) -> None:
    """Raise UnsupportedError with the nearest name for one that is not known; `word` says what it should name."""
    if name not in known:
        message = f'unknown {word} "{name}"{did_you_mean(name, known)}'
        raise UnsupportedError(message, hint=f"known {word}s: {', '.join(known)}", key=name)
