"""Every field once: its default, its valid values and its unit; what the config files share.

The defaults are the Mask2Former recipe that the public release of "Frequency-based Matcher for
Long-tailed Semantic Segmentation" (IEEE TMM 2024) uses for all of its data sets: AdamW, learning
rate 1e-4 (backbone a tenth of it) falling to 0 with (1 - step / steps)^0.9, weight decay 0.05,
gradients clipped to a norm of 0.01, batch 16, crops of 512 x 512, mixed precision, no warm-up. A
config file overwrites only what differs for its data set, a variant (`configs/variants.py`) what
differs for its model or for a method against long tails.
"""

import ml_collections

from configs import validation
from configs.derive import finalize
from configs.fields import (
  COUNT,
  COUNT_OR_0,
  NOT_NEGATIVE,
  POSITIVE,
  PROBABILITY,
  SHARE,
  Field,
  Range,
  check,
  defaults,
  valid_values,
)
from configs.models import MODELS
from configs.variants import (
  SHORT_TRAINING,
  VARIANTS,
  apply_variants,
  crops_of_640,
  parse_variants,
  passes,
)

__all__ = [
  "CHOICES",
  "FIELDS",
  "RANGES",
  "SHORT_TRAINING",
  "VARIANTS",
  "apply_variants",
  "crops_of_640",
  "finalize",
  "get_config",
  "parse_variants",
  "passes",
  "validate",
]

# The smallest crop has one cell at the backbone's stride of 16 to spare on each axis.
_SIDE = Range(32)
_SIDE_OR_0 = Range(32, special=0)
_TEST_BACKBONES = ("swin_mini", "vit_mini", "dinov2_mini", "dinov3_mini")

# A field is its default alone, or a `Field`: the default, then the choices or the range that it is
# of. What depends on other fields, and tuples, are checked in `configs/validation.py`.
FIELDS = {
  "seed": Field(0, Range(0, 2**32 - 1)),  # of initialisation, image order, augmentation and dropout
  "batch_size": Field(16, COUNT),  # images a step, over all devices and processes
  # Folder (local or gs://) of compiled programs, which the next start reads instead of compiling
  # them again; "auto": in the user's cache folder. "": none.
  "compilation_cache": "auto",
  # The data set and its augmentation.
  "data": {
    # Data set; the config file sets it.
    "name": Field(
      "",
      (
        "shapes_lt",
        "folder",
        "coco_stuff_lt",
        "ade20k_full",
        "mhp_v2_lt",
        "coco_stuff",
        "ade20k",
        "mhp_v2",
      ),
    ),
    "dir": "data",  # where prepared data sets lie (a local path or gs://)
    "root": "",  # folder only: the directory with images/, annotations/ and classes.txt
    # folder only: label value of pixels that count for nothing; -1: 255 with up to 255 classes,
    # 65535 with more.
    "ignore_label": Field(-1, Range(0, 2**16 - 1, special=-1)),
    # px, side of a training crop; 0: from the images' median size.
    "crop_size": Field(512, _SIDE_OR_0),
    # px, shorter side at scale factor 1.0; 0: the images' median one.
    "base_size": Field(512, _SIDE_OR_0),
    # Smallest and largest scale factor, of base_size; they are the multiples of 0.1 between them.
    "min_factor": Field(0.5, POSITIVE),
    "max_factor": Field(2.0, POSITIVE),
    "max_size": Field(2048, _SIDE),  # px, limit on the longer side after scaling
    "color_jitter": True,  # brightness, contrast, saturation and hue as in SSD
    # Crops in which one class has this share of the labelled pixels are drawn again; 1.0: none.
    "max_category_share": Field(1.0, Range(0, 1, low_open=True)),
    "flip": True,  # mirror half of the images, with left and right classes swapped
    # True: images decoded, resized and coloured bit by bit as in the release, which takes 30 to
    # 50 % longer at 640 x 480, 7 or 8 % at 1920 x 1080. False: enlarged images are off by 1 at
    # most, JPEGs of three times the wanted size and more by 1 to 3 on average, edges by up to 75.
    "exact_pixels": False,
    # "uniform": each image once an epoch; "repeat_factor": images of rare classes more often, with
    # r = max(1, sqrt(t / frequency)) of a class.
    "sampler": Field("uniform", ("uniform", "repeat_factor")),
    # What the frequency of a class counts: "image": images with it; "pixel": its share of each.
    "repeat_level": Field("image", ("image", "pixel")),
    "repeat_reduce": Field("max", ("max", "mean", "sum")),  # over the classes of an image
    # t, frequency below which classes are repeated; 0: the published one, or where there is none
    # that of the rare/common border.
    "repeat_threshold": Field(0.0, SHARE),
    # Regions of a second image's classes put over the first: "none"; "random": of a random number
    # of classes; "rare": of all of the image-level rare group.
    "copy_paste": Field("none", ("none", "random", "rare")),
    # The following are beyond the release, for "random" and "rare".
    "copy_paste_classes": (),  # train ids of the only classes to paste, as (0, 4); (): all
    "copy_paste_flip": False,  # mirror half of the pasted regions
    "copy_paste_min_scale": Field(1.0, POSITIVE),  # smallest scale factor of a pasted region
    "copy_paste_max_scale": Field(1.0, POSITIVE),  # largest one
    # The second image is drawn by its repeat factor (repeat_* above, whatever the sampler).
    "copy_paste_repeat_factor": False,
    # Processes that read and augment, in each host process; 0: threads instead.
    "num_workers": Field(8, COUNT_OR_0),
    "prefetch": Field(4, COUNT),  # batches made ready ahead of the step
  },
  # The network.
  "model": {
    "name": Field("mask2former", tuple(MODELS)),
    "backbone": Field("resnet50", (*VARIANTS["backbone"], *_TEST_BACKBONES)),
    # "frozen_batch_norm": constants of the pre-trained weights; "batch_norm": trained, statistics
    # over the global batch. ResNets only, the others have layer norms.
    "backbone_norm": Field("frozen_batch_norm", ("frozen_batch_norm", "batch_norm")),
    # Of the computation in training: the backbone and the transformer decoder, or all of
    # deeplabv3plus and eomt. Parameters, statistics, pixel decoder, costs, losses are in float32.
    "dtype": Field("bfloat16", ("float32", "bfloat16")),
    "remat": False,  # compute activations again in the backward pass: less memory, more time
    # Train all but the backbone, which stays as config.init.checkpoint has it: it gets no gradient,
    # no optimizer state, and runs as in inference.
    "freeze_backbone": False,
    # Probability that the backbone's last block is skipped; -1: Swin 0.3, ViT 0.1. ResNets: never.
    "drop_path": Field(-1.0, Range(0, 1, high_open=True, special=-1)),
    # mask2former and eomt only.
    "num_queries": Field(100, COUNT),  # mask and class predictions an image
    "class_head": Field("softmax", ("softmax", "seesaw")),  # "seesaw": separate objectness logits
    "max_targets": Field(64, COUNT),  # classes of one crop that training makes masks of
    # eomt only, the next two.
    "num_blocks": Field(3, COUNT),  # last blocks of the encoder, which carry queries
    # Train the blocks in front of them as one loop: a deep encoder compiles in a fraction of the
    # time, and each step copies its weights once.
    "scan_blocks": False,
    # mask2former only, from here on.
    "channels": Field(256, COUNT),  # width of both decoders
    "encoder_layers": Field(6, COUNT),  # of the pixel decoder
    "decoder_layers": Field(9, COUNT),  # of the transformer decoder
    "num_heads": Field(8, COUNT),  # of every attention in the decoders
    "encoder_width": Field(1024, COUNT),  # of the feed-forward networks in the pixel decoder
    "decoder_width": Field(2048, COUNT),  # of those in the transformer decoder
    # A per-pixel classifier beside the queries that only training uses, for its gradient.
    "pixel_head": False,
    # "auto": "pallas_tpu" on TPUs, "pallas_gpu" on NVIDIA GPUs, "xla" elsewhere, or one by name.
    "deformable_attention": Field("auto", ("auto", "pallas_tpu", "pallas_gpu", "xla", "reference")),
    # deeplabv3plus only, from here on.
    "aspp_channels": Field(256, COUNT),
    "aspp_dilations": (6, 12, 18),  # cells of the stride-16 map
    # Probability that a channel value is dropped in training.
    "aspp_dropout": Field(0.1, PROBABILITY),
    "low_level_channels": Field(48, COUNT),  # that the stride-4 features are projected to
    "decoder_channels": Field(256, COUNT),
    # "global": average over the whole map, any input size. "window": as the release, over windows
    # of crop_size / 16 cells, which is another function for inputs larger than the crop.
    "image_pooling": Field("global", ("global", "window")),
  },
  # The loss and the matching.
  "loss": {
    # deeplabv3plus only: share of the global batch's pixels, those of largest loss, whose mean is
    # the loss.
    "hard_pixel_fraction": Field(0.2, Range(0, 1, low_open=True)),
    # Of the classes, for pixels (deeplabv3plus) or queries (mask2former, eomt); docs/methods.md has
    # the formulas. For queries "seesaw" goes with model.class_head = "seesaw".
    "class_loss": Field(
      "cross_entropy",
      (
        "cross_entropy",
        "seesaw",
        "class_balanced",
        "balanced_softmax",
        "logit_adjustment",
        "focal",
      ),
    ),
    "seesaw_p": Field(1.2, NOT_NEGATIVE),  # exponent of the mitigation factor
    "seesaw_q": Field(1.0, NOT_NEGATIVE),  # exponent of the compensation factor
    # Weight of a class (1 - beta) / (1 - beta^images).
    "class_balanced_beta": Field(0.9999, PROBABILITY),
    # Multiple of the log prior that training adds to the logits.
    "logit_adjustment_tau": Field(1.0, NOT_NEGATIVE),
    "focal_gamma": Field(2.0, NOT_NEGATIVE),  # exponent of 1 - p
    # mask2former and eomt only, from here on.
    # "scipy": on the host; "optax": on the device, slower, without a call of the host.
    "matcher": Field("scipy", ("scipy", "optax")),
    "num_points": Field(12_544, COUNT),  # a mask, at which it is compared with a target
    # Candidates drawn for the loss's points, of num_points.
    "oversample_ratio": Field(3.0, Range(1)),
    # Share of the points that are the most uncertain candidates.
    "importance_sample_ratio": Field(0.75, SHARE),
    # Of the classification, in the loss and in the matching cost.
    "class_weight": Field(2.0, NOT_NEGATIVE),
    "mask_weight": Field(5.0, NOT_NEGATIVE),  # of the binary cross-entropy of masks, likewise
    "dice_weight": Field(5.0, NOT_NEGATIVE),  # of the dice loss of masks, likewise
    # Of queries without a target in the classification; 1: of the others.
    "no_object_weight": Field(0.1, NOT_NEGATIVE),
    # Frequency-based matcher: a target of class c takes part ceil(max(1, s sqrt(t / f_c))) times.
    "frequency_matcher": False,
    "query_scale": Field(2.0, POSITIVE),  # s
    # t; 0: the published one, where there is none the rare/common border.
    "query_threshold": Field(0.0, SHARE),
    # "background": negatives of every mask, as in the release; "left_out": of costs and losses.
    "ignored_pixels": Field("background", ("background", "left_out")),
    # mask2former only: of the auxiliary pixel loss where model.pixel_head is on.
    "pixel_head_weight": Field(1.0, NOT_NEGATIVE),
    # eomt only: shares of the training at which the probability of masked attention begins to fall
    # from 1, and at which it is 0, for each block with queries.
    "mask_annealing_starts": (1 / 6, 2.5 / 6, 4 / 6),
    "mask_annealing_ends": (2 / 6, 3.5 / 6, 5 / 6),
  },
  # The optimizer and its schedule.
  "optimizer": {
    "name": Field("adamw", ("sgd", "adamw")),
    "learning_rate": Field(1e-4, POSITIVE),  # largest one of the schedule
    "momentum": Field(0.9, PROBABILITY),  # sgd only
    "b1": Field(0.9, PROBABILITY),  # adamw only: decay of the mean of the gradients
    "b2": Field(0.999, PROBABILITY),  # adamw only: decay of the mean of their squares
    "weight_decay": Field(0.05, NOT_NEGATIVE),  # 0 on normalisation layers and embeddings
    "backbone_multiplier": Field(0.1, NOT_NEGATIVE),  # learning rate of the backbone, relative
    # eomt only: learning rate of an encoder block, relative to that of the block after it.
    "layer_decay": Field(1.0, Range(0, 1, low_open=True)),
    # Largest norm of the gradient of the whole model; 0: not clipped.
    "clip_norm": Field(0.01, NOT_NEGATIVE),
    # "poly": one schedule for all, learning_rate * (1 - step / steps)^poly_power after the warm-up;
    # "two_stage": the backbone's rate stays 0 while the rest warms up, and rises only then.
    "schedule": Field("poly", ("poly", "two_stage")),
    # Power with which the rate falls; 0: constant, so that a finished run can be made longer.
    "poly_power": Field(0.9, NOT_NEGATIVE),
    # W, updates over which the rate rises linearly to the schedule's, which it has in the one after
    # them. The first one has 1 / W of it for "poly", 0 for "two_stage". 0: no warm-up.
    "warmup_steps": Field(0, COUNT_OR_0),
    # two_stage only: updates after those over which the backbone's rate rises linearly from 0.
    "backbone_warmup_steps": Field(0, COUNT_OR_0),
    # d: beside the trained weights an average of them is kept, in which those of an update have the
    # weight 1 - d; it is what is evaluated and predicted with. 0: none.
    "ema_decay": Field(0.0, PROBABILITY),
  },
  # The devices of a training.
  "mesh": {
    # Devices that share one copy of parameters, gradients, optimizer state and averages, each
    # holding a part; divides their number. 1: every device holds all.
    "fsdp": Field(1, COUNT),
  },
  "init": {
    # What training starts from: the workdir of an earlier run, or a directory of converted
    # weights (`python -m ltss_jax.convert`), of a backbone alone or of a whole model, whose
    # class layers go by the names of the classes. "": random weights.
    "checkpoint": "",
    # Of a run: number of its step; -1: the best by mIoU, or the latest where none was
    # evaluated; 0: the latest.
    "step": Field(-1, Range(-1)),
  },
  # The training loop and what it shows on the way.
  "train": {
    "steps": Field(0, COUNT_OR_0),  # optimizer updates; 0: from the number of training images
    # Micro-batches that a batch is run in, one after another, to save memory.
    "grad_accumulation": Field(1, COUNT),
    "log_every_steps": Field(100, COUNT),  # updates between two progress lines
    # Updates in a row left out for a loss or gradient that is not finite; one more stops.
    "max_nonfinite_steps": Field(5, COUNT_OR_0),
    # Updates between two pictures of predictions for TensorBoard; 0: none.
    "log_images_every_steps": Field(0, COUNT_OR_0),
    "log_images": Field(4, COUNT),  # validation images shown, always the same ones
    # Write WORKDIR/report.html at the end, and keep the pictures for it (docs/report.md).
    "report": True,
    # Project of Weights & Biases that metrics and pictures are sent to as well; "": none.
    "wandb_project": "",
    # First and last step of a trace for xprof, as (10, 12), into WORKDIR/profile; (): none.
    "profile_steps": (),
  },
  # The evaluation; prediction uses the fields of the input as well.
  "eval": {
    # Updates between two evaluations; 0: from train.steps.
    "every_steps": Field(10_000, COUNT_OR_0),
    "min_size": Field(512, COUNT_OR_0),  # px, shorter side of a test image; 0: native size
    "max_size": Field(2048, COUNT),  # px, limit on the longer side of a test image
    # Round a test image's side of 682.5 px to the even number, as EoMT's release, not up.
    "round_half_even": False,
    # Images of equal shape evaluated together, over all devices and processes.
    "batch_size": Field(8, COUNT),
    # Shorter sides, px, whose score maps are averaged, as (256, 384, 512, 640, 768, 896);
    # (): min_size alone.
    "scales": (),
    "scales_max_size": Field(3584, COUNT),  # px, limit on the longer side at these scales
    "flip": False,  # average with the scores of the mirrored image
    # px, side of windows that the model sees one by one; 0: the whole image.
    "window": Field(0, _SIDE_OR_0),
    "window_stride": Field(0, COUNT_OR_0),  # px between windows; 0: two thirds of their side
    # Input sides are padded to multiples of this, for fewer compilations. 1: never padded, as
    # padding changes results; how much is reported.
    "shape_multiple": Field(1, COUNT),
    "save_json": False,  # write run-length masks of all predictions beside the result
    # Of the computation in evaluation and prediction, which the release runs in float32.
    "dtype": Field("float32", ("float32", "bfloat16")),
    # Multiple of the log prior that is taken from the class logits, for rare classes; 0: off.
    "logit_adjustment": Field(0.0, NOT_NEGATIVE),
    # Of the checkpoint that --mode=evaluate and predict use; 0: the latest, -1: best by mIoU.
    "step": Field(0, Range(-1)),
  },
  # What `--mode=predict` writes.
  "predict": {
    "save_scores": False,  # write <name>.npz beside the labels: scores [C, H, W], float32
    "save_summary": False,  # write summary.json: the classes of every image and their pixels
    # Write predictions.json: run-length masks with the data set's own ids, for submission.
    "save_json": False,
    "max_pixels": Field(67_108_864, COUNT),  # of an input image; larger ones are refused, not read
  },
  # `--mode=export`.
  "export": {
    "batch_size": Field(0, COUNT_OR_0),  # images a call; 0: any number
    # px, of the exported model's input; 0: eval.min_size, else data.crop_size, which are those of
    # the run where the config leaves them to the images.
    "height": Field(0, COUNT_OR_0),
    "width": Field(0, COUNT_OR_0),  # px, likewise
    # That the artifact runs on: "cpu", "cuda", "rocm", "tpu". For "tpu" alone it has the TPU's
    # own kernels, else plain operations.
    "platforms": ("cpu", "cuda", "tpu"),
    "scores": False,  # return the scores of all classes as well: [B, H, W, C], float32
  },
  "checkpoint": {
    # Updates between two checkpoints; 0: as often as evaluations.
    "every_steps": Field(5_000, COUNT_OR_0),
    "keep": Field(3, COUNT),  # last checkpoints kept, beside the best by mIoU
  },
}

# Dotted name -> what the field may be.
CHOICES = valid_values(FIELDS, tuple)
RANGES = valid_values(FIELDS, Range)


def get_config() -> ml_collections.ConfigDict:
  """Returns a new config with every field at its default; the config file sets `data.name`."""
  return ml_collections.ConfigDict(defaults(FIELDS))


def validate(config: ml_collections.ConfigDict) -> None:
  """Checks every choice and range of a config, before and after `finalize`.

  Args:
    config: the whole tree of `get_config`.

  Raises:
    ValueError: names the first wrong field, its value and the nearest valid one.
  """
  check(config, CHOICES | RANGES)
  validation.validate_together(config)
