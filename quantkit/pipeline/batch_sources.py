"""The models of a batch that are on the Hub: at which commit each is, and of which ones its artifacts were made.

A name without a commit means what it stands for when somebody asks. `batch plan` asks, and the command line of each
task that is begun has the answer; what was made before of another commit is said, and left as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from quantkit.batch.expand import Wish
from quantkit.batch.ledger import Ledger
from quantkit.errors import QuantkitError
from quantkit.records import record
from quantkit.source.spec import at_commit, names_hub, parse_hub
from quantkit.untrusted import listed, shown

SHORT = 12  # digits of a commit, for people
ASK_AT_ONCE = 8


@record
class HubSource:
    """A model of the Hub as a matrix names it: the commit that it is at `now`, None where nobody asked, and those that
    the artifacts of tasks were `made` of."""

    source: str
    now: str | None
    made: tuple[tuple[str, str], ...] = ()

    @property
    def older(self) -> tuple[tuple[str, str], ...]:
        """Tasks whose artifacts are of another commit than it is now; where nobody asked, than those of the first."""
        wanted = self.now or (self.made[0][1] if self.made else None)
        return tuple((task, commit) for task, commit in self.made if commit != wanted)

    def as_json(self) -> dict[str, Any]:
        made = [{"task": task, "commit": commit} for task, commit in self.made]
        return {"source": self.source, "commit": self.now, "made": made}

    @property
    def words(self) -> str:
        name = shown(self.source)
        if self.now is None:
            said = f"{name}, made of {self.made[0][1][:SHORT]}" if self.made else f"{name}, not made yet"
        else:
            said = f"{name} is at {self.now[:SHORT]}"
        if not self.older:
            return said
        commits = ", ".join(dict.fromkeys(commit[:SHORT] for _, commit in self.older))
        tasks = listed([task for task, _ in self.older])
        first = shown(at_commit(self.source, self.older[0][1]))
        return f"{said}; {tasks} of {commits}: run --recheck --force makes it anew, source {first} keeps it"


def is_on_hub(source: str) -> bool:
    """Whether a matrix names a model of the Hub: local ones have a path that is there, or was."""
    return names_hub(source) or not (os.path.isabs(source) or os.path.exists(source))  # noqa: PTH110, PTH117 - any text


def sources_of(
    wishes: Sequence[Wish], ledger: Ledger, keys: Mapping[str, str], now: Mapping[str, str]
) -> tuple[HubSource, ...]:
    """The models of the Hub among tasks; `now` are commits that are known, by what the matrix calls the model."""
    made: dict[str, list[tuple[str, str]]] = {}
    for wish in wishes:
        if is_on_hub(wish.source):
            made.setdefault(wish.source, []).extend(_made_of(ledger, wish.task.id, keys[wish.task.id]))
    return tuple(HubSource(source, now.get(source), tuple(known)) for source, known in made.items())


def _made_of(ledger: Ledger, task: str, key: str) -> Iterator[tuple[str, str]]:
    """A task with each commit that its artifacts, as they are there, were made of."""
    record = ledger.read(task)
    if record is not None and record.key == key:
        stands = ledger.what_stands(record).artifacts
        yield from dict.fromkeys((task, made.commit) for made in stands if made.commit)


def ask_now(sources: Sequence[str]) -> dict[str, str]:
    """The commits that models of the Hub are at, by one request each; of those of which the Hub says it."""
    from quantkit.source.hub import Hub, commit_of  # huggingface_hub: only where something is asked

    hub = Hub().known()
    if hub.offline or not sources:
        return {}

    def ask(source: str) -> str | None:
        with suppress(QuantkitError):  # a task that needs it says why
            found = parse_hub(source)
            return None if found is None else commit_of(found.repo, found.revision, hub)
        return None

    with ThreadPoolExecutor(ASK_AT_ONCE) as pool:
        return {source: commit for source, commit in zip(sources, pool.map(ask, sources), strict=True) if commit}
