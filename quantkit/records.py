"""Data classes whose methods are shared by all of them.

`dataclasses.dataclass` writes the text of six methods for each class and compiles it, half a millisecond of processor
time for each, which two hundred classes made a seventh of the start of a conversion. A record is such a data class, and
`fields`, `replace`, `asdict` and `is_dataclass` know it as one, but its methods are functions of this module, which
read what `dataclass` noted of its fields. They take some microseconds where compiled ones take one, so that a class of
which many are made gets those after all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields, make_dataclass
from functools import partial
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform, overload

if TYPE_CHECKING:
    from inspect import Signature

T = TypeVar("T")

MANY = 100  # records of a class: making them has taken as long by then as compiling methods does

_set = object.__setattr__


class _Form:
    """What the methods of a class need of its fields, by their names and in their order."""

    def __init__(self, cls: Any) -> None:
        self.cls, self.left = cls, MANY
        every = fields(cls)
        given = [f for f in every if f.init]
        self.positional = tuple(f.name for f in given if not f.kw_only)
        self.given = frozenset(f.name for f in given)
        self.defaults = {f.name: f.default for f in given if f.default is not MISSING}
        self.factories = {f.name: f.default_factory for f in every if f.default_factory is not MISSING}
        self.needed = tuple(f.name for f in given if f.name not in self.defaults and f.name not in self.factories)
        self.shown = tuple(f.name for f in every if f.repr)
        self.compared = tuple(f.name for f in every if f.compare)
        self.hashed = tuple(f.name for f in every if (f.compare if f.hash is None else f.hash))
        # the number of arguments that are all there is to a record, none where something has to be made for it
        self.all = len(every) if len(self.positional) == len(every) else None
        self.completed = hasattr(cls, "__post_init__")

    def values(self, name: str, args: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        """All fields of a record, from what its class `name` was called with. Raises TypeError as calls do."""
        if len(args) > len(self.positional):
            raise TypeError(f"{name}() takes {len(self.positional)} arguments and {len(args)} were given")
        values = dict(zip(self.positional, args, strict=False))
        if not self.given >= named.keys():
            raise TypeError(f"{name}() has no argument {min(named.keys() - self.given)!r}")
        if not values.keys().isdisjoint(named):
            raise TypeError(f"{name}() was given {min(values.keys() & named.keys())!r} twice")
        values = {**self.defaults, **values, **named}
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
        if instance is not None or owner.__init__ is not _init:  # type: ignore[misc]
            raise AttributeError("__signature__")  # of a method: `inspect` finds it
        from inspect import Parameter, Signature

        form: _Form = owner.__record__  # type: ignore[attr-defined]
        names = (*form.positional, *(f for f in owner.__dataclass_fields__ if f in form.given - {*form.positional}))  # type: ignore[attr-defined]
        parameters = []
        for name in names:
            kind = Parameter.POSITIONAL_OR_KEYWORD if name in form.positional else Parameter.KEYWORD_ONLY
            default = form.defaults.get(name, form.factories.get(name, Parameter.empty))
            annotation = owner.__dataclass_fields__[name].type  # type: ignore[attr-defined]
            parameters.append(Parameter(name, kind, default=default, annotation=annotation))
        return Signature(parameters)


def _compile(form: _Form) -> None:
    """Give a class the methods that `dataclass` compiles, in place of the shared ones that it has."""
    form.left = sys.maxsize
    cls, every = form.cls, [(f.name, f.type, copy(f)) for f in fields(form.cls)]
    own = {"__doc__": cls.__doc__ or cls.__name__}  # else `dataclass` works a signature out for it
    called: dict[str, Any] = {"__post_init__": _set} if form.completed else {}
    made = make_dataclass(cls.__name__, every, namespace=own | called, frozen=True, repr=False)
    for name, shared in (("__init__", _init), ("__eq__", _eq), ("__hash__", _hash)):
        if cls.__dict__.get(name) is shared:
            setattr(cls, name, getattr(made, name))


def _init(self: Any, /, *args: Any, **named: Any) -> None:
    form: _Form = self.__record__
    form.left -= 1
    if form.left <= 0:  # several threads may count at once
        _compile(form)
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
    if other.__class__ is not self.__class__:
        return NotImplemented
    names = self.__record__.compared
    return tuple(getattr(self, name) for name in names) == tuple(getattr(other, name) for name in names)


def _hash(self: Any) -> int:
    return hash(tuple(getattr(self, name) for name in type(self).__record__.hashed))


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, f.name) for f in fields(self)]


def _setstate(self: Any, state: list[Any]) -> None:
    for f, value in zip(fields(self), state, strict=True):
        _set(self, f.name, value)


def _setattr(self: Any, name: str, value: Any) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _made(cls: Any, *, eq: bool, kw_only: bool, slots: bool) -> Any:
    own = set(cls.__dict__)
    made = dataclass(init=False, repr=False, eq=False, kw_only=kw_only, slots=slots)(cls)
    made.__record__ = _Form(made)
    made.__signature__ = _Signature()
    methods: dict[str, Any] = {"__init__": _init, "__setattr__": _setattr, "__delattr__": _delattr, "__repr__": _repr}
    if eq:
        methods |= {"__eq__": _eq, "__hash__": _hash}
    if slots:
        methods |= {"__getstate__": _getstate, "__setstate__": _setstate}  # copies are not made by setting attributes
    for name, method in methods.items():
        if name not in own:
            setattr(made, name, method)
    return made


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
