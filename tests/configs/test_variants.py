"""How variants are written on the command line, and what they may overwrite."""

import pytest

from configs import coco_stuff_lt, common, shapes_lt


def test_variant_values_are_the_valid_field_values():
  assert tuple(common.VARIANTS["model"]) == common.CHOICES["model.name"]
  smallest = (
    "swin_mini",
    "vit_mini",
    "dinov2_mini",
    "dinov3_mini",
  )  # for tests; they have no variant
  assert (*common.VARIANTS["backbone"], *smallest) == common.CHOICES["model.backbone"]


def test_variant_overwrites_only_what_differs():
  default = shapes_lt.get_config("model=deeplabv3plus").to_dict()
  chosen = shapes_lt.get_config("model=deeplabv3plus,backbone=resnet101").to_dict()
  assert default["model"]["backbone"] == "resnet_small"
  assert chosen["model"]["aspp_channels"] == 256
  default["loss"]["num_points"] = chosen["loss"]["num_points"]  # of the small Mask2Former
  for group in default.keys() - {"model"}:
    assert chosen[group] == default[group]


def test_variants_may_come_in_any_order_and_with_spaces():
  expected = {"model": "deeplabv3plus", "backbone": "resnet101"}
  assert common.parse_variants("backbone=resnet101, model=deeplabv3plus,") == expected
  assert common.parse_variants("method=rfs + seesaw") == {"method": "rfs+seesaw"}
  assert common.parse_variants("") == {}


@pytest.mark.parametrize(
  ("variants", "message"),
  [
    (
      "modle=deeplabv3plus",
      "unknown variant key 'modle' in 'modle=deeplabv3plus'; nearest valid: 'model';"
      " valid: model, backbone, method",
    ),
    (
      "backbone=resnet5",
      "unknown value 'resnet5' of variant 'backbone'; nearest valid: 'resnet50';"
      " valid: resnet50, resnet101, swin_t, swin_s, swin_b, swin_l, vit_b, resnet_small,"
      " dinov2_s, dinov2_b, dinov2_l, dinov2_g, dinov3_s, dinov3_b, dinov3_l, vit_small",
    ),
    (
      "resnet101",
      "variant 'resnet101' is not of the form key=value; nearest valid: 'backbone=resnet101'",
    ),
    (
      "backbone",
      "variant 'backbone' is not of the form key=value; nearest valid: 'backbone';"
      " valid: model, backbone, method",
    ),
    (
      "rfs+seesaw",
      "variant 'rfs+seesaw' is not of the form key=value; nearest valid: 'method=rfs+seesaw'",
    ),
    (
      "method=rfs+copypaste",
      "unknown value 'copypaste' of variant 'method=rfs+copypaste'; nearest valid: 'copy_paste';"
      " valid: baseline, rfs, copy_paste, seesaw, frequency_matcher",
    ),
    (
      "method=seesow",
      "unknown value 'seesow' of variant 'method'; nearest valid: 'seesaw';"
      " valid: baseline, rfs, copy_paste, seesaw, frequency_matcher",
    ),
    ("method=rfs+seesaw+rfs", "variant 'method=rfs+seesaw+rfs' names 'rfs' twice; name it once"),
    (
      "method=rfs+baseline+seesaw",
      "variant 'method=rfs+baseline+seesaw': 'baseline' is none of the others and does not combine;"
      " nearest valid: 'method=rfs+seesaw'",
    ),
    (
      "method=rfs,method=seesaw",
      "variant 'method' is given twice: 'rfs' and 'seesaw'; give it once, with + between several",
    ),
    (
      "model=mask2former+deeplabv3plus",
      "unknown value 'mask2former+deeplabv3plus' of variant 'model'; nearest valid:"
      " 'deeplabv3plus';"
      " valid: mask2former, deeplabv3plus, eomt",
    ),
    (
      "backbone=resnet50,backbone=resnet101",
      "variant 'backbone' is given twice: 'resnet50' and 'resnet101'; give it once",
    ),
  ],
)
def test_wrong_variant_names_the_nearest_valid_one(variants, message):
  with pytest.raises(ValueError) as raised:
    coco_stuff_lt.get_config(variants)
  assert str(raised.value) == message
