"""Files to values: each refusal names the place, the finding and the mend."""

from pathlib import Path
from typing import Annotated, Literal

import pytest

from ffsim.config import Bandwidth, Bytes, Figure, Override, Shelf, TaggedBy, load, spec
from ffsim.config.document import merge, parse_document
from ffsim.errors import ScenarioError
from ffsim.units import BYTES


@spec
class Disk:
    kind: Literal["disk"]
    capacity: Bytes


@spec
class Port:
    kind: Literal["port"]
    rate: Figure[Bandwidth]


@spec
class Box:
    name: str
    count: int = 1
    share: float = 1.0
    parts: tuple[Annotated[Disk | Port, TaggedBy("kind")], ...] = ()

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}: a box with nothing in it is no box")


GOOD = """\
name: crate
count: 4
share: 1
parts:
  - {kind: disk, capacity: 15.36 TB}
  - kind: port
    rate: {value: 200 Gbit/s, source: {ref: data sheet, kind: datasheet}}
"""


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.chdir(tmp_path)
    installed = tmp_path / "installed"
    installed.mkdir()
    (installed / "crate.yaml").write_text(GOOD)
    return Shelf("box", "boxes", installed)


def complaints(shelf: Shelf, text: str, *options: str) -> list[str]:
    Path("box.yaml").write_text(text)
    with pytest.raises(ScenarioError) as error:
        load(shelf, "box.yaml", Box, overrides=[Override.parse(option) for option in options])
    return str(error.value).splitlines()


def test_a_good_file_becomes_a_frozen_value_in_base_units(shelf):
    box = load(shelf, "crate", Box)
    disk, port = box.parts
    assert box.count == 4
    assert disk.capacity == 15.36e12
    assert port.rate.value == 25e9
    assert str(port.rate.source) == "data sheet (datasheet)"


def test_every_problem_of_a_file_is_reported_at_its_place(shelf):
    text = GOOD.replace("count: 4", "count: four").replace("15.36 TB", "15.36 TBytes").replace("name:", "nmae:")
    assert complaints(shelf, text) == [
        "box.yaml:1:1: name: missing; add `name:`",
        "box.yaml:2:8: count: expected a whole number, got 'four'",
        f"box.yaml:5:28: parts.0.capacity: cannot read '15.36 TBytes' as size; use one of {', '.join(BYTES.factors)}",
        "box.yaml:1:1: nmae: unknown key; did you mean 'name'?",
    ]


def test_an_unknown_key_without_a_near_match_lists_the_known_ones_of_its_own_kind(shelf):
    (line,) = complaints(shelf, GOOD.replace("capacity: 15.36 TB", "capacity: 1 TB, wheels: 4"))
    assert line == "box.yaml:5:34: parts.0.wheels: unknown key; known keys: kind, capacity"


def test_the_wrong_spelling_of_bits_is_refused(shelf):
    (line,) = complaints(shelf, GOOD.replace("200 Gbit/s", "200 Gb/s"))
    assert line.startswith(
        "box.yaml:7:19: parts.1.rate.value: cannot read '200 Gb/s' as bandwidth; use one of Mbit/s, Gbit/s"
    )


def test_a_duplicate_key_is_refused(shelf):
    assert complaints(shelf, GOOD + "count: 5\n") == [
        "box.yaml:8:1: count: duplicate key, first given at line 2; keep one of the two"
    ]


def test_a_wrong_union_member_lists_the_choices(shelf):
    (line,) = complaints(shelf, GOOD.replace("kind: disk", "kind: disc"))
    assert line == "box.yaml:5:12: parts.0.kind: got 'disc'; use one of 'disk', 'port'"


def test_a_check_of_the_value_itself_is_reported_at_its_mapping(shelf):
    (line,) = complaints(shelf, GOOD.replace("count: 4", "count: 0"))
    assert line == "box.yaml:1:1: count must be at least 1, got 0; a box with nothing in it is no box"


def test_an_assumed_figure_needs_a_range(shelf):
    (line,) = complaints(shelf, GOOD.replace("kind: datasheet", "kind: assumed"))
    assert line.endswith("an assumed figure needs its range; add low and high")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("- a\n- b\n", "the top level must be a mapping"),
        (
            "name: !!python/object/apply:os.system ['true']\n",
            "tag 'tag:yaml.org,2002:python/object/apply:os.system' is not allowed",
        ),
        ("a: &a [x, x]\nb: [*a, *a]\n", "anchors and aliases are not allowed"),
        ("name: [1, 2\n", "not valid YAML"),
        ("name: a\n\tcount: 1\n", "not valid YAML"),
        ("? [a, b]\n: 1\n", "a key must be plain text"),
        ("name: a\nshare: .inf\n", "not a finite number"),
        ("name: " + "[" * 60 + "]" * 60 + "\n", "nested too deeply"),
        ("name: " + "[" * 5000 + "]" * 5000 + "\n", "nested too deeply"),
        ("name: 2020-01-01\n...\n---\nname: b\n", "not valid YAML"),
    ],
)
def test_what_is_not_plain_yaml_is_refused(shelf, text, says):
    lines = complaints(shelf, text)
    assert any(says in line for line in lines), lines
    assert all(line.startswith("box.yaml") for line in lines)


def test_files_that_are_no_files(shelf, tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "latin.yaml").write_bytes("name: caf\xe9\n".encode("latin-1"))
    (tmp_path / "huge.yaml").write_bytes(b"#" * (5 * 2**20))
    expected = {
        "folder.yaml": "folder.yaml: is a directory; name a YAML file",
        "latin.yaml": "latin.yaml: is not UTF-8 text (byte 9); save it as UTF-8",
        "missing.yaml": "missing.yaml: no such file; check the path",
        "huge.yaml": "huge.yaml: is larger than 4 MiB; scenario files are small; is this the right file?",
    }
    for name, message in expected.items():
        with pytest.raises(ScenarioError) as error:
            load(shelf, name, Box)
        assert str(error.value) == message


def test_names_resolve_in_the_working_directory_first(shelf, tmp_path):
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / "crate.yaml").write_text("name: mine\n")
    assert load(shelf, "crate", Box).name == "mine"


def test_an_unknown_name_names_the_closest(shelf):
    with pytest.raises(ScenarioError, match="no box file named 'crat'; did you mean 'crate'"):
        load(shelf, "crat", Box)


def test_a_base_is_inherited_key_by_key_and_its_places_are_kept(shelf):
    (line,) = complaints(shelf, "base: crate\nname: variant\ncount: 0\n")
    assert "count must be at least 1" in line
    Path("ok.yaml").write_text("base: crate\ncount: 9\n")
    box = load(shelf, "ok.yaml", Box)
    assert (box.name, box.count, len(box.parts)) == ("crate", 9, 2)
    Path("installed/bad.yaml").write_text(GOOD.replace("count: 4", "count: many"))
    lines = complaints(shelf, "base: bad\nname: variant\n")
    assert any("installed/bad.yaml:2:8: count: expected a whole number" in line for line in lines), lines


def test_a_part_of_another_kind_replaces_that_of_the_base():
    base = parse_document("fabric: {kind: planes, planes: 8}\nsource: {kind: measured, ref: a}\n", "base.yaml")
    child = parse_document("fabric: {kind: dragonfly, groups: 3}\nsource: {kind: assumed}\n", "child.yaml")
    merged = merge(base, child)
    assert merged.data["fabric"] == {"kind": "dragonfly", "groups": 3}
    assert merged.data["source"] == {"kind": "assumed", "ref": "a"}  # of a source it is an attribute
    assert merged.place(("fabric", "groups")).file == "child.yaml"


def test_a_circle_of_bases_is_cut(shelf):
    Path("a.yaml").write_text("base: b.yaml\n")
    Path("b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(ScenarioError, match="circular"):
        load(shelf, "a.yaml", Box)


def test_a_bare_value_takes_the_place_of_a_figure_with_its_range(shelf):
    option = "parts.1.rate=400 Gbit/s"
    ranged = GOOD.replace("value: 200 Gbit/s", "value: 200 Gbit/s, low: 100 Gbit/s, high: 300 Gbit/s")
    Path("box.yaml").write_text(ranged)
    rate = load(shelf, "box.yaml", Box, overrides=[Override.parse(option)]).parts[1].rate
    assert (rate.value, rate.low, str(rate.source)) == (50e9, None, f"--set {option} (given)")
    (line,) = complaints(shelf, ranged, "parts.1.rate=fast")
    assert line.startswith("--set parts.1.rate=fast: parts.1.rate.value: cannot read 'fast' as bandwidth")


def test_an_override_is_read_like_the_file_and_blamed_by_its_own_text(shelf):
    Path("box.yaml").write_text(GOOD)
    box = load(shelf, "box.yaml", Box, overrides=[Override.parse("count=7"), Override.parse("parts.0.capacity=1 TB")])
    assert (box.count, box.parts[0].capacity) == (7, 1e12)
    assert complaints(shelf, GOOD, "count=many") == ["--set count=many: count: expected a whole number, got 'many'"]
    assert complaints(shelf, GOOD, "cuont=3") == ["--set cuont=3: cuont: unknown key; did you mean 'count'?"]
    assert complaints(shelf, GOOD, "name.first=3") == [
        "--set name.first=3: name.first: there is nothing to set here in box.yaml"
    ]


@pytest.mark.parametrize("text", ["count", "=3", "a..b=3", "count=[1"])
def test_an_override_that_cannot_be_read_is_refused(text):
    with pytest.raises(ScenarioError, match="--set"):
        Override.parse(text)


def test_numbers_are_read_as_yaml_1_2():
    data = parse_document("a: 010\nb: 0x10\nc: 1_000\nd: yes\ne: 1e3\nf: ~\ng: true\n", "t").data
    assert data == {"a": 10, "b": 16, "c": 1000, "d": "yes", "e": 1000.0, "f": None, "g": True}
