"""Odd values of every option, and odd models: an error of streamplan's own with code 2 or 3, and no result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from streamplan.cli.values import DTYPES
from tests.cli.running import FACTORIES, RunLine
from tests.cli.test_page import commands

SIZE = "--input-size=1,3,40,36"
TILES = f"{SIZE} --tile-size=16"
HUGE = "9" * 30
LONG = "9" * 5000
"""More digits than Python reads as an integer."""
SIZES = f", 1 1,3 1,3,40,36, 1,,40,36 -1,3,40,36 0,3,40,36 1,3,40,-36 1.0,3,40,36 1e3,3,40,36 0x1,3,4,4 \u0661,3,40,36 \
    1,3,{HUGE},36 1,3,{LONG},36 1,3,9223372036854775807,36 1,3,4294967296,4294967296 1,9223372036854775807,4,4 \
    1,3,40,36,40,36 (1,3,40,36) 1x3x40x36 None"
TILE_SIZES = f", 0 -1 1.5 a 16, 16,0 16,16,16 {HUGE} {LONG}"
ODD = {
    "--keep-tiles": f"-1 x 1.5 nan {HUGE} {LONG}",
    "--memory-budget": f"0 -1 nan inf 1e400GiB -5GiB GiB 5apples 1KiB {LONG}",
    "--max-slowdown": "0 -1 nan x",
    "--optimizer": "x SGD",
    "--carries": "x",
    "--halo": "x",
    "--batch-norm": "x",
    "--cut": f"nope b. .. 0 {'b' * 5000}",
    "--seed": f"-9223372036854775809 18446744073709551616 x 1.5 {HUGE} {LONG}",
    "--rtol": "nan inf -1 x",
    "--dtype": "float31 int64 Tensor nn __doc__ float8_e4m3fn",
    "--device": f"gpu0 cuda:-1 cuda:{HUGE} mkldnn CPU privateuseone",
    "--method": "x",
    "--what": "x",
    "--arg": f"x = =4 1=2 width: width=-1 width=x width=None width=[ nope=1 self=3 width={HUGE} width={'(' * 500}",
}
"""Values that no command takes, by option."""
MODELS = f": nets Small: .nets:Small ..nets:Small nets.x:Small os:path os:getcwd builtins:int sys:exit \
    torch.nn:Module torch.nn:Conv2d missing.py:Small folder.py:Net binary.py:Net empty.py:Net {'a' * 5000}.py:Net \
    {'a' * 5000}:Net {FACTORIES}: {FACTORIES}:Small. {FACTORIES}:.Small {FACTORIES}:Small.x {FACTORIES}:Small.forward \
    {FACTORIES}:fails {FACTORIES}:makes_a_list {FACTORIES}:NUMBER"
OUTPUTS = f"/dev/null /dev/null/x /dev/null/x.png {'a' * 300} {'a' * 300}.png here.txt/x.png grid.jpg"
SMALL = f"{FACTORIES}:Small"
CASES = [
    *[(["plan", "receptive-field", "verify"], f"{SMALL} --tile-size=16 --input-size={word}") for word in SIZES.split()],
    *[(["plan", "receptive-field", "verify"], f"{SMALL} {SIZE} --tile-size={word}") for word in TILE_SIZES.split()],
    *[(["plan", "verify"], f"{word} {TILES}") for word in MODELS.split()],
    *[(["plot"], f"{SMALL} {TILES} --what=tiles --output={word}") for word in OUTPUTS.split()],
    *[
        ([], f"{SMALL} {TILES} {option}={word}")
        for option, words in ODD.items()
        for word in ["", *words.split()]
        if (option, word) != ("--arg", "width=")
    ],
]


def ids(case: object) -> str | None:
    """Short and printable."""
    return ascii(case)[1:-1].removeprefix(f"{SMALL} ")[:60] if isinstance(case, str) else None


@pytest.mark.parametrize(("names", "line"), CASES, ids=ids)
def test_an_odd_value_is_refused(
    run: RunLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.py").mkdir()
    Path("binary.py").write_bytes(bytes(range(256)))
    Path("empty.py").touch()
    Path("here.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    option = line.rsplit(" ", 1)[1].partition("=")[0]
    for name in names or [name for name, command in commands().items() if option in command.format_help()]:
        more = " --output=pictures" if name == "plot" and "--output" not in line else ""
        result = run(f"{name} {line}{more}")
        assert (result.code in (2, 3), result.out) == (True, "")
        assert result.err.startswith("error: ")
        assert "Traceback" not in result.err
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before] == []


def test_every_option_with_a_value_is_tried() -> None:
    actions = {
        one.option_strings[-1]: one for command in commands().values() for one in command._actions if one.option_strings
    }
    with_values = {name for name, one in actions.items() if one.nargs != 0}
    assert with_values == {*ODD, "--input-size", "--tile-size", "--output"}


def test_dtypes_are_those_of_torch() -> None:
    assert all(isinstance(getattr(torch, name), torch.dtype) for name in DTYPES)
