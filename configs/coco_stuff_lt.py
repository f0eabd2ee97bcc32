"""COCO-Stuff-LT: 171 classes, 40,679 training and 5,000 validation images.

Paper     "Frequency-based Matcher for Long-tailed Semantic Segmentation" (IEEE TMM 2024),
          with Mask2Former (CVPR 2022); the release's recipe maskformer2_R50_bs16_320k.
Command   python main.py --config=configs/coco_stuff_lt.py --config.init.checkpoint=DIR
Hardware  not run here; the batch of 16 crops of 512 px wants one large accelerator or several.
Time      not run here.
Expected  mIoU 32.6 (rare, common, frequent by image: 13.9 24.5 41.4; by pixel: 13.5 20.7 42.7),
          in the release, from ImageNet weights.
Status    not run: the images are licensed and have to be brought by the user.

`coco_stuff_lt.py:model=deeplabv3plus` is the release's recipe deeplabv3p_R50_bs16_320k, for
which no number is at hand.

Every published recipe starts from ImageNet weights: `--config.init.checkpoint=DIR`, a directory
that `python -m ltss_jax.convert` made of them. Without it the backbone starts from random ones.

The release has no recipe for other backbones here; the variants change the network alone.

`model=eomt` is EoMT (CVPR 2025) with DINOv2-L, or as `backbone=` says, for as many passes as its
release makes over ADE20K; nobody has published a number here (docs/eomt.md).

`method=` takes rfs, copy_paste, seesaw, frequency_matcher and combinations (`method=rfs+seesaw`).
Each alone is a recipe of the release for Mask2Former R50, with t = 0.0012 for rfs and
frequency_matcher.
"""

import ml_collections

from configs import common


def get_config(variants: str = "") -> ml_collections.ConfigDict:
  """Returns the config; variants as in `common.VARIANTS`."""
  config = common.get_config()
  config.data.name = "coco_stuff_lt"
  config.data.max_size = 1333
  config.train.steps = 320_000
  config.eval.max_size = 1333
  recipes = {"model": {"eomt": common.passes(40_679)}}
  return common.apply_variants(config, variants, recipes=recipes)
