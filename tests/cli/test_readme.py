"""Commands print what the README and how-to pages say; ``pytest tests/cli/test_readme.py --force-regen`` writes it."""

import doctest
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, pytest.param(ROOT / "docs/how-to/compare.md", marks=pytest.mark.exhaustive)]
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


def commands(block):
    """Every ``$ command`` of a block with the output under it."""
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_print_what_the_page_says(ffsim, request, monkeypatch, page):
    monkeypatch.chdir(ROOT)
    text = page.read_text()
    checker = doctest.OutputChecker()
    for block in BLOCK.findall(text):
        answers = []
        for command, expected in commands(block):
            program, *args = shlex.split(command)
            assert program == "ffsim"
            answer = ffsim(*args)
            printed = "\n".join(line.rstrip() for line in (answer.out + answer.err).splitlines()) + "\n"
            answers.append((command, expected, printed))
        if request.config.getoption("force_regen"):
            text = text.replace(block, "".join(f"$ {command}\n{renewed(*rest)}" for command, *rest in answers))
            continue
        for command, expected, printed in answers:
            assert checker.check_output(expected, printed, doctest.ELLIPSIS), f"{command} prints\n{printed}"
    if request.config.getoption("force_regen"):
        page.write_text(text)


def renewed(expected, printed):
    """The output as it is now: whole, or the parts between ``...`` found again by their first word."""
    if not re.search(r"^\.\.\.$", expected, re.MULTILINE):
        return printed
    parts = re.split(r"^\.\.\.\n", expected, flags=re.MULTILINE)
    lines, at, found = printed.splitlines(keepends=True), 0, []
    for part in parts:
        wanted = part.splitlines()
        if wanted:
            word = wanted[0].split()[0]
            at = next(index for index in range(at, len(lines)) if lines[index].split()[:1] == [word])
            wanted = lines[at:] if part is parts[-1] else lines[at : at + len(wanted)]
        found.append("".join(wanted))
    return "...\n".join(found)


def test_its_make_targets_exist():
    makefile = (README.parent / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make (\w+)", README.read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target
