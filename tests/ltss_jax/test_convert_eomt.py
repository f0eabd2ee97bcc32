"""Converting EoMT models: released files both ways, differences, what a config must say."""

import json

import jax
import numpy as np
import pytest

from configs import ade20k, shapes_lt
from ltss_jax import checkpoint, convert
from ltss_jax.weights import eomt_release, official, readers, trees
from tests import programs
from tests.programs import GOLDEN

CLASSES = 7
SMALL = {"model.num_queries": 5, "model.num_blocks": 2, "data.crop_size": 64}


def small(backbone="dinov2_mini", get_config=shapes_lt.get_config, **fields):
  config = get_config("model=eomt")
  fields = {name.replace("__", "."): value for name, value in fields.items()}
  config.update_from_flattened_dict({"model.backbone": backbone} | SMALL | fields)
  return config


def random_weights(config, num_classes=CLASSES, seed=0):
  """(params, stats) of a config's model, around 0.5."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: (0.5 + rng.standard_normal(leaf.shape)).astype(np.float32),
    convert.abstract_weights(config, num_classes),
  )


def released(config, num_classes=CLASSES, seed=0):
  """Released names and arrays of such a model."""
  arrays = official.to_official("eomt", *random_weights(config, num_classes, seed))
  return eomt_release.from_official(arrays, num_classes, config.model.num_blocks)


def write(path, arrays):
  readers.write_safetensors(path, arrays)
  return path


@pytest.mark.parametrize("backbone", ["dinov2_mini", "dinov3_mini"])
@pytest.mark.parametrize("class_head", ["softmax", "seesaw"])
def test_released_files_become_a_directory_and_released_files_again(tmp_path, backbone, class_head):
  config = small(backbone, model__class_head=class_head)
  source = write(tmp_path / "model.safetensors", released(config))
  done = convert.convert(config, source, tmp_path / "weights")
  assert done.missing == done.dropped == done.changed == []
  params, stats, info = checkpoint.load_weights(tmp_path / "weights")
  jax.tree.map(np.testing.assert_array_equal, (params, stats), random_weights(config))
  assert (info["contents"], info["num_classes"], info["crop_size"]) == ("model", CLASSES, 64)
  assert info["model"]["class_head"] == class_head
  convert.export(config, tmp_path / "weights", tmp_path / "back.safetensors", "eomt")
  assert (tmp_path / "back.safetensors").read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"data__crop_size": 128}, "data.crop_size=64, the config has 128; give --config.data.crop_"),
    ({"model__num_queries": 6}, "model.num_queries=5, .* has 6; give --config.model.num_queries=5"),
    ({"model__num_blocks": 1}, "model.num_blocks=2, .* has 1; give --config.model.num_blocks=2"),
    ({"model__class_head": "seesaw"}, "give --config.model.class_head=softmax"),
    ({"model__backbone": "dinov3_mini"}, "the variant backbone=dinov2_mini"),
    ({"model__name": "mask2former"}, "the variant model=eomt"),
    ({"get_config": ade20k.get_config}, "for 7 classes, the data set ade20k has 150"),
  ],
)
def test_a_config_that_does_not_fit_is_told_so(tmp_path, fields, message):
  source = write(tmp_path / "model.safetensors", released(small()))
  with pytest.raises(ValueError, match=f"model.safetensors: .*{message}"):
    convert.convert(small(**fields), source, tmp_path / "weights")
  assert not (tmp_path / "weights").exists()


def test_rotary_positions_fit_every_crop(tmp_path):
  source = write(tmp_path / "model.safetensors", released(small("dinov3_mini")))
  config = small("dinov3_mini", data__crop_size=128)
  convert.convert(config, source, tmp_path / "weights")
  assert checkpoint.read_info(tmp_path / "weights")["crop_size"] == 128


@pytest.mark.parametrize("kind", ["dinov2", "dinov3"])
def test_models_of_transformers_in_shards(tmp_path, kind):
  shapes = json.loads((GOLDEN / "eomt_names.json").read_text())[kind]
  rng = np.random.default_rng(0)
  arrays = {n: (0.5 + rng.standard_normal(s)).astype(np.float32) for n, s in shapes.items()}
  files = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
  parts = [sorted(arrays)[::2], sorted(arrays)[1::2]]
  for file, part in zip(files, parts, strict=True):
    readers.write_safetensors(tmp_path / file, {name: arrays[name] for name in part})
  places = {name: file for file, part in zip(files, parts, strict=True) for name in part}
  index = tmp_path / "model.safetensors.index.json"
  index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
  done = convert.convert(small(f"{kind}_mini"), tmp_path, tmp_path / "weights")
  leaves = trees.flatten(checkpoint.load_weights(tmp_path / "weights")[0])
  assert done.converted == len(leaves)
  np.testing.assert_array_equal(leaves["q/embedding"], arrays["query.weight"])
  np.testing.assert_array_equal(leaves["mask_head/2/kernel"], arrays["mask_head.fc3.weight"].T)


def test_one_missing_array_is_one_line(tmp_path):
  arrays = released(small())
  del arrays["network.q.weight"]
  source = write(tmp_path / "model.safetensors", arrays)
  with pytest.raises(ValueError) as error:
    convert.convert(small(), source, tmp_path / "weights")
  assert str(error.value).splitlines() == [
    f"{source}: the weights do not fit this eomt:",
    "- q.weight (5, 32): missing in the checkpoint",
  ]


def test_a_backbone_alone_takes_no_base(tmp_path):
  arrays = released(small())
  encoder = {n: a for n, a in arrays.items() if n.startswith("network.encoder.backbone.")}
  source = write(tmp_path / "encoder.safetensors", encoder)
  with pytest.raises(ValueError, match=r"encoder.safetensors: --base=none is for EoMT models"):
    convert.convert(small(), source, tmp_path / "weights", base="none")
  convert.convert(small(), source, tmp_path / "weights")
  params, _, info = checkpoint.load_weights(tmp_path / "weights")
  assert (set(params), info["contents"]) == ({"backbone"}, "backbone")


def test_each_model_has_a_format_of_its_own(tmp_path):
  config = small()
  with pytest.raises(ValueError, match="--to=detectron2 has no names for model=eomt; .*--to=eomt"):
    convert.export(config, tmp_path, tmp_path / "out.pkl")
  with pytest.raises(ValueError, match="out.pkl is no .safetensors file; name a new file"):
    convert.export(config, tmp_path, tmp_path / "out.pkl", "eomt")
  other = shapes_lt.get_config()
  with pytest.raises(ValueError, match="--to=eomt has no names for model=mask2former"):
    convert.export(other, tmp_path, tmp_path / "out.safetensors", "eomt")


def run(*arguments):
  config = ["--config=configs/shapes_lt.py:model=eomt", "--config.model.backbone=dinov3_mini"]
  fields = [f"--config.{name}={value}" for name, value in SMALL.items()]
  return programs.run("-m", "ltss_jax.convert", *config, *fields, *arguments)


def test_differences_through_the_command_line(tmp_path):
  place = "network.encoder.backbone."
  differences = released(small("dinov3_mini"))
  differences |= {n: 0.1 * (a - 1) for n, a in differences.items() if n.startswith(place)}
  source = write(tmp_path / "differences.safetensors", differences)
  original = released(small("dinov3_mini"), seed=1)
  base = {
    n.removeprefix(place).replace("patch_embed.", "embeddings.").replace("blocks.", "layer."): a
    for n, a in original.items()
    if n.startswith(place)
  }
  base["embeddings.mask_token"] = np.zeros((1, 1, 32), np.float32)
  base = write(tmp_path / "dinov3.safetensors", base)
  weights = tmp_path / "weights"
  done = run(f"--source={source}", f"--output={weights}")
  assert done.returncode == 1 and "give the file of the original encoder" in done.stderr.lower()
  done = run(f"--source={source}", f"--output={weights}", f"--base={base}")
  assert (done.returncode, done.stderr) == (0, "")
  assert f"~ backbone.*: the weights of {base} added to " in done.stdout
  assert checkpoint.read_info(weights)["base"] == "dinov3.safetensors"
  params, _, _ = checkpoint.load_weights(weights)
  for name, leaf in (
    (f"{place}norm.weight", params["backbone"]["norm"]["scale"]),
    (f"{place}patch_embed.register_tokens", params["backbone"]["patch_embed"]["register_tokens"]),
  ):
    np.testing.assert_array_equal(leaf, differences[name] + original[name])
  np.testing.assert_array_equal(params["q"]["embedding"], differences["network.q.weight"])
  done = run("--to=eomt", f"--base={base}", f"--source={weights}", f"--output={tmp_path}/o")
  assert done.returncode == 1
  assert f"--base={base} is for a published file; --to=eomt reads none" in done.stderr
