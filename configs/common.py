"""Every field once, with its default and its unit; what the config files share.

The defaults are the Mask2Former recipe that the public release of "Frequency-based Matcher for
Long-tailed Semantic Segmentation" (IEEE TMM 2024) uses for all of its data sets: AdamW, learning
rate 1e-4 (backbone a tenth of it) falling to 0 with (1 - step / steps)^0.9, weight decay 0.05,
gradients clipped to a norm of 0.01, batch 16, crops of 512 x 512, mixed precision, no warm-up. A
config file overwrites only what differs for its data set, a variant (`configs/variants.py`) what
differs for its model or for a method against long tails.
"""

import ml_collections

from configs.derive import finalize
from configs.validation import validate
from configs.variants import VARIANTS, apply_variants, crops_of_640, parse_variants

__all__ = [
  "VARIANTS",
  "apply_variants",
  "crops_of_640",
  "finalize",
  "get_config",
  "parse_variants",
  "validate",
]


def get_config() -> ml_collections.ConfigDict:
  """Returns a new config with every field at its default; the config file sets `data.name`."""
  return ml_collections.ConfigDict(
    {
      "seed": 0,  # of initialisation, image order, augmentation and dropout
      "batch_size": 16,  # images a step, over all devices and processes
      "data": _data(),
      "model": _model(),
      "loss": _loss(),
      "optimizer": _optimizer(),
      "init": {
        # What training starts from: the workdir of an earlier run, or a directory of converted
        # weights (`python -m ltss_jax.convert`), of a backbone alone or of a whole model, whose
        # class layers go by the names of the classes. "": random weights.
        "checkpoint": "",
        # Of a run: number of its step; -1: the best by mIoU, or the latest where none was
        # evaluated; 0: the latest.
        "step": -1,
      },
      "train": _train(),
      "eval": _eval(),
      "predict": _predict(),
      "export": _export(),
      "checkpoint": {
        "every_steps": 5_000,  # updates between two checkpoints; 0: as often as evaluations
        "keep": 3,  # last checkpoints kept, beside the best by mIoU
      },
    }
  )


def _data() -> dict:
  """Fields of the data set and of its augmentation."""
  return {
    "name": "",  # data set, one of validation.CHOICES["data.name"]
    "dir": "data",  # where prepared data sets lie (a local path or gs://)
    "root": "",  # folder only: the directory with images/, annotations/ and classes.txt
    # folder only: label value of pixels that count for nothing; -1: 255 with up to 255 classes,
    # 65535 with more.
    "ignore_label": -1,
    "crop_size": 512,  # px, side of a training crop; 0: from the images' median size
    "base_size": 512,  # px, shorter side at scale factor 1.0; 0: the images' median one
    "min_factor": 0.5,  # smallest scale factor, of base_size; they are the multiples of 0.1 ...
    "max_factor": 2.0,  # ... from it up to this
    "max_size": 2048,  # px, limit on the longer side after scaling
    "color_jitter": True,  # brightness, contrast, saturation and hue as in SSD
    # Crops in which one class has this share of the labelled pixels are drawn again; 1.0: none.
    "max_category_share": 1.0,
    "flip": True,  # mirror half of the images, with left and right classes swapped
    # True: images decoded, resized and coloured bit by bit as in the release, which takes half as
    # long again. False: off by less than 0.5 on average, and by 3 or so at most in photographs.
    "exact_pixels": False,
    # "uniform": each image once an epoch; "repeat_factor": images of rare classes more often, with
    # r = max(1, sqrt(t / frequency)) of a class.
    "sampler": "uniform",
    # What the frequency of a class counts: "image": images with it; "pixel": its share of each.
    "repeat_level": "image",
    "repeat_reduce": "max",  # over the classes of an image: "max", "mean" or "sum"
    # t, frequency below which classes are repeated; 0: the published one, or where there is none
    # that of the rare/common border.
    "repeat_threshold": 0.0,
    # Regions of a second image's classes put over the first: "none"; "random": of a random number
    # of classes; "rare": of all of the image-level rare group.
    "copy_paste": "none",
    # The following are beyond the release, for "random" and "rare".
    "copy_paste_classes": (),  # train ids of the only classes to paste, as (0, 4); (): all
    "copy_paste_flip": False,  # mirror half of the pasted regions
    "copy_paste_min_scale": 1.0,  # smallest scale factor of a pasted region
    "copy_paste_max_scale": 1.0,  # largest one
    # The second image is drawn by its repeat factor (repeat_* above, whatever the sampler).
    "copy_paste_repeat_factor": False,
    "num_workers": 8,  # processes that read and augment, in each host process; 0: threads instead
    "prefetch": 4,  # batches made ready ahead of the step
  }


def _model() -> dict:
  """Fields of the network."""
  return {
    "name": "mask2former",
    "backbone": "resnet50",
    # "frozen_batch_norm": constants of the pre-trained weights; "batch_norm": trained, statistics
    # over the global batch. ResNets only, the others have layer norms.
    "backbone_norm": "frozen_batch_norm",
    # Of the computation in training: the backbone and the transformer decoder, or all of
    # deeplabv3plus. Parameters, statistics, pixel decoder, costs and losses stay in float32.
    "dtype": "bfloat16",
    "remat": False,  # compute activations again in the backward pass: less memory, more time
    # mask2former only, down to max_targets.
    "drop_path": -1.0,  # probability that the last block is skipped; -1: Swin 0.3, ViT 0.1
    "channels": 256,  # width of both decoders
    "num_queries": 100,  # mask and class predictions an image
    "encoder_layers": 6,  # of the pixel decoder
    "decoder_layers": 9,  # of the transformer decoder
    "num_heads": 8,  # of every attention in the decoders
    "encoder_width": 1024,  # of the feed-forward networks in the pixel decoder
    "decoder_width": 2048,  # of those in the transformer decoder
    "class_head": "softmax",  # "seesaw": separate objectness logits
    "max_targets": 64,  # classes of one crop that training makes masks of
    # A per-pixel classifier beside the queries that only training uses, for its gradient.
    "pixel_head": False,
    # "auto": "pallas_tpu" on TPUs, "pallas_gpu" on NVIDIA GPUs, "xla" elsewhere, or one by name.
    "deformable_attention": "auto",
    # deeplabv3plus only, from here on.
    "aspp_channels": 256,
    "aspp_dilations": (6, 12, 18),  # cells of the stride-16 map
    "aspp_dropout": 0.1,  # probability that a channel value is dropped in training
    "low_level_channels": 48,  # that the stride-4 features are projected to
    "decoder_channels": 256,
    # "global": average over the whole map, any input size. "window": as the release, over windows
    # of crop_size / 16 cells, which is another function for inputs larger than the crop.
    "image_pooling": "global",
  }


def _loss() -> dict:
  """Fields of the loss and of the matching."""
  return {
    # deeplabv3plus only: share of the global batch's pixels, those of largest loss, whose mean is
    # the loss.
    "hard_pixel_fraction": 0.2,
    # Of the classes, for pixels (deeplabv3plus) or queries (mask2former): "cross_entropy",
    # "seesaw", "class_balanced", "balanced_softmax", "logit_adjustment" or "focal";
    # docs/methods.md has the formulas. For mask2former "seesaw" goes with model.class_head =
    # "seesaw".
    "class_loss": "cross_entropy",
    "seesaw_p": 1.2,  # exponent of the mitigation factor
    "seesaw_q": 1.0,  # exponent of the compensation factor
    "class_balanced_beta": 0.9999,  # weight of a class (1 - beta) / (1 - beta^images)
    "logit_adjustment_tau": 1.0,  # multiple of the log prior that training adds to the logits
    "focal_gamma": 2.0,  # exponent of 1 - p
    # mask2former only, from here on.
    "matcher": "scipy",  # "scipy": on the host; "optax": on the device, slower, no host callback
    "num_points": 12_544,  # a mask, at which it is compared with a target
    "oversample_ratio": 3.0,  # candidates drawn for the loss's points, of num_points
    "importance_sample_ratio": 0.75,  # share of the points that are the most uncertain candidates
    "class_weight": 2.0,  # of the classification, in the loss and in the matching cost
    "mask_weight": 5.0,  # of the binary cross-entropy of masks, likewise
    "dice_weight": 5.0,  # of the dice loss of masks, likewise
    "no_object_weight": 0.1,  # of queries without a target in the classification; 1: of the others
    # Frequency-based matcher: a target of class c takes part ceil(max(1, s sqrt(t / f_c))) times.
    "frequency_matcher": False,
    "query_scale": 2.0,  # s
    "query_threshold": 0.0,  # t; 0: the published one, where there is none the rare/common border
    # "background": negatives of every mask, as in the release; "left_out": of costs and losses.
    "ignored_pixels": "background",
    "pixel_head_weight": 1.0,  # of the auxiliary pixel loss where model.pixel_head is on
  }


def _optimizer() -> dict:
  """Fields of the optimizer and its schedule."""
  return {
    "name": "adamw",
    "learning_rate": 1e-4,  # that the schedule starts from
    "momentum": 0.9,  # sgd only
    "b1": 0.9,  # adamw only: decay of the mean of the gradients
    "b2": 0.999,  # adamw only: decay of the mean of their squares
    "weight_decay": 0.05,  # 0 on normalisation layers and embeddings
    "backbone_multiplier": 0.1,  # learning rate of the backbone, relative
    "clip_norm": 0.01,  # largest norm of the gradient of the whole model; 0: not clipped
    # Of the schedule learning_rate * (1 - step / steps)^poly_power; 0: constant, so that a finished
    # run can be made longer.
    "poly_power": 0.9,
    # W, updates over which the rate rises linearly from 1 / W of the schedule's, in the first one,
    # to all of it, in the one after them; 0: no warm-up.
    "warmup_steps": 0,
  }


def _train() -> dict:
  """Fields of the training loop and of what it shows on the way."""
  return {
    "steps": 0,  # optimizer updates; 0: from the number of training images
    "grad_accumulation": 1,  # slices a batch is run in, one after another, to save memory
    "log_every_steps": 100,  # updates between two progress lines
    # Updates in a row left out for a loss or gradient that is not finite; one more stops.
    "max_nonfinite_steps": 5,
    # Updates between two pictures of predictions for TensorBoard; 0: none.
    "log_images_every_steps": 0,
    "log_images": 4,  # validation images shown, always the same ones
    # Write WORKDIR/report.html at the end, and keep the pictures for it (docs/report.md).
    "report": True,
    # Project of Weights & Biases that metrics and pictures are sent to as well; "": none.
    "wandb_project": "",
    # First and last step of a trace for xprof, as (10, 12), into WORKDIR/profile; (): none.
    "profile_steps": (),
  }


def _eval() -> dict:
  """Fields of the evaluation; prediction uses those of the input as well."""
  return {
    "every_steps": 10_000,  # updates between two evaluations; 0: from train.steps
    "min_size": 512,  # px, shorter side of a test image; 0: native size
    "max_size": 2048,  # px, limit on the longer side of a test image
    "batch_size": 8,  # images of equal shape evaluated together, over all devices and processes
    # Shorter sides, px, whose score maps are averaged, as (256, 384, 512, 640, 768, 896);
    # (): min_size alone.
    "scales": (),
    "scales_max_size": 3584,  # px, limit on the longer side at these scales
    "flip": False,  # average with the scores of the mirrored image
    "window": 0,  # px, side of windows that the model sees one by one; 0: the whole image
    "window_stride": 0,  # px between windows; 0: two thirds of their side
    # Input sides are padded to multiples of this, for fewer compilations. 1: never padded, as
    # padding changes results; how much is reported.
    "shape_multiple": 1,
    "save_json": False,  # write run-length masks of all predictions beside the record
    # Of the computation in evaluation and prediction, which the release runs in float32.
    "dtype": "float32",
    # Multiple of the log prior that is taken from the class logits, for rare classes; 0: off.
    "logit_adjustment": 0.0,
    # Of the checkpoint that --mode=evaluate and predict use; 0: the latest, -1: best by mIoU.
    "step": 0,
  }


def _predict() -> dict:
  """Fields of what `--mode=predict` writes."""
  return {
    "save_scores": False,  # write <name>.npz beside the labels: scores [C, H, W], float32
    "save_summary": False,  # write summary.json: the classes of every image and their pixels
    # Write predictions.json: run-length masks with the data set's own ids, for submission.
    "save_json": False,
    "max_pixels": 67_108_864,  # of an input image; larger ones are refused, not read
  }


def _export() -> dict:
  """Fields of `--mode=export`."""
  return {
    "batch_size": 0,  # images a call; 0: any number
    # px, of the exported model's input; 0: eval.min_size, else data.crop_size, which are those of
    # the run where the config leaves them to the images.
    "height": 0,
    "width": 0,  # px, likewise
    # That the artifact runs on: "cpu", "cuda", "rocm", "tpu". For "tpu" alone it has the TPU's
    # own kernels, else plain operations.
    "platforms": ("cpu", "cuda", "tpu"),
    "scores": False,  # return the scores of all classes as well: [B, H, W, C], float32
  }
