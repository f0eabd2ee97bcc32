"""MHP-v2-LT: 59 classes, 6,931 training and 5,000 validation images.

Paper     "Frequency-based Matcher for Long-tailed Semantic Segmentation" (IEEE TMM 2024),
          with Mask2Former (CVPR 2022); the release's recipe maskformer2_R50_bs16_52k.
Command   python main.py --config=configs/mhp_v2_lt.py --config.init.checkpoint=DIR
Hardware  not run here; the batch of 16 crops of 512 px wants one large accelerator or several.
Time      not run here.
Expected  mIoU 32.3 (rare, common, frequent by image: 8.8 10.4 46.8; by pixel: 13.8 10.6 45.4),
          in the release, from ImageNet weights.
Status    not run: the images are licensed and have to be brought by the user.

`mhp_v2_lt.py:model=deeplabv3plus` is the release's recipe deeplabv3p_R50_bs16_52k, for which no
number is at hand. There, and for this data set only, the release inherits a warm-up of
1,000 updates by accident, which this config lacks; `--config.optimizer.warmup_steps=1000` brings it
back.

Every published recipe starts from ImageNet weights: `--config.init.checkpoint=DIR`, a directory
that `python -m ltss_jax.convert` made of them. Without it the backbone starts from random ones.

The release has no recipe for other backbones here; the variants change the network alone.

`model=eomt` is EoMT (CVPR 2025) with DINOv2-L, or as `backbone=` says, for as many passes as its
release makes over ADE20K; nobody has published a number here (docs/eomt.md).

`method=` takes rfs, copy_paste, seesaw, frequency_matcher and combinations (`method=rfs+seesaw`).
Each alone is a recipe of the release for Mask2Former R50, with t = 0.0012 for rfs and 0.0024
for frequency_matcher.
"""

import ml_collections

from configs import common


def _mask2former(config: ml_collections.ConfigDict) -> None:
  config.eval.every_steps = 5_000


def get_config(variants: str = "") -> ml_collections.ConfigDict:
  """Returns the config; variants as in `common.VARIANTS`."""
  config = common.get_config()
  config.data.name = "mhp_v2_lt"
  config.data.max_size = 1333
  config.train.steps = 52_000
  config.eval.max_size = 1333
  recipes = {"model": {"eomt": common.passes(6_931), "mask2former": _mask2former}}
  return common.apply_variants(config, variants, recipes=recipes)
