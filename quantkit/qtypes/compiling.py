"""Compiled loops that are kept on disk where a folder can be written, and compiled for each process where none can."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from llvmlite import binding  # type: ignore[import-untyped]
from numba import njit
from numba.core import caching
from numba.core.runtime import rtsys

# What numba raises where it unpickles a damaged file of its cache: that may ask for anything by any name.
DAMAGED = (
    caching.pickle.UnpicklingError, ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError,
    MemoryError, NameError, RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip

RUNTIME = re.compile(rb"NRT_\w+")  # functions of numba's runtime, as machine code names them
OF_A_LOOP = frozenset({b"NRT_incref", b"NRT_decref"})  # which each loop has in its own code
FORM = "without empty environments"  # of what is kept; code that was kept in another is compiled again


class _Kept(caching.CompileResultCacheImpl):  # type: ignore[misc]
    """What is kept of a loop: its machine code, without environments of numba's own functions that hold nothing.

    An environment is where compiled code finds Python objects. To read one, numba imports the module of its function:
    twenty, with all that Python's texts can do, for `np.empty`.
    """

    def reduce(self, compiled: Any) -> tuple[Any, ...]:
        *code, environments = super().reduce(compiled)
        own = compiled.environment
        return (*code, tuple(each for each in environments if each is own or each.consts))

    def rebuild(self, context: Any, kept: Any) -> Any:
        """The loop. Needs numba's runtime: its functions by address, or all of it where the code names others."""
        code: bytes = kept[0][2][0]
        if not _runtime().issuperset(RUNTIME.findall(code)):
            rtsys.initialize(context)
        return super().rebuild(context, kept)


@cache
def _runtime() -> frozenset[bytes]:
    """Tell LLVM where the functions of numba's runtime are, and return their names: what `rtsys.initialize` does before
    it compiles a library (0.02 s), with which only code in the making is linked."""
    try:
        from numba.core.runtime._nrt_python import c_helpers
    except ImportError:  # a numba that has them elsewhere
        return frozenset()
    functions = {name if name.startswith("_") else f"NRT_{name}": address for name, address in c_helpers.items()}
    for name, address in functions.items():
        binding.add_symbol(name, address)
    return OF_A_LOOP.union(name.encode() for name in functions)


class KeptCache(caching.FunctionCache):  # type: ignore[misc]  # numba offers no other way
    """Numba's cache, which is a help and no more: what cannot be written or read back is compiled again.

    Reading machine code needs nothing of what compiling needs: a hundred modules about everything that a loop might
    call, which the compiler imports by itself where there is no code on the disk.
    """

    _impl_class = _Kept

    def _index_key(self, signature: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(signature, codegen), FORM)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)

    @contextmanager
    def _guard_against_spurious_io_errors(self) -> Iterator[None]:
        """Around each reading and each writing. What a damaged index says is forgotten, or it would stay damaged."""
        try:
            yield
        except OSError:
            return
        except DAMAGED:
            with suppress(OSError):
                self._cache_file.flush()


def keep(dispatcher: Any, function: Callable[..., Any], cache: type[KeptCache] = KeptCache) -> Any:
    """Give a dispatcher of numba a cache beside the source or in the user's cache folder.

    Without either (a package that another user installed, and no home) it has none.
    """
    with suppress(RuntimeError):
        dispatcher._cache = cache(function)
    return dispatcher


def compile_kept(function: Callable[..., Any], **options: Any) -> Any:
    """numba.njit(nogil=True, **options) with the machine code kept on disk."""
    return keep(njit(nogil=True, **options)(function), function)
