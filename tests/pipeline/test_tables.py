"""Tables that are exported are opened in a spreadsheet as they are."""

from __future__ import annotations

from pipeline.tables import Table, csv_of, spaced


def test_no_exported_cell_is_a_formula() -> None:
    names = ["=cmd|'/c calc'!A1", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1"]
    plain = ["Cat", "a=b", "", "-0.5", "+7", "nan", -1.5, 3]
    header, *rows = csv_of(["Class"], [[cell] for cell in (*names, *plain)]).split("\n")
    assert header == "Class"
    text = csv_of([], [[cell] for cell in names])
    assert all(f"'{name}" in text for name in names)
    assert rows[-len(plain) - 1 :] == ["Cat", "a=b", '""', "-0.5", "+7", "nan", "-1.5", "3", ""]


def test_space_is_put_between_columns_and_nowhere_else() -> None:
    table = Table(
        headers=["", "mAP"], sections=[[["off", "1.00"], ["on", "2.00"]]], notes=["a | b"]
    )
    header, ruler, first, _, _, note = spaced(table.markdown()).split("\n")
    assert first == "| &emsp;off | &emsp;1.00 |"
    assert header.count("&emsp;") == 2
    assert (ruler, note) == ("|-----|-----:|", "a | b")
