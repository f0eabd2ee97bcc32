"""Converting checkpoints, as functions and as its users run it."""

import pickle

import jax
import numpy as np
import pytest

from configs import ade20k, coco_stuff_lt, folder, shapes_lt
from ltss_jax import checkpoint, convert
from ltss_jax.weights import official, readers, trees
from tests import programs
from tests.golden import official_parameters

SMALL = {
  "backbone_norm": "frozen_batch_norm",
  "channels": 32,
  "num_queries": 3,
  "encoder_layers": 1,
  "decoder_layers": 1,
  "num_heads": 4,
  "encoder_width": 8,
  "decoder_width": 8,
}


def small(get_config=shapes_lt.get_config, backbone="resnet_small", **fields):
  config = get_config()
  config.model.name = "mask2former"
  config.model.update(SMALL | {"backbone": backbone} | fields)
  return config


def random_weights(config, num_classes, seed=0):
  """(params, stats) of a config's model with random numbers."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32),
    convert.abstract_weights(config, num_classes),
  )


def official_file(path, config, num_classes, **changes):
  """A checkpoint of a config's model; a change of None removes a name."""
  arrays = official.to_official(config.model.name, *random_weights(config, num_classes)) | changes
  readers.write_pickle(path, {name: a for name, a in arrays.items() if a is not None})
  return path


def test_official_files_become_a_directory_and_official_files_again(tmp_path):
  config = small(backbone_norm="batch_norm", class_head="seesaw")
  source = official_file(tmp_path / "model.pkl", config, 7)
  done = convert.convert(config, source, tmp_path / "weights")
  assert done.missing == done.dropped == done.changed == []
  params, stats, info = checkpoint.load_weights(tmp_path / "weights")
  expected = random_weights(config, 7)
  jax.tree.map(np.testing.assert_array_equal, (params, stats), expected)
  assert info["num_classes"] == 7
  assert info["contents"] == "model"
  assert info["source"] == "model.pkl"
  assert info["model"]["class_head"] == "seesaw"
  convert.export(config, tmp_path / "weights", tmp_path / "back.pkl")
  assert (tmp_path / "back.pkl").read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
  ("root", "lines", "expected"),
  [
    ("photos", 7, [f"class {i}" for i in range(7)]),
    ("~/photos", 7, [f"class {i}" for i in range(7)]),
    ("photos", 5, None),  # other classes than the file's
    ("any text", 7, None),
  ],
)
def test_a_folder_names_the_classes_where_it_is_there(tmp_path, monkeypatch, root, lines, expected):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "photos").mkdir()
  (tmp_path / "photos" / "classes.txt").write_text("\n".join(f"class {i}" for i in range(lines)))
  config = small(folder.get_config)
  config.data.root = root if root.startswith("~") else str(tmp_path / root)
  convert.convert(config, official_file(tmp_path / "m.pkl", config, 7), tmp_path / "weights")
  assert checkpoint.read_info(tmp_path / "weights").get("classes") == expected


def test_a_deeplab_of_a_published_data_set(tmp_path):
  config = small(coco_stuff_lt.get_config, name="deeplabv3plus", aspp_channels=8)
  config.data.crop_size = 640
  source = official_file(tmp_path / "model.pkl", config, 171)
  done = convert.convert(config, source, tmp_path / "weights")
  assert done.converted > 100
  _, _, info = checkpoint.load_weights(tmp_path / "weights")
  assert (info["num_classes"], info["data"], info["crop_size"]) == (171, "coco_stuff_lt", 640)
  assert info["classes"][:2] == ["person", "bicycle"] and len(info["classes"]) == 171


@pytest.mark.parametrize(
  ("get_config", "fields", "message"),
  [
    (
      ade20k.get_config,
      {},
      "class head is for 171 classes, the data set ade20k has 150; choose the config",
    ),
    (coco_stuff_lt.get_config, {"backbone": "swin_mini"}, "the variant backbone=resnet_small"),
    (coco_stuff_lt.get_config, {"name": "deeplabv3plus"}, "the variant model=mask2former"),
    (coco_stuff_lt.get_config, {"class_head": "seesaw"}, "--config.model.class_head=softmax"),
    (coco_stuff_lt.get_config, {"num_queries": 5}, r"the checkpoint has \(3, 32\), the model \(5,"),
  ],
)
def test_a_config_that_does_not_fit_is_told_so(tmp_path, get_config, fields, message):
  source = official_file(tmp_path / "model.pkl", small(coco_stuff_lt.get_config), 171)
  with pytest.raises(ValueError, match=rf"model.pkl: (.|\n)*{message}"):
    convert.convert(small(get_config, **fields), source, tmp_path / "weights")
  assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"sem_seg_head.predictor.query_feat.weight": np.zeros((4, 32), np.float32)},
      "! sem_seg_head.predictor.query_feat.weight: the checkpoint has (4, 32), the model (3, 32)"
      " (our layout)",
    ),
    (
      {"sem_seg_head.predictor.query_feat.weight": None},
      "- sem_seg_head.predictor.query_feat.weight (3, 32): missing in the checkpoint",
    ),
    ({"extra": np.zeros(2, np.float32)}, "+ extra (2,): not part of the model"),
  ],
)
def test_one_wrong_array_is_one_line(tmp_path, changes, message):
  source = official_file(tmp_path / "model.pkl", small(), 7, **changes)
  with pytest.raises(ValueError) as error:
    convert.convert(small(), source, tmp_path / "weights")
  first = f"{source}: the weights do not fit this mask2former:"
  assert str(error.value).splitlines() == [first, message]


def test_a_backbone_alone_for_either_model(tmp_path):
  config = small()
  whole = official.to_official("mask2former", *random_weights(config, 7))
  backbone = {k.removeprefix("backbone."): v for k, v in whole.items() if k.startswith("backbone.")}
  readers.write_pickle(tmp_path / "R.pkl", backbone | {"stem.fc.bias": np.zeros(5)})
  for name in ("mask2former", "deeplabv3plus"):
    config.model.name = name
    config.model.backbone_norm = "batch_norm" if name == "deeplabv3plus" else "frozen_batch_norm"
    done = convert.convert(config, tmp_path / "R.pkl", tmp_path / name)
    assert done.dropped == ["stem.fc.bias"]
    params, stats, info = checkpoint.load_weights(tmp_path / name)
    assert set(params) == set(stats) == {"backbone"}
    assert info["contents"] == "backbone"
    leaves = trees.flatten(params) | trees.flatten(stats)
    assert len(leaves) == len(backbone)
    np.testing.assert_array_equal(
      leaves["backbone/stem/norm/var"], backbone["stem.conv1.norm.running_var"]
    )


def test_a_training_run_is_exported(tmp_path):
  config = small()
  params, stats = random_weights(config, 7)
  with checkpoint.Checkpoints(tmp_path / "run" / "checkpoints", keep=2) as run:
    for step, scale in ((3, 1), (5, 2)):
      state = {"params": jax.tree.map(lambda x, s=scale: s * x, params), "stats": stats}
      run.save(step, state | {"step": np.array(step)}, {"position": 0})
  config.eval.step = 3
  convert.export(config, tmp_path / "run", tmp_path / "3.pkl")
  config.eval.step = 0
  convert.export(config, tmp_path / "run", tmp_path / "latest.pkl")
  arrays, latest = (readers.read_arrays(tmp_path / f"{n}.pkl") for n in ("3", "latest"))
  expected = official.to_official("mask2former", params, stats)
  assert set(arrays) == set(expected)
  name = "sem_seg_head.predictor.class_embed.weight"
  np.testing.assert_array_equal(arrays[name], expected[name])
  np.testing.assert_array_equal(latest[name], 2 * expected[name])
  config.eval.step = 4
  with pytest.raises(
    checkpoint.CheckpointError, match=r"no checkpoint of step 4; there are: \[3, 5\]"
  ):
    convert.export(config, tmp_path / "run", tmp_path / "4.pkl")


def test_what_only_training_uses_is_in_no_official_file(tmp_path):
  source = official_file(tmp_path / "model.pkl", small(), 7)
  config = small(pixel_head=True)
  convert.convert(config, source, tmp_path / "weights")
  params, stats, _ = checkpoint.load_weights(tmp_path / "weights")
  assert "pixel_head" not in params
  params |= {"pixel_head": {"classifier": {"bias": np.ones(7, np.float32)}}}
  with checkpoint.Checkpoints(tmp_path / "run" / "checkpoints", keep=1) as run:
    state = {"params": params, "stats": stats, "step": np.array(1)}
    run.save(1, state, {"position": 0})
  convert.export(config, tmp_path / "run", tmp_path / "back.pkl")
  assert (tmp_path / "back.pkl").read_bytes() == source.read_bytes()


def test_pixel_counts_of_a_deeplab_are_not_exported(tmp_path):
  config = small(coco_stuff_lt.get_config, name="deeplabv3plus", aspp_channels=8)
  params, stats = random_weights(config, 171)
  expected = official.to_official("deeplabv3plus", params, stats)
  stats["seesaw_counts"] = np.ones(171, np.float32)
  with checkpoint.Checkpoints(tmp_path / "run" / "checkpoints", keep=1) as run:
    run.save(1, {"params": params, "stats": stats, "step": np.array(1)}, {"position": 0})
  convert.export(config, tmp_path / "run", tmp_path / "back.pkl")
  assert set(readers.read_arrays(tmp_path / "back.pkl")) == set(expected)


def test_exporting_with_another_config_is_an_error(tmp_path):
  source = official_file(tmp_path / "model.pkl", small(), 7)
  convert.convert(small(), source, tmp_path / "weights")
  with pytest.raises(ValueError, match=r"weights holds other weights .* \d+ names differ"):
    convert.export(small(backbone="swin_mini"), tmp_path / "weights", tmp_path / "out.pkl")
  with pytest.raises(ValueError, match="out.npz is no .pkl file"):
    convert.export(small(), tmp_path / "weights", tmp_path / "out.npz")
  with pytest.raises(ValueError, match="model.pkl exists already"):
    convert.export(small(), tmp_path / "weights", source)
  with pytest.raises(ValueError, match="weights exists already"):
    convert.convert(small(), source, tmp_path / "weights")


def test_weights_that_are_not_finite_go_neither_in_nor_out(tmp_path):
  bad = {"backbone.stem.conv1.norm.running_var": np.full(32, np.nan, np.float32)}
  source = official_file(tmp_path / "model.pkl", small(), 7, **bad)
  with pytest.raises(ValueError, match=r"model.pkl: 1 of the \d+ arrays .* NaN.*running_var\. "):
    convert.convert(small(), source, tmp_path / "weights")
  assert not (tmp_path / "weights").exists()
  params, stats = random_weights(small(), 7)
  params["pixel_decoder"]["level_embed"][1, 2] = np.inf
  checkpoint.save_weights(tmp_path / "ours", params, stats, {})
  with pytest.raises(ValueError, match=r"ours hold NaN or infinity: pixel_decoder/level_embed\. "):
    convert.export(small(), tmp_path / "ours", tmp_path / "back.pkl")
  assert not (tmp_path / "back.pkl").exists()


def run(config, *arguments):
  return programs.run("-m", "ltss_jax.convert", f"--config={config}", *arguments)


def published_state():
  return official_parameters.official_state("mask2former_r50_171_names.json")


def small_state():
  config = small(coco_stuff_lt.get_config)
  return official.to_official("mask2former", *random_weights(config, 171))


@pytest.mark.parametrize(
  ("state", "fields"),
  [
    pytest.param(published_state, {}, marks=pytest.mark.slow),
    (small_state, SMALL | {"backbone": "resnet_small"}),
  ],
)
def test_a_checkpoint_through_the_command_line_and_back_is_bit_exact(tmp_path, state, fields):
  state = state()
  with (tmp_path / "model.pkl").open("wb") as file:
    pickle.dump({"model": state, "__author__": "x"}, file, protocol=4)
  arguments = ["configs/coco_stuff_lt.py"]
  arguments += [f"--config.model.{field}={value}" for field, value in fields.items()]
  weights, back = tmp_path / "weights", tmp_path / "back.pkl"
  done = run(*arguments, f"--source={tmp_path / 'model.pkl'}", f"--output={weights}")
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout.splitlines() == [
    f"{len(state) - 1} names converted, 1 regenerated",
    f"The weights are in {weights}",
  ]
  done = run(*arguments, "--to=detectron2", f"--source={weights}", f"--output={back}")
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout == f"{len(state)} names written to {back}\n"
  content = pickle.loads(back.read_bytes())["model"]
  assert set(content) == set(state)
  for name, array in state.items():
    np.testing.assert_array_equal(content[name], array, err_msg=name, strict=True)


def test_the_command_line_ends_a_refusal_in_one_message(tmp_path):
  source = tmp_path / "hostile.pkl"
  source.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
  done = run("configs/coco_stuff_lt.py", f"--source={source}", f"--output={tmp_path / 'out'}")
  assert done.returncode == 1
  assert done.stdout == ""
  assert done.stderr.startswith(f"Error: {source} is refused: it asks for os.system;")
  assert len(done.stderr.splitlines()) == 1


def test_the_set_that_is_asked_for_is_converted(tmp_path):
  trained, average = (
    official.to_official("mask2former", *random_weights(small(), 7, seed)) for seed in (0, 1)
  )
  source = tmp_path / "model.pth"
  source.write_bytes(pickle.dumps({"model": trained, "model_ema": average}))
  convert.convert(small(), source, tmp_path / "average", "model_ema")
  params, _, _ = checkpoint.load_weights(tmp_path / "average")
  expected, _ = random_weights(small(), 7, seed=1)
  jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--weights=swa"], "--weights=swa names 0 of its sets of weights; there are: a, b\n"),
    (
      ["--weights=a", "--to=detectron2"],
      "Error: --weights=a is for a published file; --to=det",
    ),
  ],
)
def test_weights_that_the_flag_cannot_choose(tmp_path, arguments, message):
  source = tmp_path / "model.pth"
  source.write_bytes(pickle.dumps({key: {"x.bias": np.ones(2)} for key in "ab"}))
  arguments += [f"--source={source}", f"--output={tmp_path / 'out.pkl'}"]
  done = run("configs/coco_stuff_lt.py", *arguments)
  assert (done.returncode, done.stdout) == (1, "")
  assert message in done.stderr
  assert len(done.stderr.splitlines()) == 1
