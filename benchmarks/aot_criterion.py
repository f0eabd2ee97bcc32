r"""Compiles the criterion of masks alone for a chip that is not there: what of a step is its part?

python -m benchmarks.aot_criterion --target=v5e --config=configs/coco_stuff_lt.py

compiles the loss of Mask2Former's predictions and its gradient by them, for a batch divided over
the devices of a target as in the training step, in a minute instead of ten. Prints bytes and
temporaries of each device, and the most slices that a gather or scatter takes. XLA counts the body
of a loop once. Targets, environments and the matcher are those of `benchmarks.aot_train_step`.
"""

import time

import jax
import jax.numpy as jnp
import ml_collections
from absl import flags

from benchmarks import aot_train_step
from benchmarks.compiled import Program
from input_pipeline import datasets
from ltss_jax import build, mesh as mesh_lib
from ltss_jax.architectures import mask_classification
from ltss_jax.build.fields import fields_of


def trace(config: ml_collections.ConfigDict, devices) -> jax.stages.Traced:
  """Traces loss and gradient of the predictions of a config's model for a mesh of these devices."""
  metadata = datasets.find_spec(config.data.name).class_table.metadata
  given = {
    "class_loss": build.class_loss(config, None),
    "ignore_label": metadata.ignore_label,
    "queries_per_class": None,
  }
  cls = mask_classification.MaskLossConfig
  settings = cls(**fields_of(cls, {**config.model, **config.loss, **given}))
  mesh = mesh_lib.data_mesh(devices, 1)
  loss = mask_classification.criterion(settings, metadata.num_classes, mesh)

  def value(class_logits, mask_logits, batch, label, key):
    return loss(class_logits, mask_logits, batch, label, jax.random.wrap_key_data(key), None)[0]

  batch, predictions = config.batch_size, config.model.decoder_layers + 1
  queries, crop = config.model.num_queries, config.data.crop_size
  of_images = mesh_lib.batch_sharding(mesh)
  of_predictions = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(None, *of_images.spec)
  )

  def array(shape, dtype, sharding):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  logits = (queries, metadata.num_classes + 1), (crop // 4, crop // 4, queries)
  return jax.jit(jax.value_and_grad(value, (0, 1))).trace(
    *(array((predictions, batch, *shape), jnp.float32, of_predictions) for shape in logits),
    {
      "classes": array((batch, settings.max_targets), jnp.int32, of_images),
      "dropped_classes": array((batch,), jnp.int32, of_images),
    },
    array((batch, crop, crop), jnp.uint8, of_images),
    array((2,), jnp.uint32, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())),
  )


def main(_) -> None:
  """Compiles for one target and prints what comes out."""
  config = flags.FLAGS.config
  target = aot_train_step.find_target(flags.FLAGS.target, config)
  start = time.perf_counter()
  compiled = trace(config, target.devices).lower().compile(target.options)
  print(f"  compiled in {time.perf_counter() - start:.0f} s")
  program = Program(compiled.as_text())
  memory = aot_train_step.bytes_accessed(compiled, program)
  temporaries = compiled.memory_analysis().temp_size_in_bytes
  print(f"  each: {memory / 1e9:.2f} GB of memory, {temporaries / 2**20:.0f} MiB of temporaries")
  print(f"  at most {program.most_gathered():,} slices in a gather or scatter")


if __name__ == "__main__":
  aot_train_step.run_command(main)
