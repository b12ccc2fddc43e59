"""From a function to machine code: the one place that knows how numba compiles and calls.

Numba's functions take an array as seven and more numbers, give what they return through a pointer and say in a status
how they ended. That is no promise of numba's: where a version does otherwise, `compiled_code` sees it and leaves the
calling to numba, which then compiles in every process.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import typeof, types
from numba.core import compiler, config
from numba.np.numpy_support import as_dtype

from quantkit.qtypes.calls import flat_types
from quantkit.qtypes.machine_code import Code

# Arrays that a function makes for itself (their sizes in bytes, and a multiple of which their place is), and their end.
# Before them stand, in numba's own form (numba/core/runtime/nrt.h): how often an array is referred to, a destructor and
# what it wants, where the bytes are, how many.
HEADER_BYTES = 64
RUNTIME = """
%header = type { i64, i8*, i8*, i8*, i64 }
declare i8* @quantkit_allocate(i64)
declare void @quantkit_free(i8*)

define linkonce_odr i8* @NRT_MemInfo_alloc_aligned(i64 %size, i32 %align) {
  %wide = zext i32 %align to i64
  %room = add i64 %wide, HEADER
  %all = add i64 %size, %room
  %info = call i8* @quantkit_allocate(i64 %all)
  %none = icmp eq i8* %info, null
  br i1 %none, label %end, label %fill
fill:
  %base = ptrtoint i8* %info to i64
  %behind = add i64 %base, %room
  %over = urem i64 %behind, %wide
  %place = sub i64 %behind, %over
  %data = inttoptr i64 %place to i8*
  %head = bitcast i8* %info to %header*
  %count = getelementptr %header, %header* %head, i64 0, i32 0
  store i64 1, i64* %count
  %where = getelementptr %header, %header* %head, i64 0, i32 3
  store i8* %data, i8** %where
  br label %end
end:
  ret i8* %info
}

define linkonce_odr void @NRT_MemInfo_call_dtor(i8* %info) {
  call void @quantkit_free(i8* %info)
  ret void
}
""".replace("HEADER", str(HEADER_BYTES))
OURS = ("NRT_MemInfo_alloc_aligned", "NRT_MemInfo_call_dtor")
# What only a process with numba has, or needs Python's lock. Numba's own memory is not freed by ours.
NOT_OURS = ("NRT_", "Py", "_Py")


def compiled_code(made: Any, args: tuple[Any, ...], name: str) -> Code | None:
    """The machine code of a function for arguments of these types, called `name`; None where it cannot be kept."""
    if config.DISABLE_JIT:
        return None
    with suppress(AttributeError, TypeError):  # what numba has elsewhere, or otherwise
        return _compiled(made, args, name)
    return None


def _compiled(made: Any, args: tuple[Any, ...], name: str) -> Code | None:
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
    named = (*module.functions, *module.global_variables)
    asked = [value.name for value in named if value.is_declaration and not value.name.startswith("llvm.")]
    if any(called.startswith(NOT_OURS) for called in asked):
        return None
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
