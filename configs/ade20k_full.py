"""ADE20K-Full: 847 classes, 25,574 training and 2,000 validation images.

Paper     "Frequency-based Matcher for Long-tailed Semantic Segmentation" (IEEE TMM 2024),
          with Mask2Former (CVPR 2022); the release's recipe maskformer2_R50_bs16_200k.
Command   python main.py --config=configs/ade20k_full.py --config.init.checkpoint=DIR
Hardware  not run here; the batch of 16 crops of 512 px wants one large accelerator or several.
Time      not run here.
Expected  mIoU 18.8 (rare, common, frequent by image: 4.8 13.4 25.1; by pixel: 3.5 6.2 28.1),
          in the release, from ImageNet weights.
Status    not run: the images are licensed and have to be brought by the user.

`ade20k_full.py:model=deeplabv3plus` is the release's recipe deeplabv3p_R50_bs16_200k, for
which no number is at hand.

Every published recipe starts from ImageNet weights: `--config.init.checkpoint=DIR`, a directory
that `python -m ltss_jax.convert` made of them. Without it the backbone starts from random ones.

`backbone=swin_l` is the release's recipe maskformer2_SwinL_bs16_200k: crops of 640 px, test images
of 640 px. (Its second one, bs8_400k: `--config.batch_size=8 --config.train.steps=400000
--config.optimizer.learning_rate=5e-5 --config.eval.every_steps=20000`.) For other backbones it has
none; those variants change the network alone.

The prepared images and labels have a shorter side of at most 512 px; scores are taken at that
size.

`model=eomt` is EoMT (CVPR 2025) with DINOv2-L, or as `backbone=` says, for as many passes as its
release makes over ADE20K; nobody has published a number here (docs/eomt.md).

`method=` takes rfs, copy_paste, seesaw, frequency_matcher and combinations (`method=rfs+seesaw`).
Each alone is a recipe of the release for Mask2Former R50, with t = 0.0003 for rfs and
frequency_matcher; copy_paste and frequency_matcher are for Swin-L too.
"""

import ml_collections

from configs import common


def _swin_l(config: ml_collections.ConfigDict) -> None:
  common.crops_of_640(config)
  config.eval.every_steps = 5_000


def get_config(variants: str = "") -> ml_collections.ConfigDict:
  """Returns the config; variants as in `common.VARIANTS`."""
  config = common.get_config()
  config.data.name = "ade20k_full"
  config.train.steps = 200_000
  recipes = {"model": {"eomt": common.passes(25_574)}, "backbone": {"swin_l": _swin_l}}
  return common.apply_variants(config, variants, recipes=recipes)
