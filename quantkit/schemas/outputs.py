"""The objects that commands print with --json, line by line of --events, and lie beside artifacts.

Fields are only ever added within a version, so schemas leave room for more. What is in brackets below a name in
docs/cli.md is a class here.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from quantkit.schemas.batch import Batch, BatchFiles, BatchIndex, BatchPlan, BatchRecord
from quantkit.schemas.bench import Bench
from quantkit.schemas.calibration import Calibrate, Calibration
from quantkit.schemas.catalogue import Doctor, Error, Fit, Recipe, Recipes, Schemes
from quantkit.schemas.comparison import Cards, Compare, Modelfiles
from quantkit.schemas.decisions import Recommend, Tune
from quantkit.schemas.evaluation import Eval, Gate, Report
from quantkit.schemas.files import File, JsonScalar, NamedBytes, Published, Sha256, Warned
from quantkit.schemas.publishing import Push
from quantkit.schemas.release import Release, Released
from quantkit.schemas.sources import Source
from quantkit.schemas.tuning import Allocation, Sensitivity, SensitivityPlan

Kind = Literal["model", "mmproj"]


class TypeSize(TypedDict):
    """The tensors of one type."""

    type: str
    tensors: int
    weights: int
    bytes: int
    code_bytes: int
    scale_bytes: int


class Size(TypedDict):
    """Where the bytes of an artifact are."""

    bytes: int
    code_bytes: int
    scale_bytes: int
    header_bytes: int
    padding_bytes: int
    weights: int
    bits_per_weight: float
    source_bytes: int
    ratio: float
    types: list[TypeSize]


class TensorNoise(TypedDict):
    """How far a weight is from the source; null: it holds what is no number."""

    tensor: str
    type: str
    snr_db: float | None


class Feedback(TypedDict):
    """What feedback of errors gained on the calibration data, relative to rounding: its mean, and the worst layer."""

    layers: int
    loss_to_rounding: float
    worst_loss_to_rounding: float


class Check(TypedDict):
    """A look at an artifact; null: not taken. Each has figures of its own beside these; those of the numbers are the
    same for every container."""

    check: str
    ok: bool | None
    detail: str
    compared_tensors: NotRequired[int]
    compared_weights: NotRequired[int]
    sampled: NotRequired[bool]
    not_compared: NotRequired[int]
    worst: NotRequired[list[TensorNoise]]
    feedback: NotRequired[Feedback]


Next = TypedDict("Next", {"for": str, "command": str})


class Artifact(TypedDict):
    """What was made, or was there already: a model, or the encoder that goes with it (mmproj)."""

    recipe: NotRequired[str]
    kind: Kind
    files: list[Published]
    manifest: str
    identity: str
    built: bool
    size: Size
    checks: list[Check]
    next: list[Next]
    modelfile: NotRequired[str]


class Failure(TypedDict):
    """A recipe of several that failed."""

    recipe: str
    code: str
    exit: int
    message: str
    hint: str | None


class Convert(TypedDict):
    """Of convert: what was made, and of several recipes those that failed."""

    artifacts: list[Artifact]
    failures: list[Failure]


class Fallback(TypedDict):
    """A tensor that has another type than the recipe wanted."""

    tensor: str
    wanted: str
    type: str


class Disk(TypedDict):
    needed_bytes: int
    free_bytes: int
    fits: bool


class Memory(TypedDict):
    peak_bytes: int
    limit_bytes: int
    fits: bool


class Serving(TypedDict):
    """Memory to serve it; with --fit whether it fits."""

    context: int
    kv_type: str
    weight_bytes: int
    kv_bytes: int
    bytes: int
    budget_bytes: NotRequired[int]
    fits: NotRequired[bool]


class Verdict(TypedDict):
    """What a consumer makes of the artifact."""

    consumer: str
    ok: bool
    rule: NotRequired[str]
    module: NotRequired[str]
    reason: NotRequired[str]
    nearest: NotRequired[str]
    caveats: NotRequired[list[str]]


class PlannedTensor(TypedDict):
    name: str
    type: str
    shape: list[int]
    bytes: int
    offset: int
    file: int
    bits_per_weight: NotRequired[float]
    reason: NotRequired[str]


class Layer(TypedDict):
    name: str
    type: str
    shape: list[int]
    bytes: int


class OnePlan(TypedDict):
    """The plan of a recipe; method, calibrated, plain and layers are of checkpoints. Of a GGUF file with feedback
    refits names the norms that may be fitted to what is rounded."""

    recipe: str
    kind: Kind
    container: str
    digest: str
    files: list[NamedBytes]
    size: Size
    tensors: list[PlannedTensor]
    fallbacks: list[Fallback]
    consumers: list[Verdict]
    warnings: list[Warned]
    disk: Disk
    memory: Memory
    seconds: float
    serving: Serving
    method: NotRequired[dict[str, JsonScalar]]
    allocation: NotRequired[Allocation]
    calibrated: NotRequired[bool]
    plain: NotRequired[list[str]]
    refits: NotRequired[list[str]]
    layers: NotRequired[list[Layer]]


class Plan(TypedDict):
    """Of plan, and of convert and quantize with --dry-run: what would be made, to the byte."""

    source: Source
    plans: list[OnePlan]
    fit: NotRequired[list[Fit]]
    failures: NotRequired[list[Failure]]


class Quantize(TypedDict):
    """Of quantize: the work folders, for pack."""

    work: list[str]
    failures: list[Failure]


class Pack(TypedDict):
    """Of pack; with --dry-run what would be written."""

    artifact: NotRequired[Artifact]
    would_write: NotRequired[list[str]]


class Verify(TypedDict):
    """Of verify: every check; `gates` with --gate, where everything else passed."""

    ok: bool
    checks: list[Check]
    gates: NotRequired[list[Gate]]


class Fact(TypedDict):
    """A value of the header. Of long lists and texts the first part; `count` is how many there are."""

    type: str
    value: Any
    count: NotRequired[int]


class TypeOfFile(TypedDict):
    type: str
    tensors: int
    weights: int
    bytes: int


class Inspect(TypedDict):
    """Of inspect: what the headers of a file, a folder or a repository say."""

    kind: Literal["gguf", "checkpoint"]
    name: str
    bytes: int
    weights: int
    metadata: dict[str, Fact]
    origin: dict[str, Any]
    types: list[TypeOfFile]
    tensors: list[Layer]


class StoredTensor(TypedDict):
    """A tensor of the artifact and where it lies."""

    name: str
    type: str
    shape: list[int]
    file: int
    offset: int
    bytes: int
    sha256: Sha256


class Guard(TypedDict):
    """A file with feedback beside the classic one on held-out text, nats per token: made minus classic is
    `difference`."""

    tokens: int
    kld: float
    classic_kld: float
    difference: float
    standard_error: float
    kept: Literal["feedback", "classic"]


class Norms(TypedDict):
    """Norms that may be fitted to what is rounded: whose values they have, and nats per token on text that was not
    learned from, windows of other documents or at least others; or why nothing was fitted."""

    tensors: int
    kept: Literal["refitted", "source"]
    why: NotRequired[str]
    tokens: NotRequired[int]
    judged_tokens: NotRequired[int]
    other_documents: NotRequired[bool]
    kld_before: NotRequired[float]
    kld_after: NotRequired[float]
    standard_error: NotRequired[float]


class Evened(TypedDict):
    """At how many places columns were evened, and in how many tensors."""

    sites: int
    tensors: int


class Manifest(TypedDict):
    """The manifest beside an artifact; method is of checkpoints, layers and calibration of calibrated ones."""

    identity: str
    plan_digest: str
    recipe: dict[str, Any]
    source: dict[str, Any]
    artifact: list[File]
    tool: dict[str, Any]
    model: dict[str, Any]
    size: Size
    checks: list[Check]
    warnings: list[Warned]
    versions: dict[str, str | None]
    platform: str
    timings: dict[str, float]
    tensors: list[StoredTensor]
    tokenizer_sha256: NotRequired[str | None]
    method: NotRequired[dict[str, Any]]
    allocation: NotRequired[Allocation]
    calibration: NotRequired[Any]
    layers: NotRequired[list[dict[str, Any]]]
    preserved: NotRequired[list[dict[str, Any]]]
    guard: NotRequired[Guard]
    evened: NotRequired[Evened]
    norms: NotRequired[Norms]
    replaced: NotRequired[list[File]]


OUTPUTS: dict[str, Any] = {
    "quantkit.convert/1": Convert,
    "quantkit.plan/1": Plan,
    "quantkit.recommend/1": Recommend,
    "quantkit.tune/1": Tune,
    "quantkit.calibrate/1": Calibrate,
    "quantkit.calibration/1": Calibration,
    "quantkit.quantize/1": Quantize,
    "quantkit.pack/1": Pack,
    "quantkit.sensitivity/2": Sensitivity,
    "quantkit.sensitivity_plan/1": SensitivityPlan,
    "quantkit.verify/1": Verify,
    "quantkit.eval/1": Eval,
    "quantkit.report/1": Report,
    "quantkit.compare/1": Compare,
    "quantkit.card/1": Cards,
    "quantkit.modelfile/1": Modelfiles,
    "quantkit.push/1": Push,
    "quantkit.released/1": Released,
    "quantkit.release/1": Release,
    "quantkit.bench/1": Bench,
    "quantkit.inspect/1": Inspect,
    "quantkit.schemes/1": Schemes,
    "quantkit.recipes/1": Recipes,
    "quantkit.recipe/1": Recipe,
    "quantkit.doctor/1": Doctor,
    "quantkit.batch/1": Batch,
    "quantkit.batch_plan/1": BatchPlan,
    "quantkit.batch_emit/1": BatchFiles,
    "quantkit.batch_task/1": BatchRecord,
    "quantkit.batch_index/1": BatchIndex,
    "quantkit.error/1": Error,
    "quantkit.manifest/1": Manifest,
}
