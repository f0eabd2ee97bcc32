"""MHP-v2-LT: 59 classes, 6,931 training and 5,000 validation images.

Paper     "Frequency-based Matcher for Long-tailed Semantic Segmentation" (IEEE TMM 2024),
          with DeepLabV3+ (ECCV 2018); the release's recipe deeplabv3p_R50_bs16_52k.
Command   python main.py --config=configs/mhp_v2_lt.py
Hardware  not run here; the batch of 16 crops of 512 px wants one large accelerator or several.
Time      not run here.
Expected  no DeepLabV3+ number at hand; the release's Mask2Former R50 has mIoU 32.3 (rare, common,
          frequent by image: 8.8 10.4 46.8; by pixel: 13.8 10.6 45.4).
Status    not run: the images are licensed and have to be brought by the user.

The release's recipe for this one data set inherits a warm-up of 1,000 updates, by accident; all of
its others have none, nor has this config. `--config.optimizer.warmup_steps=1000` brings it back.

The backbone starts from random weights; the release starts from ImageNet weights.
"""

import ml_collections

from configs import common


def get_config(variants: str = "") -> ml_collections.ConfigDict:
  """Returns the config; variants as in `common.VARIANTS`."""
  config = common.get_config()
  config.data.name = "mhp_v2_lt"
  config.data.max_size = 1333
  config.train.steps = 52_000
  config.eval.max_size = 1333
  return common.apply_variants(config, variants)
