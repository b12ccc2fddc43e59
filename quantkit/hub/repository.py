"""A repository of the Hub that is written to: what it holds, and one commit on top of that.

Files go over Git LFS, as huggingface_hub speaks it: an object that has arrived whole is never sent again, whatever
became of the run. The commit names the head that was looked at; a head that moved meanwhile is looked at again, and
taken where nobody touched these files.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import field
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from quantkit.errors import BusyError, InputError, NetworkError, QuantkitError, UsageError
from quantkit.events import Sink, Warned
from quantkit.hub.client import LONGEST_WAIT_S, Transport, wait_of
from quantkit.hub.sending import Sent
from quantkit.records import record
from quantkit.source.hub_access import Hub, answers, clean, explain, explain_status, warnings_as_events
from quantkit.untrusted import listed, shown

MAIN = "main"
WORKERS = 4  # large files at a time
COMMITS = 5  # attempts
WAIT_S = 1.0
MOVED = (409, 412)
BUSY = (429, 500, 502, 503, 504)
HINTS = {
    401: "set HF_TOKEN to a token with write access, or run: hf auth login",
    403: "the token may not write there: give it write access to this repository or organization",
    404: "check the spelling of the name; for a private repository set HF_TOKEN or run: hf auth login",
    413: "the Hub does not take so much at once: push fewer files",
    429: "too many requests: run the same command again in some minutes; what has arrived is not sent again",
}
HINT = "run the same command again: what has arrived is not sent again"


@record
class Goal:
    """Where files go: `branch` of a repository, or a request to merge into it."""

    repo: str
    branch: str = MAIN
    private: bool = False
    pr: bool = False


@record
class Head:
    """A repository as it is: the commit of the branch and its files. `commit` is None where there is no such branch,
    `exists` is whether there is a repository at all."""

    exists: bool
    commit: str | None = None
    files: Mapping[str, Any] = field(default_factory=dict)

    def lacks(self, sent: Sequence[Sent]) -> list[Sent]:
        """Those that are not there, or are other bytes."""
        return [each for each in sent if each.name not in self.files or not each.is_there(self.files[each.name])]

    def identity(self, name: str) -> str | None:
        found = self.files.get(name)
        return None if found is None else str(found.lfs.sha256 if found.lfs is not None else found.blob_id)


class Repository:
    """Requests about one repository; what goes wrong is raised as errors of ours, without tokens."""

    def __init__(self, goal: Goal, hub: Hub, emit: Sink) -> None:
        self.goal, self._hub, self._emit = goal, hub, emit
        self._api = HfApi(endpoint=hub.endpoint, token=hub.token)

    @property
    def address(self) -> str:
        endpoint = (self._hub.endpoint or constants.ENDPOINT).rstrip("/")
        return f"{endpoint}/{self.goal.repo}"

    def head(self) -> Head:
        """What is there now. Raises UsageError for `private` where a public repository is there."""
        repo, branch = self.goal.repo, self.goal.branch
        with self._requests():
            try:
                info = self._api.repo_info(repo, revision=branch)
            except RepositoryNotFoundError as error:
                if error.response is not None and error.response.status_code == 401:
                    raise self._explained(error) from None  # without a login the Hub does not say what it has not
                return Head(exists=False)
            except RevisionNotFoundError:
                info = self._api.repo_info(repo)
                self._require_privacy(info)
                return Head(exists=True)
            self._require_privacy(info)
            if not isinstance(info.sha, str) or not constants.REGEX_COMMIT_OID.fullmatch(info.sha):
                raise ValueError(f'the Hub names the commit "{info.sha}"')
            listing = list(self._api.list_repo_tree(repo, revision=info.sha, recursive=True))
        return Head(True, info.sha, {file.path: file for file in listing if hasattr(file, "blob_id")})

    def _require_privacy(self, info: Any) -> None:
        if self.goal.private and info.private is False:
            what = f"{self.goal.repo} exists and is public: --private makes new repositories only"
            raise UsageError(
                what, key="private", hint="change it in its settings, leave --private out, or push elsewhere"
            )

    def create(self, head: Head) -> Head:
        """Make the repository, and the branch, where they are missing; what is there then."""
        with self._requests():
            if not head.exists:
                self._api.create_repo(self.goal.repo, private=self.goal.private or None, exist_ok=True)
                if self.goal.branch != MAIN:
                    self._api.create_branch(self.goal.repo, branch=self.goal.branch, exist_ok=True)
            elif head.commit is None:
                self._api.create_branch(self.goal.repo, branch=self.goal.branch, exist_ok=True)
        return self.head()

    def upload(self, sent: Sequence[Sent], stop: Callable[[], None]) -> None:
        """Send the large ones of these files, as far as the Hub has not got them. `stop` is called when one fails."""
        pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="upload")
        try:
            for job in as_completed([pool.submit(self._upload, each) for each in sent]):
                job.result()
        finally:
            stop()
            pool.shutdown(wait=True, cancel_futures=True)

    def _upload(self, each: Sent) -> None:
        goal = self.goal
        with self._requests():
            self._api.preupload_lfs_files(
                goal.repo, [each.operation], revision=goal.branch, create_pr=goal.pr, free_memory=False, num_threads=1
            )
        if each.operation._should_ignore:
            what = f"the .gitignore of {goal.repo} leaves {shown(each.name)} out"
            raise UsageError(what, path=each.name, hint="change that file in the repository first")

    def commit(self, head: Head, sent: Sequence[Sent], message: str) -> tuple[str, str]:
        """One commit with all of these files; its hash and address.

        Raises BusyError where somebody else changed them meanwhile, NetworkError when the Hub fails for long.
        """
        first, todo = head, list(sent)
        for number in range(COMMITS):
            try:
                return self._commit(head, todo, message)
            except _LaterError as error:
                if number == COMMITS - 1 or error.wait_s > LONGEST_WAIT_S:
                    raise error.error from None
                wait = max(error.wait_s, WAIT_S * 2**number)
                self._emit(Warned("hub", f"{error.error.message}; waiting {wait:.0f} s"))
                time.sleep(wait)
            head = self.head()
            todo = head.lacks(sent)
            if not todo and head.commit and not self.goal.pr:  # the answer was lost, not the commit
                return head.commit, f"{self.address}/commit/{head.commit}"
            touched = [each.name for each in todo if head.identity(each.name) != first.identity(each.name)]
            if touched:
                what = f"somebody else changed {self.goal.repo} meanwhile: {listed(touched, 3)}"
                raise BusyError(what, hint="look at what is there, then run the same command again")
        raise AssertionError

    def _commit(self, head: Head, todo: Sequence[Sent], message: str) -> tuple[str, str]:
        goal, what = self.goal, f"hf://{self.goal.repo}"
        for each in todo:
            each.unchanged()
        try:
            with warnings_as_events(self._emit, self._hub), answers(), self._told():
                made = self._api.create_commit(
                    goal.repo,
                    [each.operation for each in todo],
                    commit_message=message,
                    revision=goal.branch,
                    parent_commit=head.commit,
                    create_pr=goal.pr,
                )
            return str(made.oid), str(made.pr_url or made.commit_url)
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status not in (*MOVED, *BUSY):
                raise self._explained(error) from None
            reason = error.server_message or error.response.reason_phrase
            raise _LaterError(explain_status(status, reason, what, self._hub), wait_of(error.response)) from None
        except Transport as error:
            why = clean(str(error), self._hub) or type(error).__name__
            raise _LaterError(
                NetworkError(f"{what}: the line broke during the commit: {why}", hint=HINT), 0.0
            ) from None
        except (HTTPError, OSError, ValueError) as error:
            raise self._explained(error) from None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What huggingface_hub warns of with Python's warnings (a card without licence) becomes events."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            try:
                yield
            finally:
                for each in said:
                    if issubclass(each.category, UserWarning):
                        self._emit(Warned("hub", clean(str(each.message), self._hub)))

    @contextmanager
    def _requests(self) -> Iterator[None]:
        with warnings_as_events(self._emit, self._hub):
            try:
                with answers():
                    yield
            except (HTTPError, OSError, ValueError) as error:
                raise self._explained(error) from None

    def _explained(self, error: BaseException) -> QuantkitError:
        """The error of ours for one of huggingface_hub, or the one of ours that lies in it."""
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, ValueError) and "metadata in README.md" in str(cause):
                what = f"the Hub refuses the front matter of README.md: {clean(str(cause), self._hub)}"
                return InputError(what, path="README.md", hint="write it again: quantkit card FOLDER --force")
        for cause in causes:
            if isinstance(cause, QuantkitError):
                return cause
            if isinstance(cause, HfHubHTTPError) and cause.response is not None:
                status = cause.response.status_code
                reason = cause.server_message or cause.response.reason_phrase
                found = explain_status(status, reason, f"hf://{self.goal.repo}", self._hub)
                found.hint = HINTS.get(status, HINT)
                return found
        known = explain(error if isinstance(error, Exception) else OSError(), self.goal.repo, None, self._hub)
        return NetworkError(known.message.replace("cannot fetch", "cannot push to"), hint=HINT)


class _LaterError(Exception):
    """A commit that was not made now, and may be made later: why, and what the Hub wants to be waited for."""

    def __init__(self, error: QuantkitError, wait_s: float) -> None:
        super().__init__(error.message)
        self.error, self.wait_s = error, wait_s


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
