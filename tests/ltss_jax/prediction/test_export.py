"""Exported programs, run by the loader of the documentation in a process of its own."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

import ltss_jax
from configs import folder
from input_pipeline import checked_files
from ltss_jax import checkpoint
from ltss_jax.inference.predictor import Predictor
from ltss_jax.prediction import export, predict
from ltss_jax.workdir import run_config
from tests import programs, small_models, square_model
from tests.small_models import NUM_CLASSES


@pytest.fixture(name="exported", scope="module", params=["deeplabv3plus", "mask2former", "eomt"])
def _exported(request, tmp_path_factory):
  """(config, directory of weights, directory of the export, its metadata)."""
  config, folder = small_models.mhp_v2_config(request.param), tmp_path_factory.mktemp("export")
  weights = folder / "converted"
  small_models.write_weights(weights, config)
  config.export.scores = request.param == "mask2former"
  metadata = export.export(config, "none", output=folder / "out", weights=weights)
  return config, weights, folder / "out", metadata


def documented_programs():
  """The Python blocks of docs/export.md: the loader and its use."""
  text = (programs.REPOSITORY / "docs" / "export.md").read_text()
  return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


CHECK = """
images = np.load("images.npy")
np.savez("results.npz", photo=label, **model(images))
import sys
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"flax", "ltss_jax", "kernels", "configs", "input_pipeline"}, loaded
"""


def test_the_loaders_give_the_models_labels(exported, tmp_path):
  config, weights, directory, metadata = exported
  image = np.random.default_rng(1).integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
  image = image.repeat(8, axis=1).repeat(8, axis=2)  # [3, 32, 48, 3]
  np.save(tmp_path / "images.npy", image)
  Image.fromarray(image[0]).resize((96, 64)).save(tmp_path / "photo.jpg")
  (tmp_path / "EXPORTED").symlink_to(directory)
  loader, use = documented_programs()
  assert loader.count("\n") <= 32
  (tmp_path / "load_exported.py").write_text(loader)
  env = programs.environment(devices=4, PYTHONPATH="")  # as the expected labels
  process = programs.run("-c", use + CHECK, cwd=tmp_path, env=env, check=True)
  with np.load(tmp_path / "results.npz") as results:
    labels = results["labels"]
    assert results["photo"].shape == (32, 48)
    names = {metadata["classes"][i] for i in np.unique(results["photo"])}
    assert all(name in process.stdout for name in names)
    assert ("scores" in results.files) == config.export.scores
    if config.export.scores:
      assert results["scores"].shape == (3, 32, 48, NUM_CLASSES)
      np.testing.assert_array_equal(results["scores"].argmax(-1), labels)
  model = predict.on_one_device(predict.load_model(config, "none", weights))
  predictor = Predictor(model.architecture, model.mesh)
  expected = predictor(model.params, model.stats, image, [(32, 48)] * 3)
  assert labels.dtype == np.uint8 and len(np.unique(labels)) > 3
  np.testing.assert_array_equal(labels, np.asarray(expected)[:, :32, :48])
  assert metadata["check"] == {"platform": "cpu", "equal_labels": 1.0}
  ours, read = ltss_jax.load_exported(directory)
  with np.load(tmp_path / "results.npz") as results:
    assert read == metadata and set(ours(image)) == set(results.files) - {"photo"}
    for name, result in ours(image).items():
      np.testing.assert_array_equal(result, results[name])


def test_damaged_files_are_not_loaded(exported, damaged):
  directory, names = exported[2], {}
  exec(documented_programs()[0], names)
  for path in sorted(directory.iterdir()):
    data = path.read_bytes()
    loaded = []
    try:
      for content in damaged(data):
        path.write_bytes(content)
        try:
          loaded.append(names["load"](directory))
        except ValueError as error:
          assert "or SHA256SUMS is damaged; copy or export it again" in str(error)
    finally:
      path.write_bytes(data)
    # The ends of the lines of the sums do not matter, and the other files are as they were.
    assert len(loaded) < 3 if path.name == "SHA256SUMS" else not loaded
  names["load"](directory)


def test_metadata_say_what_goes_in_and_comes_out(exported):
  config, weights, directory, metadata = exported
  assert json.loads((directory / "metadata.json").read_text()) == metadata
  assert metadata["input"]["shape"] == ["any", 32, 48, 3]
  assert metadata["outputs"]["labels"] == {"shape": ["any", 32, 48], "dtype": "uint8"}
  assert len(metadata["classes"]) == len(metadata["dataset_ids"]) == NUM_CLASSES
  assert metadata["platforms"] == ["cpu", "cuda", "tpu"]
  assert metadata["weights"] == str(weights)
  assert metadata["jax_version"] == jax.__version__
  program = (directory / "model.stablehlo").read_bytes()
  assert f"StableHLO_v{metadata['stablehlo_version']}\0".encode() in program
  convention = jax.export.deserialize(bytearray(program)).calling_convention_version
  assert metadata["calling_convention_version"] == convention


def calling_convention(version):
  """The program with another version in its header."""

  def change(program):
    exported = jax.export.deserialize(bytearray(program))
    return dataclasses.replace(exported, calling_convention_version=version).serialize()

  return change


def unknown_dialect(program):
  """The program in operations that no release of JAX has: those of another dialect."""
  assert program.count(b"builtin") == 1
  return program.replace(b"builtin", b"uiltinb")


@pytest.mark.parametrize(
  ("change", "reason"),
  [
    (calling_convention(1), "its calling convention is version 1, known are "),
    (calling_convention(99), "its calling convention is version 99, known are "),
    (unknown_dialect, "Failed to deserialize StableHLO"),
    (lambda program: program[: len(program) // 2], "unpack_from requires a buffer"),
  ],
  ids=["older", "newer", "other_operations", "cut_off"],
)
def test_a_program_that_this_jax_cannot_read_says_so(exported, tmp_path, change, reason):
  _, _, directory, metadata = exported
  for path in directory.iterdir():
    shutil.copy(path, tmp_path)
  facts = metadata | {"jax_version": "0.1.75"}
  (tmp_path / "metadata.json").write_text(json.dumps(facts))
  path = tmp_path / "model.stablehlo"
  path.write_bytes(change(path.read_bytes()))
  checked_files.write_sums(tmp_path, [file.name for file in directory.glob("*.*")])
  with pytest.raises(ValueError, match=re.escape(reason)) as info:
    ltss_jax.load_exported(tmp_path)
  said = f"{path} was exported with jax 0.1.75, and jax {jax.__version__} cannot read it ("
  assert str(info.value).startswith(said)
  assert "Export the model again" in str(info.value)


def test_a_folder_without_a_complete_export_is_refused(exported, tmp_path):
  _, _, directory, _ = exported
  shutil.copy(directory / "model.stablehlo", tmp_path)
  with pytest.raises(FileNotFoundError, match=r"metadata.json does not exist: .* --mode=export"):
    ltss_jax.load_exported(tmp_path)


def test_an_export_for_another_platform_is_not_checked_here(tmp_path):
  config = small_models.mhp_v2_config("mask2former")
  weights = tmp_path / "converted"
  small_models.write_weights(weights, config)
  config.export.platforms, config.export.batch_size = ("tpu",), 2
  metadata = export.export(config, "none", output=tmp_path / "out", weights=weights)
  assert metadata["check"] == {"platform": "cpu", "equal_labels": None}
  assert metadata["input"]["shape"] == [2, 32, 48, 3]
  program = jax.export.deserialize((tmp_path / "out" / "model.stablehlo").read_bytes())
  assert program.platforms == ("tpu",)
  assert "tpu_custom_call" in program.mlir_module()  # the TPU's own kernel


@pytest.mark.parametrize("size", [(97, 131), (128, 173), (150, 300)])
def test_windows_are_part_of_the_program_of_a_model_of_squares(size):
  architecture = square_model.architecture()
  leaves, structure = jax.tree.flatten((square_model.WEIGHTS, {}))
  function = export.inference_function(architecture, structure, with_scores=True)
  program = export.program_of(function, leaves, size, batch_size=0, platforms=("cpu",))
  program = jax.export.deserialize(program.serialize())
  image = np.random.default_rng(3).integers(0, 256, (3, *size, 3), dtype=np.uint8)
  for batch in (image[:1], image):
    result = program.call(leaves, batch)
    assert result["labels"].dtype == np.uint8
    for one, scores, labels in zip(batch, result["scores"], result["labels"], strict=True):
      expected = square_model.scores(one)
      np.testing.assert_allclose(scores, expected, atol=2e-5)  # float32 against float64
      assert (labels == expected.argmax(-1)).mean() > 0.999


def test_kernels_that_cannot_be_stored_give_way_to_plain_operations():
  config = small_models.mhp_v2_config("mask2former")
  config.export.platforms = ("cuda",)
  assert export.portable(config).model.deformable_attention == "xla"
  assert config.model.deformable_attention == "auto"  # the caller's config stays as it is
  config.export.platforms = ("tpu",)
  assert export.portable(config).model.deformable_attention == "auto"


def test_a_program_that_gives_other_labels_is_noticed(exported, tmp_path):
  config, weights, directory, _ = exported
  model = predict.on_one_device(predict.load_model(config, "none", weights))
  shutil.copy(directory / "model.stablehlo", tmp_path)  # without sums, as while exporting
  with np.load(directory / "weights.npz") as file:
    np.savez(tmp_path / "weights.npz", **{name: np.flip(file[name]) for name in file.files})
  with pytest.raises(RuntimeError, match=r"only .* % of the pixels the model's label"):
    export.check(epath.Path(tmp_path), model, config, (32, 48))


def test_the_input_size_follows_from_the_config():
  config = small_models.mhp_v2_config()
  assert export.input_size(config) == (32, 48)
  config.export.width, config.eval.min_size = 0, 512
  assert export.input_size(config) == (32, 512)
  config.eval.min_size, config.data.crop_size = 0, 128
  assert export.input_size(config) == (32, 128)
  config.data.crop_size = 0
  with pytest.raises(ValueError, match=r"config\.export\.width=0 .* --config\.export\.width=512"):
    export.input_size(config)


def folder_run(workdir, **fields):
  """The config of a user's folder; a run on it has resolved a crop of 192 px from its images."""
  config = folder.get_config()
  config.data.root = "unused"
  resolved = config.copy_and_resolve_references()
  resolved.update_from_flattened_dict({"data.crop_size": 192} | fields)
  run_config.write(workdir, resolved)
  return config


@pytest.mark.parametrize(
  ("of_run", "given", "expected"),
  [
    ({}, {}, (192, 192)),
    ({"eval.min_size": 256}, {}, (256, 256)),
    ({"eval.min_size": 256}, {"data.crop_size": 128}, (128, 128)),
    ({"eval.min_size": 256}, {"eval.min_size": 320}, (320, 320)),
    ({}, {"export.width": 224}, (192, 224)),
  ],
)
def test_sizes_that_the_config_leaves_open_are_those_of_the_run(tmp_path, of_run, given, expected):
  config = folder_run(tmp_path, **of_run)
  config.update_from_flattened_dict(given)
  assert export.input_size(export.sized_as_run(config, tmp_path)) == expected
  assert config.data.crop_size == given.get("data.crop_size", 0)  # the caller's stays as it is


def test_a_folder_run_needs_no_size_for_its_export(tmp_path, caplog):
  config = folder_run(tmp_path)
  with caplog.at_level("INFO", "absl"), pytest.raises(checkpoint.CheckpointError):
    export.export(config, tmp_path, output=tmp_path / "out")  # its checkpoints are not there
  assert "config.data.crop_size=192, config.eval.min_size=0" in caplog.text
  assert "images of 192 x 192 px" in caplog.text
  (tmp_path / "config.json").unlink()
  with pytest.raises(ValueError, match=r"config\.export\.height=0 stands for"):
    export.export(config, tmp_path, output=tmp_path / "out")


def test_an_output_that_is_a_file_is_refused(tmp_path):
  (tmp_path / "file").write_text("mine")
  with pytest.raises(ValueError, match=r"--output=.*file is a file; give a folder"):
    export.export(small_models.mhp_v2_config(), "none", output=tmp_path / "file", weights="none")
  assert (tmp_path / "file").read_text() == "mine"
