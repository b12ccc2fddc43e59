"""The next command after a conversion: how each program that loads the artifact is given it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from quantkit.records import record
from quantkit.report.shell import shell_word

PYTHON = (
    'from transformers import pipeline; print(pipeline("text-generation", model={model})("Hello")[0]["generated_text"])'
)
PYTHON_ANSWER = (  # there is no pipeline for these
    "from transformers import AutoModelForSeq2SeqLM as Model, AutoTokenizer as Tokenizer; at = {model}; "
    'words = Tokenizer.from_pretrained(at); asked = words("Hello", return_tensors="pt").input_ids; '
    "print(words.decode(Model.from_pretrained(at).generate(asked)[0]))"
)
PYTHON_SIGHTS = (  # where the name of the class in config.json is none of transformers'
    "from transformers import AutoModelForImageTextToText as Model, AutoTokenizer as Tokenizer; at = {model}; "
    'words = Tokenizer.from_pretrained(at); asked = words("Hello", return_tensors="pt").input_ids; '
    "print(words.decode(Model.from_pretrained(at).generate(asked, max_new_tokens=20)[0]))"
)
PYTHON_SCORES = 'from transformers import pipeline; print(pipeline("text-classification", model={model})("Hello"))'
PYTHON_VECTORS = 'from transformers import pipeline; print(pipeline("feature-extraction", model={model})("Hello"))'


# answers are texts of a decoder that reads an encoder, drafts are for the model that is run; sights and sounds are
# texts, too, of what transformers opens with other loaders than that of language models
Output = Literal["text", "sights", "sounds", "answers", "vectors", "scores", "drafts"]
PYTHON_BY_OUTPUT: dict[Output, str] = {
    "answers": PYTHON_ANSWER,
    "vectors": PYTHON_VECTORS,
    "scores": PYTHON_SCORES,
    "sights": PYTHON_SIGHTS,
}
WRITING = ("text", "sights", "sounds", "answers")

PUBLISHER = "local"  # of models that nobody published
PYTHON_GGUF = (
    "from transformers import AutoModelForCausalLM as Model, AutoTokenizer as Tokenizer; "
    'file = {{"gguf_file": {file}}}; words = Tokenizer.from_pretrained(".", **file); '
    'asked = words("Hello", return_tensors="pt"); '
    'print(words.decode(Model.from_pretrained(".", **file).generate(**asked, max_new_tokens=20)[0]))'
)  # takes the packages gguf and accelerate


@record
class NextStep:
    """A command for a shell that gives the artifact to a program, ready to paste: POSIX, for awkward names bash."""

    program: str
    command: str

    def as_json(self) -> dict[str, str]:
        return {"for": self.program, "command": self.command}


def next_steps(
    outputs: Sequence[Path],
    name: str,
    loaders: Collection[str] | None = None,
    tp: int = 1,
    *,
    anywhere: bool = False,
    gives: Output = "text",
) -> tuple[NextStep, ...]:
    """Commands for the programs that load `outputs`: GGUF files, in the order of their parts, or one folder.

    `name` is what Ollama is told to call it. `loaders` are the consumers that were found to load a checkpoint (None:
    those that load checkpoints at all), served on `tp` devices. Commands that work `anywhere` name no folder of this
    machine: they are for the folder that holds the files. `gives` says whether the model writes text, alone or as an
    answer to what its encoder has read, or gives vectors, scores or drafts: for folders of these there are no commands.
    """
    if outputs[0].suffix == ".gguf":
        steps = _gguf_steps(outputs, name, anywhere)
        return steps if gives in WRITING else _textless_steps(outputs[0], steps, gives)
    if gives == "drafts":
        return ()
    folder = shell_word(str(outputs[0]) if outputs[0].is_absolute() else f"./{outputs[0]}")
    parallel = f" --tensor-parallel-size {tp}" if tp > 1 else ""
    code = PYTHON_BY_OUTPUT.get(gives, PYTHON)
    python = code.format(model=_literal(outputs[0]))
    servers = (
        ("vllm", f"vllm serve {folder}{parallel}"),
        ("sglang", f"python -m sglang.launch_server --model-path {folder}{f' --tp {tp}' if tp > 1 else ''}"),
        ("transformers", f"python -c {shell_word(python)}"),
        ("tensorrt-llm", f"trtllm-serve {folder}{f' --tp_size {tp}' if tp > 1 else ''}"),
        ("mlx", f"mlx_lm.generate --model {folder} --prompt Hello"),
    )
    shown = ("vllm", "transformers") if loaders is None else loaders
    unsaid = "transformers" if gives == "sounds" else ""  # no pipeline opens them
    return tuple(NextStep(name, command) for name, command in servers if name in shown and name != unsaid)


def steps_with_encoder(
    outputs: Sequence[Path], name: str, encoder: Path, *, anywhere: bool = False
) -> tuple[NextStep, ...]:
    """Commands for GGUF files of a model that sees or hears by an `encoder`, the file beside them."""
    return _gguf_steps(outputs, name, anywhere, encoder)


def adapter_steps(output: Path) -> tuple[NextStep, ...]:
    """An adapter is given to a program beside its base model."""
    return (NextStep("llama.cpp", f"llama-cli -m BASE.gguf --lora {shell_word(_not_an_option(output))}"),)


def _gguf_steps(
    outputs: Sequence[Path], name: str, anywhere: bool, encoder: Path | None = None
) -> tuple[NextStep, ...]:
    """llama.cpp finds the other parts itself; Ollama and LM Studio want each, LM Studio all in one folder."""
    first = outputs[0]
    quoted = shell_word(_not_an_option(first))
    model = ollama_name(name)
    files = [*outputs, *([] if encoder is None else [encoder])]
    froms = [f"FROM ./{at.name}" if anywhere else f"FROM {at.absolute()}" for at in files]
    file = shell_word(f"{re.sub(r'[^A-Za-z0-9._-]', '-', model)}.modelfile")
    said = f"echo {shell_word(froms[0])}" if len(froms) == 1 else f"printf '%s\\n' {' '.join(map(shell_word, froms))}"
    ollama = f"{said} > {file} && ollama create {model} -f {file} && ollama run {model}"
    folder = f" --user-repo {shell_word(f'{PUBLISHER}/{folder_name(name)}')}" if len(files) > 1 else ""
    lms = " && ".join(f"lms import --copy{folder} {shell_word(_not_an_option(path))}" for path in files)
    seeing = f"llama-mtmd-cli -m {quoted} --mmproj {shell_word(_not_an_option(encoder))}" if encoder else ""
    return (
        NextStep("llama.cpp", seeing or f"llama-cli -m {quoted}"),
        NextStep("ollama", ollama),
        NextStep("lm-studio", lms),
    )


def modelfile_step(modelfile: Path, name: str) -> NextStep:
    """Ollama is given a Modelfile."""
    model = ollama_name(name)
    where = shell_word(_not_an_option(modelfile))
    return NextStep("ollama", f"ollama create {model} -f {where} && ollama run {model}")


def gguf_in_python(file: Path, tokenizer: str | None) -> tuple[NextStep, ...]:
    """A GGUF file in this folder given to what is made for checkpoints: vLLM, with the `tokenizer` of a repository,
    and transformers."""
    named = f" --tokenizer {shell_word(tokenizer)}" if tokenizer else ""
    python = PYTHON_GGUF.format(file=_literal(file))
    return (
        NextStep("vllm", f"vllm serve {shell_word(f'./{file}')}{named}"),
        NextStep("transformers", f"python -c {shell_word(python)}"),
    )


def folder_name(name: str) -> str:
    """A name as a folder of LM Studio's and as the Hub has them."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"


def _textless_steps(first: Path, steps: Sequence[NextStep], gives: Output) -> tuple[NextStep, ...]:
    """Those of a model that writes no text: nothing that starts a chat. A draft runs beside its target alone."""
    file = shell_word(_not_an_option(first))
    if gives == "drafts":
        return (NextStep("llama.cpp", f"llama-server -m TARGET.gguf -md {file}"),)
    command = f"llama-server -m {file} --reranking" if gives == "scores" else f"llama-embedding -m {file} -p Hello"
    return (NextStep("llama.cpp", command), *(step for step in steps if step.program == "lm-studio"))


def ollama_name(name: str) -> str:
    """A name that Ollama accepts: lower case, what separates the recipe as the tag."""
    words = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "model"
    base, _, tag = words.rpartition("-")
    return f"{base}:{tag}" if base and re.fullmatch(r"[a-z]{1,3}\d[a-z0-9_]*", tag) else words


def _literal(path: Path) -> str:
    """Python for the name of a file: code is UTF-8, names need not be."""
    name = str(path)
    if name.isprintable():
        return json.dumps(name, ensure_ascii=False)
    return f'__import__("os").fsdecode({os.fsencode(path)!r})'


def _not_an_option(path: Path) -> str:
    """A path that no program takes for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)
