"""COCO-Stuff: 171 classes, 118,287 training and 5,000 validation images.

Paper     "Frequency-based Matcher for Long-tailed Semantic Segmentation" (IEEE TMM 2024),
          with DeepLabV3+ (ECCV 2018); the release's recipe deeplabv3p_R50_bs16_900k.
Command   python main.py --config=configs/coco_stuff.py
Hardware  not run here; the batch of 16 crops of 512 px wants one large accelerator or several.
Time      not run here.
Expected  no DeepLabV3+ number at hand; the release's Mask2Former R50 has mIoU 46.5.
Status    not run: the images are licensed and have to be brought by the user.

The backbone starts from random weights; the release starts from ImageNet weights.
"""

import ml_collections

from configs import common


def get_config(variants: str = "") -> ml_collections.ConfigDict:
  """Returns the config; variants as in `common.VARIANTS`."""
  config = common.get_config()
  config.data.name = "coco_stuff"
  config.data.max_size = 1333
  config.train.steps = 900_000
  config.eval.max_size = 1333
  return common.apply_variants(config, variants)
