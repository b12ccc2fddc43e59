"""What a command of the command line is: a function, its place in the list, and two examples for its help.

A command is one module in quantkit/cli/commands that defines `COMMAND`; it is found by file name. Commands that belong
together are a `Group`, in one such module. Their options and their
groups in the help are the parameters of the function (see `with_session`).
"""

from __future__ import annotations

from collections.abc import Callable

from quantkit.records import record


@record
class Command:
    """`run(session, ...)` does it; its name is what the user types, its docstring the help.

    Help lists commands by `place`: those that make artifacts first (10 and up), then those that look at them.
    """

    run: Callable[..., None]
    place: int
    examples: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.run.__name__.removesuffix("_")  # which tells it from a module or a command of that name

    @property
    def epilog(self) -> str:
        """The examples as the last paragraphs of the help."""
        return "\n".join(("Examples:", *self.examples))


@record
class Group:
    """Commands under a name of their own, as `quantkit batch plan`. `summary` is the help of the name."""

    name: str
    summary: str
    place: int
    members: tuple[Command, ...]
