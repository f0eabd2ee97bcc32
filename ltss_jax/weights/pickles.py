"""A pickle reader that admits arrays and plain containers, and runs nothing that a file names.

A pickle is a program: it imports what it names and calls it. Here every name is looked up in a
table of this module's own stand-ins; a name that is not in the table ends the reading. The stand-
ins record what arrays are made of (numpy's and torch's; neither library is called), and drop what
training scripts note beside the weights.
"""

import io
import pickle
import re
from collections.abc import Callable
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

# A torch storage type is pickled by its name.
STORAGE_DTYPES = {
  "FloatStorage": np.dtype(np.float32),
  "DoubleStorage": np.dtype(np.float64),
  "HalfStorage": np.dtype(np.float16),
  "BFloat16Storage": np.dtype(jnp.bfloat16),
  "LongStorage": np.dtype(np.int64),
  "IntStorage": np.dtype(np.int32),
  "ShortStorage": np.dtype(np.int16),
  "CharStorage": np.dtype(np.int8),
  "ByteStorage": np.dtype(np.uint8),
  "BoolStorage": np.dtype(np.bool_),
  "UntypedStorage": np.dtype(np.uint8),
}
# Boolean, integer, floating-point, of a fixed width.
_NUMPY_DTYPE = re.compile(r"[<>|=]?[biuf](1|2|4|8)")
# Of torch.save's files from before torch 1.6.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# How they begin: a pickle of the magic number.
LEGACY_START = pickle.dumps(LEGACY_MAGIC, protocol=2)


class RefusedError(ValueError):
  """A pickle names something that is neither an array nor a plain container."""


class LazyArray:
  """An array that a pickle describes; `read` makes it, so that unused ones cost nothing."""

  def __init__(self, read: Callable[[], np.ndarray] | None = None):
    self._read = read

  def __setstate__(self, state: Any) -> None:
    """What numpy's own arrays are filled by: (version, shape, dtype, Fortran order, data)."""
    _, shape, dtype, fortran, data = state
    self._read = lambda: _numpy_array(data, dtype, shape, "F" if fortran else "C")

  def read(self) -> np.ndarray:
    """Returns the array, in the machine's byte order."""
    if self._read is None:
      raise ValueError("the pickle holds an array without data")
    return self._read()


class Storage:
  """The flat memory of a torch tensor."""

  def __init__(self, kind: str, size: int, read: Callable[[], bytes | memoryview]):
    """Describes a storage.

    Args:
      kind: key of STORAGE_DTYPES.
      size: number of elements.
      read: returns the bytes, little-endian.
    """
    self.dtype, self.size, self._read = STORAGE_DTYPES[kind], size, read

  def __setstate__(self, state: Any) -> None:
    raise RefusedError("it tries to change a tensor's storage")

  def array(self) -> np.ndarray:
    """Returns all elements [size]."""
    data = self._read()
    expected = self.size * self.dtype.itemsize
    if len(data) != expected:
      raise ValueError(f"a tensor's data has {len(data)} bytes and not {expected}")
    return np.frombuffer(data, self.dtype)


class _Inert(dict):
  """Stands for an object that weights do not need; takes any content and keeps none."""

  def __new__(cls, *args, **kwargs):
    del args, kwargs
    return super().__new__(cls)

  def __init__(self, *args, **kwargs):
    del args, kwargs

  def __setstate__(self, state: Any) -> None:
    del state

  def append(self, item: Any) -> None:
    """A pickle fills subclasses of list so."""

  def extend(self, items: Any) -> None:
    """Likewise."""


class _Dict(dict):
  """Stands for an ordered dict; torch hangs notes on it that are not needed."""

  def __setstate__(self, state: Any) -> None:
    del state


class _Dtype:
  """A numpy dtype, as far as a pickle has described it."""

  def __init__(self, name: Any, *flags: Any):
    del flags
    self._name = name.decode("ascii") if isinstance(name, bytes) else name
    self._order = "="

  def __setstate__(self, state: Any) -> None:
    self._order = state[1]  # the name gives kind and width

  def dtype(self) -> np.dtype:
    """Returns the numpy dtype; only numbers and truth values are admitted."""
    if not isinstance(self._name, str) or not _NUMPY_DTYPE.fullmatch(self._name):
      raise ValueError(f"arrays of dtype {self._name!r} are no weights")
    dtype = np.dtype(self._name)
    return dtype.newbyteorder(">") if self._order == ">" else dtype


class _Admitted:
  """A function that a pickle may call; without attributes that a pickle could overwrite."""

  __slots__ = ("_function",)

  def __init__(self, function: Callable):
    object.__setattr__(self, "_function", function)

  def __call__(self, *args: Any) -> Any:
    return self._function(*args)

  def __setattr__(self, name: str, value: Any) -> None:
    raise RefusedError("it tries to change a function")


def _numpy_array(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
  if isinstance(data, str):  # bytes, in a pickle of Python 2
    data = data.encode("latin1")
  dtype = (dtype if isinstance(dtype, _Dtype) else _Dtype(dtype)).dtype()
  if not isinstance(data, bytes | bytearray | memoryview):
    raise ValueError(f"an array's data is a {type(data).__name__} and not bytes")
  flat = np.frombuffer(data, dtype)
  return flat.astype(dtype.newbyteorder("="), copy=False).reshape(tuple(shape), order=order)


def _scalar(dtype: _Dtype, data: Any = b"") -> LazyArray:
  return LazyArray(lambda: _numpy_array(data, dtype, (), "C"))


def _new_ndarray(*args: Any) -> LazyArray:
  """numpy.ndarray(shape, dtype, buffer)."""
  shape, dtype, data = args
  return LazyArray(lambda: _numpy_array(data, dtype, shape, "C"))


def _frombuffer(data: Any, dtype: _Dtype, shape: Any, order: str) -> LazyArray:
  return LazyArray(lambda: _numpy_array(data, dtype, shape, "F" if order == "F" else "C"))


def _encode(text: str, encoding: str) -> bytes:
  """How Python 3 writes bytes in the protocols of Python 2."""
  if encoding not in ("latin1", "latin-1"):
    raise ValueError(f"bytes written as {encoding!r}")
  return text.encode("latin1")


def _rebuild_tensor(storage: Storage, offset: int, size: Any, stride: Any, *_: Any) -> LazyArray:
  """A strided view of a storage, as torch makes it."""
  size, stride = tuple(size), tuple(stride)
  if not isinstance(storage, Storage):
    raise ValueError("a tensor without a storage")

  def read() -> np.ndarray:
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or (0 not in size and last >= storage.size):
      raise ValueError(f"a tensor of shape {size} reaches beyond its data")
    flat = storage.array()
    if 0 in size:
      return np.zeros(size, flat.dtype)
    steps = [step * flat.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(flat[offset:], size, steps, writeable=False)

  return LazyArray(read)


def _rebuild_from_type(function: Any, kind: Any, args: Any, state: Any) -> Any:
  """A tensor with Python attributes, which are dropped."""
  del kind, state
  if not isinstance(function, _Admitted):
    raise RefusedError("it calls something that is no function")
  return function(*args)


def _storage_from_bytes(data: bytes) -> Any:
  """A tensor pickled by itself holds its storage as a whole file in torch's legacy format."""
  return read_legacy(io.BytesIO(data))


_FUNCTIONS = {
  **{
    f"numpy.{core}.{name}": function
    for core in ("core", "_core")
    for name, function in {
      "multiarray._reconstruct": lambda *_: LazyArray(),
      "multiarray.scalar": _scalar,
      "numeric._frombuffer": _frombuffer,
    }.items()
  },
  "numpy.ndarray": _new_ndarray,
  "_codecs.encode": _encode,
  "torch._utils._rebuild_tensor": _rebuild_tensor,
  "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
  "torch._utils._rebuild_parameter": lambda data, *_: data,
  "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
  "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
  "torch.storage._load_from_bytes": _storage_from_bytes,
  "torch.Size": tuple,
  "builtins.bytearray": lambda data=b"", *_: bytearray(data if isinstance(data, bytes) else b""),
  "builtins.bytes": lambda: b"",  # Python 3 writes only empty ones so
  "builtins.set": lambda items=(): set(items),
  "builtins.frozenset": lambda items=(): frozenset(items),
}
# Noted by training scripts beside the weights: arguments, configs, schedules. Never made.
_INERT = (
  "argparse.Namespace",
  "builtins.dict",
  "builtins.list",
  "builtins.object",
  "collections.Counter",
  "collections.defaultdict",
  "copyreg._reconstructor",
  "detectron2.config.config.CfgNode",
  "fvcore.common.config.CfgNode",
  "pathlib.PosixPath",
  "pathlib.PurePosixPath",
  "pathlib.WindowsPath",
  "torch.device",
  "torch.nn.parameter.Parameter",
  "torch.Tensor",
  "torch._tensor.Tensor",
  "types.SimpleNamespace",
  "yacs.config.CfgNode",
)
_TORCH_DTYPE = re.compile(r"torch\.(bfloat16|u?int\d+|float\d+|bool|half|long)")
_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # of Python 2


class _ReadOnly:
  """A file without `readinto`: truncated in it, CPython writes to stderr beside raising."""

  def __init__(self, file: BinaryIO):
    self.read, self.readline = file.read, file.readline
    if hasattr(file, "peek"):  # saves many small reads
      self.peek = file.peek


class _Unpickler(pickle.Unpickler):
  """Looks names up in the tables above only."""

  def __init__(self, file: BinaryIO, load_storage: Callable[[Any], Any] | None):
    # Python 2 wrote arrays' bytes as text; latin1 maps one onto the other.
    super().__init__(_ReadOnly(file), encoding="latin1")
    self._load_storage = load_storage

  def find_class(self, module: str, name: str) -> Any:
    full_name = f"{_OLD_MODULES.get(module, module)}.{name}"
    if full_name == "collections.OrderedDict":
      return _Dict
    if full_name == "numpy.dtype":
      return _Dtype
    if full_name in _FUNCTIONS:
      return _Admitted(_FUNCTIONS[full_name])
    if full_name in _INERT or _TORCH_DTYPE.fullmatch(full_name):
      return _Inert
    if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGE_DTYPES:
      return name
    raise RefusedError(
      f"it asks for {module}.{name}; only arrays and plain containers are read, nothing is run"
    )

  def persistent_load(self, pid: Any) -> Any:
    if self._load_storage is None:
      raise RefusedError("it refers to objects outside of itself")
    return self._load_storage(pid)


def load(file: BinaryIO, load_storage: Callable[[Any], Any] | None = None) -> Any:
  """Reads one pickle from the file's position on.

  Args:
    file: binary file, open for reading.
    load_storage: persistent id -> object, for torch's files.

  Returns:
    Plain containers, numbers and text; arrays as `LazyArray`.

  Raises:
    RefusedError: the pickle names what is not admitted.
    Exception: of any kind, where the pickle is damaged.
  """
  return _Unpickler(file, load_storage).load()


def read_legacy(file: BinaryIO) -> Any:
  """Reads a file of torch.save from before torch 1.6: pickles, then the storages.

  Args:
    file: seekable file, at its beginning; must stay open while arrays are read.

  Returns:
    Its object, with arrays as `LazyArray`.

  Raises:
    RefusedError: as `load`.
    Exception: of any kind, where the file is damaged.
  """
  if load(file) != LEGACY_MAGIC or load(file) != _LEGACY_PROTOCOL:
    raise ValueError("it is no file of torch.save")
  load(file)  # sizes of C types on the machine that wrote it
  sizes: dict[str, tuple[int, int]] = {}  # elements of each storage, and bytes of one
  offsets: dict[str, int] = {}

  def read_bytes(key: str, start: int, length: int) -> bytes:
    file.seek(offsets[key] + start)
    return file.read(length)

  def load_storage(pid: Any) -> Storage:
    _, kind, key, _, size, view = pid
    width = STORAGE_DTYPES[kind].itemsize
    sizes[key] = size, width
    start = 0
    if view is not None:
      _, start, size = view
    return Storage(kind, size, lambda: read_bytes(key, start * width, size * width))

  result = load(file, load_storage)
  for key in load(file):
    size, width = sizes[key]
    written = int.from_bytes(file.read(8), "little")
    if written != size:
      raise ValueError(f"a storage of {size} elements is followed by {written}")
    offsets[key] = file.tell()
    file.seek(size * width, 1)
  return result
