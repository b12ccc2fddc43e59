"""What Ollama is told about a GGUF file: its Modelfile, with a template proved against the model's own."""

from quantkit.ollama.describe import Described, describe
from quantkit.ollama.header import Header, read_header
from quantkit.ollama.modelfile import Modelfile, ModelfileError, parse_modelfile, unchanged
from quantkit.ollama.translate import Translation, translate

__all__ = [
    "Described",
    "Header",
    "Modelfile",
    "ModelfileError",
    "Translation",
    "describe",
    "parse_modelfile",
    "read_header",
    "translate",
    "unchanged",
]
