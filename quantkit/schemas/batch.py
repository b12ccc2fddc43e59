"""What is printed and kept of batches: plans, results, records of tasks, the index of a folder; and matrices."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

State = Literal["done", "failed", "interrupted", "running", "waiting"]
Texts = str | list[str]
Name = Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._+-]{0,95}$")]
Positive = Annotated[int, Meta(ge=1)]


class States(TypedDict):
    """How many tasks are in each state."""

    done: int
    failed: int
    interrupted: int
    running: int
    waiting: int


class BatchFailure(TypedDict):
    """Why a task, or one of its recipes, was not made. `recipe` is "" for a task as a whole."""

    code: str
    exit: int
    message: str
    hint: str | None
    recipe: str


class PlannedArtifact(TypedDict):
    """What a task will make. `exact` is false where text decides the types."""

    recipe: str
    kind: Literal["model", "mmproj"]
    paths: list[str]
    bytes: int
    bits_per_weight: float
    exact: bool


class BatchNeeds(TypedDict):
    memory_bytes: int
    disk_bytes: int
    download_bytes: int


class PlanError(TypedDict):
    code: str
    message: str
    hint: str | None


class BatchPlanTask(TypedDict):
    id: str
    model: str
    recipes: list[str]
    state: State
    command: str
    out: str
    artifacts: list[PlannedArtifact]
    bytes: int
    needs: BatchNeeds
    seconds: float
    error: PlanError | None


class SourceMade(TypedDict):
    task: str
    commit: str


class BatchSource(TypedDict):
    """A model of the Hub: the commit that it is at, null where nobody asked, and those that artifacts were made of."""

    source: str
    commit: str | None
    made: list[SourceMade]


class BatchPlan(TypedDict):
    """Of batch plan: every task, and what all of them take."""

    matrix: str
    out: str
    tasks: list[BatchPlanTask]
    states: States
    bytes: int
    left_bytes: int
    download_bytes: int
    free_bytes: int
    fits_disk: bool
    peak_bytes: int
    memory_bytes: int
    fits_memory: bool
    jobs: int
    threads: int
    seconds: float
    scripts: list[str]
    sources: list[BatchSource]


class BatchFile(TypedDict):
    """A file, by its path from the folder of the batch."""

    path: str
    bytes: int
    sha256: str


class BatchArtifact(TypedDict):
    """An artifact that was made. `kl` is its KL divergence in nats, where gates or a record of eval beside it measured
    it, on the tokens whose hash is `data`, with the engine behind that where one ran it."""

    recipe: str
    kind: Literal["model", "mmproj"]
    files: list[BatchFile]
    manifest: str
    identity: str
    bytes: int
    bits_per_weight: float
    kl: float | None
    kl_error: float | None
    gates: list[str]
    data: str | None
    commit: str | None


class BatchTask(TypedDict):
    """A task: `exit` is null while it runs or before it began, negative for a signal that ended it."""

    id: str
    model: str
    recipes: list[str]
    state: State
    command: str
    exit: int | None
    seconds: float
    attempts: int
    where: str | None
    error: BatchFailure | None
    failures: list[BatchFailure]
    artifacts: list[BatchArtifact]


class Batch(TypedDict):
    """Of batch run, retry and status."""

    matrix: str
    out: str
    states: States
    seconds: float
    tasks: list[BatchTask]
    sources: list[BatchSource]


class IndexArtifact(BatchArtifact):
    task: str
    model: str


class IndexFailure(BatchFailure):
    task: str
    model: str


class IndexTool(TypedDict):
    name: str
    version: str


class BatchIndex(TypedDict):
    """index.json in the folder of a batch."""

    matrix: str
    tool: IndexTool
    states: States
    artifacts: list[IndexArtifact]
    failed: list[IndexFailure]


class RecordArtifact(TypedDict):
    recipe: str
    kind: Literal["model", "mmproj"]
    manifest: str
    identity: str
    stamp: str
    bits_per_weight: float
    files: list[list[Any]]
    kl: float | None
    kl_error: float | None
    gates: list[str]
    data: str | None
    commit: str | None


class BatchRecord(TypedDict):
    """The record of a task, in .quantkit-batch/tasks."""

    task: str
    key: str
    where: str
    time: float
    exit: int | None
    seconds: float
    attempts: int
    error: BatchFailure | None
    failures: list[BatchFailure]
    artifacts: list[RecordArtifact]
    owner: str


# --- the matrix -------------------------------------------------------------------------------------------------------

# "for" is a word of Python's, which a class cannot have as a field.
MatrixFor = TypedDict("MatrixFor", {"for": Texts}, total=False)


class MatrixOptions(MatrixFor, total=False):
    """The options of convert, as quantkit.batch.options has them: equal by a test."""

    adapter: Texts
    gate: Texts
    keep: Texts
    calib: Texts
    eval_data: Texts
    imatrix: str
    sensitivity: str
    base: str
    on_fallback: str
    output_type: str
    embedding_type: str
    split_max_size: str
    target_size: str
    mmproj: str
    pre: str
    method: str
    max_shard_size: str
    device: str
    activations: str
    engine: str
    samples: Positive
    seqlen: Positive
    tp: Positive
    target_bpw: float
    max_kld: float
    require_coverage: float
    feedback_head: bool
    feedback_embedding: bool
    even_columns: bool
    refit_norms: bool
    allow_requantize: bool
    allow_other_base: bool
    pure: bool
    preserve: bool
    card: bool
    verify: bool
    offline: bool


class MatrixDefaults(MatrixOptions, total=False):
    """The folder of the results, and options for all that has a use for them."""

    out: str


class MatrixModel(MatrixOptions, total=False):
    """A model. A template is only extended; `recipes` are those that it is made with."""

    source: str
    name: Name
    extends: str
    template: bool
    recipes: list[str]


class MatrixRecipe(MatrixOptions, total=False):
    """A recipe under a name. `folder` is where its files go within that of a model."""

    to: str
    name: Name
    extends: str
    template: bool
    folder: Name


class MatrixChoice(TypedDict, total=False):
    """Models and recipes by globs."""

    model: str
    recipe: str


class MatrixOverride(MatrixOptions, total=False):
    """Options for models and recipes by globs."""

    model: str
    recipe: str


class MatrixSlurm(TypedDict, total=False):
    """Options of sbatch, as quantkit.batch.slurm_script has them: equal by a test."""

    account: str
    comment: str
    constraint: str
    cpus_per_task: str | int
    exclude: str
    gres: str
    mem: str | int
    nice: str | int
    nodelist: str
    partition: str
    qos: str
    reservation: str
    time: str | int
    wckey: str


class BatchFiles(TypedDict):
    """Of batch emit: the text of the file, and where it was written; null for the standard output."""

    kind: Literal["github", "gitlab", "kubernetes", "make"]
    tasks: int
    file: str | None
    text: str


class BatchMatrix(TypedDict):
    """A matrix of models and recipes."""

    models: list[str | MatrixModel]
    recipes: list[str | MatrixRecipe]
    schema: NotRequired[Literal[1]]
    batch: NotRequired[MatrixDefaults]
    exclude: NotRequired[list[MatrixChoice]]
    overrides: NotRequired[list[MatrixOverride]]
    slurm: NotRequired[MatrixSlurm]
