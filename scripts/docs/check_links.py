"""Check a built site: every link and anchor inside it leads somewhere, and no page loads anything from elsewhere.

python scripts/docs/check_links.py out/site
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Elements that make a browser load what they name. Of <link> it depends on what the file is to the page.
LOADING = {
    "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "embed": "src",
    "object": "data", "link": "href", "image": "href", "use": "href", "input": "src", "track": "src",
}  # fmt: skip
NOT_LOADED = {"canonical", "next", "prev", "alternate", "license", "author"}
NOWHERE = "404.html"
CSS_URL = re.compile(r"url\(\s*['\"]?([^'\")]+)['\"]?\s*\)|@import\s+['\"]([^'\"]+)")


@dataclass
class Page(HTMLParser):
    """What a page names: its anchors, its links, and what it loads."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    style: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.style = tag == "style"
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag in LOADING and LOADING[tag] in values:
            kinds = set(values.get("rel", "").split())
            (self.links if kinds & NOT_LOADED else self.loads).append(values[LOADING[tag]])
        for name in ("srcset", "xlink:href"):
            self.loads += [part.split()[0] for part in values.get(name, "").split(",") if part.strip()]
        self.loads += loads_of_css(values.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self.style:
            self.loads += loads_of_css(data)


def loads_of_css(text: str) -> list[str]:
    """What a style sheet loads, data that it holds itself left out."""
    found = (url or imported for url, imported in CSS_URL.findall(text))
    return [target for target in found if not target.startswith(("data:", "#"))]


def read(path: Path) -> Page:
    """The page at `path`."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    return page


def faults(site: Path) -> list[str]:
    """Everything that is wrong with the links of a site, as "page: link: what is wrong"."""
    pages = {path.relative_to(site).as_posix(): read(path) for path in sorted(site.rglob("*.html"))}
    found = [f"{name}: {what}" for name, page in pages.items() for what in _of_page(site, name, page, pages)]
    for path in sorted(site.rglob("*.css")):
        name = path.relative_to(site).as_posix()
        for target in loads_of_css(path.read_text(encoding="utf-8")):
            found += [f"{name}: {what}" for what in _of_load(site, name, target)]
    return found


def _of_page(site: Path, name: str, page: Page, pages: dict[str, Page]) -> Iterator[str]:
    for target in page.loads:
        yield from _of_load(site, name, target)
    for link in page.links:
        parts = urlsplit(link)
        if parts.scheme in ("https", "mailto"):
            continue
        if parts.scheme or parts.netloc:
            yield f"{link}: leads out of the site, and not by https"
            continue
        path = _inside(site, name, parts.path)
        if path is None:
            yield f"{link}: there is no such file"
        elif parts.fragment and path in pages and unquote(parts.fragment) not in pages[path].anchors:
            yield f"{link}: {path} has no such anchor"


def _of_load(site: Path, name: str, target: str) -> Iterator[str]:
    parts = urlsplit(target)
    if parts.scheme == "data":
        return
    if parts.scheme or parts.netloc:
        yield f"{target}: is loaded from elsewhere"
    elif _inside(site, name, parts.path) is None:
        yield f"{target}: is loaded, and not there"


def _inside(site: Path, name: str, path: str) -> str | None:
    """The file of the site that a path on the page `name` means; None where there is none.

    Only the page for what is not found, which is shown anywhere, may begin paths at the root.
    """
    if path.startswith("/"):
        if name != NOWHERE:
            return None
        path = path.lstrip("/") or "."
    full = (site / name).parent / unquote(path) if path else site / name
    full = full.resolve()
    full = full / "index.html" if full.is_dir() else full
    if not full.is_file() or not full.is_relative_to(site.resolve()):
        return None
    return full.relative_to(site.resolve()).as_posix()


def main() -> int:
    """Print what is wrong; exit 1 where anything is."""
    found = faults(Path(sys.argv[1]))
    print("\n".join(found) or "every link leads somewhere, and nothing is loaded from elsewhere")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
