"""How far a model is from the one it was made from: measured on the same tokens, both in memory a block at a time.

    corpus = read_corpus(source, ("held-out.jsonl",), Cutting(window=512, tokens=20_000))           # corpus.py
    reference = Side("original", source)                                                            # sides.py
    with opened_artifact(path, source) as artifact:                                                 # artifacts.py
        [scores] = measure(reference, [artifact], corpus, threads=2)                                # measure.py
    report = summarize(scores, corpus)                                                              # figures.py
    verdicts = judge(gates, Subject(nbytes, source_bytes, report, scores, corpus))                  # gates.py

A `Side` is a name and a `Checkpoint`: whatever gives decoded rows of the source's tensors under the source's names,
be it a folder, a GGUF file (`quality.decoded`), a checkpoint for servers, arrays in memory, or a source some of whose
tensors are others (`with_tensors(source, {"model.layers.0.mlp.up_proj.weight": ref})`), so that a variant can be
measured before any of it is written. Any number of sides run beside one reference, which is run once.

Memory: one block of one side in float32 at a time, the activations of the corpus for every side (float32, tokens x
hidden), a slab of rows of every head and the logits of one chunk of tokens over that slab. Logits are never whole and
never stored: what is kept is some numbers for each token (`Scores`), by document, so that anything can be compared in
pairs and resampled. Pieces of work do not depend on the number of threads, so neither do the numbers.
"""
