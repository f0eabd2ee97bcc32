"""Label PNGs of every colour type and depth, before and after a lossless optimizer."""

import numpy as np
import pytest
from etils import epath

from input_pipeline import prepared
from input_pipeline.raw import label_history, label_png, record
from input_pipeline.raw.label_history import History
from tests import image_bytes

RNG = np.random.default_rng(0)
GREYS = np.repeat(np.arange(256)[:, None], 3, axis=1)  # of which an index is its own grey


def label(*values):
  """A map of these values, the first the most frequent."""
  pixels = RNG.choice(values, (12, 16))
  pixels[:4] = values[0]
  pixels.ravel()[-len(values) :] = values
  return pixels


def grey(depth, *values):
  return image_bytes.png(label(*values), depth)


def palette(colours, *indices, depth=8):
  colours = np.asarray(colours)
  colours = np.repeat(colours[:, None], 3, axis=1) if colours.ndim == 1 else colours
  return image_bytes.png(label(*indices), depth, palette=colours)


VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]


def write(folder, contents):
  paths = [epath.Path(folder / f"{index}.png") for index in range(len(contents))]
  for path, data in zip(paths, contents, strict=True):
    path.write_bytes(data)
  return paths


def find(folder, *contents, num_classes=5, ignore_label=255):
  known = label_history.Known.of(num_classes, ignore_label)
  return label_history.find_history(write(folder, contents), known)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_meaning_of_grey_values(depth):
  header = label_png.parse_header(epath.Path("x"), grey(depth, 0, 1))
  values = {history: label_history.meaning(header, history) for history in History}
  top = 2**depth - 1
  assert all(len(value) == 2**depth and value[0] == 0 for value in values.values())
  assert values[History.AS_STORED][[1, top]].tolist() == [1, top]
  white = {1: 255, 2: 85, 4: 17, 8: 1, 16: 1}[depth]
  assert values[History.FROM_8_BITS][1] == white
  assert values[History.FROM_8_BITS][top] == (255 if depth < 16 else 65535)
  assert values[History.FROM_16_BITS][1] == (257 * white if depth < 16 else 1)
  assert values[History.FROM_16_BITS][top] == 65535


def test_meaning_of_palettes():
  header = label_png.parse_header(epath.Path("x"), palette([7, 0, 255], 0, 1, 2))
  assert label_history.meaning(header, History.AS_STORED)[:4].tolist() == [0, 1, 2, 3]
  assert label_history.meaning(header, History.FROM_8_BITS)[:4].tolist() == [7, 0, 255, 3]
  assert label_history.meaning(header, History.FROM_16_BITS)[:3].tolist() == [1799, 0, 65535]
  header = label_png.parse_header(epath.Path("x"), palette(VOC, 0, 1))
  for history in History:
    assert label_history.meaning(header, history)[:5].tolist() == [0, 1, 2, 3, 4]


# Files of well-formed data sets of 5 classes, which are read as they are stored.
WELL_FORMED = {
  "8 bits": [grey(8, 0, 1, 4), grey(8, 0, 255), grey(8, 2)],
  "8 and 16 bits": [grey(8, 0, 1, 255), grey(16, 3, 4, 255)],
  "masks of 1 bit": [grey(1, 0, 1), grey(1, 0), grey(1, 1), grey(1, 1, 0)],
  "as few bits as needed": [grey(1, 0, 1), grey(2, 0, 1, 2), grey(4, 0, 4), grey(8, 0, 255)],
  "masks of 1 bit, one of 2": [grey(1, 0, 1), grey(8, 0, 1), grey(2, 0, 2)],
  "colours": [palette(VOC, 0, 1), palette(VOC, 0, 4, 2), palette(VOC[:3], 0, 2)],
  "colours and unused others": [palette(VOC, 0, 1), palette([*VOC[:4], (9, 9, 9)], 0, 3)],
  "colours and greys": [palette(VOC, 0, 1), grey(8, 0, 1, 255)],
  "greys that are their index": [palette(GREYS, 0, 3, 255), palette([0, 1, 2], 0, 1, 2, depth=2)],
  "greys for the eye": [palette([0, 60, 120, 180, 240], *used) for used in ((0, 1), (2, 4))],
  "black and white": [palette([0, 255], 0, 1, depth=1), palette([0, 255], 1, depth=1)],
  "none": [],
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_well_formed_labels_mean_what_they_store(tmp_path, name):
  assert find(tmp_path, *WELL_FORMED[name]) is History.AS_STORED


def test_what_is_plain_is_not_decoded(tmp_path, monkeypatch):
  monkeypatch.setattr(label_png, "decode", None)
  find(tmp_path, *WELL_FORMED["8 and 16 bits"], palette(VOC, 0, 1), palette(VOC, 0, 2))


OPTIMIZED = {
  "greys in two orders": [palette([1, 3, 4], 0, 1, 2), palette([3, 1], 0, 1), grey(8, 0, 2)],
  "and one of 1 bit": [palette([1, 3, 4], 0, 1, 2), palette([3, 1], 0, 1), grey(1, 0, 1)],
  "an index beyond the classes": [palette([0, 1, 2, 3, 4, 255], 0, 5), grey(8, 0, 3)],
  "white of 2 bits": [grey(4, 0, 15), grey(1, 0, 1), grey(8, 0, 3)],
}


@pytest.mark.parametrize("name", OPTIMIZED)
def test_what_can_only_be_grey_values_is_read_so(tmp_path, name):
  assert find(tmp_path, *OPTIMIZED[name]) is History.FROM_8_BITS


DOUBTFUL = {
  "{0, 1} as stored or {0, 255} as grey values of 8 bits": [grey(8, 0, 1, 2), grey(1, 0, 1)],
  "{1} as stored or {255} as grey values": [grey(8, 0, 1, 2), grey(1, 0), grey(1, 1)],
  "{0, 3} as stored or {0, 255}": [grey(8, 0, 1, 2), grey(2, 0, 3)],
  "{0, 1, 2} as stored or {1, 3, 4}": [grey(8, 0, 1, 2), palette([1, 3, 4], 0, 1, 2, depth=2)],
  "{0, 1} as stored or {1, 3}": [palette([1, 3, 4], 0, 1)] * 2,
}


@pytest.mark.parametrize("words", DOUBTFUL)
def test_what_can_be_read_in_two_ways_is_named(tmp_path, words):
  with pytest.raises(ValueError) as error:
    find(tmp_path, *DOUBTFUL[words])
  lines = str(error.value).splitlines()
  assert lines[0].endswith("label PNGs can be read in more than one way, as after a PNG optimizer:")
  assert f"{len(DOUBTFUL[words]) - 1}.png: " in lines[-2] and words in lines[-2]
  assert "Save them as grey PNGs of 8 or 16 bits whose values are the classes" in lines[-1]
  assert "0.png" not in lines[1] or len(lines) == 4  # plain files are not named


@pytest.mark.parametrize(
  "second", [palette([VOC[0], VOC[2]], 0, 1), palette([0, 2], 0, 1), palette([VOC[1], VOC[0]], 0)]
)
def test_palettes_that_contradict_one_another(tmp_path, second):
  with pytest.raises(
    ValueError, match=r"0\.png and .*1\.png: the palettes .* for the index [01], "
  ):
    find(tmp_path, palette(VOC, 0, 1, 3), second, grey(8, 0, 1))


def test_labels_of_16_bits(tmp_path):
  options = {"num_classes": 300, "ignore_label": 65535}
  assert find(tmp_path, grey(8, 0, 2, 255), grey(16, 0, 299, 65535), **options) is History.AS_STORED
  assert find(tmp_path, grey(8, 0, 1), grey(8, 0, 3), **options) is History.AS_STORED
  with pytest.raises(
    ValueError, match=r"1\.png: 8 bits, grey: \{0, 255\} as stored or \{0, 65535\}"
  ):
    find(tmp_path, grey(16, 0, 299, 65535), grey(8, 0, 255), **options)
  with pytest.raises(ValueError, match=r"\{0, 1\} as stored or \{0, 255\} .* or \{0, 65535\} as"):
    find(tmp_path, grey(16, 0, 299, 65535), grey(1, 0, 1), **options)
  few = {"num_classes": 5, "ignore_label": 65535}
  optimized = grey(16, 0, 3, 65535), grey(8, 0, 255), grey(1, 0, 1)  # both of {0, 65535}
  assert find(tmp_path, *optimized, **few) is History.FROM_16_BITS


def test_files_that_cannot_be_read_are_left_to_the_preparation(tmp_path):
  broken = grey(1, 0, 1)[:60]
  assert find(tmp_path, b"", b"text", broken, grey(8, 0, 1)) is History.AS_STORED
  paths = [epath.Path(tmp_path / "none.png"), epath.Path(tmp_path)]
  known = label_history.Known.of(5, 255)
  assert label_history.find_history(paths, known) is History.AS_STORED


@pytest.mark.parametrize("data", [grey(2, 0, 3), palette([1, 3, 4], 0, 1, 2)])
def test_damaged_bytes_are_values_or_errors(tmp_path, data):
  rng = np.random.default_rng(0)
  path = epath.Path(tmp_path / "0.png")
  for place in [*range(60), *rng.integers(8, len(data), 100).tolist()]:
    damaged = bytearray(data)
    damaged[place] ^= rng.integers(1, 256)
    path.write_bytes(bytes(damaged))
    try:
      find(tmp_path, bytes(damaged), grey(8, 0, 1))
    except ValueError as error:
      assert "can be read in more than one way" in str(error)
    try:
      assert record.read_label(path, history=History.FROM_8_BITS).values.ndim == 2
    except ValueError as error:
      assert "0.png: the label" in str(error)


def test_a_value_that_is_no_class_is_left_to_the_preparation(tmp_path):
  assert find(tmp_path, grey(4, 0, 9), grey(1, 0, 1)) is History.AS_STORED


SETS = {
  "three classes and ignored pixels": ((0, 255), (0, 1, 2), (0, 255), (0, 1, 255), (0, 2), (1, 2)),
  "many classes": [tuple(RNG.choice(20, 5, replace=False).tolist()) + (255,) for _ in range(6)],
  "few classes": ((1, 3, 4), (1, 3, 4), (1, 4), (3, 4, 255), (4,), (0,)),
  "multiples of 17": ((0, 17, 34), (0, 17), (34, 17), (0, 1, 2), (0, 18), (0, 255)),
  "multiples of 85": ((0, 85, 255), (0, 85), (85, 1, 2), (0, 170), (0, 3), (255, 85)),
  "16 bits": ((0, 65535), (0, 257, 300), (257, 65535), (0, 5, 258), (0, 257), (1, 2)),
  "16 bits, few": ((0, 65535), (65535, 0), (0, 65535), (0, 1), (0, 1), (0, 2)),
}


def read(folder, contents, metadata):
  """The labels of a data set by the preparation's own functions."""
  paths = write(folder, contents)
  known = label_history.Known.of(metadata.num_classes, metadata.ignore_label)
  history = label_history.find_history(paths, known)
  labels = [record.read_label(path, history=history).values for path in paths]
  for path, values in zip(paths, labels, strict=True):
    record.count_pixels(path, values, metadata)
  return labels


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("part", [1, 3, 6])  # how many of the files are optimized
@pytest.mark.parametrize("name", SETS)
def test_before_and_after_an_optimizer_labels_are_equal_or_there_is_an_error(
  tmp_path, name, part, seed
):
  depth, ignore_label, count = (16, 65535, 301) if "16 bits" in name else (8, 255, 200)
  names = tuple(map(str, range(count)))
  metadata = prepared.ClassMetadata("x", names, tuple(range(count)), ignore_label)
  maps = [label(*values) for values in SETS[name]]
  contents = [image_bytes.png(values, depth) for values in maps]
  before = read(tmp_path, contents, metadata)
  for index in np.random.default_rng(seed).permutation(6)[:part]:
    contents[index] = image_bytes.optimize(contents[index])
  try:
    after = read(tmp_path, contents, metadata)
  except ValueError as error:
    assert "an optimizer" in str(error) or "PNG optimizer" in str(error)
    return
  for values, first, second in zip(maps, before, after, strict=True):
    np.testing.assert_array_equal(first, values)
    np.testing.assert_array_equal(second, values)


def test_optimized_colours_are_an_error(tmp_path):
  """An optimizer numbers the colours of each file anew."""
  maps = [label(*values) for values in ((0, 1, 2), (0, 4), (2, 0), (0,), (3, 1))]
  contents = [image_bytes.png(values, 8, palette=VOC) for values in maps]
  assert find(tmp_path, *contents) is History.AS_STORED
  with pytest.raises(ValueError, match="the index is not the class, as after a PNG optimizer"):
    find(tmp_path, *map(image_bytes.optimize, contents))


def test_sets_of_many_classes_survive_an_optimizer(tmp_path):
  """Their palettes have other orders, which can only be grey values."""
  metadata = prepared.ClassMetadata("x", tuple(map(str, range(20))), tuple(range(20)), 255)
  maps = [label(*values) for values in SETS["many classes"]]
  after = read(tmp_path, [image_bytes.optimize(image_bytes.png(x, 8)) for x in maps], metadata)
  np.testing.assert_array_equal(np.stack(after), np.stack(maps))
