"""Reading checkpoint files: every format, hostile files and damaged ones."""

import collections
import io
import json
import pickle
import zipfile

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

from ltss_jax.weights import pickles, readers


def arrays():
  rng = np.random.default_rng(0)
  matrix = rng.standard_normal((3, 4)).astype(np.float32)
  return {
    "weight": matrix,
    "transposed": matrix.T,
    "fortran": np.asfortranarray(matrix),
    "big_endian": matrix.astype(">f4"),
    "half": matrix.astype(np.float16),
    "count": np.array(7),
    "empty": np.zeros((0, 4), np.float32),
    "mask": matrix > 0,
  }


def assert_same(read, expected):
  assert set(read) == set(expected)
  for name, array in expected.items():
    np.testing.assert_array_equal(read[name], array, err_msg=name)
    assert read[name].shape == array.shape
    assert read[name].dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_pickles_of_every_protocol(tmp_path, protocol):
  path = tmp_path / "weights.pkl"
  content = {"model": arrays(), "__author__": "x", "best": np.float64(3), "names": {"a"}}
  path.write_bytes(pickle.dumps(content, protocol))
  assert_same(readers.read_arrays(path), arrays())


def test_old_numpy_module_names_and_pickles_of_python_2(tmp_path):
  path = tmp_path / "weights.pkl"
  path.write_bytes(
    b"(dp0\nS'model'\n(dp1\nS'conv1.weight'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
    b"(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    b"I00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00\\xc0'\ntbsS'__author__'\nS'Caffe2'\ns."
  )
  expected = np.array([1, -2], np.float32)
  np.testing.assert_array_equal(readers.read_arrays(path)["conv1.weight"], expected)


def torch_content(torch):
  """What training programs save: the weights among much else."""
  import argparse

  base = torch.arange(48, dtype=torch.float32).reshape(6, 8)
  weights = collections.OrderedDict(
    strided=base.t()[1:5:2],
    row=base[2],
    expanded=base[:1, 1:2].expand(3, 4),
    parameter=torch.nn.Parameter(base[:2]),
    bfloat16=base.bfloat16(),
    half=base.half(),
    double=base.double(),
    count=torch.tensor(3),
    mask=base > 3,
    empty=torch.zeros(0, 4),
  )
  weights._metadata = {"": {"version": 2}}
  content = {
    "model": weights,
    "optimizer": {"state": {0: {"exp_avg": base}}, "param_groups": [{"lr": 0.1}]},
    "args": argparse.Namespace(lr=0.1, device=torch.device("cpu")),
    "scheduler": {"milestones": collections.Counter([1, 2])},
    "size": base.shape,
    "dtype": torch.float32,
  }
  return weights, content


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "distributed", "safetensors"])
def test_torch_files(tmp_path, kind):
  torch = pytest.importorskip("torch")
  weights, content = torch_content(torch)
  path = tmp_path / "checkpoint"
  if kind == "pickle":  # as Mask2Former's Swin conversion writes
    path.write_bytes(pickle.dumps({"model": weights, "__author__": "third_party"}))
  elif kind == "distributed":
    state = {f"module.{name}": tensor for name, tensor in weights.items()}
    torch.save({"state_dict": state}, path)
  elif kind == "safetensors":
    from safetensors.torch import save_file

    save_file({k: v.detach().clone().contiguous() for k, v in weights.items()}, path)
  else:
    torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
  read = readers.read_arrays(path)
  assert set(read) == set(weights)
  for name, tensor in weights.items():
    if name == "bfloat16":
      assert read[name].dtype == jnp.bfloat16
      read[name], tensor = read[name].astype(np.float32), tensor.float()
    np.testing.assert_array_equal(read[name], tensor.detach().numpy(), err_msg=name)
    assert read[name].dtype == tensor.detach().numpy().dtype


def write_safetensors(path, content):
  header, body = {"__metadata__": {"format": "np"}}, b""
  for name, (dtype, array) in content.items():
    offsets = [len(body), len(body) + array.nbytes]
    header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
    body += array.tobytes()
  text = json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def test_written_safetensors_read_back(tmp_path):
  content = arrays()
  del content["big_endian"]  # the machine's order alone
  content["bfloat16"] = content["weight"].astype(jnp.bfloat16)
  readers.write_safetensors(tmp_path / "s", content)
  assert_same(readers.read_arrays(tmp_path / "s"), content)


SAFETENSORS = {
  "b": np.float32([1, 2]),
  "count": np.array(7),
  "é": np.array([True]),
  "a": np.zeros((2, 0), np.float32),
}


def safetensors_bytes():
  """SAFETENSORS in a file: wide numbers first, then by name, the header padded to 8 bytes."""
  header = (
    '{"count":{"dtype":"I64","shape":[],"data_offsets":[0,8]},'
    '"a":{"dtype":"F32","shape":[2,0],"data_offsets":[8,8]},'
    '"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},'
    '"é":{"dtype":"BOOL","shape":[1],"data_offsets":[16,17]}} '
  ).encode()
  body = bytes([7] + 7 * [0]) + b"\0\0\x80\x3f\0\0\0\x40" + b"\1"
  return len(header).to_bytes(8, "little") + header + body


def test_written_safetensors_byte_by_byte(tmp_path):
  readers.write_safetensors(tmp_path / "s", SAFETENSORS)
  assert (tmp_path / "s").read_bytes() == safetensors_bytes()


def test_those_bytes_are_what_the_library_writes():
  assert pytest.importorskip("safetensors.numpy").save(SAFETENSORS) == safetensors_bytes()


def test_safetensors_and_npz_without_torch(tmp_path):
  path = tmp_path / "model.safetensors"
  matrix = arrays()["weight"]
  bfloat16 = matrix.astype(jnp.bfloat16)
  write_safetensors(path, {"a.weight": ("F32", matrix), "a.half": ("BF16", bfloat16)})
  read = readers.read_arrays(path)
  assert_same(read, {"a.weight": matrix, "a.half": bfloat16})
  np.savez(tmp_path / "model.npz", matrix=matrix)
  assert_same(readers.read_arrays(tmp_path / "model.npz"), {"matrix": matrix})


def zip_of_torch(pickled, data=b""):
  """A file of torch.save, made by hand."""
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as archive:
    archive.writestr("archive/data.pkl", pickled)
    archive.writestr("archive/data/0", data)
  return file.getvalue()


class Payload:
  """Runs a command where a pickle of it is read by the pickle module."""

  def __init__(self, marker):
    self.marker = marker

  def __reduce__(self):
    return exec, (f"open({str(self.marker)!r}, 'w').close()",)


def hostile(kind, marker):
  content = {"model": {"a": np.zeros(3), "b": Payload(marker)}}
  if kind == "pickle":
    return pickle.dumps(content)
  if kind == "zip":
    return zip_of_torch(pickle.dumps(content))
  start = [pickle.dumps(part, 2) for part in (pickles.LEGACY_MAGIC, 1001, {})]
  return b"".join(start) + pickle.dumps(content, 2)


@pytest.mark.parametrize("kind", ["pickle", "zip", "legacy"])
def test_a_payload_is_refused_and_runs_nothing(tmp_path, kind):
  marker, path = tmp_path / "marker", tmp_path / "weights.pth"
  path.write_bytes(hostile(kind, marker))
  with pytest.raises(
    ValueError, match=r"weights.pth is refused: .*builtins__?\.exec|\.exec"
  ) as error:
    readers.read_arrays(path)
  assert not marker.exists()
  assert "nothing is run" in str(error.value)
  assert len(str(error.value).splitlines()) == 1
  pickle.loads(pickle.dumps(Payload(marker)))
  assert marker.exists()  # the payload works where it is let


# Opcodes by hand: what pickle.dumps would not write.
@pytest.mark.parametrize(
  "program",
  [
    b"cos\nsystem\n(S'true'\ntR.",
    b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    b"(S'true'\nios\nsystem\n.",
    b"cnumpy\nload\n(S'/etc/passwd'\ntR.",
    b"cbuiltins\ngetattr\n.",
    b"\x80\x04\x8c\x08builtins\x8c\x11bytes.__subclasses\x93.",
    b"cltss_jax.weights.pickles\n_Unpickler\n.",
    b"ctorch.storage\n_load_from_bytes\n}S'x'\nS'y'\nsb.",  # changes an admitted function
    b"ctorch.storage\n_load_from_bytes\n(N}S'_function'\nS'y'\nstb.",
    b"S'x'\nQ.",  # refers to something outside
  ],
)
def test_every_way_to_name_a_function_is_closed(tmp_path, program):
  path = tmp_path / "weights.pkl"
  path.write_bytes(program)
  with pytest.raises(ValueError, match=r"weights.pkl (is refused|cannot be read)"):
    readers.read_arrays(path)


def storage_pickle(size, offset, shape, stride):
  """How torch pickles one tensor in an archive, written without torch."""

  def opcodes(value):
    return pickle.dumps(value, 2)[2:-1]  # without the protocol's and the final opcode

  # The storage is a persistent id, the tensor a call with it.
  storage = b"(" + opcodes("storage") + b"ctorch\nFloatStorage\n" + opcodes("0") + opcodes("cpu")
  storage += opcodes(size) + b"tQ"
  tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage
  tensor += opcodes(offset) + opcodes(shape) + opcodes(stride) + b"tR"
  return b"\x80\x02}" + opcodes("model") + b"}" + opcodes("w") + tensor + b"ss."


def test_a_strided_tensor_without_torch(tmp_path):
  path = tmp_path / "weights.pth"
  data = np.arange(12, dtype=np.float32)
  path.write_bytes(zip_of_torch(storage_pickle(12, 1, (2, 3), (4, 1)), data.tobytes()))
  expected = data.reshape(3, 4)[:2, 1:]
  np.testing.assert_array_equal(readers.read_arrays(path)["w"], expected)


@pytest.mark.parametrize(
  ("size", "offset", "shape", "stride", "message"),
  [
    (13, 0, (2, 3), (4, 1), "48 bytes and not 52"),
    (12, 5, (2, 4), (4, 1), "reaches beyond its data"),
    (12, -1, (2, 3), (4, 1), "reaches beyond its data"),
    (12, 8, (2, 3), (-4, 1), "reaches beyond its data"),
  ],
)
def test_a_tensor_of_the_wrong_size_is_an_error(tmp_path, size, offset, shape, stride, message):
  path = tmp_path / "weights.pth"
  data = np.arange(12, dtype=np.float32).tobytes()
  path.write_bytes(zip_of_torch(storage_pickle(size, offset, shape, stride), data))
  with pytest.raises(ValueError, match=f"weights.pth cannot be read.*{message}"):
    readers.read_arrays(path)


def damaged_sources(tmp_path):
  content = {"model": {"a.weight": np.ones((4, 5), np.float32)}}
  yield pickle.dumps(content, 4)
  yield pickle.dumps(content, 5)
  data = np.arange(12, dtype=np.float32).tobytes()
  yield zip_of_torch(storage_pickle(12, 1, (2, 3), (4, 1)), data)
  write_safetensors(tmp_path / "s", {"a.weight": ("F32", np.ones((4, 5), np.float32))})
  yield (tmp_path / "s").read_bytes()


def test_truncated_files_give_one_error_that_names_the_file(tmp_path, capfd):
  path = tmp_path / "weights.pth"
  count = 0
  for content in damaged_sources(tmp_path):
    for length in (0, 1, 9, len(content) // 2, len(content) - 1):
      path.write_bytes(content[:length])
      with pytest.raises(ValueError, match=r"weights.pth cannot be read, \d+ bytes: .*again$") as e:
        readers.read_arrays(path)
      assert len(str(e.value).splitlines()) == 1
      count += 1
  assert count == 20
  assert capfd.readouterr().err == ""


@hypothesis.settings(max_examples=30)
@hypothesis.given(strategies.data())
def test_damaged_bytes_never_do_more_than_raise_a_value_error(tmp_path_factory, data):
  tmp_path = tmp_path_factory.mktemp("damaged")
  for content in damaged_sources(tmp_path):
    changed = bytearray(content)
    for _ in range(3):
      changed[data.draw(strategies.integers(0, len(content) - 1))] = data.draw(
        strategies.integers(0, 255)
      )
    path = tmp_path / "weights.pth"
    path.write_bytes(changed)
    try:
      read = readers.read_arrays(path)
    except ValueError as error:
      assert "weights.pth" in str(error)
    else:
      assert all(isinstance(array, np.ndarray) for array in read.values())


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ([1, 2], "holds a list and not names with arrays"),
    ({"epoch": 3}, "holds no arrays by name"),
    ({"model": {"a": np.array(["x"])}}, "arrays of dtype .* are no weights"),
    ({"model": {"a": np.array([None])}}, "arrays of dtype .* are no weights"),
  ],
)
def test_files_without_weights_say_so(tmp_path, content, message):
  path = tmp_path / "weights.pkl"
  path.write_bytes(pickle.dumps(content))
  with pytest.raises(ValueError, match=message):
    readers.read_arrays(path)


def test_missing_files_and_folders(tmp_path):
  with pytest.raises(FileNotFoundError, match="none.pth does not exist"):
    readers.read_arrays(tmp_path / "none.pth")
  with pytest.raises(ValueError, match=r"is a folder without model.safetensors or .*; give the"):
    readers.read_arrays(tmp_path)


def test_written_pickles_are_read_by_the_pickle_module_and_need_no_numpy_internals(tmp_path):
  path = tmp_path / "weights.pkl"
  readers.write_pickle(path, arrays())
  assert_same(readers.read_arrays(path), arrays())
  content = pickle.loads(path.read_bytes())
  assert set(content) == {"model", "__author__"}
  assert_same(content["model"], arrays())
  assert all(array.flags.writeable for array in content["model"].values())
  assert b"_core" not in path.read_bytes()
  assert [p.name for p in tmp_path.iterdir()] == ["weights.pkl"]
