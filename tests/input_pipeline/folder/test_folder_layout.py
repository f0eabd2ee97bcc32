import os
import shutil

import pytest

from input_pipeline.folder import layout


def test_layout_lists_sorted_pairs(folder):
  (folder / "images" / "train" / "0.jpg").rename(folder / "images" / "train" / "10.JPEG")
  (folder / "annotations" / "train" / "0.png").rename(folder / "annotations" / "train" / "10.png")
  (folder / "images" / "train" / ".DS_Store").write_bytes(b"x")
  (folder / "images" / "train" / "notes.txt").write_text("x")
  seen = layout.read_layout(folder, 255)
  assert [pair.stem for pair in seen.pairs["train"]] == ["1", "10", "2", "3", "4"]
  assert [pair.image.name for pair in seen.pairs["val"]] == ["0.jpg", "1.jpg", "2.jpg"]
  assert seen.metadata.name == "My photos"
  assert seen.metadata.class_names == ("sky", "left arm", "right arm", "road")
  assert seen.metadata.dataset_ids == (0, 1, 2, 3)
  assert (seen.metadata.ignore_label, seen.metadata.flip_pairs) == (255, ())


@pytest.mark.parametrize(
  "text",
  ["left arm\tright arm\n", "1 2\n", "1\tright arm", "\n1   2\r\n\n"],
)
def test_flip_pairs_by_name_or_label(folder, text):
  (folder / "flip_pairs.txt").write_bytes(text.encode())
  assert layout.read_layout(folder, 255).metadata.flip_pairs == ((1, 2),)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("left arm right arm", "line 1: 'left' is no class"),
    ("1 2\n0 4", "line 2: '4' is no class"),
    ("1 2 3", "line 1: 3 entries"),
    ("1\n", "line 1: 1 entries"),
    ("1 1", "line 1: '1 1' pairs a class with itself"),
    ("1 2\n3 2", "line 2: '3 2' pairs a class with itself or one that has a partner"),
  ],
)
def test_bad_flip_pairs(folder, text, message):
  (folder / "flip_pairs.txt").write_text(text)
  with pytest.raises(ValueError, match=rf"flip_pairs\.txt, {message}"):
    layout.read_layout(folder, 255)


def test_class_names_may_have_bom_and_crlf(folder):
  (folder / "classes.txt").write_bytes("\ufeffHimmel\r\nStraße\r\n\r\n".encode())
  assert layout.read_layout(folder, 255).metadata.class_names == ("Himmel", "Straße")


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("sky\nroad\nsky\n", r"line 3: the class name 'sky' already stands in line 1"),
    ("sky\n  \nroad\n", r"line 2 \(label 1\) is empty"),
    ("", "names 0 classes"),
    ("sky\n", "names 1 classes"),
  ],
)
def test_bad_class_names(folder, text, message):
  (folder / "classes.txt").write_text(text)
  with pytest.raises(ValueError, match=rf"classes\.txt.*{message}"):
    layout.read_layout(folder, 255)


def test_class_names_in_another_encoding(folder):
  (folder / "classes.txt").write_bytes("Straße\nsky".encode("latin-1"))
  with pytest.raises(ValueError, match=r"classes\.txt is not UTF-8"):
    layout.read_layout(folder, 255)


@pytest.mark.parametrize("ignore_label", [-2, 0, 3, 65536])
def test_ignore_label_must_be_no_class(folder, ignore_label):
  with pytest.raises(ValueError, match=f"ignore label {ignore_label} .* from 4 to 65535"):
    layout.read_layout(folder, ignore_label)


def test_missing_root(tmp_path):
  with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
    layout.read_layout(tmp_path / "nowhere", 255)


@pytest.mark.parametrize(
  "part", ["images", "annotations", "images/val", "annotations/train", "classes.txt"]
)
def test_missing_part_is_named(folder, part):
  path = folder / part
  shutil.rmtree(path) if path.is_dir() else path.unlink()
  with pytest.raises(FileNotFoundError, match=f"{part}.* is missing"):
    layout.read_layout(folder, 255)


@pytest.mark.parametrize("part", ["images/train", "annotations/val"])
def test_empty_split(folder, part):
  for path in (folder / part).iterdir():
    path.unlink()
  with pytest.raises(FileNotFoundError, match=f"{part} holds no .*png.* files, nor do the folders"):
    layout.read_layout(folder, 255)


def test_folders_in_folders_are_read(folder):
  for kind, suffix in (("images", "jpg"), ("annotations", "png")):
    top = folder / kind / "train"
    (top / "berlin" / "day.1").mkdir(parents=True)
    (top / f"3.{suffix}").rename(top / "berlin" / "day.1" / f"3.{suffix}")
    (top / f"4.{suffix}").rename(top / "berlin" / f"0.{suffix}")  # as one above
  seen = layout.read_layout(folder, 255)
  assert [(pair.stem, pair.file_name) for pair in seen.pairs["train"]] == [
    *(("0", "0.jpg"), ("1", "1.jpg"), ("2", "2.jpg")),
    *(("berlin/0", "berlin/0.jpg"), ("berlin/day.1/3", "berlin/day.1/3.jpg")),
  ]
  for pair in seen.pairs["train"]:
    assert pair.image.relative_to(folder / "images/train").with_suffix(".png") == (
      pair.label.relative_to(folder / "annotations/train")
    )
  before = layout.fingerprint(seen)
  (folder / "images/train/berlin").rename(folder / "images/train/hamburg")
  with pytest.raises(
    ValueError, match=r"(?s)2 images without a label PNG.*hamburg/0\.jpg.*path bel"
  ):
    layout.read_layout(folder, 255)
  (folder / "annotations/train/berlin").rename(folder / "annotations/train/hamburg")
  assert layout.fingerprint(layout.read_layout(folder, 255)) != before


def test_labels_in_one_folder_do_not_go_with_images_in_several(folder):
  (folder / "images" / "train" / "berlin").mkdir()
  image = folder / "images" / "train" / "4.jpg"
  image.rename(image.parent / "berlin" / "4.jpg")
  with pytest.raises(ValueError, match=r"1 images without a label PNG in .*:\n.*berlin/4\.jpg"):
    layout.read_layout(folder, 255)


def test_images_of_all_kinds_are_listed(folder):
  for index, suffix in enumerate((".png", ".BMP", ".tif", ".tiff", ".webp")):
    path = folder / "images" / "train" / f"{index}.jpg"
    path.rename(path.with_suffix(suffix))
  assert [pair.file_name for pair in layout.read_layout(folder, 255).pairs["train"]] == [
    *("0.png", "1.BMP", "2.tif", "3.tiff", "4.webp"),
  ]


def test_image_without_label(folder):
  (folder / "annotations" / "val" / "1.png").unlink()
  with pytest.raises(ValueError, match=r"1 images without a label PNG in .*val:\n.*val/1\.jpg\n"):
    layout.read_layout(folder, 255)


def test_many_labels_without_image_are_counted(folder):
  for index in range(7):
    shutil.copy(
      folder / "annotations" / "train" / "0.png", folder / "annotations" / "train" / f"x{index}.png"
    )
  with pytest.raises(ValueError, match=r"(?s)7 labels without an image.*x4\.png\n.*and 2 more"):
    layout.read_layout(folder, 255)


def test_two_images_of_one_stem(folder):
  shutil.copy(folder / "images" / "train" / "0.jpg", folder / "images" / "train" / "0.jpeg")
  with pytest.raises(ValueError, match=r"0\.jpeg and .*0\.jpg have the same stem '0'"):
    layout.read_layout(folder, 255)


def _fingerprint(root, ignore_label=255):
  return layout.fingerprint(layout.read_layout(root, ignore_label))


def test_fingerprint_follows_the_source(folder):
  before = _fingerprint(folder)
  assert _fingerprint(folder) == before
  seen = {before, _fingerprint(folder, 254)}
  image = folder / "images" / "train" / "0.jpg"
  os.utime(image, (1, 1))
  seen.add(_fingerprint(folder))
  image.write_bytes(image.read_bytes() + b"x")
  seen.add(_fingerprint(folder))
  (folder / "classes.txt").write_text("a\nb\nc\nd\n")
  seen.add(_fingerprint(folder))
  (folder / "flip_pairs.txt").write_text("1 2")
  seen.add(_fingerprint(folder))
  image.unlink()
  (folder / "annotations" / "train" / "0.png").unlink()
  seen.add(_fingerprint(folder))
  assert len(seen) == 7


def test_fingerprint_moves_with_the_folder(folder, tmp_path):
  shutil.copytree(folder, tmp_path / "copy" / folder.name)  # keeps the modification times
  assert _fingerprint(tmp_path / "copy" / folder.name) == _fingerprint(folder)
