"""What a user may write for a model of the Hub: `hf://org/name[@revision][:FILE.gguf]`, `org/name`, or an address
pasted from a browser."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit

from quantkit.errors import UsageError
from quantkit.records import record
from quantkit.untrusted import shown

PREFIX = "hf://"
HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
REPO = rf"{NAME}/{NAME}"
REVISION = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}"
FILE = r"(?:[A-Za-z0-9_(][^/\0]{0,249}/){0,8}[A-Za-z0-9_(][^/\0]{0,249}\.gguf"
# The Hub refuses "--" and ".." in names of repositories, and its cache relies on it.
WHOLE = rf"(?![^@]*(?:--|\.\.))(?P<repo>{NAME}/{NAME})(?:@(?P<revision>{REVISION}))?"
ONE_FILE = (
    rf"(?P<repo>{NAME}/{NAME})(?:@(?P<before>refs/[a-z]+/[A-Za-z0-9._-]+|[A-Za-z0-9][A-Za-z0-9._-]*))?"
    rf"/(?P<file>{FILE})(?:@(?P<after>{REVISION}))?"
)
WITH_COLON = rf"(?P<repo>{NAME}/{NAME})(?:@(?P<revision>{REVISION}))?:(?P<file>{FILE})"
VIEWS = ("tree", "blob", "resolve", "raw", "commit")
NO_MODELS = ("datasets", "spaces", "collections", "docs", "papers", "blog", "settings")
HINT = "write hf://org/name, hf://org/name@revision, or hf://org/name@revision:FILE.gguf"


@record
class HubModel:
    """A model of the Hub: a checkpoint, or with `file` the GGUF file of this name in a repository of such files."""

    repo: str
    revision: str | None = None
    file: str | None = None


def names_hub(spec: str) -> bool:
    """Whether `spec` can only mean the Hub, not a path."""
    return spec.startswith((PREFIX, "https://", "http://"))


def parse_hub(spec: str) -> HubModel | None:
    """The model of the Hub that `spec` names, None where it names none.

    Raises UsageError for an address that leads elsewhere: to a data set, a folder inside of a repository, another host.
    """
    if spec.startswith(("https://", "http://")):
        return _address(spec)
    bare = spec.removeprefix(PREFIX)
    if bare.startswith(tuple(f"{host}/" for host in HOSTS)):
        return _address(f"https://{bare}")
    if spec.startswith(PREFIX) and bare.startswith(("datasets/", "spaces/")) and bare.count("/") > 1:
        raise _no_model(bare.partition("/")[0], "name")
    colon = re.fullmatch(WITH_COLON, bare)
    if colon is not None:
        return _checked(HubModel(colon["repo"], colon["revision"], colon["file"]))
    _require_gguf(spec, bare)
    one = re.fullmatch(ONE_FILE, bare)
    if one is not None:
        return _checked(HubModel(one["repo"], one["before"] or one["after"], one["file"]))
    whole = re.fullmatch(WHOLE, bare)
    return None if whole is None else _checked(HubModel(whole["repo"], whole["revision"]))


def at_commit(spec: str, commit: str) -> str:
    """A model of the Hub at one commit, whatever its revision will be; what names none as it is."""
    found = parse_hub(spec)
    return spec if found is None else f"{PREFIX}{found.repo}@{commit}" + (f":{found.file}" if found.file else "")


def _no_model(kind: str, what: str) -> UsageError:
    hint = "text of a data set goes to --calib, --data or --eval-data" if kind == "datasets" else HINT
    return UsageError(f"the {what} leads to {kind} of the Hub, not to a model", hint=hint)


def _require_gguf(spec: str, bare: str) -> None:
    """Raise UsageError for a file of a repository, behind a colon, that is none of weights to read."""
    repo, colon, file = bare.partition(":")
    if spec.startswith(PREFIX) and colon and re.fullmatch(WHOLE, repo):
        what = f'"{shown(file)}" is no name of a GGUF file' if file else "no file is named behind the colon"
        raise UsageError(f"{shown(spec)}: {what}", hint=f"a checkpoint is read whole: {PREFIX}{shown(repo)}")


def _checked(model: HubModel) -> HubModel | None:
    """`model`, None where one of its parts is no name: each becomes a part of a path or an address."""
    repo_ok = re.fullmatch(REPO, model.repo) and "--" not in model.repo and ".." not in model.repo
    revision_ok = model.revision is None or (re.fullmatch(REVISION, model.revision) and ".." not in model.revision)
    file_ok = model.file is None or (re.fullmatch(FILE, model.file) and ".." not in model.file.split("/"))
    return model if repo_ok and revision_ok and file_ok else None


def _address(spec: str) -> HubModel | None:
    """The model behind an address, with the revision that it shows."""
    try:
        parts = urlsplit(spec)
        host = (parts.hostname or "").lower()
    except ValueError:  # brackets that are no address of version 6
        return None
    hosts = {*HOSTS, _endpoint_host()}
    if host not in hosts:
        what = f"{shown(host or spec)} is not the Hugging Face Hub"
        raise UsageError(what, hint="give a folder, a .gguf file, hf://org/name, or an address on huggingface.co")
    path = [unquote(part) for part in parts.path.split("/") if part]
    if path and path[0] in NO_MODELS:
        raise _no_model(path[0], "address")
    path = path[1:] if path[:1] == ["models"] else path
    repo, view, rest = "/".join(path[:2]), path[2:3], path[4:]
    revision = path[3] if len(path) > 3 and view[0] in VIEWS else None
    if revision is None or not rest:
        return _checked(HubModel(repo, revision))
    name = "/".join(rest)
    if name.lower().endswith(".gguf"):
        return _checked(HubModel(repo, revision, name))
    if view == ["tree"] or len(rest) > 1:
        what = f"the address leads to {shown(name)} inside of {shown(repo)}, not to a model"
        raise UsageError(what, hint=f"give the repository: hf://{shown(repo)}@{shown(revision)}")
    return _checked(HubModel(repo, revision))  # a file of the checkpoint stands for it


def _endpoint_host() -> str:
    """The host of HF_ENDPOINT, "" without one."""
    try:
        return (urlsplit(os.environ.get("HF_ENDPOINT", "")).hostname or "").lower()
    except ValueError:
        return ""
