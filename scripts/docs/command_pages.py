"""The pages of the commands, from the program itself: what `quantkit COMMAND --help` says, with links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from words import MADE, block, cell, code, paragraphs, table

from quantkit.cli.app import commands, program
from quantkit.cli.help import FIRST
from quantkit.schemas import schema_names

FOLDER = "reference/commands"
CONTRACT = Path(__file__).parents[2] / "docs" / "cli.md"


def command_pages() -> dict[str, str]:
    """A page for each command, and one that lists them."""
    root = program()
    pages = {f"{FOLDER}/{name}.md": _page(name, command) for name, command in root.commands.items()}
    order = [command.name for command in commands()]
    rows = [(f"[`quantkit {name}`]({name}.md)", cell(_first_line(root.commands[name]))) for name in order]
    listed = {f"{FOLDER}/{name}.md": pages[f"{FOLDER}/{name}.md"] for name in order}
    head = (
        "# Commands\n\n"
        "One page for each command, with every option it has. What commands promise, and how they behave together, "
        "is in [the contract of the command line](../../cli.md).\n\n"
    )
    return {f"{FOLDER}/index.md": head + table(("command", "what it does"), rows) + MADE, **listed}


def _page(name: str, command: Any) -> str:
    """A command; of a group each of its commands, one after the other."""
    text = f"# quantkit {name}\n\n{paragraphs(command.help or '')}"
    members = getattr(command, "commands", None)
    if members:
        rows = [
            (f"[`quantkit {name} {each}`](#quantkit-{name}-{each})", cell(_first_line(members[each])))
            for each in members
        ]
        text += table(("command", "what it does"), rows)
        for each, member in members.items():
            text += (
                f"## quantkit {name} {each}\n\n{paragraphs(member.help or '')}{_body(f'{name} {each}', member, '###')}"
            )
    else:
        text += _body(name, command, "##")
    return text + _see_also(name) + MADE


def _body(name: str, command: Any, level: str) -> str:
    """Usage, examples, arguments and options, under headings of this level."""
    context = command.context_class(command, info_name=name)
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    parts = [block(" ".join([f"quantkit {name} [OPTIONS]", *map(_usage, arguments)]), "text")]
    examples = (command.epilog or "").split("\n")[1:]
    if examples:
        parts += ["For example:\n\n", block("\n".join(f"$ {line}" for line in examples), "console")]
    if arguments:
        rows = [(code(p.metavar or p.name.upper()), cell(p.help or "")) for p in arguments]
        parts += [f"{level} Arguments\n\n", table(("argument", "what it is"), rows)]
    for title, options in _groups(command).items():
        rows = [
            (code(option.get_help_record(context)[0]), cell(option.help or "") + _default(option)) for option in options
        ]
        parts += [f"{level} {title}\n\n", table(("option", "what it does"), rows)]
    return "".join(parts)


def _usage(argument: Any) -> str:
    word = argument.metavar or argument.name.upper()
    word = word if argument.nargs == 1 else f"{word}..."
    return word if argument.required else f"[{word}]"


def _groups(command: Any) -> dict[str, list[Any]]:
    """Options by the heading that they have in the help, in its order."""
    found: dict[str, list[Any]] = {FIRST: []}
    for option in command.params:
        if option.param_type_name == "option" and not option.hidden:
            found.setdefault(getattr(option, "rich_help_panel", None) or FIRST, []).append(option)
    return {title: options for title, options in found.items() if options}


def _default(option: Any) -> str:
    """What holds where the option is not given, as words behind its help; "" where that is nothing."""
    value = option.show_default if isinstance(option.show_default, str) else option.default
    if option.is_flag:
        value = max(option.opts, key=len) if option.default else ""
    return "" if value in (None, "", (), []) else f" Default: {code(value)}."


def _first_line(command: Any) -> str:
    return (command.help or "").strip().split("\n\n")[0]


def _see_also(name: str) -> str:
    """Where else the command is spoken of: the contract, and the schema of what it prints."""
    links = []
    titles = re.findall(r"^## (.+)$", CONTRACT.read_text(encoding="utf-8"), re.MULTILINE)
    if name in titles:
        links.append(f"[{name} in the contract](../../cli.md#{name})")
    if f"quantkit.{name}/1" in schema_names():
        links.append(f"[what `--json` prints](../json.md#quantkit{name}1)")
    page = CONTRACT.with_name(f"{name}.md")
    if page.is_file():
        links.append(f"[more about {name}](../../{page.name})")
    links.append("[exit codes](../exit-codes.md)")
    return f"See also: {', '.join(links)}.\n"
