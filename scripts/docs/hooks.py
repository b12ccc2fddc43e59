"""Hooks of mkdocs: the pages and files of the site that are made from the code, each time that it is built."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from command_pages import command_pages
from diagrams import put_blocks
from exit_pages import exit_pages
from mkdocs.structure.files import File, Files
from mkdocs.utils import get_relative_url
from notebook_pages import notebook_pages
from python_pages import python_pages
from recipe_pages import recipe_pages
from schema_pages import schema_pages

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SHIM = "https://unpkg.com/iframe-worker/shim"  # which the theme would load for search without a server
WORKER = "assets/worker.js"  # what does the same here
UNLISTED = "How-to"  # where a page goes that the navigation does not name


@cache
def made() -> dict[str, str]:
    """Path below docs -> text, of everything that no file in docs holds."""
    found: dict[str, str] = {}
    makers = (command_pages, recipe_pages, schema_pages, exit_pages, python_pages, notebook_pages)
    for make in makers:
        found |= make()
    return found


def on_config(config: Any) -> Any:
    """Name the pages of commands in the navigation, and pages of docs that it does not know yet."""
    commands = [path for path in made() if path.startswith("reference/commands/") and not path.endswith("index.md")]
    sections = {name: entry for one in config.nav if isinstance(one, dict) for name, entry in one.items()}
    for entry in sections["Reference"]:
        if isinstance(entry, dict) and "Commands" in entry:
            entry["Commands"] += commands
    known = set(listed(config.nav))
    pages = (path.relative_to(DOCS).as_posix() for path in sorted(DOCS.rglob("*.md")))
    sections[UNLISTED] += [page for page in pages if page not in known]
    return config


def listed(nav: Any) -> list[str]:
    """The pages of a navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in listed(entry)]


def on_files(files: Files, config: Any) -> Files:
    """Add what is made to what lies in docs."""
    for path, text in made().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put pictures where a page asks for them."""
    return put_blocks(markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Load from the site what the theme loads from elsewhere."""
    return output.replace(SHIM, get_relative_url(WORKER, page.url))


def on_post_template(output_content: str, **_: Any) -> str:
    """The same for pages that are no documents."""
    return output_content.replace(SHIM, f"/{WORKER}")
