"""From a function to machine code: the one place that knows how numba compiles and calls.

Numba's functions take an array as seven and more numbers, give what they return through a pointer and say in a status
how they ended. That is no promise of numba's: where a version does otherwise, `compiled_code` sees it and leaves the
calling to numba, which then compiles in every process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import njit, typeof, types
from numba.core import compiler
from numba.np.numpy_support import as_dtype

from quantkit.qtypes.calls import flat_types
from quantkit.qtypes.machine_code import Code

# Arrays that a function makes for itself (their sizes in bytes, and a multiple of which their place is), and their end.
# Before them stand, in numba's own form (numba/core/runtime/nrt.h): how often an array is referred to, a destructor and
# what it wants, where the bytes are, how many.
HEADER_BYTES = 64
RUNTIME = """
declare ptr @quantkit_allocate(i64)
declare void @quantkit_free(ptr)

define linkonce_odr ptr @NRT_MemInfo_alloc_aligned(i64 %size, i32 %align) {
  %wide = zext i32 %align to i64
  %room = add i64 %wide, HEADER
  %all = add i64 %size, %room
  %info = call ptr @quantkit_allocate(i64 %all)
  %none = icmp eq ptr %info, null
  br i1 %none, label %end, label %fill
fill:
  %base = ptrtoint ptr %info to i64
  %behind = add i64 %base, %room
  %over = urem i64 %behind, %wide
  %place = sub i64 %behind, %over
  %data = inttoptr i64 %place to ptr
  store i64 1, ptr %info
  %where = getelementptr { i64, ptr, ptr, ptr, i64 }, ptr %info, i64 0, i32 3
  store ptr %data, ptr %where
  br label %end
end:
  ret ptr %info
}

define linkonce_odr void @NRT_MemInfo_call_dtor(ptr %info) {
  call void @quantkit_free(ptr %info)
  ret void
}
""".replace("HEADER", str(HEADER_BYTES))
OURS = ("NRT_MemInfo_alloc_aligned", "NRT_MemInfo_call_dtor")


def compilable(function: Callable[..., Any]) -> Any:
    """What numba compiles: without Python's lock, and with division by zero as in C. No fastmath."""
    return njit(nogil=True, error_model="numpy")(function)


def compiled_code(made: Any, args: tuple[Any, ...], name: str) -> Code | None:
    """The machine code of a function for arguments of these types, called `name`; None where it cannot be kept."""
    flags = compiler.Flags()
    made.targetdescr.options.parse_as_flags(flags, made.targetoptions)
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    given = tuple(map(typeof, args))
    found = compiler.compile_extra(made.typingctx, made.targetctx, made.py_func, given, None, flags, {})
    result = _result(found.signature.return_type)
    if result is None or not _as_we_call(made.targetctx, found.signature, args):
        return None
    codegen = found.library.codegen
    module = found.library._final_module.clone()
    if any(function.name in OURS for function in module.functions):
        module.link_in(binding.parse_assembly(f'target triple = "{module.triple}"\n{RUNTIME}'))
    asked = [f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")]
    module.get_function(found.fndesc.llvm_func_name).name = name
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration and value.name != name:
            value.linkage = "internal"  # functions of other loops may have the same names, and are others
    module.verify()
    return Code(codegen._tm.emit_object(module), result, tuple(asked))


def _result(kind: Any) -> str | None:
    """The character of what a function returns, "" for None; None for what cannot be told by one."""
    if kind == types.none:
        return ""
    return str(as_dtype(kind).char) if isinstance(kind, types.Number | types.Boolean) else None


def _as_we_call(context: Any, signature: Any, args: tuple[Any, ...]) -> bool:
    """Whether numba calls a function of this signature with the numbers and pointers that `flat_types` says."""
    found = context.call_conv.get_function_type(signature.return_type, signature.args)
    wanted = [ctypes.c_void_p, ctypes.c_void_p, *flat_types(args)]
    same = len(found.args) == len(wanted) and all(map(_is, found.args, wanted))
    return same and isinstance(found.return_type, ir.IntType) and found.return_type.width == 32


def _is(kind: Any, wanted: Any) -> bool:
    """Whether a type of LLVM is passed as one of ctypes."""
    if wanted is ctypes.c_void_p:
        return isinstance(kind, ir.PointerType)
    if wanted in (ctypes.c_float, ctypes.c_double):
        return isinstance(kind, ir.FloatType if wanted is ctypes.c_float else ir.DoubleType)
    return isinstance(kind, ir.IntType) and kind.width == 8 * ctypes.sizeof(wanted)
