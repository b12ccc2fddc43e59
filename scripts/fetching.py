"""What the fetch scripts share: an archive of the package index by its hash, a folder that appears whole or not."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MARKER = ".version"


@dataclass(frozen=True)
class Package:
    """One archive of the package index. pip refuses any other, before it runs anything that the archive holds."""

    name: str
    version: str
    sha256: str
    options: tuple[str, ...] = ()  # of `pip download`: which archive of this version

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def download(self, folder: Path) -> Path:
        """Have pip put the archive into `folder`, from whatever index it is set up with; return its path.

        Exits with pip's status on failure.
        """
        requirements = folder / "requirements.txt"
        requirements.write_text(f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n")
        options = ["--no-deps", *self.options, "--require-hashes", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), "-r", str(requirements)]
        status = subprocess.run(command, check=False).returncode
        if status:
            print(f"error: pip could not download {self}; see its message above", file=sys.stderr)
            raise SystemExit(status)
        [archive] = (path for path in folder.iterdir() if path != requirements)
        return archive


def fetch(
    target: Path, package: Package, unpack: Callable[[Path, Path], int], obtain: Callable[[Path], Path] | None = None
) -> str:
    """Make `target` hold what `unpack(archive, folder)` makes of a package, and say what was done.

    `obtain` puts the archive into a folder, by default the package's own download. Nothing is done for a target of
    this version, or for a link. SystemExit if `target` is a folder that such a script did not make.
    """
    marker = target / MARKER
    if marker.is_file() and marker.read_text().strip() == package.version:
        return f"{target} already holds {package}"
    if target.is_symlink():
        return f"{target} is a link to files of your own: left as it is"
    if target.exists() and not marker.is_file():
        raise SystemExit(f"error: {target} exists and was not made by this script; move it away or choose --to DIR")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last step is a rename within one file system.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as name:
        work = Path(name)
        (work / "download").mkdir()
        (work / "new").mkdir()
        count = unpack((obtain or package.download)(work / "download"), work / "new")
        (work / "new" / MARKER).write_text(f"{package.version}\n")
        replace(work / "new", target)
    return f"{count} files of {package} are in {target}"


def replace(new: Path, target: Path) -> None:
    """Put folder `new` in the place of `target`, an older unpacking or nothing."""
    old = new.with_name("old")
    if target.exists():
        target.rename(old)
    new.rename(target)
