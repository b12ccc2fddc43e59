"""The page of the Python API: every public name, whose docstring mkdocstrings reads without importing it."""

from __future__ import annotations

from collections.abc import Callable

from words import MADE

import quantkit

ERRORS, EVENTS = "quantkit.errors", "quantkit.events"


def python_pages() -> dict[str, str]:
    """One page: functions, what they take and return, errors, events."""
    places = {name: place for name, place in quantkit._MODULES.items()}
    groups: dict[str, tuple[str, Callable[[str, str], bool]]] = {
        "Functions": ("What commands do, each as a function.", lambda name, _: name[0].islower()),
        "Requests and results": ("What functions take and return.", lambda _, place: place not in (ERRORS, EVENTS)),
        "Errors": (
            "Each names what failed and a next step; [exit codes](exit-codes.md) has their numbers.",
            lambda _, place: place == ERRORS,
        ),
        "Events": ("What `emit` is called with while a function works.", lambda *_: True),
    }
    text = (
        "# Python API\n\n"
        "`import quantkit` costs nothing: a name is imported when it is first used. The command line uses these names "
        "and nothing else; a name that is not here is not public.\n\n"
    )
    left = dict(places)
    for title, (said, belongs) in groups.items():
        names = sorted(name for name, place in left.items() if belongs(name, place))
        text += f"## {title}\n\n{said}\n\n" + "".join(f"::: quantkit.{name}\n\n" for name in names)
        for name in names:
            del left[name]
    return {"reference/python.md": text + MADE}
