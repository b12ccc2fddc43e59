"""A record does what a frozen data class of the standard library does."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import (
    FrozenInstanceError,
    asdict,
    astuple,
    dataclass,
    field,
    fields,
    is_dataclass,
    replace,
)
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pytest

from quantkit import records
from quantkit.records import record

ASKED_OFTEN = "record of which many are made"
MAKERS: dict[str, Any] = {"record": record, ASKED_OFTEN: record, "dataclass": dataclass(frozen=True)}


def family(which: str) -> tuple[Any, Any, Any, Any]:
    """A class, one that inherits from it, one whose fields are named alone, and one with methods of its own."""
    maker = MAKERS[which]

    @maker
    class Base:
        """A base."""

        size: int
        name: str = "x"
        parts: list[int] = field(default_factory=list)
        kind: ClassVar[int] = 3
        note: str = field(default="", compare=False, repr=False)
        unset: int = field(default=7, init=False)

        @cached_property
        def double(self) -> int:
            return 2 * self.size

    @maker
    class Derived(Base):
        """With one more."""

        more: int = 5

        def __post_init__(self) -> None:
            object.__setattr__(self, "more", self.more + 1)

    if maker is record:
        named: Any = record(kw_only=True)
        alone: Any = record(eq=False)
    else:
        named, alone = dataclass(frozen=True, kw_only=True), dataclass(frozen=True, eq=False)

    @named
    class Named:
        """Named."""

        first: int
        second: tuple[int, ...] = ()

    @alone
    class Own:
        """Equal to itself alone."""

        size: int

        def __repr__(self) -> str:
            return "own"

    if which == ASKED_OFTEN:
        for _ in range(records.MANY):
            Base(1), Derived(1), Named(first=1), Own(1)
    return Base, Derived, Named, Own


ASKED: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "repr": lambda b, d, n, o: (repr(b(1, note="?")), repr(d(1, more=9)), repr(n(first=2)), repr(o(1))),
    "eq": lambda b, d, n, o: (b(1) == b(1, note="other"), b(1) == b(2), b(1) == d(1), b(1) == 1, o(1) == o(1)),
    "hash": lambda b, d, n, o: (
        hash(b(1, parts=())),
        hash(d(1, parts=())),
        hash(n(first=1)),
        hash(b(1, parts=())) == hash(b(1, "x", (), "n")),
    ),
    "fields": lambda b, d, n, o: [
        (f.name, f.init, f.repr, f.compare, f.kw_only) for c in (b, d, n, o) for f in fields(c)
    ],
    "asdict": lambda b, d, n, o: (asdict(b(1)), asdict(d(1)), astuple(n(first=1))),
    "replace": lambda b, d, n, o: (
        repr(replace(b(1), size=3)),
        repr(replace(d(1), more=1)),
        repr(replace(n(first=1), second=(1,))),
    ),
    "match": lambda b, d, n, o: (b.__match_args__, d.__match_args__, n.__match_args__, o.__match_args__),
    "is": lambda b, d, n, o: (is_dataclass(b), is_dataclass(d(1))),
    "copy": lambda b, d, n, o: (copy.copy(d(1)) == d(1), copy.deepcopy(d(1)) == d(1), copy.copy(d(1)).more),
    "class": lambda b, d, n, o: (
        b.kind,
        b.name,
        hasattr(b, "parts"),
        b(1).double,
        b.__doc__,
        d.__doc__,
        b(1).unset,
        d(1).more,
    ),
    "own lists": lambda b, d, n, o: (b(1).parts is b(1).parts, b(1).parts),
    "parameters": lambda b, d, n, o: [
        (p.name, p.kind) for c in (b, d, n, o) for p in inspect.signature(c).parameters.values()
    ],
    "defaults": lambda b, d, n, o: [inspect.signature(d).parameters[name].default for name in ("size", "name", "more")],
    "state": lambda b, d, n, o: sorted(vars(d(1))),
}
REFUSED: dict[str, tuple[type[Exception], Callable[[Any, Any, Any, Any], Any]]] = {
    "nothing": (TypeError, lambda b, d, n, o: b()),
    "too many": (TypeError, lambda b, d, n, o: b(1, "x", [], "", 5)),
    "twice": (TypeError, lambda b, d, n, o: b(1, size=2)),
    "unknown": (TypeError, lambda b, d, n, o: b(1, sizes=2)),
    "not to be given": (TypeError, lambda b, d, n, o: b(1, unset=2)),
    "no name": (TypeError, lambda b, d, n, o: n(1)),
    "set": (FrozenInstanceError, lambda b, d, n, o: setattr(d(1), "size", 2)),
    "set something else": (FrozenInstanceError, lambda b, d, n, o: setattr(b(1), "other", 2)),
    "delete": (FrozenInstanceError, lambda b, d, n, o: delattr(b(1), "size")),
    "hash of a list": (TypeError, lambda b, d, n, o: hash(b(1))),
}


@pytest.mark.parametrize("asked", ASKED)
def test_record_is_a_frozen_dataclass(asked: str) -> None:
    found = {name: ASKED[asked](*family(name)) for name in MAKERS}
    assert found["record"] == found[ASKED_OFTEN] == found["dataclass"]


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("refused", REFUSED)
def test_record_refuses_what_a_frozen_dataclass_does(refused: str, maker: str) -> None:
    error, act = REFUSED[refused]
    with pytest.raises(error) as raised:
        act(*family(maker))
    if error is FrozenInstanceError:
        assert str(raised.value).startswith(("cannot assign to field", "cannot delete field"))


def test_what_is_wrong_is_named() -> None:
    base = family("record")[0]
    for arguments, named, told in (
        ((), {}, "Base() misses its argument 'size'"),
        ((1, "x", [], "", 5), {}, "Base() takes 4 arguments and 5 were given"),
        ((1,), {"size": 2}, "Base() was given 'size' twice"),
        ((1,), {"sizes": 2}, "Base() has no argument 'sizes'"),
    ):
        with pytest.raises(TypeError) as raised:
            base(*arguments, **named)
        assert str(raised.value) == told


@pytest.mark.parametrize("maker", MAKERS)
def test_signatures_are_of_what_is_called(maker: str) -> None:
    @MAKERS[maker]
    class Called:
        """Can be called."""

        size: int

        def __call__(self, other: int) -> int:
            return self.size + other

    class Plain(Called):
        pass

    class Own(Called):
        def __init__(self, name: str) -> None:
            super().__init__(len(name))

    found = [[*inspect.signature(what).parameters] for what in (Called, Called(1), Plain, Plain(1), Own, Own("x"))]
    assert found == [["size"], ["other"], ["size"], ["other"], ["name"], ["other"]]


def small(maker: Any) -> Any:
    """A class of which there are many at once."""

    @maker
    class Small:
        """Small."""

        name: str
        size: int = 3
        parts: tuple[int, ...] = field(default_factory=tuple, compare=False)

        @property
        def double(self) -> int:
            return 2 * self.size

    return Small


class Pickled:
    """Where pickle finds them."""

    record, dataclass = small(record(slots=True)), small(dataclass(frozen=True, slots=True))


OF_SLOTS: dict[str, Callable[[Any], Any]] = {
    "repr": lambda made: repr(made("a", parts=(1,))).partition("(")[2],
    "eq": lambda made: (made("a") == made("a", 3, (1,)), made("a") == made("b"), made("a") == ("a", 3, ())),
    "hash": lambda made: hash(made("a", 4)) == hash(made("a", 4, (2,))),
    "fields": lambda made: [(f.name, f.compare) for f in fields(made)],
    "replace": lambda made: astuple(replace(made("a"), size=9)),
    "copy": lambda made: [astuple(copied(made("a", parts=(1,)))) for copied in (copy.copy, copy.deepcopy)],
    "pickle": lambda made: [astuple(pickle.loads(pickle.dumps(made("a"), n))) for n in range(2, 6)],
    "property": lambda made: made("a", 5).double,
    "slots": lambda made: (made.__slots__, hasattr(made("a"), "__dict__"), made.__doc__ is not None),
    "memory": lambda made: sys.getsizeof(made("a")),
    "signature": lambda made: [*inspect.signature(made).parameters],
    "order": lambda made: made.__match_args__,
}


@pytest.mark.parametrize("made", [0, 2 * records.MANY], ids=["shared", "compiled"])
@pytest.mark.parametrize("asked", OF_SLOTS)
def test_record_with_slots_is_a_frozen_dataclass_with_slots(
    asked: str, made: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = small(record(slots=True)), small(dataclass(frozen=True, slots=True))
    if made:
        assert len([ours("a") for _ in range(made)]) == made
        assert "__eq__" in vars(ours)
        assert vars(ours)["__init__"] is not vars(small(record(slots=True)))["__init__"]
    for name, each in (("record", ours), ("dataclass", theirs)):
        each.__qualname__ = f"Pickled.{name}"
        monkeypatch.setattr(Pickled, name, each)
    assert OF_SLOTS[asked](ours) == OF_SLOTS[asked](theirs)


@pytest.mark.parametrize("maker", [record(slots=True), dataclass(frozen=True, slots=True)])
def test_record_with_slots_is_frozen(maker: Any) -> None:
    made = small(maker)
    for act in (lambda: setattr(made("a"), "size", 1), lambda: delattr(made("a"), "size")):
        with pytest.raises(FrozenInstanceError):
            act()
    with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
        made("a").other = 1
    with pytest.raises(TypeError):
        made()


def test_records_take_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both with shared methods and with compiled ones, without what was compiled."""
    bytes_of = {}
    for name in MAKERS:
        with monkeypatch.context() as patch:
            if name == "record":
                patch.setattr(records, "MANY", sys.maxsize)
            made = family(name)[2]
        made(first=1)
        tracemalloc.start()
        try:
            some = [made(first=1) for _ in range(5000)]  # so many that what is kept once counts for nothing
            bytes_of[name] = tracemalloc.get_traced_memory()[0] / len(some)
        finally:
            tracemalloc.stop()
    assert max(bytes_of.values()) < bytes_of["dataclass"] + 16


def test_a_record_that_holds_itself_can_be_shown() -> None:
    base = family("record")[0]
    one = base(1)
    one.parts.append(one)
    assert repr(one) == "family.<locals>.Base(size=1, name='x', parts=[...], unset=7)"


def test_defaults_that_all_would_share_are_refused() -> None:
    with pytest.raises(ValueError, match="mutable default"):

        @record
        class _Wrong:
            """A list for all."""

            parts: list[int] = []  # noqa: RUF012


def test_arguments_without_a_default_do_not_follow_those_that_have_one() -> None:
    for refused in (record, record(slots=True), dataclass(frozen=True)):
        with pytest.raises(TypeError, match="'size'"):

            @refused
            class _Wrong:
                """One that could not be called."""

                name: str = "x"
                size: int


def form(bases: tuple[type, ...], annotations: dict[str, Any], **attributes: Any) -> type:
    return type("Made", bases, {"__annotations__": annotations, "__module__": __name__, **attributes})


class ClassVariant:
    """Begins as the word for attributes of classes does."""


# What a class may say, and what it is called with
TEXTS: dict[str, tuple[Callable[[Any], type], tuple[Any, ...]]] = {
    "annotations that are objects": (
        lambda made: form((), {"a": ClassVar, "all": ClassVar[int], "size": int}, all=3), (4,)
    ),
    "annotations that are texts": (
        lambda made: form((), {"a": "ClassVar[int]", "b": "ClassVar", "c": "ClassVariant"}, a=3, b=4), (4,)
    ),
    "a field of the class": (lambda made: form((), {"a": "ClassVar[int]", "size": "int"}, a=field(default=3)), (4,)),
    "another annotation": (lambda made: form((made(form((), {"x": "int"}, x=3)),), {"x": "float"}), ()),
    "another default": (lambda made: form((made(form((), {"x": "int", "y": "int"}, x=3, y=4)),), {}, x=7), ()),
    "a static method": (lambda made: form((), {"f": "Any"}, f=staticmethod(len)), ()),
    "one more": (lambda made: form((made(form((), {"x": "int"})),), {"y": "int"}, y=field(default=1)), (2,)),
    "set by nobody": (lambda made: form((), {"x": "int", "y": "int"}, y=field(default=7, init=False)), (2,)),
    "no field": (lambda made: form((), {}), ()),
}  # fmt: skip


@pytest.mark.parametrize("many", [False, True], ids=["shared", "compiled"])
@pytest.mark.parametrize("slots", [False, True], ids=["open", "slots"])
@pytest.mark.parametrize("text", TEXTS)
def test_texts_of_classes_mean_what_they_mean_to_the_standard_library(text: str, slots: bool, many: bool) -> None:
    make, given = TEXTS[text]
    found: list[Any] = []
    for maker in (record(slots=slots), dataclass(frozen=True, slots=slots)):
        made: Any = maker(make(maker))
        if slots and text == "another annotation":  # the default is no attribute of the first class
            with pytest.raises(TypeError):
                made(*given)
            continue
        for _ in range(2 * records.MANY if many else 0):
            made(*given)
        one = made(*given)
        seen = {name: getattr(made, name) for name in ("a", "x", "all") if not slots and hasattr(made, name)}
        values = {f.name: getattr(one, f.name) for f in fields(made)}
        found.append((repr(one), values, seen, made.__match_args__, one == made(*given), hash(one)))
    assert found[:1] == found[1:]


@pytest.mark.parametrize("maker", [record, record(slots=True), dataclass(frozen=True)])
def test_a_field_without_an_annotation_is_refused(maker: Any) -> None:
    with pytest.raises(TypeError, match=r"'y' is a field (and|but) has no type annotation"):
        maker(form((), {"x": "int"}, y=field(default_factory=list)))


def test_slots_of_a_class_are_no_defaults() -> None:
    for maker in (record, dataclass(frozen=True)):
        made: Any = maker(form((), {"x": "int"}, __slots__=("x",)))
        assert made(3).x == 3
        with pytest.raises(TypeError):
            made()


@pytest.mark.skipif(sys.version_info < (3, 13), reason="copy.replace came with Python 3.13")
def test_copies_may_be_other_records() -> None:
    for maker in MAKERS:
        assert copy.replace(family(maker)[1](1), size=4, more=9).size == 4  # type: ignore[attr-defined, unused-ignore]


@pytest.mark.parametrize("many", [False, True], ids=["shared", "compiled"])
@pytest.mark.parametrize("slots", [(False, False), (False, True), (True, True)], ids=["open", "closing", "slots"])
def test_records_and_data_classes_inherit_from_each_other(slots: tuple[bool, bool], many: bool) -> None:
    found = []
    base, last = ({"record": record(slots=s), "frozen": dataclass(frozen=True, slots=s)} for s in slots)
    for one, other in (("record", "frozen"), ("frozen", "record"), ("record", "record"), ("frozen", "frozen")):
        first, second = base[one], last[other]

        @first
        class Base:
            """A base."""

            size: int
            parts: list[int] = field(default_factory=list)
            named: str = field(default="x", kw_only=True)

        @second
        class Derived(Base):
            """With one more, and another default."""

            parts: Any = 7
            more: tuple[int, ...] = ()

        for _ in range(2 * records.MANY if many else 0):
            Base(1), Derived(1)
        made = Derived(1, 2, (3,), named="y")
        shown = [(f.name, f.type, f.default, f.kw_only) for f in fields(Derived)]
        found.append((repr(made).partition("(")[2], Derived(1) == Derived(1, 7), shown, hasattr(made, "__dict__")))
    assert found[0] == found[1] == found[2] == found[3]


@pytest.mark.parametrize("slots", [False, True])
def test_what_can_be_changed_and_records_do_not_inherit_from_each_other(slots: bool) -> None:
    for maker in (record(slots=slots), dataclass(frozen=True, slots=slots)):
        with pytest.raises(TypeError, match="cannot inherit"):
            dataclass(form((maker(form((), {"x": "int"})),), {"y": "int"}))
        with pytest.raises(TypeError, match="cannot inherit"):
            maker(form((dataclass(form((), {"x": "int"})),), {"y": "int"}))


EVERY = """
import copy, dataclasses, importlib, pkgutil
import quantkit
from quantkit import records

made, seen, wrong = records._made, 0, []

def of(fields):
    names = ("name", "type", "default", "default_factory", "init", "repr", "compare", "hash", "kw_only")
    return [[getattr(f, name) for name in names] for f in fields]

def both(cls, *, eq, kw_only, slots):
    global seen
    text = {name: copy.copy(one) if isinstance(one, dataclasses.Field) else one for name, one in vars(cls).items()}
    text = {name: one for name, one in text.items() if name not in ("__dict__", "__weakref__")}
    bases = tuple(theirs.get(base, base) for base in cls.__bases__)
    twin = type(cls)(cls.__name__, bases, text)
    twin = dataclasses.dataclass(frozen=True, eq=eq, kw_only=kw_only, slots=slots)(twin)
    ours = made(cls, eq=eq, kw_only=kw_only, slots=slots)
    theirs[ours], seen = twin, seen + 1
    if of(dataclasses.fields(ours)) != of(dataclasses.fields(twin)) or ours.__match_args__ != twin.__match_args__:
        wrong.append(ours.__qualname__)
    return ours

theirs = {}
records._made = both
for info in pkgutil.walk_packages(quantkit.__path__, "quantkit."):
    if not info.name.endswith("__main__"):
        importlib.import_module(info.name)
print(seen, wrong)
"""


def test_every_record_of_the_project_is_what_the_standard_library_makes_of_it() -> None:
    done = subprocess.run([sys.executable, "-c", EVERY], capture_output=True, text=True, check=True)
    seen, wrong = done.stdout.splitlines()[-1].split(maxsplit=1)
    assert wrong == "[]"
    assert int(seen) > 450


def test_many_threads_may_ask_for_the_fields() -> None:
    made = family("record")[1]
    with ThreadPoolExecutor(8) as pool:
        found = {tuple(f.name for f in got) for got in pool.map(lambda _: fields(made), range(64))}
    assert found == {("size", "name", "parts", "note", "unset", "more")}


def test_classes_of_which_many_are_made_get_methods_of_their_own() -> None:
    shared, compiled = family("record"), family(ASKED_OFTEN)
    for name in ("__init__", "__eq__", "__hash__"):
        assert len({vars(made).get(name) for made in shared} - {None}) == 1
        own = [vars(made)[name] for made in compiled[:3]]
        assert len({*own}) == 3
        assert not {*own} & {vars(made).get(name) for made in shared}
    assert "__eq__" not in vars(compiled[3])
    assert repr(compiled[3](1)) == "own"


@pytest.mark.parametrize("use", [hash, lambda one: one == one])
def test_a_class_of_which_few_are_compared_often_gets_them_too(use: Callable[[Any], Any]) -> None:
    made = family("record")[2]
    one = made(first=1)
    for _ in range(records.MANY):
        use(one)
    assert vars(made)["__eq__"] is not vars(family("record")[2])["__eq__"]


def test_methods_that_a_class_has_itself_are_not_replaced() -> None:
    @record
    class Sized:
        """Equal to every one of its size."""

        size: int
        name: str

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Sized) and other.size == self.size

        def __hash__(self) -> int:
            return self.size

    for _ in range(2 * records.MANY):
        assert Sized(1, "a") == Sized(1, "b")
        assert hash(Sized(1, "a")) == 1


def test_many_threads_may_make_the_many() -> None:
    made = family("record")[1]
    with ThreadPoolExecutor(8) as pool:
        found = {one.more for one in pool.map(made, range(20 * records.MANY))}
    assert found == {6}
    assert vars(made)["__init__"] is not vars(family("record")[1])["__init__"]


def test_nothing_is_compiled_for_a_record() -> None:
    code = (
        "import builtins, dataclasses, reprlib\n"
        "from quantkit.records import record\n"
        "builtins.exec = builtins.compile = builtins.eval = None\n"
        "@record\n"
        "class A:\n"
        "    'doc'\n"
        "    size: int\n"
        "    name: str = 'x'\n"
        "print(repr(A(1)), A(1) == A(1))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "A(size=1, name='x') True\n"


def test_frozen_data_classes_of_the_project_are_records() -> None:
    left = []
    for file in sorted((Path(__file__).parent.parent / "quantkit").rglob("*.py")):
        if "@dataclass(" not in (text := file.read_text("utf-8")):
            continue
        for node in ast.walk(ast.parse(text)):
            for decorator in node.decorator_list if isinstance(node, ast.ClassDef) else ():
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "dataclass":
                    given = {k.arg for k in decorator.keywords}
                    left += [f"{file.name}: {node.name}"] if "frozen" in given else []
    assert left == []
