"""NumPy functions inside of programs for CPUs, called through XLA's foreign function interface.

`jax.pure_callback` makes a program that JAX does not keep in its cache of compiled programs, and
copies operands on threads that the program itself may hold (jax-ml/jax issues 24255, 25861). A
function that is registered under a name is found again by every process that registers it, and
reads the program's own memory.

The structures are those of `xla/ffi/api/c_api.h`, version 0.3, which stands in jaxlib
(`jax.ffi.include_dir()`). It is an interface for libraries that are built apart from XLA: fields
are only added at the end, and XLA refuses a function of a version that it does not support.
"""

import ctypes
from collections.abc import Callable

import jax
import numpy as np

_API_VERSION = (0, 3)
_METADATA = 1  # XLA_FFI_Extension_Metadata
_INTERNAL = 13  # XLA_FFI_Error_Code_INTERNAL
# Of XLA_FFI_DataType.
_DTYPES = {4: np.dtype(np.int32), 11: np.dtype(np.float32)}

_POINTER = ctypes.c_void_p
_Extension = [("struct_size", ctypes.c_size_t), ("extension", _POINTER)]


class _ApiVersion(ctypes.Structure):
  _fields_ = [*_Extension, ("major", ctypes.c_int), ("minor", ctypes.c_int)]


class _ErrorArguments(ctypes.Structure):
  _fields_ = [*_Extension, ("message", ctypes.c_char_p), ("code", ctypes.c_int)]


class _Api(ctypes.Structure):
  _fields_ = [
    *_Extension,
    ("version", _ApiVersion),
    ("internal", _POINTER),
    ("make_error", ctypes.CFUNCTYPE(_POINTER, ctypes.POINTER(_ErrorArguments))),
  ]


class _Metadata(ctypes.Structure):
  _fields_ = [
    ("struct_size", ctypes.c_size_t),
    ("version", _ApiVersion),
    ("traits", ctypes.c_uint32),
  ]


class _ExtensionBase(ctypes.Structure):
  _fields_ = [("struct_size", ctypes.c_size_t), ("type", ctypes.c_int), ("next", _POINTER)]


class _MetadataExtension(ctypes.Structure):
  _fields_ = [("base", _ExtensionBase), ("metadata", ctypes.POINTER(_Metadata))]


class _Buffer(ctypes.Structure):
  _fields_ = [
    *_Extension,
    ("dtype", ctypes.c_int),
    ("data", _POINTER),
    ("rank", ctypes.c_int64),
    ("dims", ctypes.POINTER(ctypes.c_int64)),
  ]


class _Buffers(ctypes.Structure):
  _fields_ = [
    *_Extension,
    ("size", ctypes.c_int64),
    ("types", _POINTER),
    ("buffers", ctypes.POINTER(ctypes.POINTER(_Buffer))),
  ]


class _CallFrame(ctypes.Structure):
  _fields_ = [
    ("struct_size", ctypes.c_size_t),
    ("extension", ctypes.POINTER(_MetadataExtension)),
    ("api", ctypes.POINTER(_Api)),
    ("context", _POINTER),
    ("stage", ctypes.c_int),
    ("arguments", _Buffers),
    ("results", _Buffers),
  ]


def _arrays(buffers: _Buffers) -> list[np.ndarray]:
  """Views of the program's memory."""
  arrays = []
  for i in range(buffers.size):
    buffer = buffers.buffers[i].contents
    dtype, shape = _DTYPES[buffer.dtype], buffer.dims[: buffer.rank]
    size = int(np.prod(shape)) * dtype.itemsize
    # An array without elements may have no memory.
    memory = (ctypes.c_char * size).from_address(buffer.data) if size else b""
    arrays.append(np.frombuffer(memory, dtype).reshape(shape))
  return arrays


def _handler(function: Callable[..., np.ndarray]):
  """The function as XLA calls it: a null pointer, or an error, from a call frame."""

  def call(frame):
    frame = frame.contents
    if frame.extension and frame.extension.contents.base.type == _METADATA:
      metadata = frame.extension.contents.metadata.contents
      metadata.version.major, metadata.version.minor = _API_VERSION
      return None
    try:
      (result,) = _arrays(frame.results)
      result[...] = function(*_arrays(frame.arguments))
    except BaseException as error:  # None may leave it: below is no Python.
      message = f"{type(error).__name__}: {error}".encode()
      arguments = _ErrorArguments(ctypes.sizeof(_ErrorArguments), None, message, _INTERNAL)
      return frame.api.contents.make_error(ctypes.byref(arguments))
    return None

  return ctypes.CFUNCTYPE(_POINTER, ctypes.POINTER(_CallFrame))(call)


# What XLA calls has to live as long as the process.
_REGISTERED = {}


def register(name: str, function: Callable[..., np.ndarray]) -> None:
  """Makes a function known to XLA's programs for CPUs.

  Args:
    name: under which programs call it, `jax.ffi.ffi_call(name, ...)`; compiled programs are kept
      with it, so that it stands for what the function computes.
    function: of int32 and float32 arrays, which it may read until it returns; returns the one
      result. What it raises becomes the error of the program, which is a RuntimeError.

  Raises:
    RuntimeError: XLA does not support this version of its interface.
  """
  handler = _REGISTERED[name] = _handler(function)
  jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
