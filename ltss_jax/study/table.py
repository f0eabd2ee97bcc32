"""The tables of a study in Markdown."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ltss_jax.study import statistics
from ltss_jax.study.statistics import Study

_HEADER = (
  "mIoU",
  "image rare",
  "common",
  "frequent",
  "pixel rare",
  "common",
  "frequent",
)
_NOTES = """\
Percent, and percentage points in the differences. Rare, common and frequent classes by number of
training images (image) and by share of the pixels (pixel).

- Scores: mean ± standard deviation of one run, over the seeds.
- Differences: mean ± standard error over the seeds that both have, p of the two-sided paired
  t-test. **Bold**: more than two standard errors from 0. With three seeds a cell is bold by chance
  in one case of five or six, with five in one of nine, and there are many cells: trust what was
  named beforehand and has many seeds."""


def markdown(study: Study, baseline: str) -> str:
  """Formats all that is known of a study.

  Args:
    study: study by `study_files.Folder.load`, not empty.
    baseline: the method that the others are compared with; may be absent.

  Returns:
    Markdown: scores, differences, what the runs were.
  """
  values = {
    method: {
      metric: statistics.values_by_seed(_results(by_seed), metric) for metric in statistics.METRICS
    }
    for method, by_seed in study.items()
  }
  parts = ["# Scores", _scores(study, values)]
  others = {method: found for method, found in values.items() if method != baseline}
  if baseline in values and others:
    parts += [f"# Differences to {baseline}", _differences(others, values[baseline])]
  return "\n\n".join([*parts, _NOTES, "# Runs", _provenance(study)]) + "\n"


def _results(by_seed: Mapping[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
  return {seed: content["record"] for seed, content in by_seed.items()}


def _scores(study: Study, values: Mapping[str, Mapping[str, Mapping[int, float]]]) -> str:
  rows = []
  for method, by_seed in study.items():
    minutes = sum(content["seconds"] for content in by_seed.values()) / 60 / len(by_seed)
    cells = (_score(statistics.score(found)) for found in values[method].values())
    rows.append((method, str(len(by_seed)), *cells, f"{minutes:.1f}" if minutes else "-"))
  return _table(("method", "seeds", *_HEADER, "min a run"), rows)


def _differences(
  others: Mapping[str, Mapping[str, Mapping[int, float]]],
  baseline: Mapping[str, Mapping[int, float]],
) -> str:
  rows = []
  for method, by_metric in others.items():
    found = [
      statistics.paired_difference(by_metric[metric], baseline[metric])
      for metric in statistics.METRICS
    ]
    pairs = max(difference.count for difference in found)
    rows.append((method, str(pairs), *map(_difference, found)))
  return _table(("method", "pairs", *_HEADER), rows)


def _score(score: statistics.Score) -> str:
  if score.mean is None:
    return "-"
  spread = "" if score.deviation is None else f" ± {score.deviation:.2f}"
  return f"{score.mean:.2f}{spread}"


def _difference(difference: statistics.Difference) -> str:
  if difference.mean is None:
    return "-"
  text = f"{difference.mean:+.2f}"
  if difference.is_clear:
    text = f"**{text}**"
  if difference.standard_error is not None:
    text += f" ± {difference.standard_error:.2f}"
  if difference.p_value is not None:
    p_value = difference.p_value
    text += f" (p {'< 0.001' if p_value < 0.001 else f'{p_value:.3f}'})"
  return text


def _provenance(study: Study) -> str:
  """Configs, steps, commits and machines, each with its number of runs."""
  runs = [content for by_seed in study.values() for content in by_seed.values()]
  overrides = (
    " ".join(f"--config.{field}={value}" for field, value in content["overrides"].items())
    for content in runs
  )
  what = {
    "config": (content["config"] for content in runs),
    "command line": (text or "nothing more" for text in overrides),
    "steps": (f"{content['steps']:,}" for content in runs),
    "commit": (content["commit"] or "unknown" for content in runs),
    "machine": (_machine(content["machine"]) for content in runs),
  }
  rows = [
    (name, value, str(count))
    for name, entries in what.items()
    for value, count in Counter(entries).items()
  ]
  return _table(("what", "value", "runs"), rows)


def _machine(machine: Mapping[str, Any] | None) -> str:
  if machine is None:
    return "unknown"
  return (
    f"{machine['devices']}; {machine['processor']}, {machine['cores']} cores;"
    f" jax {machine['jax']}, Python {machine['python']}"
  )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  lines = [header, ["---"] * len(header), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)
