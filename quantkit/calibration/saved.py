"""Statistics of a whole model, block by block: each block's are a file of their own as soon as it is done.

A run that is killed keeps the blocks it finished; the next one reads them back and only moves the samples through.
Memory holds the sums of one block at a time, and at the end those of none.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import field
from pathlib import Path

from torch import Tensor

from quantkit.calibration.statistics.file import Encoded, StatisticsFile, encode_statistics, open_statistics
from quantkit.calibration.statistics.sums import Statistics, merge
from quantkit.calibration.text.samples import Samples
from quantkit.calibration.walk.model import BlockModel
from quantkit.calibration.walk.walk import BlockView, walk_blocks
from quantkit.errors import InputError, InterruptedRunError
from quantkit.events import Sink, ignore
from quantkit.records import record
from quantkit.storage import Job, PartFile, hash_file, open_job, user_key, write_small
from quantkit.units import counted
from quantkit.untrusted import read_bounded

MAX_SEAL_BYTES = 64


@record
class BlockFiles:
    """Where the statistics of blocks lie: one file each in `folder`, whose name stands for model, data and options.

    `count` blocks, the head included, of the model and data with these digests.
    """

    folder: Path
    count: int
    model: str
    plan: str
    believed: set[int] = field(default_factory=set)

    def path(self, index: int) -> Path:
        return self.folder / f"{index:04d}.safetensors"

    def seal(self, index: int) -> Path:
        """The file that says, with the user's key, that the block's file is her own work."""
        return self.folder.with_name(f"{self.folder.name}-{index:04d}.seal")

    def find(self, index: int) -> StatisticsFile | None:
        """The finished file of a block; None where there is none, or it is damaged or of somebody else's making."""
        with suppress(InputError):
            if index not in self.believed:
                stated = read_bounded(self.seal(index), MAX_SEAL_BYTES)
                if not hmac.compare_digest(stated, self.own_seal(index)):
                    return None
                self.believed.add(index)
            found = open_statistics(self.path(index))
            if found.facts.model == self.model and set(found.facts.data) == {self.plan}:
                return found
            found.close()
        return None

    def own_seal(self, index: int) -> bytes:
        """What the seal of a block's file must say. Reads the file."""
        said = f"{self.folder.name} {index} {self.model} {self.plan} {hash_file(self.path(index))}"
        return hmac.new(user_key(), said.encode(), hashlib.sha256).hexdigest().encode()

    def finished(self) -> dict[int, frozenset[str]]:
        """The blocks that have a file, and the source tensors whose statistics are in it."""
        found = {}
        for index in range(self.count):
            file = self.find(index)
            if file is not None:
                found[index] = frozenset(linear.source.tensor for linear in file.facts.linears.values())
                file.close()
        return found


def block_files(model: BlockModel, samples: Samples, folder: Path) -> BlockFiles:
    """The files of a model's blocks and head in `folder`, for these samples."""
    return BlockFiles(folder, model.count + 1, model.fingerprint(), samples.record.digest)


def save_statistics(
    model: BlockModel,
    samples: Samples,
    files: BlockFiles,
    emit: Sink = ignore,
    *,
    hessian: bool,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Walk through the model until every block's statistics are in `files`; those that are there stay.

    `stop` is asked before each block. Raises InterruptedRunError when it says yes, what `walk_blocks` raises, and
    what storage raises; finished blocks are kept.
    """
    done = set(files.finished())
    if len(done) == files.count:
        return

    def visit(index: int, block: BlockView) -> Mapping[str, Tensor]:
        if stop():
            message = f"interrupted: {len(done)} of {counted(files.count, 'block')} finished"
            raise InterruptedRunError(message, hint="run the same command again to resume")
        if index not in done:
            _save(files, index, block.statistics(hessian=hessian, final=True))
            done.add(index)
        return {}

    walk_blocks(model, samples, visit, emit)


def _save(files: BlockFiles, index: int, statistics: Statistics) -> None:
    path = files.path(index)
    digest = hashlib.sha256(f"{files.folder.name} {index}".encode()).hexdigest()
    encoded = encode_statistics(statistics)
    parts = [PartFile(path.name, encoded.nbytes)]
    with open_job(files.folder / f".{path.stem}", digest=digest, files=parts) as job:
        write_pieces(encoded, job)
        job.publish([path], overwrite=True, check=check_statistics)
        job.discard()
    write_small(files.seal(index), files.own_seal(index), overwrite=True)
    files.believed.add(index)


def write_pieces(encoded: Encoded, job: Job) -> None:
    """Write the one file of a job."""
    offset = 0
    for piece in encoded.pieces:
        job.write(0, offset, piece)
        offset += len(piece)


def check_statistics(path: Path) -> None:
    """Raise InputError unless `path` is a whole file of statistics."""
    open_statistics(path).close()


@contextmanager
def opened(files: BlockFiles) -> Iterator[Sequence[StatisticsFile]]:
    """All files of a finished walk. Raises InputError where one is missing."""
    found: list[StatisticsFile] = []
    try:
        for index in range(files.count):
            file = files.find(index)
            if file is None:
                path = str(files.path(index))
                raise InputError(f"{path} is gone or damaged", path=path, hint="run the same command again")
            found.append(file)
        yield found
    finally:
        for file in found:
            file.close()


def moments_of(files: Sequence[StatisticsFile]) -> Statistics:
    """The statistics of all files without products of columns: small enough to be held at once."""
    return merge([file.read(gram=False) for file in files])
