"""The page as a file: complete, self-contained, escaped, bounded."""

import html.parser
import re

import pytest

from ltss_jax import report
from ltss_jax.results import evaluation_result
from ltss_jax.workdir import atomic_file, paths
from tests import programs

SECTIONS = {"results", "classes", "frequency", "confusion", "curves", "images", "data", "config"}
VOID = {"meta", "link", "img", "input", "br", "hr"}


class Outline(html.parser.HTMLParser):
  """Collects ids, links and images; fails on tags that do not nest."""

  def __init__(self, text):
    super().__init__()
    self.ids, self.sources, self.alternatives, self.open = set(), [], [], []
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    if tag not in VOID:
      self.open.append(tag)
    if "id" in attrs:
      assert attrs["id"] not in self.ids
      self.ids.add(attrs["id"])
    self.sources += [attrs[name] for name in ("src", "href") if name in attrs]
    if tag == "img":
      self.alternatives.append(attrs.get("alt"))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def test_the_page_has_every_section_and_needs_no_other_file(workdir):
  path = report.report(workdir)
  assert path == workdir / "report.html" and not list(workdir.glob(".*"))
  text = path.read_text(encoding="utf-8")
  page = Outline(text)
  assert not page.open and SECTIONS | {"class-table"} <= page.ids and "comparison" not in page.ids
  assert all(source.startswith(("data:", "#")) for source in page.sources)
  assert all(source[1:] in page.ids for source in page.sources if source.startswith("#"))
  assert len(page.alternatives) == 2 + 4 + 3 + 8 * 4 and all(page.alternatives)
  assert "class 3 &lt;b&gt;&amp;" in text and "<b>" not in text
  assert "0123456789ab" in text and "with changes" in text and "1,080 training" in text
  assert "optimizer.learning_rate" in text
  assert report.report(workdir).read_text(encoding="utf-8") == text


def test_an_evaluation_that_is_not_plain_says_so(workdir, write_run, tmp_path):
  other = write_run(tmp_path / "b")
  path = paths.result(other, 100)
  evaluation_result.write_result(atomic_file.read_json(path) | {"eval": {"flip": True}}, path)
  assert "with eval.flip=True." in report.report(other).read_text(encoding="utf-8")
  text = report.report(workdir, [other]).read_text(encoding="utf-8")
  assert "<td>100 with eval.flip=True</td>" in text and "Not the plain" not in text


OTHER = {"name": "rainy <b>", "val_images": 5, "val_labels": "cd"}


@pytest.mark.parametrize(
  ("names", "note"),
  [
    (
      ["100-0123abcd"],
      "rainy &lt;b&gt;, 5 validation images, mIoU 98.76 (eval/100-0123abcd.json).</p>",
    ),
    ([50, 100], "Of other data than the run's own: rainy &lt;b&gt;, 5 validation images.</p>"),
  ],
)
def test_evaluations_of_other_data_are_named(workdir, names, note):
  atomic_file.write_json(paths.data(workdir), {"val_images": 7, "val_labels": "ab"})
  result = atomic_file.read_json(paths.result(workdir, 100)) | {"data": OTHER, "mIoU": 98.76}
  for name in names:
    evaluation_result.write_result(result, paths.result(workdir, name))
  text = report.report(workdir).read_text(encoding="utf-8")
  assert note in text
  assert ("<title>demo: 98.76" in text) == (100 in names)


def test_several_runs_are_compared(workdir, write_run, tmp_path):
  others = [write_run(tmp_path / name, seed=3, learning_rate=0.5) for name in ("b", "c/demo")]
  path = report.report(workdir, others, tmp_path / "new" / "page.html")
  text = path.read_text(encoding="utf-8")
  page = Outline(text)
  assert "comparison" in page.ids and not page.open
  # Two folders of one name go by the ends of their paths.
  assert "c/demo" in text and str(others[1]) not in text and "<td><code>0.5</code></td>" in text
  with pytest.raises(ValueError, match="named twice"):
    report.report(workdir, [others[0], workdir])


def test_the_page_of_847_classes_stays_small(write_run, tmp_path):
  workdir = write_run(tmp_path / "full", num_classes=847, steps=(*range(5000, 160_001, 5000),))
  assert report.report(workdir).stat().length < 5_000_000


def test_classes_without_any_number_have_a_page_too(write_run, tmp_path):
  workdir = write_run(tmp_path / "empty", num_classes=3)
  path = workdir / "eval" / "100.json"
  text = re.sub(
    r'"(mIoU|fwIoU|mACC|pACC|IoU|accuracy|rare|common|frequent)": [\d.]+',
    r'"\1": null',
    path.read_text(),
  )
  text = re.sub(r'"(train_images|train_pixel_share)": [\d.]+', r'"\1": 0', text)
  path.write_text(re.sub(r',\s*"digest": .*', "", text))
  for name in ("100_confusion.npz", "100_examples.npz"):
    (workdir / "eval" / name).unlink()
  text = report.report(workdir).read_text(encoding="utf-8")
  assert not Outline(text).open and "None were kept" in text


def test_a_report_that_fails_does_not_fail_the_training(workdir, caplog):
  (workdir / "config.json").write_text("{")
  report.after_training(workdir)
  assert "could not be written" in caplog.text and "config.json" in caplog.text
  assert not (workdir / "report.html").exists()


def test_a_template_that_fails_does_not_fail_the_training(workdir, caplog):
  """As with a line that another release has written."""
  (workdir / "environment.jsonl").write_text('{"step": 0, "train_images": 1080}\n')
  report.after_training(workdir)
  assert "could not be written" in caplog.text and "Traceback" in caplog.text
  assert not (workdir / "report.html").exists()


def test_reports_need_neither_jax_nor_tensorflow():
  code = "import sys; from ltss_jax import report; print({'jax', 'tensorflow'} & set(sys.modules))"
  process = programs.run("-c", code, check=True)
  assert process.stdout.strip() == "set()"
