"""The help of a command: options in groups, defaults, examples. Plain text: loading rich takes too long."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

from typer.core import TyperCommand, TyperGroup

from quantkit.cli.values import as_given

FIRST = "Options"


class ProgramHelp(TyperGroup):
    """All commands, or a group of them."""

    def get_params(self, ctx: Any) -> Any:
        """Its parameters, `--help` included."""
        return as_given(super().get_params(ctx))


class CommandHelp(TyperCommand):
    """A command whose options are listed under their `rich_help_panel`, in the order of their declaration."""

    def get_params(self, ctx: Any) -> Any:
        """Its parameters, `--help` included."""
        return as_given(super().get_params(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then each group of options."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], FIRST: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                argument = parameter.param_type_name == "argument"
                name = "Arguments" if argument else getattr(parameter, "rich_help_panel", None) or FIRST
                groups.setdefault(name, []).append(record)
        for name, records in groups.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, continued on the next line, as a shell reads it, where they are too long."""
        if self.epilog:
            title, *examples = self.epilog.split("\n")
            formatter.write_paragraph()
            formatter.write(f"{title}\n")
            for example in examples:
                lines = wrap(example, formatter.width - 6, break_long_words=False, break_on_hyphens=False)
                formatter.write("  " + " \\\n    ".join(lines) + "\n")
