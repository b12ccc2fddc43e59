"""Data classes whose methods are shared by all of them.

`dataclasses.dataclass` writes the text of six methods for each class and compiles it, half a millisecond of processor
time for each, which two hundred classes made a seventh of the start of a conversion. A record is such a data class, and
`fields`, `replace`, `asdict` and `is_dataclass` know it as one, but its methods are functions of this module, which
read what a class says of its fields. They take some microseconds where compiled ones take one, so that a class of which
many are made or compared gets those after all. What `dataclass` itself would note of a class is noted where somebody
asks for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import MISSING, Field, FrozenInstanceError, field, fields, make_dataclass, replace
from functools import cache, cached_property, partial
from reprlib import recursive_repr
from threading import RLock
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform, get_origin, overload

if TYPE_CHECKING:
    from inspect import Signature

T = TypeVar("T")

MANY = 100  # records made, compared and hashed of a class: that has taken as long by then as compiling methods does

_set = object.__setattr__
_noting = RLock()  # records are made by several threads


def _is_for_the_class(annotation: Any) -> bool:
    """Whether an attribute is the class's, and no field."""
    if isinstance(annotation, str):
        return annotation.partition("[")[0].strip().rpartition(".")[2] == "ClassVar"
    return annotation is ClassVar or get_origin(annotation) is ClassVar


def _annotations(cls: Any) -> Mapping[str, Any]:
    """What a class says of its attributes; from Python 3.14 on, names that do not exist yet may be among it."""
    try:
        return cls.__annotations__  # type: ignore[no-any-return]
    except NameError:
        from annotationlib import Format, get_annotations  # type: ignore[import-not-found, unused-ignore]

        return get_annotations(cls, format=Format.FORWARDREF)  # type: ignore[no-any-return]


def _inherited(cls: Any) -> dict[str, Field[Any]]:
    """The fields of the classes that a class inherits from. Raises TypeError for one whose attributes can be set."""
    found: dict[str, Field[Any]] = {}
    for base in reversed(cls.__mro__[1:]):
        if "__record__" in base.__dict__:
            found |= {f.name: f for f in base.__record__.fields}
        elif "__dataclass_fields__" in base.__dict__:
            if not base.__dataclass_params__.frozen:
                raise TypeError(f"{cls.__name__} cannot inherit from {base.__name__}, which can be changed")
            found |= {f.name: f for f in fields(base)}
    return found


def _own(cls: Any, name: str) -> Any:
    """What the text of a class says of an attribute; a field does not stay in the place of its default."""
    said: Any = getattr(cls, name, MISSING)
    if not isinstance(said, Field):
        return field(default=MISSING if isinstance(said, MemberDescriptorType) else said)  # of a slot
    if said.default is MISSING:
        delattr(cls, name)
    else:
        setattr(cls, name, said.default)
    return said


def _fields(cls: Any, kw_only: bool) -> list[Field[Any]]:
    """The fields of a class and of those that it inherits from, as `dataclass` finds them.

    Raises ValueError where all records would share a default that can be changed, TypeError for a field without an
    annotation and for a base whose attributes can be set.
    """
    found, annotations = _inherited(cls), _annotations(cls)
    for name, annotation in annotations.items():
        one: Field[Any] = _own(cls, name)
        if _is_for_the_class(annotation):
            continue
        if type(one.default).__hash__ is None:
            raise ValueError(
                f"mutable default {type(one.default)} for field {name} is not allowed: use default_factory"
            )
        one.name, one.type = name, annotation
        if one.kw_only is MISSING:
            one.kw_only = kw_only
        found[name] = one
    for name, said in cls.__dict__.items():
        if isinstance(said, Field) and name not in annotations:
            raise TypeError(f"{cls.__name__}: {name!r} is a field and has no type annotation")
    return list(found.values())


def _with_slots(cls: Any, names: list[str]) -> Any:
    """The same class without a `__dict__`: another one, since slots are made with a class. Defaults are no attributes
    of it, which would be in the place of slots."""
    taken = {name for base in cls.__mro__[1:] for name in base.__dict__.get("__slots__", ())}
    left = {name: one for name, one in cls.__dict__.items() if name not in (*names, "__dict__", "__weakref__")}
    slots = tuple(name for name in names if name not in taken)
    made = type(cls)(cls.__name__, cls.__bases__, {**left, "__slots__": slots})
    made.__qualname__ = cls.__qualname__
    return made


class _Form:
    """What the methods of a class need of its fields, by their names and in their order."""

    def __init__(self, cls: Any, every: list[Field[Any]], *, eq: bool, slots: bool) -> None:
        self.cls, self.fields, self.eq, self.left = cls, every, eq, MANY
        self.init: Callable[..., None] | None = None  # the class's, unless it has one in its text
        given = [f for f in every if f.init]
        self.names = tuple(f.name for f in every)
        self.positional = tuple(f.name for f in given if not f.kw_only)
        self.defaults = {f.name: f.default for f in given if f.default is not MISSING}
        self.factories = {f.name: f.default_factory for f in every if f.default_factory is not MISSING}
        # what no call can give and is no attribute of the class
        self.constants = {f.name: f.default for f in every if slots and not f.init and f.default is not MISSING}
        ordered = [name in self.defaults or name in self.factories for name in self.positional]
        if ordered != sorted(ordered):
            late = self.positional[ordered.index(False, ordered.index(True))]
            raise TypeError(f"{cls.__name__}: argument {late!r} has no default and follows one that has")
        # the number of arguments that are all there is to a record, none where something has to be made for it
        self.all = len(every) if len(self.positional) == len(every) else None
        self.completed = hasattr(cls, "__post_init__")

    @cached_property
    def ordered(self) -> list[Field[Any]]:
        """What a call can give, as its signature has it."""
        return sorted((f for f in self.fields if f.init), key=lambda f: bool(f.kw_only))

    @cached_property
    def given(self) -> frozenset[str]:
        return frozenset(f.name for f in self.fields if f.init)

    @cached_property
    def needed(self) -> tuple[str, ...]:
        return tuple(
            f.name for f in self.fields if f.init and f.name not in self.defaults and f.name not in self.factories
        )

    @cached_property
    def shown(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.fields if f.repr)

    @cached_property
    def compared(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.fields if f.compare)

    @cached_property
    def hashed(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.fields if (f.compare if f.hash is None else f.hash))

    def values(self, name: str, args: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        """All fields of a record, from what its class `name` was called with. Raises TypeError as calls do."""
        if len(args) > len(self.positional):
            raise TypeError(f"{name}() takes {len(self.positional)} arguments and {len(args)} were given")
        values = dict(zip(self.positional, args, strict=False))
        if not self.given >= named.keys():
            raise TypeError(f"{name}() has no argument {min(named.keys() - self.given)!r}")
        if not values.keys().isdisjoint(named):
            raise TypeError(f"{name}() was given {min(values.keys() & named.keys())!r} twice")
        values = {**self.constants, **self.defaults, **values, **named}
        for field_name, factory in self.factories.items():
            if field_name not in values:
                values[field_name] = factory()
        for field_name in self.needed:
            if field_name not in values:
                raise TypeError(f"{name}() misses its argument {field_name!r}")
        return values


class _Signature:
    """The parameters of a record's class, worked out where somebody asks `inspect.signature` for them."""

    def __get__(self, instance: object, owner: type) -> Signature:
        form: _Form = owner.__record__  # type: ignore[attr-defined]
        if instance is not None or owner.__init__ is not form.init:  # type: ignore[misc]
            raise AttributeError("__signature__")  # of a method: `inspect` finds it
        from inspect import Parameter, Signature

        parameters = []
        for f in form.ordered:
            kind = Parameter.POSITIONAL_OR_KEYWORD if f.name in form.positional else Parameter.KEYWORD_ONLY
            default = form.defaults.get(f.name, form.factories.get(f.name, Parameter.empty))
            parameters.append(Parameter(f.name, kind, default=default, annotation=f.type))
        return Signature(parameters)


class _Noted:
    """What `dataclass` notes of the fields of a class: noted where somebody asks for it."""

    def __get__(self, instance: object, owner: type) -> Mapping[str, Field[Any]]:
        form: _Form = owner.__record__  # type: ignore[attr-defined]
        with _noting:
            if form.cls.__dict__["__dataclass_fields__"] is self:
                every = [(f.name, f.type, copy(f)) for f in form.fields]
                text = {"__doc__": "fields"}  # else `dataclass` works a signature out for it
                made = make_dataclass(form.cls.__name__, every, namespace=text, init=False, repr=False, eq=False)
                form.cls.__dataclass_fields__ = made.__dict__["__dataclass_fields__"]
        return form.cls.__dict__["__dataclass_fields__"]  # type: ignore[no-any-return]


@cache
def _parameters(eq: bool) -> Any:
    """What `dataclass` notes of what it was asked for."""
    return make_dataclass("record", [], frozen=True, eq=eq).__dict__["__dataclass_params__"]


class _Asked:
    """`_parameters` of a class, for those that inherit from it."""

    def __get__(self, instance: object, owner: type) -> Any:
        return _parameters(owner.__record__.eq)  # type: ignore[attr-defined]


FIELDS, PARAMETERS, SIGNATURE = _Noted(), _Asked(), _Signature()


def _compile(form: _Form) -> None:
    """Give a class methods of its own, as `dataclass` writes them, in place of the shared ones that it has."""
    form.left = sys.maxsize
    called: dict[str, Any] = {"__name__": form.cls.__module__, "__set__": _set, "__unset__": object()}
    arguments, lines, named_alone = ["__self__"], [], False
    for f in form.ordered:
        if f.kw_only and not named_alone:
            arguments, named_alone = [*arguments, "*"], True
        if f.name in form.defaults:
            called[f"__of_{f.name}__"] = form.defaults[f.name]
            arguments.append(f"{f.name}=__of_{f.name}__")
        else:
            arguments.append(f"{f.name}=__unset__" if f.name in form.factories else f.name)
    for f in form.fields:
        value = f.name
        if f.name in form.factories:
            called[f"__of_{f.name}__"] = form.factories[f.name]
            value = f"__of_{f.name}__() if {f.name} is __unset__ else {f.name}" if f.init else f"__of_{f.name}__()"
        elif f.name in form.constants:
            called[f"__of_{f.name}__"], value = form.constants[f.name], f"__of_{f.name}__"
        if f.init or f.name in form.factories or f.name in form.constants:
            lines.append(f"__set__(__self__, {f.name!r}, {value})")
    if form.completed:
        lines.append("__self__.__post_init__()")

    def tuple_of(one: str, names: tuple[str, ...]) -> str:
        return f"({''.join(f'{one}.{name}, ' for name in names)})"

    mine, others, hashed = (tuple_of(one, names) for one, names in (
        ("__self__", form.compared), ("__other__", form.compared), ("__self__", form.hashed),
    ))  # fmt: skip
    bodies = {
        "__init__": (_init, ", ".join(arguments), lines),
        "__eq__": (_eq, "__self__, __other__", [
            f"return {mine} == {others} if __other__.__class__ is __self__.__class__ else NotImplemented"
        ]),
        "__hash__": (_hash, "__self__", [f"return hash({hashed})"]),
    }  # fmt: skip
    wanted = {name: body for name, body in bodies.items() if form.cls.__dict__.get(name) is body[0]}
    text = "".join(
        f"def {name}({given}):\n" + "".join(f" {line}\n" for line in inside or ["pass"])
        for name, (_, given, inside) in wanted.items()
    )
    exec(compile(text, f"<methods of {form.cls.__qualname__}>", "exec"), called)
    for name in wanted:
        called[name].__qualname__ = f"{form.cls.__qualname__}.{name}"
        setattr(form.cls, name, called[name])
    if "__init__" in wanted:  # else another thread was here before
        form.init = called["__init__"]


def _use(form: _Form) -> None:
    """Count the uses of methods that all share, by many threads perhaps."""
    form.left -= 1
    if form.left <= 0:
        _compile(form)


def _init(self: Any, /, *args: Any, **named: Any) -> None:
    form: _Form = self.__record__
    _use(form)
    if named or len(args) != form.all:
        values: Iterable[tuple[str, Any]] = form.values(type(self).__name__, args, named).items()
    else:
        values = zip(form.positional, args, strict=True)
    for name, value in values:  # one by one: a __dict__ that is asked for takes twice the memory, and longer to read
        _set(self, name, value)
    if form.completed:
        self.__post_init__()


@recursive_repr()
def _repr(self: Any) -> str:
    cls = type(self)
    return f"{cls.__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in cls.__record__.shown)})"


def _eq(self: Any, other: Any) -> Any:
    _use(self.__record__)
    if other.__class__ is not self.__class__:
        return NotImplemented
    names = self.__record__.compared
    return tuple(getattr(self, name) for name in names) == tuple(getattr(other, name) for name in names)


def _hash(self: Any) -> int:
    form: _Form = self.__record__
    _use(form)
    return hash(tuple(getattr(self, name) for name in form.hashed))


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, name) for name in self.__record__.names]


def _setstate(self: Any, state: list[Any]) -> None:
    for name, value in zip(self.__record__.names, state, strict=True):
        _set(self, name, value)


def _setattr(self: Any, name: str, value: Any) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _replace(self: Any, /, **changes: Any) -> Any:
    return replace(self, **changes)


METHODS = {
    "__init__": _init, "__setattr__": _setattr, "__delattr__": _delattr, "__repr__": _repr, "__replace__": _replace,
    "__dataclass_fields__": FIELDS, "__dataclass_params__": PARAMETERS, "__signature__": SIGNATURE,
}  # fmt: skip
COMPARED = {"__eq__": _eq, "__hash__": _hash}
STATE = {"__getstate__": _getstate, "__setstate__": _setstate}  # copies are not made by setting attributes


def _made(cls: Any, *, eq: bool, kw_only: bool, slots: bool) -> Any:
    own = set(cls.__dict__)
    every = _fields(cls, kw_only)
    if slots:
        cls = _with_slots(cls, [f.name for f in every])
    form = cls.__record__ = _Form(cls, every, eq=eq, slots=slots)
    form.init = None if "__init__" in own else _init
    methods = METHODS | (COMPARED if eq else {}) | (STATE if slots else {}) | {"__match_args__": form.positional}
    for name, method in methods.items():
        if name not in own:
            setattr(cls, name, method)
    return cls


@overload
def record(cls: type[T], /) -> type[T]: ...
@overload
def record(*, eq: bool = ..., kw_only: bool = ..., slots: bool = ...) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T] | None = None, /, *, eq: bool = True, kw_only: bool = False, slots: bool = False) -> Any:
    """`dataclass(frozen=True)` that compiles nothing before many are made.

    A method that the class has itself stays. Without `eq`, records are equal to themselves alone. With `slots` each
    takes less memory: for those of which there are many at once.
    """
    if cls is None:
        return partial(_made, eq=eq, kw_only=kw_only, slots=slots)
    return _made(cls, eq=eq, kw_only=kw_only, slots=slots)
