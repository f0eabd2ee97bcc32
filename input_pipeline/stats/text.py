"""Puts the summary of a data set's statistics into words and a table."""

from typing import Any

from input_pipeline.stats import tail_statistics

_NAME_WIDTH = 28


def _number(value: float | None, digits: int) -> str:
  return "-" if value is None else f"{value:.{digits}f}"


def _source_lines(title: str, source: dict[str, Any]) -> list[str]:
  line = f"{title}: {source['num_images']} images"
  if source.get("classes_per_image") is not None:
    line += f", {source['classes_per_image']:.2f} classes an image"
  if source["classes_without_image"]:
    line += f", {source['classes_without_image']} classes without an image"
  lines = [line]
  for level in tail_statistics.LEVELS:
    values = source[level]
    first, second = values["group_borders"]
    sizes = "/".join(str(size) for size in values["group_sizes"].values())
    lines.append(
      f"  {level.replace('_', ' ')}: Gini {_number(values['gini'], 4)}, rare/common/frequent"
      f" {sizes}, borders {first:g} and {second:g}"
      f" (frequency {_number(values['border_frequency'], 6)}), counts {values['smallest']:g} to"
      f" {values['largest']:g}, median {values['median']:g}"
    )
  return lines


def _comparison_lines(comparison: dict[str, Any]) -> list[str]:
  lines = [
    f"train against the official table: {comparison['num_images']} images, officially"
    f" {comparison['official_num_images']}"
  ]
  for level in tail_statistics.LEVELS:
    values = comparison[level]
    lines.append(
      f"  {level.replace('_', ' ')}: rank correlation {_number(values['rank_correlation'], 4)},"
      f" absolute differences add up to {values['total_difference']:g}"
      f" ({values['relative_difference']:.1%} of {values['official_total']:g}),"
      f" {values['classes_in_another_group']} classes in another group"
    )
  return lines


def _class_table(summary: dict[str, Any]) -> list[str]:
  """The classes, the most frequent first, counts rounded to what a reader compares."""
  rows = summary["classes"]
  counted = [key for key in rows[0] if key.endswith(("_images", "_pixel_share_sum"))]
  columns = [key.replace("_pixel_share_sum", "_pixels") for key in counted]
  header = f"{'id':>5} {'class':<{_NAME_WIDTH}} {'by images':<9} {'by pixels':<9}"
  lines = [header + "".join(f" {name:>15}" for name in columns)]
  by_images = next(key for key in counted if key.startswith(f"{summary['groups_from']}_images"))
  for row in sorted(rows, key=lambda row: -row[by_images]):
    name = row["name"]
    if len(name) > _NAME_WIDTH:
      name = name[: _NAME_WIDTH - 3] + "..."
    groups = " ".join(f"{row[f'{level}_group']:<9}" for level in tail_statistics.LEVELS)
    counts = "".join(
      f" {row[key]:>15}" if isinstance(row[key], int) else f" {row[key]:>15.3f}" for key in counted
    )
    lines.append(f"{row['train_id']:>5} {name:<{_NAME_WIDTH}} {groups}{counts}")
  return lines


def describe(summary: dict[str, Any]) -> str:
  """Renders what `tail_statistics.summary` returned for the terminal."""
  lines = [
    f"{summary['name']}: {summary['num_classes']} classes, groups by the counts of"
    f" {'the official table' if summary['official'] else 'the training split'}"
  ]
  if summary["official"]:
    lines += _source_lines("official table", summary["official"])
  for name, split in summary["splits"].items():
    lines += _source_lines(name, split)
  if summary["comparison"]:
    lines += _comparison_lines(summary["comparison"])
  return "\n".join([*lines, "", *_class_table(summary)])
