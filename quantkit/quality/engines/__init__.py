"""Programs that load artifacts, as Python packages."""

LLAMA_CPP = "llama.cpp"  # as --engine has it
