"""Writing answers: whole files or none, talk on stderr."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import click

from ffsim.errors import Problem, ScenarioError


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A file that appears under its name only when it is complete; a pipe or a device is written to as it stands.

    Raises:
        ScenarioError: the place cannot be written to.
    """
    device = path.is_relative_to("/dev") or (path.exists() and not path.is_file())
    try:
        with path.open("w", encoding="utf-8", newline="") if device else _replacing(path.resolve()) as file:
            yield file
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ScenarioError(
            Problem(where=str(path), what=f"cannot be written: {error.strerror}", fix="choose another place")
        ) from None


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """A file beside the wanted one that takes its place in the end."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            yield file
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def check_writable(*paths: Path | None) -> None:
    """Refuse outputs that cannot be written before any work is done.

    Raises:
        ScenarioError: a folder is missing, a path is a folder or wanted twice; all of them at once.
    """
    problems = []
    wanted = [path for path in paths if path is not None]
    for number, path in enumerate(wanted):
        if path in wanted[:number]:
            problems.append(Problem(where=str(path), what="is named for two outputs", fix="name two files"))
        elif path.is_dir():
            problems.append(Problem(where=str(path), what="is a directory", fix="name a file"))
        elif not path.parent.is_dir():
            problems.append(Problem(where=str(path), what=f"there is no folder {path.parent}", fix="create it first"))
    if problems:
        raise ScenarioError(problems)


def write(text: str, path: Path | None) -> None:
    """Write an answer to a file or to stdout."""
    if path is None:
        click.echo(text, nl=False)
        return
    with whole_file(path) as file:
        file.write(text)


class _ToStderr(logging.Handler):
    """Shows what the parts below the command line say they are doing."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        click.echo(self.format(record), err=True)


class Talk:
    """Progress and hints on stderr, unless quiet; progress only where someone is watching."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._watched = sys.stderr.isatty()
        log = logging.getLogger("ffsim")
        log.handlers = [handler for handler in log.handlers if not isinstance(handler, _ToStderr)]
        if not quiet:
            log.addHandler(_ToStderr())
            log.setLevel(logging.INFO)

    def progress(self, text: str) -> None:
        """Say what is being done."""
        if self._watched and not self._quiet:
            click.echo(f"{text} ...", err=True)

    def warn(self, doubts: Iterable[str]) -> None:
        """Name doubts about the answer."""
        for doubt in doubts:
            self.note(f"warning: {doubt}")

    def note(self, text: str) -> None:
        """Say something worth knowing about the answer."""
        if not self._quiet:
            click.echo(text, err=True)
