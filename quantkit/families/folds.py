"""Where scales can be moved: producers and consumers in the blocks of families, by their names in memory.

Pairs as AutoAWQ and llm-compressor have them, with two differences. Queries sharing a value head get one scale, so
that grouped-query attention is no exception; and scaling what the up projection gives is exact in every gated MLP,
because the gate's nonlinearity does not see it.
"""

from __future__ import annotations

from dataclasses import replace

from quantkit.records import record


@record
class Fold:
    """A tensor that `producer` makes and that only `consumers` read; names are relative to the block, without
    ".weight".

    A producer that is a norm scales its input channel by channel; `centered` norms store the distance from 1. Other
    producers are linears whose last rows make the channels: all rows, or the part of a fused one. `heads` says that
    a consumer reads every channel once per query head, `expert` that "{}" in the names stands for each expert's number.
    A fold is there `when` this setting of config.json is on, `unless` that one is: others read the same then, or what
    is read is cut off before.
    """

    producer: str
    consumers: tuple[str, ...]
    norm: bool = False
    centered: bool = False
    heads: bool = False
    expert: bool = False
    when: str | None = None
    unless: str | None = None

    def of_expert(self, number: int) -> Fold:
        """The fold of one expert, with its number in the names."""
        names = tuple(name.format(number) for name in self.consumers)
        return replace(self, producer=self.producer.format(number), consumers=names, expert=False)

    def placed(self, prefix: str, experts: int) -> Fold:
        """The fold in the block called `prefix`, which ends in a dot, with a consumer for each of its experts."""
        names = (name.format(n) for name in self.consumers for n in (range(experts) if "{}" in name else [0]))
        return replace(self, producer=prefix + self.producer, consumers=tuple(prefix + name for name in names))


QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
GATE_UP = ("mlp.gate_proj", "mlp.up_proj")

ATTENTION_IN = Fold("input_layernorm", QKV, norm=True)
VALUES = Fold("self_attn.v_proj", ("self_attn.o_proj",), heads=True)
MLP_IN = Fold("post_attention_layernorm", GATE_UP, norm=True)
MLP_OUT = Fold("mlp.up_proj", ("mlp.down_proj",))

EXPERT_OUT = Fold("mlp.experts.{}.up_proj", ("mlp.experts.{}.down_proj",), expert=True)
EXPERTS = ("mlp.gate", "mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj")
SHARED_OUT = Fold("mlp.shared_experts.up_proj", ("mlp.shared_experts.down_proj",))

DENSE = (ATTENTION_IN, VALUES, MLP_IN, MLP_OUT)
MIXTURE = (
    ATTENTION_IN,
    VALUES,
    # the router reads the same tensor as the experts: it is a consumer, although it is not rounded
    Fold("post_attention_layernorm", EXPERTS, norm=True),
    EXPERT_OUT,
)
# of mixtures whose first layers are dense, and which have an expert for every token
INNER = (MLP_OUT, EXPERT_OUT, SHARED_OUT)


def mamba2(norm: str, mixer: str) -> tuple[Fold, Fold]:
    """The folds of a Mamba 2 called `mixer` that reads `norm` alone, and whose own norm comes after its gate."""
    return Fold(norm, (f"{mixer}.in_proj",), norm=True), Fold(f"{mixer}.norm", (f"{mixer}.out_proj",), norm=True)
