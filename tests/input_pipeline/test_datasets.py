import pytest

from input_pipeline import datasets


@pytest.mark.parametrize("name", datasets.SPECS)
def test_a_data_set_is_made_read_or_a_part_and_only_one_of_them(name):
  spec = datasets.find_spec(name)
  assert [spec.prepare is not None, spec.layout is not None, bool(spec.part_of)].count(True) == 1
  assert (spec.class_table is None) == (spec.prepare is not None)
  whole = datasets.find_spec(spec.part_of or name)
  assert whole.layout is None or whole.layout.RAW_FOLDERS


def test_only_a_folder_has_to_be_there_to_know_its_classes(tmp_path):
  for name, spec in datasets.SPECS.items():
    if not spec.takes_root:
      assert spec.read_classes(tmp_path / "none", "", -1).name == name
  assert [name for name, spec in datasets.SPECS.items() if spec.takes_root] == ["folder"]


def test_wrong_name_suggests_nearest():
  with pytest.raises(ValueError, match="'coco_stuf_lt'; did you mean 'coco_stuff_lt'"):
    datasets.find_spec("coco_stuf_lt")
