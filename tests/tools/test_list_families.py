"""The list of families counts what there is."""

from pathlib import Path

from lumen.lmm.families import UNFIT
from tools import list_families


def test_remarks_count_the_families_and_name_what_does_not_fit():
    remarks = list_families.remarks()
    assert remarks.startswith("45 of the 97 model types")
    assert all(f"- `{kind}`: {reason}" in remarks for kind, reason in UNFIT.items())
    assert "`molmo2`" in remarks.partition("Not added yet: ")[2]


def test_the_page_holds_what_the_tool_prints_below_its_table():
    page = Path(__file__).resolve().parents[2] / "docs" / "families.md"
    assert page.read_text(encoding="utf-8").endswith(f"\n{list_families.remarks()}\n")


def test_a_table_in_markdown():
    rows = [("llava", "packed", "the square of the tower", "1 x 1 patches", "one per patch", "yes")]
    lines = list_families.markdown(rows).splitlines()
    assert len(lines) == 3
    assert lines[2] == "| llava | packed | the square of the tower | 1 x 1 patches | one per patch | yes |"
