"""Plain data to frozen values, and every mismatch to one clear message at its place."""

from __future__ import annotations

import json
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from ffsim.config.document import Document, Path_, dotted
from ffsim.errors import Problem

T = TypeVar("T")

_UNKNOWN = {"extra_forbidden", "unexpected_keyword_argument"}
_MISSING = {"missing", "missing_argument", "missing_keyword_only_argument"}
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "dataclass_type": "a mapping of keys to values",
    "dataclass_exact_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "none_required": "nothing",
}
_LIMITS = {
    "greater_than_equal": "at least",
    "greater_than": "above",
    "less_than_equal": "at most",
    "less_than": "below",
}


@lru_cache(maxsize=64)
def adapter(type_: Any) -> TypeAdapter[Any]:
    """The builder of a type; kept, because making one costs milliseconds."""
    return TypeAdapter(type_)


@lru_cache(maxsize=64)
def json_schema(type_: Any) -> dict[str, Any]:
    """The JSON Schema of the files that build a type."""
    return adapter(type_).json_schema(mode="validation")


def build(document: Document, type_: type[T]) -> T:
    """Build a frozen value from a document.

    Raises:
        ScenarioError: everything that is wrong with the document, at once.
    """
    form: Any = type_
    try:
        value: T = adapter(form).validate_json(json.dumps(document.data), strict=True)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            _report(document, detail, form)
        document.raise_problems()
        raise  # unreachable: every detail above became a problem
    document.raise_problems()
    return value


def _report(document: Document, detail: ErrorDetails, type_: Any) -> None:
    kind = detail["type"]
    path, data = _path_in(document.data, detail["loc"], absent=kind in _MISSING)
    if any(problem.path == dotted(path) for problem in document.problems):
        return  # what could not be read cannot be right either
    if kind in _UNKNOWN:
        known = _known_keys(json_schema(type_), path[:-1], document.data)
        near = get_close_matches(str(path[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        document.report(path, "unknown key", hint, key=True)
    elif kind in _MISSING:
        document.report(path, "missing", f"add `{path[-1]}:`")
    elif kind == "literal_error":
        document.report(path, f"got {data!r}", f"use one of {detail.get('ctx', {}).get('expected', '')}")
    elif kind in {"union_tag_invalid", "union_tag_not_found"}:
        context = detail.get("ctx", {})
        key = str(context.get("discriminator", "kind")).strip("'")
        got = data.get(key) if isinstance(data, dict) else data
        document.report((*path, key), f"got {got!r}", f"use one of {context.get('expected_tags', _tags(type_, key))}")
    elif kind in _EXPECTED:
        document.report(path, f"expected {_EXPECTED[kind]}, got {_shown(data)}")
    elif kind in _LIMITS:
        limit = next(iter(detail["ctx"].values()))
        document.report(path, f"must be {_LIMITS[kind]} {limit:g}, got {_shown(data)}")
    elif kind == "value_error":
        what, _, fix = str(detail["msg"]).removeprefix("Value error, ").partition(": ")
        option = document.change(path) if isinstance(data, dict) and path else None
        if option is None:
            document.report(path, what, fix)
        else:
            document.problems.append(Problem(where=str(option), path=dotted(path), what=what, fix=fix))
    else:
        document.report(path, f"{detail['msg'][0].lower()}{detail['msg'][1:]}, got {_shown(data)}")


def _shown(data: Any) -> str:
    text = "nothing" if data is None else repr(data)
    return text if len(text) <= 60 else text[:57] + "..."


def _path_in(data: Any, loc: tuple[int | str, ...], *, absent: bool) -> tuple[Path_, Any]:
    """The part of pydantic's location that exists in the file: union tags and the like are dropped.

    Args:
        data: the file's data.
        loc: pydantic's location.
        absent: the last step names a key that is missing, and is kept.
    """
    path: list[str | int] = []
    for index, step in enumerate(loc):
        last = absent and index == len(loc) - 1
        if isinstance(data, dict) and (step in data or last):
            path.append(step)
            data = data.get(str(step))
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            path.append(step)
            data = data[step]
    return tuple(path), data


def _known_keys(schema: dict[str, Any], path: Path_, data: Any) -> list[str]:
    """Keys that the schema allows at a path."""
    definitions = schema.get("$defs", {})
    nodes = [schema]
    for step in path:
        data = data[step]
        following: list[dict[str, Any]] = []
        for node in _expand(nodes, definitions):
            if isinstance(step, str):
                child = node.get("properties", {}).get(step, node.get("additionalProperties"))
            else:
                child = node.get("items") or (node.get("prefixItems") or [None])[0]
            if isinstance(child, dict):
                following.append(child)
        nodes = following
    expanded = _expand(nodes, definitions)
    if isinstance(data, dict):  # of a tagged union, keep the member whose constant keys agree with the data
        fitting = [node for node in expanded if _constants_agree(node, data)]
        expanded = fitting or expanded
    return list(dict.fromkeys(key for node in expanded for key in node.get("properties", {})))


def _constants_agree(node: dict[str, Any], data: dict[str, Any]) -> bool:
    return all(
        key not in data or data[key] == value["const"]
        for key, value in node.get("properties", {}).items()
        if "const" in value
    )


def _expand(nodes: list[dict[str, Any]], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    for node in nodes:
        if "$ref" in node:
            result += _expand([definitions[node["$ref"].rsplit("/", 1)[-1]]], definitions)
        elif "anyOf" in node or "oneOf" in node:
            result += _expand([*node.get("anyOf", []), *node.get("oneOf", [])], definitions)
        else:
            result.append(node)
    return result


def _tags(type_: Any, key: str) -> str:
    definitions = json_schema(type_).get("$defs", {})
    tags = [
        entry["properties"][key]["const"]
        for entry in definitions.values()
        if "const" in entry.get("properties", {}).get(key, {})
    ]
    return ", ".join(repr(tag) for tag in tags)
