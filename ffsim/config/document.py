"""YAML text to plain data that remembers where every key and value stood.

Safe YAML 1.2 only: no tags, no anchors or aliases (the door to expansion bombs; ``base:`` is our inheritance), no
duplicate keys, text keys. Nothing here knows what a value means.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ffsim.errors import Problem, ScenarioError

MAX_FILE_BYTES = 4 * 2**20
MAX_DEPTH = 40
MANY_BRACKETS = 1000

Path_ = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = {_TAG + name for name in ("null", "bool", "int", "float", "str", "map", "seq")}


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file: one-based line and column; line 0 means the whole of it (an option, a missing file)."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(slots=True)
class Document:
    """Plain nested data with the place of every key and value.

    Attributes:
        data: dicts, lists and scalars, as JSON has them.
        values: path -> place of the value.
        keys: path -> place of the key that holds it.
        problems: what was wrong so far; reading goes on so that one run reports everything.
    """

    file: str
    data: Any = None
    values: dict[Path_, Mark] = field(default_factory=dict)
    keys: dict[Path_, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, path: Path_, *, key: bool = False) -> Mark:
        """Where a value (or its key) stands; for a value that is missing, where its nearest parent stands."""
        marks = self.keys if key and path in self.keys else self.values
        while path and path not in marks:
            path = path[:-1]
            marks = self.values
        return marks.get(path, Mark(self.file))

    def report(self, path: Path_, what: str, fix: str = "", *, key: bool = False) -> None:
        """Note a problem at a path."""
        self.problems.append(Problem(where=str(self.place(path, key=key)), path=dotted(path), what=what, fix=fix))

    def change(self, path: Path_) -> Mark | None:
        """The option that changed something within a value, if any did."""
        return next((mark for place, mark in self.values.items() if place[: len(path)] == path and not mark.line), None)

    def raise_problems(self) -> None:
        """Raise everything noted so far, in file order, if there is anything."""
        if self.problems:
            raise ScenarioError(self.problems)


def dotted(path: Path_) -> str:
    """Write a path as users type it: ``("nodes", 3, "nic")`` -> ``nodes.3.nic``."""
    return ".".join(map(str, path))


def read_document(path: Path, *, sequence_key: str | None = None) -> Document:
    """Read one YAML file.

    Args:
        path: the file.
        sequence_key: where given, the file may also be a bare list, which is taken to stand under this key.

    Returns:
        The document; structural problems are noted in it, not raised.

    Raises:
        ScenarioError: there is no such readable UTF-8 YAML file with a mapping at its top.
    """
    name = str(path)
    return parse_document(_read_text(path, name), name, sequence_key=sequence_key)


def parse_document(text: str, name: str, *, sequence_key: str | None = None) -> Document:
    """Parse YAML text; see `read_document`."""
    document = Document(name)
    node = _compose(text, name)
    if node is None:
        raise ScenarioError(
            Problem(where=name, what="the file is empty", fix="see `ffsim schema` for what belongs in it")
        )
    document.data = _Reader(document).read(node, (), 0)
    if isinstance(document.data, list) and sequence_key is not None:
        return nest(document, sequence_key)
    if not isinstance(document.data, dict):
        raise ScenarioError(
            Problem(
                where=name, what="the top level must be a mapping of keys to values", fix="write `key: value` lines"
            )
        )
    return document


def parse_scalar(text: str, name: str) -> Any:
    """Read one value as it would be read from a file: ``8`` -> int, ``400 Gbit/s`` -> str, ``[1, 2]`` -> list."""
    document = Document(name)
    node = _compose(text, name)
    value = None if node is None else _Reader(document).read(node, (), 0)
    document.raise_problems()
    return value


def to_yaml(data: Any) -> str:
    """Write plain data as a file that `parse_document` reads."""
    yaml = YAML()
    yaml.width = 160
    yaml.default_flow_style = False
    buffer = io.StringIO()
    yaml.dump(data, buffer)
    return buffer.getvalue()


def _read_text(path: Path, name: str) -> str:
    def fail(what: str, fix: str = "") -> ScenarioError:
        return ScenarioError(Problem(where=name, what=what, fix=fix))

    try:
        if path.is_dir():
            raise fail("is a directory", "name a YAML file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise fail(
                f"is larger than {MAX_FILE_BYTES // 2**20} MiB", "scenario files are small; is this the right file?"
            )
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise fail("no such file", "check the path") from None
    except UnicodeDecodeError as error:
        raise fail(f"is not UTF-8 text (byte {error.start})", "save it as UTF-8") from None
    except OSError as error:
        raise fail(f"cannot be read: {error.strerror or error}") from None


@lru_cache(maxsize=256)
def _compose(text: str, name: str) -> Node | None:
    """Parse to ruamel's node graph, which keeps places and constructs nothing; kept, as nobody changes it."""
    try:
        if (
            text.count("[") + text.count("{") > MANY_BRACKETS
        ):  # deep nesting costs quadratic time: look before composing
            _refuse_deep_nesting(text)
        node: Node | None = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Mark(name, mark.line + 1, mark.column + 1) if mark else Mark(name)
        what = " ".join(str(part) for part in (error.context, error.problem) if part)
        raise ScenarioError(
            Problem(where=str(place), what=f"not valid YAML: {what}", fix="check indentation, colons and quotes")
        ) from None
    except YAMLError as error:
        raise ScenarioError(Problem(where=name, what=f"not valid YAML: {' '.join(str(error).split())}")) from None
    except RecursionError:
        raise ScenarioError(
            Problem(where=name, what="nested too deeply", fix=f"{MAX_DEPTH} levels are allowed")
        ) from None
    return node


def _refuse_deep_nesting(text: str) -> None:
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > 2 * MAX_DEPTH:
            raise RecursionError


class _Reader:
    """Walks the node graph once, turning nodes into data and noting places and problems."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._seen: set[int] = set()
        self._anchored = False

    def read(self, node: Node, path: Path_, depth: int) -> Any:
        document = self._document
        document.values[path] = Mark(document.file, node.start_mark.line + 1, node.start_mark.column + 1)
        again = id(node) in self._seen
        if (again or getattr(node, "anchor", None)) and not self._anchored:  # one message, however many there are
            self._anchored = True
            document.report(
                path, "anchors and aliases are not allowed", "repeat the value, or inherit a file with `base:`"
            )
        if again:
            return None
        self._seen.add(id(node))
        if depth > MAX_DEPTH:
            document.report(path, "nested too deeply", f"{MAX_DEPTH} levels are allowed")
            return None
        tag = str(node.tag)
        if tag not in _PLAIN_TAGS:
            document.report(path, f"tag {tag!r} is not allowed", "write plain values (quote a date or a text with `!`)")
            return None
        if isinstance(node, MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, SequenceNode):
            return [self.read(item, (*path, index), depth + 1) for index, item in enumerate(node.value)]
        return self._scalar(str(node.value), path, tag)

    def _mapping(self, node: MappingNode, path: Path_, depth: int) -> dict[str, Any]:
        document = self._document
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = Mark(document.file, key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, ScalarNode):
                document.problems.append(Problem(where=str(place), path=dotted(path), what="a key must be plain text"))
                continue
            key = key_node.value
            if key in result:
                first = document.keys[(*path, key)]
                document.problems.append(
                    Problem(
                        where=str(place),
                        path=dotted((*path, key)),
                        what=f"duplicate key, first given at line {first.line}",
                        fix="keep one of the two",
                    )
                )
                continue
            document.keys[(*path, key)] = place
            result[key] = self.read(value_node, (*path, key), depth + 1)
        return result

    def _scalar(self, text: str, path: Path_, tag: str) -> object:
        if tag == _TAG + "str":
            return text
        if tag == _TAG + "null":
            return None
        if tag == _TAG + "bool":
            return text.lower() == "true"
        try:
            number = int(text.replace("_", ""), 0) if tag == _TAG + "int" else float(text.replace("_", ""))
        except ValueError:
            try:
                number = int(text.replace("_", ""))  # YAML 1.2 reads 010 as ten
            except ValueError:
                number = math.nan
        if not math.isfinite(number):
            self._document.report(path, f"{text!r} is not a finite number", "write an ordinary number")
            return None
        return number


def nest(document: Document, key: str) -> Document:
    """The same document one level deeper, under a key."""
    return Document(
        document.file,
        {key: document.data},
        {(key, *path): mark for path, mark in document.values.items()},
        {(key, *path): mark for path, mark in document.keys.items()},
        document.problems,
    )


def merge(base: Document, child: Document) -> Document:
    """Lay a child document over its base: mappings merge key by key, everything else is replaced whole.

    So are mappings of another ``kind``: keys of a two-level fabric mean nothing to a dragonfly.
    """
    merged = Document(child.file, problems=[*base.problems, *child.problems])
    merged.data = _merge(merged, base, child, base.data, child.data, ())
    return merged


def _merge(out: Document, base: Document, child: Document, low: Any, high: Any, path: Path_) -> Any:
    if not (isinstance(low, dict) and isinstance(high, dict)) or _of_another_kind(low, high, path):
        _copy_marks(out, child, path)
        return high
    out.values[path] = child.place(path)
    result: dict[str, Any] = {}
    for key in [*low, *(key for key in high if key not in low)]:
        here = (*path, key)
        owner = child if key in high else base
        if here in owner.keys:
            out.keys[here] = owner.keys[here]
        if key in low and key in high:
            result[key] = _merge(out, base, child, low[key], high[key], here)
        else:
            _copy_marks(out, owner, here)
            result[key] = high[key] if key in high else low[key]
    return result


def _of_another_kind(low: dict[str, Any], high: dict[str, Any], path: Path_) -> bool:
    """Whether a part within a file is told by its ``kind`` to be another thing; that of a source is no such."""
    within = bool(path) and path[-1] != "source"
    return within and "kind" in low and "kind" in high and low["kind"] != high["kind"]


def _copy_marks(out: Document, owner: Document, path: Path_) -> None:
    for source, target in ((owner.values, out.values), (owner.keys, out.keys)):
        target.update({place: mark for place, mark in source.items() if place[: len(path)] == path})
