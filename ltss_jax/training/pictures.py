"""Pictures of predictions that a training makes: on the way and at its end."""

import jax
import ml_collections
from etils import epath

from ltss_jax import mesh as mesh_lib
from ltss_jax.dataset import Dataset
from ltss_jax.evaluation import evaluator, examples
from ltss_jax.training import metric_writer
from ltss_jax.training.state import TrainState
from ltss_jax.visualization import example_images
from ltss_jax.workdir import paths


class Pictures:
  """Pictures of predictions: a few for TensorBoard on the way, the worst and the best at the end.

  Process 0 makes them alone, of images and programs of its own; the others help to gather weights
  that are divided.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    workdir: epath.Path,
    evaluation: evaluator.Evaluator,
    writer: metric_writer.MetricWriter,
  ):
    """Sets up; nothing is read yet.

    Args:
      config: resolved config of the run.
      dataset: data set of the run.
      workdir: folder of the run; the pictures at the end go there.
      evaluation: evaluation of the run, with the programs that it has compiled.
      writer: destination of the pictures on the way.
    """
    self._options, self._num_classes = config.train, dataset.metadata.num_classes
    self._config, self._dataset, self._predictor = config, dataset, evaluation.predictor
    self._mesh = mesh_lib.data_mesh(jax.local_devices())
    self._path, self._writer = paths.examples(workdir, config.train.steps), writer

  def __call__(self, step: int, state: TrainState) -> bool:
    """Makes those that are due after this step; returns whether there were any."""
    every, last = self._options.log_images_every_steps, step == self._options.steps
    show, keep = every > 0 and (last or step % every == 0), last and self._options.report
    if not (show or keep):
      return False
    weights = mesh_lib.local_replica(state.inference_weights, self._mesh)
    if jax.process_index() > 0:
      return False
    if show:
      chosen = self._chosen(self._options.log_images)
      for i, example in enumerate(chosen(*weights)):
        picture = example_images.side_by_side(example, self._num_classes)
        self._writer.write_images(step, {f"examples/{i}_{example.file_name}": picture[None]})
    if keep:
      chosen = self._chosen(examples.MAX_IMAGES)
      examples.keep(chosen, *weights, self._path)
    return True

  def are_missing(self) -> bool:
    """Whether the report is to have those that stay, and they are not there."""
    return self._options.report and not self._path.exists()

  def _chosen(self, count: int) -> examples.Examples:
    return examples.Examples(self._config, self._dataset, self._predictor, count)
