"""Sums beside files, and archives whose damage numpy alone would not notice."""

import shutil
import subprocess

import numpy as np
import pytest

from input_pipeline import checked_files


def test_sums_are_those_of_sha256sum(tmp_path):
  if shutil.which("sha256sum") is None:
    pytest.skip("no sha256sum on this system")
  for name, content in (("b.json", b"{}"), ("a b.npz", b"\x00\xff")):
    (tmp_path / name).write_bytes(content)
  checked_files.write_sums(tmp_path, ["b.json", "a b.npz"])
  command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
  done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
  assert done.stdout == "a b.npz: OK\nb.json: OK\n"


def test_a_file_is_compared_with_the_sums_beside_it(tmp_path):
  path, sums = tmp_path / "a.json", tmp_path / "SHA256SUMS"
  path.write_bytes(b"as written")
  assert checked_files.read(path, "make it again") == b"as written"  # of an older version
  checked_files.write_sums(tmp_path, ["a.json"])
  assert checked_files.read(path, "make it again") == b"as written"
  path.write_bytes(b"as Written")
  with pytest.raises(ValueError, match=r"a\.json is damaged: .*SHA256SUMS.*; make it again$"):
    checked_files.read(path, "make it again")
  path.write_bytes(b"as written")
  listed = sums.read_bytes()
  for content in (b"", listed[:20], b"0" + listed[1:], listed.replace(b"a.json", b"b.json")):
    sums.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json is damaged: .*SHA256SUMS"):
      checked_files.read(path, "make it again")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_no_single_bit_around_the_values_changes_what_is_read(tmp_path, save):
  """`np.load` reads 9,000 numbers as 1,000 or none where a bit of the array's header is wrong."""
  path = tmp_path / "a.npz"
  arrays = {"values": np.random.default_rng(0).integers(0, 256, 9000, np.uint8), "more": np.ones(2)}
  save(path, **arrays)
  data = path.read_bytes()
  same = 0
  for place in [*range(0, 8 * 180, 3), *range(8 * (len(data) - 180), 8 * len(data), 3)]:
    content = bytearray(data)
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)
    try:
      found = checked_files.read_npz(path, "make it again")
    except ValueError as error:
      assert f"{path} is not readable" in str(error) and "make it again" in str(error)
      continue
    same += 1
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
      assert found[name].dtype == array.dtype and found[name].shape == array.shape
      np.testing.assert_array_equal(found[name], array)
  assert same < 350  # times, versions, access rights


def test_pickles_are_not_loaded(tmp_path):
  np.savez(tmp_path / "a.npz", values=np.array([{}], object))
  with pytest.raises(ValueError, match="is not readable .*allow_pickle=False"):
    checked_files.read_npz(tmp_path / "a.npz", "")
