"""Which weights of a file are taken, and what is said about the others."""

import logging
import pickle

import numpy as np
import pytest

from ltss_jax.weights import pickles, readers

RESNET = ("conv1.weight", "layer1.0.conv1.weight", "fc.bias")
MODEL = (
  "backbone.stem.conv1.weight",
  "backbone.res2.0.conv1.weight",
  "sem_seg_head.predictor.bias",
)
HUGGING_FACE = (
  "model.pixel_level_module.encoder._backbone.conv1.weight",
  "model.pixel_level_module.encoder._backbone.layer1.0.conv1.weight",
  "class_predictor.bias",
)
EOMT = (
  "network.encoder.backbone.cls_token",
  "network.encoder.backbone.pos_embed",
  "network.encoder.backbone.blocks.0.attn.qkv.weight",
  "network.encoder.backbone.blocks.0.ls1.gamma",
  "network.class_head.bias",
  "network.upscale.0.conv1.weight",
  "criterion.empty_weight",
)
EOMT_OF_HUGGING_FACE = (
  "embeddings.register_tokens",
  "layers.0.layer_scale1.lambda1",
  "class_predictor.bias",
  "upscale_block.block.0.conv1.weight",
)
WHOLE = [MODEL, HUGGING_FACE, EOMT, EOMT_OF_HUGGING_FACE]
UNKNOWN = ("weight", "bias")


def weights(names, value, prefix=""):
  return {prefix + name: np.full(2, value, np.float32) for name in names}


def read(tmp_path, content, wanted=""):
  path = tmp_path / "file.pth"
  path.write_bytes(pickle.dumps(content))
  return readers.read_arrays(path, wanted)


def assert_taken(read, names, value):
  assert sorted(read) == sorted(names)
  assert {float(x) for array in read.values() for x in array} == {value}


def remarks(caplog):
  return [record.getMessage() for record in caplog.records]


@pytest.fixture(autouse=True)
def info(caplog):
  caplog.set_level(logging.INFO, "absl")


@pytest.mark.parametrize("names", [RESNET, *WHOLE, UNKNOWN])
@pytest.mark.parametrize("keys", [(), ("model",), ("state_dict",), ("checkpoint", "model_state")])
def test_one_set_is_taken_without_a_word(tmp_path, caplog, names, keys):
  content = weights(names, 1)
  for key in reversed(keys):
    content = {key: content, "epoch": 3}
  content["optimizer"] = {"state": {0: weights(names, 7)}, "exp_avg": weights(names, 8)}
  content["scaler"] = {"scale": np.float32([8])}
  assert_taken(read(tmp_path, content), names, 1)
  assert remarks(caplog) == []


AVERAGES = [
  "model_ema",
  "state_dict_ema",
  "ema_state_dict",
  "ema",
  "EMA",
  "swa_model",
  "modelTeacher",
]


@pytest.mark.parametrize("key", AVERAGES)
@pytest.mark.parametrize("names", [MODEL, EOMT, UNKNOWN])
def test_beside_an_average_the_trained_weights_are_taken_and_both_named(
  tmp_path, caplog, key, names
):
  content = {key: weights(names, 2), "model": weights(names, 1)}
  assert_taken(read(tmp_path, content), names, 1)
  assert remarks(caplog) == [
    f"file.pth: taking the weights model; others there, for --weights=NAME: {key}"
  ]
  assert_taken(read(tmp_path, content, key), names, 2)
  assert f"taking the weights {key}; others there, for --weights=NAME: model" in caplog.text


@pytest.mark.parametrize("key", AVERAGES)
def test_an_average_alone_is_taken(tmp_path, caplog, key):
  content = {key: weights(MODEL, 2), "optimizer": {"state": {}}}
  assert_taken(read(tmp_path, content), MODEL, 2)
  assert remarks(caplog) == []


@pytest.mark.parametrize(
  "prefix",
  ["module.", "model.", "network.", "_orig_mod.", "module._orig_mod.", "encoder.", "a.b.c."],
)
@pytest.mark.parametrize("names", [RESNET, *WHOLE])
def test_a_common_prefix_is_taken_off(tmp_path, caplog, prefix, names):
  content = {"state_dict": weights(names, 1, prefix)}
  assert_taken(read(tmp_path, content), names, 1)
  assert remarks(caplog) == [f"file.pth: the names are taken without their prefix {prefix}"]


def test_a_checkpoint_of_lightning(tmp_path, caplog):
  names = [name.replace("backbone.", "backbone._orig_mod.") for name in EOMT]
  content = {
    "state_dict": weights(names, 1),
    "pytorch-lightning_version": "2.5",
    "optimizer_states": [{"state": {0: {"exp_avg": np.ones(2)}}, "param_groups": []}],
    "callbacks": {"ModelCheckpoint{}": {"best_model_score": np.float32([8])}},
    "hyper_parameters": {"lr": 1e-4},
    "loops": {"fit_loop": {"state_dict": {}}},
  }
  assert_taken(read(tmp_path, content), names, 1)
  assert remarks(caplog) == []


def test_the_count_of_an_averaged_model_has_no_prefix(tmp_path, caplog):
  content = {"n_averaged": np.array(9)} | weights(MODEL, 1, "module.")
  assert_taken(read(tmp_path, content), MODEL, 1)
  assert remarks(caplog)[1] == ("file.pth: 1 names beside module. are left out, such as n_averaged")


def test_mmengine_saves_an_average_the_other_way_round(tmp_path, caplog):
  trained = weights(RESNET, 1, "module.backbone.") | {"steps": np.array(9)}
  content = {"state_dict": weights(RESNET, 2, "backbone."), "ema_state_dict": trained}
  assert_taken(read(tmp_path, content), RESNET, 2)
  assert remarks(caplog)[:2] == [
    "file.pth: taking the weights state_dict.backbone; others there, for --weights=NAME:"
    " ema_state_dict.module.backbone",
    "file.pth: MMEngine's EMAHook saves the average as state_dict, the trained as ema_state_dict",
  ]
  assert_taken(read(tmp_path, content, "ema_state_dict"), RESNET, 1)


def test_of_two_encoders_the_query_encoder_is_taken(tmp_path, caplog):
  content = {"module.queue": np.ones((1, 2), np.float32)}
  content |= weights(RESNET, 1, "module.encoder_q.") | weights(RESNET, 2, "module.encoder_k.")
  assert_taken(read(tmp_path, {"state_dict": content}), RESNET, 1)
  assert remarks(caplog) == [
    "file.pth: taking the weights state_dict.module.encoder_q; others there, for --weights=NAME:"
    " state_dict.module.encoder_k",
    "file.pth: the names are taken without their prefix module.encoder_q.",
    "file.pth: 1 names beside module.encoder_q. are left out, such as module.queue",
  ]
  assert_taken(read(tmp_path, {"state_dict": content}, "encoder_k"), RESNET, 2)


@pytest.mark.parametrize(
  "content",
  [
    {
      "student": weights(RESNET, 1, "module.backbone."),
      "teacher": weights(RESNET, 2, "backbone."),
    },
    {"model": weights(RESNET, 1, "student.") | weights(RESNET, 2, "teacher.")},
    {"state_dict": weights(MODEL, 1, "student.") | weights(MODEL, 2, "teacher.")},
  ],
)
def test_teacher_and_student_have_to_be_chosen(tmp_path, content):
  names = RESNET if "model" in content or "student" in content else MODEL
  message = r"file.pth: it holds 2 sets of weights: .*student.*, .*teacher.*; say which with --wei"
  with pytest.raises(ValueError, match=message):
    read(tmp_path, content)
  assert_taken(read(tmp_path, content, "student"), names, 1)
  assert_taken(read(tmp_path, content, "teacher"), names, 2)


def test_a_model_is_taken_before_its_teacher(tmp_path):
  content = weights(MODEL, 1) | weights(RESNET, 2, "teacher.")
  assert_taken(read(tmp_path, content), MODEL, 1)
  assert_taken(read(tmp_path, content, "teacher"), RESNET, 2)


@pytest.mark.parametrize(
  ("wanted", "message"),
  [
    ("none", "--weights=none names 0 of its sets of weights; there are: model, model_ema$"),
    ("mode", "--weights=mode names 0 of"),
    ("ema", "--weights=ema names 0 of"),
  ],
)
def test_a_set_that_is_not_there(tmp_path, wanted, message):
  content = {"model": weights(MODEL, 1), "model_ema": weights(MODEL, 2)}
  with pytest.raises(ValueError, match=message):
    read(tmp_path, content, wanted)


def test_a_part_of_two_names_chooses_neither(tmp_path):
  content = {"a": weights(MODEL, 1, "net."), "b": weights(MODEL, 2, "net.")}
  with pytest.raises(ValueError, match="--weights=net names 2 of .*; there are: a.net, b.net"):
    read(tmp_path, content, "net")
  with pytest.raises(ValueError, match="it holds 2 sets of weights: a.net, b.net; say which"):
    read(tmp_path, content)


def test_only_the_chosen_arrays_are_made(tmp_path):
  content = {"model": weights(MODEL, 1), "model_ema": {"sem_seg_head.x": np.array(["text"])}}
  assert_taken(read(tmp_path, content), MODEL, 1)
  with pytest.raises(ValueError, match="file.pth cannot be read, .* arrays of dtype"):
    read(tmp_path, content, "model_ema")


def test_a_mapping_within_itself_ends(tmp_path):
  content = {"model": weights(MODEL, 1)}
  content["again"] = content["model"]["self"] = content
  assert_taken(read(tmp_path, content), MODEL, 1)


def test_arrays_of_an_old_torch_file_are_read_where_they_are_chosen(tmp_path):
  start = [pickle.dumps(part, 2) for part in (pickles.LEGACY_MAGIC, 1001, {})]
  content = {"model": weights(MODEL, 1), "model_ema": weights(MODEL, 2)}
  path = tmp_path / "old.pth"
  path.write_bytes(b"".join(start) + pickle.dumps(content, 2) + pickle.dumps([], 2))
  assert_taken(readers.read_arrays(path, "model_ema"), MODEL, 2)
