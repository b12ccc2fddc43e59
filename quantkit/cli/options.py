"""Options that several commands share, as dataclasses whose annotations describe the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantkit.records import record

if TYPE_CHECKING:
    from quantkit.pipeline.request import Request

DEFAULT_RECIPE = "q4_k_m"

# The groups of the help, in the order in which a command declares them.
GGUF = "GGUF files"
CHECKPOINTS = "Checkpoints for servers"
TEXT = "Calibration"
RUN = "The run"
OUTPUT = "Output and talk"

WithCard = Annotated[
    bool, typer.Option("--card", help="Write a model card (README.md) beside it, too.", rich_help_panel=RUN)
]
Adapters = Annotated[
    list[str] | None,
    typer.Option("--adapter", metavar="DIR", help="A LoRA adapter to merge into the weights first; repeatable."),
]
AllowOtherBase = Annotated[
    bool, typer.Option("--allow-other-base", help="Accept an adapter that was trained on a model of another name.")
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="A folder, or a file name ending in .gguf.")]
Pre = Annotated[
    str | None, typer.Option("--pre", metavar="NAME", help="The pre-tokenizer, where it is not recognized.")
]
Activations = Annotated[
    str, typer.Option("--activations", metavar="auto|memory|disk", help="Where they lie between blocks.")
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, metavar="N", help="Worker threads; default: all cores.", rich_help_panel=RUN),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.", rich_help_panel=RUN)]
Paranoid = Annotated[
    bool,
    typer.Option(
        "--paranoid",
        help="Believe nothing that an earlier run left: make all of it again and compare.",
        rich_help_panel=RUN,
    ),
]
StepSummary = Annotated[
    bool,
    typer.Option(
        "--step-summary/--no-step-summary",
        help="Append the verdict of gates to $GITHUB_STEP_SUMMARY where that is set.",
        rich_help_panel=RUN,
    ),
]


@record
class Gated:
    """What an artifact has to keep before it is published, and on which text."""

    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate", metavar="GATE", help="Publish only if it holds, such as 'kld<0.03'.", rich_help_panel=RUN
        ),
    ] = None
    eval_data: Annotated[
        list[str] | None,
        typer.Option("--eval-data", metavar="FILE", help="Text for gates; see eval.", rich_help_panel=RUN),
    ] = None
    step_summary: StepSummary = True

    def values(self) -> dict[str, tuple[str, ...]]:
        """As requests have them."""
        return {"gates": tuple(self.gate or ()), "eval_data": tuple(self.eval_data or ())}


DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be done and write nothing.", rich_help_panel=RUN)
]


@record
class Want:
    """What to make from what: the options of every command that plans."""

    source: Annotated[
        str,
        typer.Argument(metavar="SRC", help="A folder, hf://org/name[@revision][:FILE.gguf], org/name or a .gguf file."),
    ]
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            metavar="RECIPE[,RECIPE...]",
            help="Recipe names or .toml files; repeatable; see quantkit recipes.",
            show_default=DEFAULT_RECIPE,
        ),
    ] = None
    adapter: Adapters = None
    allow_other_base: AllowOtherBase = False
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="SRC", help="The model of the adapter or of the draft that is the source."),
    ] = None
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="PATTERN=TYPE", help="Type of the tensors whose name matches; repeatable."),
    ] = None
    on_fallback: Annotated[
        str,
        typer.Option("--on-fallback", metavar="report|error", help="When rows do not divide by the block of a type."),
    ] = "report"
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Accept a source that is already quantized.")
    ] = False
    imatrix: Annotated[
        Path | None,
        typer.Option("--imatrix", metavar="FILE", help="Importance matrix, GGUF or legacy .dat.", rich_help_panel=GGUF),
    ] = None
    output_type: Annotated[
        str | None,
        typer.Option("--output-type", metavar="TYPE", help="Type of the output head.", rich_help_panel=GGUF),
    ] = None
    embedding_type: Annotated[
        str | None,
        typer.Option("--embedding-type", metavar="TYPE", help="Type of the token embedding.", rich_help_panel=GGUF),
    ] = None
    pure: Annotated[
        bool,
        typer.Option("--pure", help="The recipe's default type everywhere, no mixture.", rich_help_panel=GGUF),
    ] = False
    preserve: Annotated[
        bool,
        typer.Option("--preserve", help="Keep a grid and zeros that the weights have already.", rich_help_panel=GGUF),
    ] = False
    split_max_size: Annotated[
        str | None,
        typer.Option(
            "--split-max-size",
            metavar="SIZE",
            help="Write shards of at most this size: 4G, 500MB, 2GiB.",
            rich_help_panel=GGUF,
        ),
    ] = None
    target_size: Annotated[
        str | None,
        typer.Option(
            "--target-size",
            metavar="SIZE",
            help="Choose types so that the file takes at most this (4.5GB) and loses least; with --calib.",
            rich_help_panel=GGUF,
        ),
    ] = None
    target_bpw: Annotated[
        float | None,
        typer.Option(
            "--target-bpw", metavar="BITS", help="The same in bits per weight, all counted.", rich_help_panel=GGUF
        ),
    ] = None
    max_kld: Annotated[
        float | None,
        typer.Option(
            "--max-kld", metavar="NATS", help="The smallest file that loses at most this.", rich_help_panel=GGUF
        ),
    ] = None
    sensitivity: Annotated[
        Path | None,
        typer.Option(
            "--sensitivity",
            metavar="FILE",
            help="What types cost, as quantkit sensitivity wrote it: nothing is measured again.",
            rich_help_panel=GGUF,
        ),
    ] = None
    mmproj: Annotated[
        str,
        typer.Option(
            "--mmproj",
            metavar="auto|none|f16|bf16|f32|q8_0",
            help="The type of the second file of a model that sees or hears; none: leave it out.",
            rich_help_panel=GGUF,
        ),
    ] = "auto"
    pre: Annotated[
        str | None,
        typer.Option(
            "--pre", metavar="NAME", help="The pre-tokenizer, where it is not recognized.", rich_help_panel=GGUF
        ),
    ] = None
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="How values are chosen, instead of the recipe's: rtn, gptq (see schemes).",
            rich_help_panel=TEXT,
        ),
    ] = None
    feedback_head: Annotated[
        bool | None,
        typer.Option(
            "--feedback-head/--no-feedback-head",
            help="GGUF: round the output head with feedback, too.",
            show_default="on",
            rich_help_panel=TEXT,
        ),
    ] = None
    feedback_embedding: Annotated[
        bool | None,
        typer.Option(
            "--feedback-embedding/--no-feedback-embedding",
            help="GGUF: round the token embedding with feedback, too.",
            show_default="on",
            rich_help_panel=TEXT,
        ),
    ] = None
    even_columns: Annotated[
        bool | None,
        typer.Option(
            "--even-columns/--no-even-columns",
            help="GGUF: before feedback, even columns of weights that are far apart in length.",
            show_default="on",
            rich_help_panel=TEXT,
        ),
    ] = None
    refit_norms: Annotated[
        bool | None,
        typer.Option(
            "--refit-norms/--no-refit-norms",
            help="GGUF: fit norms to what feedback has rounded, where other text says that it helps.",
            show_default="off; on for iq4_nl",
            rich_help_panel=TEXT,
        ),
    ] = None
    consumers: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="NAME[,NAME...]",
            help="Who must be able to load it: vllm, transformers, ...",
            rich_help_panel=CHECKPOINTS,
        ),
    ] = None
    tp: Annotated[
        int,
        typer.Option(
            "--tp",
            min=1,
            metavar="N",
            help="Devices that share each layer when --for serves it.",
            rich_help_panel=CHECKPOINTS,
        ),
    ] = 1
    max_shard_size: Annotated[
        str | None,
        typer.Option(
            "--max-shard-size",
            metavar="SIZE",
            help="Size of a checkpoint's files.",
            show_default="5GB",
            rich_help_panel=CHECKPOINTS,
        ),
    ] = None
    calib: Annotated[
        list[str] | None,
        typer.Option(
            "--calib",
            metavar="default|FILE",
            help='"default" (shipped text), text, JSON Lines, parquet, or statistics of calibrate; repeatable.',
            rich_help_panel=TEXT,
        ),
    ] = None
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            min=1,
            metavar="N",
            help="Sequences of the text to run.",
            show_default="128",
            rich_help_panel=TEXT,
        ),
    ] = None
    seqlen: Annotated[
        int | None,
        typer.Option(
            "--seqlen", min=2, metavar="N", help="Tokens of a sequence.", show_default="512", rich_help_panel=TEXT
        ),
    ] = None
    device: Annotated[
        str,
        typer.Option("--device", metavar="cpu|cuda[:N]", help="Where calibration runs.", rich_help_panel=TEXT),
    ] = "cpu"
    activations: Annotated[
        str,
        typer.Option(
            "--activations", metavar="auto|memory|disk", help="Where they lie between blocks.", rich_help_panel=TEXT
        ),
    ] = "auto"
    require_coverage: Annotated[
        float | None,
        typer.Option("--require-coverage", metavar="PERCENT", help="Share of experts that the text must reach.",
                     rich_help_panel=TEXT),
    ] = None  # fmt: skip

    card: WithCard = False

    def request(self, offline: bool, threads: int | None = None) -> Request:
        """The request that these options make."""
        import quantkit

        return quantkit.Request(
            source=self.source,
            recipes=(DEFAULT_RECIPE,) if self.to is None else tuple(self.to),
            imatrix=self.imatrix,
            keep=tuple(self.keep or ()),
            output_type=self.output_type,
            embedding_type=self.embedding_type,
            pure=self.pure,
            preserve=self.preserve,
            on_fallback=self.on_fallback,
            split_max_size=self.split_max_size,
            allow_requantize=self.allow_requantize,
            pre=self.pre,
            calib=tuple(self.calib or ()),
            samples=self.samples,
            seqlen=self.seqlen,
            device=self.device,
            activations=self.activations,
            method=self.method,
            feedback_head=self.feedback_head,
            feedback_embedding=self.feedback_embedding,
            even_columns=self.even_columns,
            refit_norms=self.refit_norms,
            consumers=(self.consumers or "",),
            tp=self.tp,
            threads=threads,
            max_shard_size=self.max_shard_size,
            require_coverage=self.require_coverage,
            target_size=self.target_size,
            target_bpw=self.target_bpw,
            max_kld=self.max_kld,
            sensitivity=self.sensitivity,
            card=self.card,
            adapters=tuple(self.adapter or ()),
            allow_other_base=self.allow_other_base,
            base=self.base,
            mmproj=self.mmproj,
            offline=offline,
        )
