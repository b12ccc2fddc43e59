"""The files of a folder that would go to the Hub, each opened once: what is sent is what was opened and looked at.

Refused are links that lead out of the folder, files that look like secrets or hold one, formats that can run code, and
folders that are no artifacts: a clone of a repository, work that is not finished.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from quantkit.errors import BusyError, InputError, QuantkitError
from quantkit.filenames import WEIGHTS, is_job
from quantkit.records import record
from quantkit.untrusted import InputFile, open_input, shown

MAX_FILES, MAX_DEPTH = 10_000, 4
SCANNED_BYTES = 64 << 20  # files up to this size are searched for secrets
WORK = "work.json"  # of a folder of `quantkit quantize`
KEPT_HIDDEN = frozenset({".gitattributes"})
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
UNFINISHED = (".part", ".incomplete", ".tmp", ".lock", ".swp", "~")
SECRET_NAMES = re.compile(
    r"\.env(\..*)?|\.netrc|_netrc|\.npmrc|\.pypirc|\.git-credentials|\.htpasswd|id_(rsa|dsa|ecdsa|ed25519)(_.*)?"
    r"|credentials(\..*)?|secrets?(\..*)?|token|stored_tokens|seal\.key|.*\.(pem|key|p12|pfx|jks|keystore|kdbx|ppk)",
    re.IGNORECASE,
)
PUBLIC = (b"-----BEGIN PUBLIC KEY-----", b"-----BEGIN CERTIFICATE-----")
SECRETS = re.compile(
    rb"\b(?:hf_|api_org_)[A-Za-z0-9]{30,}|\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-)[A-Za-z0-9_-]{20,}"
    rb"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"
)
NO_SECRET = "take it out of the folder; if it was published before, revoke it"


@record
class Outgoing:
    """A file that goes to the Hub under `name`."""

    name: str
    file: InputFile

    @property
    def nbytes(self) -> int:
        return self.file.nbytes


@record
class Gathered:
    """All files, open, and the names of what stays behind."""

    files: tuple[Outgoing, ...]
    left: tuple[str, ...]

    def close(self) -> None:
        for each in self.files:
            each.file.close()


def gather(root: Path, names: Sequence[str] | None = None) -> Gathered:
    """Open the files of a folder, in the order of their names; with `names` those alone.

    Raises InputError for what must not be published, BusyError for work that is not finished.
    """
    root = Path(os.path.realpath(root))
    found: list[str] = sorted(names or ())
    left: list[str] = []
    if names is None:
        for name in _walk(root, PurePosixPath()):
            (left if _stays(name) else found).append(name)
    opened: list[Outgoing] = []
    try:
        for name in found:
            opened.append(Outgoing(name, _open(root, name)))
            _require_no_secret(opened[-1])
    except QuantkitError:
        Gathered(tuple(opened), ()).close()
        raise
    return Gathered(tuple(opened), tuple(left))


def _walk(root: Path, below: PurePosixPath) -> Iterator[str]:
    """Names of all files, hidden ones too, sorted; folders that tell what this is are refused."""
    if len(below.parts) > MAX_DEPTH:
        raise InputError(f"{shown(str(root / below))} lies too deep", path=str(root), hint="give the artifacts' folder")
    try:
        with os.scandir(root / below) as entries:
            here = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        where = str(root / below)
        raise InputError(
            f"{shown(where)} cannot be read: {error.strerror}", path=where, hint="check its permissions"
        ) from error
    if len(here) > MAX_FILES:
        raise InputError(
            f"{shown(str(root))} has more than {MAX_FILES:,} files", path=str(root), hint="give a folder of artifacts"
        )
    for entry in here:
        name = str(below / entry.name)
        if entry.is_dir(follow_symlinks=False):
            _require_plain_folder(root, entry.name, name)
            if not entry.name.startswith("."):
                yield from _walk(root, below / entry.name)
            else:
                yield f"{name}/"
        else:
            yield name


def _require_plain_folder(root: Path, base: str, name: str) -> None:
    if is_job(base):
        what = f"{shown(name)} is work that is not finished, or that a gate kept back"
        hint = "run the command that began it again, or remove that folder"
        raise BusyError(f"{shown(str(root))}: {what}", path=str(root / name), hint=hint)
    if base == ".git":
        what = f"{shown(str(root))} is a clone of a repository"
        raise InputError(what, path=str(root), hint="give the folder of the artifacts, or push with git")


def _stays(name: str) -> bool:
    """Whether a file is none that anybody means to publish: hidden ones, and what editors and copies leave behind."""
    if SECRET_NAMES.fullmatch(PurePosixPath(name).name):
        return False  # whoever has such a file there is told
    hidden = any(part.startswith(".") for part in PurePosixPath(name).parts) or name.endswith("/")
    return (hidden and name not in KEPT_HIDDEN) or name.lower().endswith(UNFINISHED)


def _open(root: Path, name: str) -> InputFile:
    """Open a file of the folder. Raises InputError for a link that leads out of it, and for what must not go."""
    path, base = root / name, PurePosixPath(name).name
    if base == WORK:
        hint = f"pack it first: quantkit pack {shown(str(root))} -o OUT"
        raise InputError(f"{shown(str(root))} is a work folder, no artifact", path=str(path), hint=hint)
    if name.lower().endswith(PICKLES):
        what = f"{shown(name)} is of a kind that can run code when it is loaded"
        raise InputError(what, path=str(path), hint="take it out of the folder: no file of this kind is published")
    if not name.isprintable() or "\\" in name:
        raise InputError(f"{shown(name)} is no name for a repository", path=str(path), hint="rename the file")
    target = Path(os.path.realpath(path))
    if target != path and root not in target.parents:
        what = f"{shown(name)} is a link to {shown(str(target))}, outside of the folder"
        raise InputError(what, path=str(path), hint="copy the file into the folder")
    file = open_input(target, follow=False)
    if SECRET_NAMES.fullmatch(base) and not _is_public_key(file):
        file.close()
        raise InputError(f"{shown(name)} looks like a secret", path=str(path), hint=NO_SECRET)
    return file


def _is_public_key(file: InputFile) -> bool:
    return file.read(0, min(file.nbytes, max(map(len, PUBLIC)))).tobytes().startswith(PUBLIC)


def _require_no_secret(each: Outgoing) -> None:
    """Raise InputError for a token or a private key in a file; the message does not say it."""
    if each.name.lower().endswith(WEIGHTS) or each.nbytes > SCANNED_BYTES:
        return
    data = each.file.read(0, each.nbytes).tobytes()
    found = SECRETS.search(data) or _own_token(data)
    if found:
        line = data.count(b"\n", 0, found.start()) + 1
        what = f"{shown(each.name)} holds a token or a private key, in line {line:,}"
        raise InputError(what, path=str(each.file.path), hint=NO_SECRET)


def _own_token(data: bytes) -> re.Match[bytes] | None:
    """The user's own token, whatever it looks like."""
    from huggingface_hub import get_token  # of the environment, or the stored login

    token = (get_token() or "").encode("utf-8", "surrogateescape")
    return re.search(re.escape(token), data) if len(token) >= 8 else None
