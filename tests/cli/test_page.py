"""docs/command_line.md: it names every option, and its examples print what it says, but for numbers that vary."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from streamplan.cli.parser import build_parser
from tests.cli.running import RunLine

PAGE = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(r"^```sh\n(streamplan \w+ [^{]*?)^```$\s*^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (one for one in build_parser()._actions if isinstance(one, argparse._SubParsersAction))
    return dict(action.choices)


def test_the_page_names_every_option_and_no_other() -> None:
    known = {option for command in commands().values() for one in command._actions for option in one.option_strings}
    named = set(re.findall(r"--[a-z][a-z-]*", PAGE))
    assert named - {"--version"} == known - {"-h"}
    assert all(f"| `{name}` |" in PAGE for name in commands())


@pytest.mark.slow
@pytest.mark.parametrize(("line", "shown"), EXAMPLE.findall(PAGE), ids=["plan", "refused", "verify"])
def test_the_examples_print_what_the_page_shows(run: RunLine, line: str, shown: str) -> None:
    result = run(shlex.join(shlex.split(line.replace("\\\n", " "))[1:]))
    assert result.code == (3 if shown.startswith("error") else 0)
    assert wording(result.out + result.err) == wording(shown)


def wording(text: str) -> list[str]:
    """The lines without numbers and units, which change with the planner and the machine, and without their order."""
    text = re.sub(r"(worst tensor\n.*)", "", text, flags=re.DOTALL)  # which tensor is the worst varies
    text = re.sub(r"\d[\d.]*(e[+-]\d+)?", "#", text)
    return sorted(" ".join(line.split()) for line in re.sub(r"# ([KMGT]i)?B\b", "# B", text).splitlines())
