"""Names to files, ``base:`` inheritance and ``--set``: what stands between a user's words and a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from ffsim.config.build import build
from ffsim.config.document import Document, Mark, Path_, dotted, merge, parse_scalar, read_document
from ffsim.errors import Problem, ScenarioError

T = TypeVar("T")

SUFFIX = ".yaml"
MAX_BASES = 8


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where the files of one kind stand.

    Attributes:
        kind: what messages call such a file (``"cluster"``).
        folder: folder name looked for in the working directory (``topologies``).
        installed: the folder that ships with ffsim.
    """

    kind: str
    folder: str
    installed: Path

    def names(self) -> list[str]:
        """The installed names, sorted."""
        return sorted(path.stem for path in self.installed.glob(f"*{SUFFIX}"))

    def find(self, name: str, *, near: Path | None = None) -> Path:
        """Resolve a path or a name: the working directory first, then what is installed.

        Args:
            name: ``topologies/h800-2048.yaml`` (a path) or ``h800-2048`` (a name).
            near: folder of the file that mentions it; its neighbours win over the working directory.

        Raises:
            ScenarioError: nothing of that name anywhere; the message names the closest.
        """
        if name.endswith((".yaml", ".yml")) or "/" in name:
            candidates = [base / name for base in (near, Path()) if base is not None]
            return next((path for path in candidates if path.exists()), candidates[-1])
        folders = [near, Path(), Path(self.folder), self.installed]
        for folder in folders:
            if folder is not None and (path := folder / f"{name}{SUFFIX}").is_file():
                return path
        known = self.names()
        close = get_close_matches(name, known, n=1)
        fix = f"did you mean {close[0]!r}?" if close else f"installed: {', '.join(known)}"
        raise ScenarioError(Problem(what=f"no {self.kind} file named {name!r}", fix=fix))


@dataclass(frozen=True, slots=True)
class Override:
    """One ``--set path=value``.

    Attributes:
        path: where in the file.
        value: parsed exactly as it would be in the file.
        text: as typed, for messages.
    """

    path: Path_
    value: Any = field(hash=False)
    text: str

    @classmethod
    def parse(cls, text: str) -> Override:
        """Read ``plan.pp=8``.

        Raises:
            ScenarioError: no ``=``, an empty step in the path, or a value that is not YAML.
        """
        where = f"--set {text}"
        left, equals, right = text.partition("=")
        steps = [step.strip() for step in left.split(".")]
        if not equals or not all(steps):
            raise ScenarioError(Problem(where=where, what="cannot be read", fix="write --set path.to.key=value"))
        path = tuple(int(step) if step.isdigit() else step for step in steps)
        return cls(path, parse_scalar(right, where), text)

    def apply(self, document: Document) -> None:
        """Put the value into a document, noting the option as its place; a bare value leaves a figure no range."""
        data: Any = document.data
        for index, step in enumerate(self.path[:-1]):
            if isinstance(step, str) and isinstance(data, dict):
                data = data.setdefault(step, {})
            elif _holds(data, step):
                data = data[step]
            else:
                return self._refuse(document, self.path[: index + 1])
        last = self.path[-1]
        if not _holds(data, last) and not (isinstance(last, str) and isinstance(data, dict)):
            return self._refuse(document, self.path)
        if _holds_figure(data, last) and self.value is not None and not isinstance(self.value, dict):
            data[last] = self._as_figure()
            document.values[*self.path, "value"] = Mark(f"--set {self.text}")
        else:
            data[last] = self.value
        document.values[self.path] = document.keys[self.path] = Mark(f"--set {self.text}")
        return None

    def _as_figure(self) -> dict[str, Any]:
        """The value as a figure without a range, from this option."""
        return {"value": self.value, "source": {"ref": f"--set {self.text}", "kind": "given"}}

    def _refuse(self, document: Document, path: Path_) -> None:
        document.problems.append(
            Problem(
                where=f"--set {self.text}", path=dotted(path), what=f"there is nothing to set here in {document.file}"
            )
        )


def _holds_figure(data: Any, key: str | int) -> bool:
    """Whether a value with its source stands there."""
    return isinstance(data, dict) and isinstance(data.get(key), dict) and {"value", "source"} <= data[key].keys()


def _holds(data: Any, index: str | int) -> bool:
    return isinstance(index, int) and isinstance(data, list) and index < len(data)


def read_with_bases(shelf: Shelf, name: str, *, near: Path | None = None) -> Document:
    """Read a file and everything it inherits from through ``base:``.

    Raises:
        ScenarioError: a file cannot be read, or the chain of bases is circular or longer than eight.
    """
    chain: list[Path] = []
    documents: list[Document] = []
    following: str | None = name
    while following is not None:
        path = shelf.find(following, near=near)
        if path.resolve() in chain or len(chain) == MAX_BASES:
            raise ScenarioError(
                Problem(
                    where=str(path),
                    path="base",
                    what="the chain of `base:` files is circular or too long",
                    fix="cut it",
                )
            )
        chain.append(path.resolve())
        document = read_document(path)
        following = document.data.pop("base", None)
        if following is not None and not isinstance(following, str):
            document.report(("base",), "expected the name of a file")
            following = None
        documents.append(document)
        near = path.parent
    result = documents.pop()
    while documents:
        result = merge(result, documents.pop())
    return result


def load(shelf: Shelf, name: str, type_: type[T], *, overrides: Sequence[Override] = (), near: Path | None = None) -> T:
    """Find, read, inherit, override and build: a name to a frozen value.

    Raises:
        ScenarioError: every problem of the file at once.
    """
    return build(load_document(shelf, name, overrides=overrides, near=near), type_)


def load_document(shelf: Shelf, name: str, *, overrides: Sequence[Override] = (), near: Path | None = None) -> Document:
    """Like `load`, stopping at plain data that still knows its places."""
    document = read_with_bases(shelf, name, near=near)
    for override in overrides:
        override.apply(document)
    return document


def expect_kind(document: Document, *kinds: str) -> None:
    """Refuse a file of another kind before its every key is called unknown.

    Raises:
        ScenarioError: the file says it is of another kind.
    """
    found = document.data.get("kind", kinds[0])
    if found not in kinds:
        wanted = " or ".join(kinds)
        document.report(("kind",), f"expected a {wanted} file, got kind {found!r}", "are the two arguments swapped?")
        document.raise_problems()
