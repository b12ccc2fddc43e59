"""Which Hub, with whose token; and its failures in words that carry neither tokens nor signatures."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field, replace
from importlib import import_module
from pathlib import Path

from huggingface_hub import get_token
from huggingface_hub.constants import ENDPOINT, HF_HUB_CACHE, is_offline_mode
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from quantkit.errors import NetworkError, QuantkitError, ResourceError, UsageError
from quantkit.events import Sink, Warned
from quantkit.records import record
from quantkit.untrusted import shown

TOKEN = re.compile(r"hf_(?:[a-z]+_)?[A-Za-z0-9]{8,}[\w.-]*|(?<=Bearer )\S+|(?<=://)[^/\s@]+(?=@)")
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
QUERY = re.compile(r"(https?://[^\s?]+)\?\S+")  # signed addresses of a content network
# What huggingface_hub warns of and is as it should be: a repository of GGUF files may have no side files, and what is
# sent is read through descriptors on purpose.
AS_MEANT = ("No files matched allow_patterns", "Uploading files as a binary IO buffer is not supported by Xet")
NO_ADDRESS: type[Exception] = import_module(HTTPError.__module__.partition(".")[0]).InvalidURL  # is no HTTPError
NO_ANSWER = "nothing that the interface of the Hub has"


@record
class Hub:
    """Which Hub, and how. What is None comes from the environment, as huggingface_hub documents:
    HF_ENDPOINT, HF_HUB_CACHE (or HF_HOME), HF_TOKEN (or the stored login). HF_HUB_OFFLINE counts as `offline`.
    """

    offline: bool = False
    endpoint: str | None = None
    cache: Path | None = None
    token: str | None = field(default=None, repr=False)

    def known(self) -> Hub:
        """The same with what the environment says of address, cache and being offline."""
        return replace(
            self,
            offline=self.offline or is_offline_mode(),
            endpoint=self.endpoint or ENDPOINT,
            cache=self.cache or Path(HF_HUB_CACHE),
        )


@contextmanager
def answers() -> Iterator[None]:
    """huggingface_hub and its client take for granted what answers look like: one of another kind becomes a ValueError.

    Numbers may be too large to count or to sleep, addresses none at all, encodings unknown.
    """
    try:
        yield
    except (TypeError, LookupError, AttributeError, AssertionError, RuntimeError, ArithmeticError, NO_ADDRESS) as error:
        raise ValueError(f"it answered {NO_ANSWER} ({type(error).__name__}): is HF_ENDPOINT right?") from None


@contextmanager
def access(repo: str, revision: str | None, hub: Hub, emit: Sink) -> Iterator[None]:
    """Requests of huggingface_hub: what it would print becomes events, what it raises errors of ours."""
    with warnings_as_events(emit, hub):
        try:
            yield
        except (HTTPError, EntryNotFoundError, RevisionResolutionError, OSError, ValueError) as error:
            # Without its cause: requests carry credentials, and some tracebacks print local variables.
            raise explain(error, repo, revision, hub) from None


@contextmanager
def warnings_as_events(emit: Sink, hub: Hub) -> Iterator[None]:
    """What huggingface_hub would print (retries, a cached revision used instead) becomes an event."""

    def collect(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING and not record.getMessage().startswith(AS_MEANT):
            emit(Warned("hub", clean(record.getMessage(), hub)))
        return False

    handlers = logging.getLogger("huggingface_hub").handlers
    for handler in handlers:
        handler.addFilter(collect)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(collect)


def clean(text: str, hub: Hub) -> str:
    """One printable line without tokens, passwords and signatures."""
    for secret in filter(None, (hub.token, get_token(), *map(os.environ.get, TOKEN_VARIABLES))):
        text = text.replace(secret, "***")
    return shown(" ".join(QUERY.sub(r"\1?***", TOKEN.sub("***", text)).split()), 400)


def explain(error: Exception, repo: str, revision: str | None, hub: Hub) -> QuantkitError:
    """The error of quantkit for one of huggingface_hub."""
    what = f"hf://{repo}" + (f"@{revision}" if revision else "")
    endpoint = clean(hub.endpoint or ENDPOINT, hub)
    if isinstance(error, GatedRepoError):
        hint = f"accept its terms at {endpoint}/{repo}, then set HF_TOKEN or run: hf auth login"
        return NetworkError(f"{what} is gated: the Hub wants a login that has access", hint=hint)
    if isinstance(error, RepositoryNotFoundError):
        hint = "check the spelling; for a private repository set HF_TOKEN or run: hf auth login"
        kind = "" if repo.startswith("datasets/") else "model repository "
        return UsageError(f"{endpoint} has no {kind}{repo}, or it is private", hint=hint)
    if isinstance(error, RevisionNotFoundError):
        return UsageError(f"{repo} has no revision {revision}", hint=f"see {endpoint}/{repo}/tree/main")
    if isinstance(error, HfHubHTTPError):
        reason = error.server_message or error.response.reason_phrase
        return explain_status(error.response.status_code, reason, what, hub)
    cause = error.__cause__
    if hub.offline or isinstance(cause, OfflineModeIsEnabled):
        reason = "not in the cache" if isinstance(error, RevisionResolutionError) else "not complete in the cache"
        return NetworkError(f"{what} is {reason} at {shown(str(hub.cache))}", hint="run once without --offline")
    if isinstance(cause, Exception):
        return explain(cause, repo, revision, hub)
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}:
        hint = "free some space, or set HF_HUB_CACHE to a folder that can be written"
        return ResourceError(f"cannot write to the Hub cache: {error.strerror}", path=str(hub.cache), hint=hint)
    reason = clean(str(error), hub) or type(error).__name__
    hint = "check the connection and run again: what has arrived is kept; --offline uses a cached copy"
    return NetworkError(f"cannot fetch {what} from {endpoint}: {reason}", hint=hint)


def explain_status(status: int, reason: str, what: str, hub: Hub) -> QuantkitError:
    """The error for a status that the Hub answers with; `reason` is what it says besides."""
    hints = {
        401: "the repository is private, or the token is not valid: set HF_TOKEN or run: hf auth login",
        403: "the token may not read this repository: check its permissions",
        429: "too many requests: wait some minutes, or log in for a higher limit",
    }
    hint = hints.get(status, "the Hub has a problem: run again later, or with --offline if it is cached")
    return NetworkError(f"the Hub answered {status} for {what}: {clean(reason, hub)}", hint=hint)
