"""Options that several commands share, as dataclasses whose annotations describe the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from quantkit.pipeline.prepare import Request

DEFAULT_RECIPE = "q4_k_m"

Out = Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="A folder, or a file name ending in .gguf.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Worker threads; default: all cores.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done and write nothing.")]
Engine = Annotated[
    str | None,
    typer.Option("--engine", metavar="llama.cpp|torch", help="Also run it and compare."),
]


@dataclass(frozen=True)
class Want:
    """What to make from what: the options of every command that plans."""

    source: Annotated[
        str, typer.Argument(metavar="SRC", help="A folder, hf://org/name[@revision], org/name or a .gguf file.")
    ]
    to: Annotated[
        str,
        typer.Option("--to", metavar="RECIPE[,RECIPE...]", help="Recipe names or .toml files; see quantkit recipes."),
    ] = ""
    imatrix: Annotated[
        Path | None, typer.Option("--imatrix", metavar="FILE", help="Importance matrix, GGUF or legacy .dat.")
    ] = None
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="PATTERN=TYPE", help="Type of the tensors whose name matches; repeatable."),
    ] = None
    output_type: Annotated[
        str | None, typer.Option("--output-type", metavar="TYPE", help="Type of the output head.")
    ] = None
    embedding_type: Annotated[
        str | None, typer.Option("--embedding-type", metavar="TYPE", help="Type of the token embedding.")
    ] = None
    pure: Annotated[bool, typer.Option("--pure", help="The recipe's default type everywhere, no mixture.")] = False
    on_fallback: Annotated[
        str,
        typer.Option("--on-fallback", metavar="report|error", help="When rows do not divide by the block of a type."),
    ] = "report"
    split_max_size: Annotated[
        str | None, typer.Option("--split-max-size", metavar="N[K|M|G]", help="Write shards of at most this size.")
    ] = None
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Accept a source that is already quantized.")
    ] = False
    calib: Annotated[
        list[str] | None,
        typer.Option("--calib", metavar="FILE", help="Text to calibrate with: text, JSON Lines, parquet; repeatable."),
    ] = None
    samples: Annotated[int | None, typer.Option("--samples", min=1, help="Sequences of the text to run.")] = None
    seqlen: Annotated[int | None, typer.Option("--seqlen", min=2, help="Tokens of a sequence.")] = None
    device: Annotated[str, typer.Option("--device", metavar="cpu|cuda", help="Where calibration runs.")] = "cpu"
    activations: Annotated[
        str, typer.Option("--activations", metavar="auto|memory|disk", help="Where they lie between blocks.")
    ] = "auto"
    method: Annotated[
        str | None, typer.Option("--method", metavar="rtn|gptq", help="How values are chosen, instead of the recipe's.")
    ] = None
    consumers: Annotated[
        str | None,
        typer.Option("--for", metavar="NAME[,NAME...]", help="Who must be able to load it: vllm, transformers, ..."),
    ] = None
    tp: Annotated[int, typer.Option("--tp", min=1, help="Devices that share each layer when serving.")] = 1
    max_shard_size: Annotated[
        str | None, typer.Option("--max-shard-size", metavar="N[K|M|G]", help="Size of a checkpoint's files; 5G.")
    ] = None
    require_coverage: Annotated[
        float | None,
        typer.Option("--require-coverage", metavar="PERCENT", help="Share of experts that the text must reach."),
    ] = None
    pre: Annotated[
        str | None, typer.Option("--pre", metavar="NAME", help="The pre-tokenizer, where it is not recognized.")
    ] = None

    def request(self, offline: bool, threads: int | None = None) -> Request:
        """The request that these options make."""
        import quantkit

        names = tuple(name.strip() for name in self.to.split(",") if name.strip())
        return quantkit.Request(
            source=self.source,
            recipes=names or (DEFAULT_RECIPE,),
            imatrix=self.imatrix,
            keep=tuple(self.keep or ()),
            output_type=self.output_type,
            embedding_type=self.embedding_type,
            pure=self.pure,
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
            consumers=tuple(name.strip() for name in (self.consumers or "").split(",") if name.strip()),
            tp=self.tp,
            threads=threads,
            max_shard_size=self.max_shard_size,
            require_coverage=self.require_coverage,
            offline=offline,
        )
