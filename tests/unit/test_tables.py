"""Presentations in every format."""

import json

import pytest

from ffsim.report import Presentation, Table, render

ROWS = [("a", "1.0"), ("b|c", "20.0")]


def presentation(**changes):
    table = Table("things", ("name", "size"), ROWS, right=(1,), footer="of many")
    return Presentation(
        **{"title": "All", "tables": [table], "data": {"things": [{"size": 1.5}, {"size": None}]}} | changes
    )


def test_text():
    assert render(presentation(), "table").splitlines() == [
        "All",
        "",
        "things",
        "name      size",
        "------  ------",
        "a          1.0",
        "b|c       20.0",
        "",
        "of many",
    ]


def test_markdown_keeps_the_table_whole():
    lines = render(presentation(), "markdown").splitlines()
    assert lines[0] == "# All"
    assert lines[2] == "### things"
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4
    assert all(row.replace("\\|", "").count("|") == 3 for row in rows)


def test_json_refuses_numbers_that_json_does_not_know():
    assert json.loads(render(presentation(), "json")) == {"things": [{"size": 1.5}, {"size": None}]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        render(presentation(data=float("nan")), "json")


def test_csv_of_records_or_of_everything_by_path():
    assert render(presentation(), "csv") == "path,value\nthings.0.size,1.5\nthings.1.size,\n"
    records = [{"id": "x", "value": 2}]
    assert render(presentation(records=records), "csv") == "id,value\nx,2\n"
