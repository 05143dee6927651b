"""`plan`, `receptive-field` and `verify`: what they print is what the functions return."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import streamplan
from streamplan.cli import commands, main
from streamplan.errors import VerificationError
from streamplan.features import verify
from streamplan.features.verify import TensorError, VerificationReport
from tests.cli.factories import Small, TwoImages
from tests.cli.running import RunLine

ROOT = Path(__file__).parents[2]
SIZE = (1, 3, 40, 36)
SMALL = ":Small --input-size 1,3,40,36"


def on_meta(make: Any = Small, **arguments: Any) -> nn.Module:
    with torch.device("meta"):
        return make(**arguments).eval()


# ---------------------------------------------------------------------------------------------------------------- plan


def test_plan_prints_the_plan(run: RunLine) -> None:
    result = run(f"plan {SMALL} --tile-size 16")
    assert (result.code, result.err) == (0, "")
    assert result.out == f"{streamplan.plan(on_meta(), SIZE, 16)}\n"


def test_verbose_plan(run: RunLine) -> None:
    plan = streamplan.plan(on_meta(), SIZE, (16, 12))
    assert run(f"plan {SMALL} --tile-size 16,12 --verbose").out == f"{plan.report(verbose=True)}\n"


def test_json_is_the_plan(run: RunLine) -> None:
    result = run(f"plan {SMALL} --tile-size 16 --json")
    assert streamplan.Plan.from_json(result.out) == streamplan.plan(on_meta(), SIZE, 16)


def test_a_terminal_gets_the_same_text(monkeypatch: pytest.MonkeyPatch, run: RunLine) -> None:
    elsewhere = run(f"plan {SMALL} --tile-size 16").out
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert run(f"plan {SMALL} --tile-size 16").out == elsewhere == f"{streamplan.plan(on_meta(), SIZE, 16)}\n"


PLAN_OPTIONS = [
    ("--halo recompute", {"halo": "recompute"}),
    ("--cut down", {"cut": "down"}),
    ("--cut stem --cut down", {"cut": ("stem", "down")}),
    ("--carries host", {"carries": "host"}),
    ("--keep-tiles 3", {"keep_tiles": 3}),
    ("--optimizer adam", {"optimizer": "adam"}),
    ("--memory-budget 64MiB", {"memory_budget": "64MiB"}),
    ("--device cpu", {"device": "cpu"}),
    ("--dtype float32", {"dtype": torch.float32}),
]


@pytest.mark.parametrize(("words", "options"), PLAN_OPTIONS, ids=[words for words, _ in PLAN_OPTIONS])
def test_options_of_plan(run: RunLine, words: str, options: dict[str, Any]) -> None:
    result = run(f"plan {SMALL} --tile-size 16 --json {words}")
    assert (result.code, result.err) == (0, "")
    assert streamplan.Plan.from_json(result.out) == streamplan.plan(on_meta(), SIZE, 16, **options)


def test_slowdown_chooses_the_tile_size(run: RunLine) -> None:
    result = run(f"plan {SMALL} --max-slowdown 2 --json")
    plan = streamplan.Plan.from_json(result.out)
    assert plan.max_slowdown == 2.0
    assert plan.forecast is not None
    assert plan.forecast.time.ratio <= 2.0


def test_a_dtype_is_that_of_model_and_image(run: RunLine) -> None:
    plan = streamplan.Plan.from_json(run(f"plan {SMALL} --tile-size 16 --dtype bfloat16 --json").out)
    assert plan.inputs[0].dtype == "bfloat16"
    assert plan == streamplan.plan(on_meta().bfloat16(), SIZE, 16)


def test_several_inputs(run: RunLine) -> None:
    result = run("plan :TwoImages --input-size 1,3,40,36 --input-size 1,1,40,36 --tile-size 16 --json")
    plan = streamplan.Plan.from_json(result.out)
    assert [one.shape for one in plan.inputs] == [SIZE, (1, 1, 40, 36)]
    assert plan == streamplan.plan(on_meta(TwoImages), (SIZE, (1, 1, 40, 36)), 16)


def test_batch_norm_is_in_eval_mode_unless_told_otherwise(run: RunLine) -> None:
    line = f"plan {SMALL} --arg norm=batch --tile-size 16 --json"
    assert run(line).code == 0
    assert run(f"{line} --train").code == 3
    plan = streamplan.Plan.from_json(run(f"{line} --train --batch-norm resident").out)
    assert plan.cut == ("stem",)


def test_calibration_is_asked_for(run: RunLine) -> None:
    assert "guessed" in run(f"plan {SMALL} --tile-size 16").out
    measured = run(f"plan {SMALL} --tile-size 16 --calibrate").out
    assert "guessed" not in measured
    assert "measured" in measured


# ----------------------------------------------------------------------------------------------------- receptive field


def test_receptive_field(run: RunLine) -> None:
    report = streamplan.receptive_field(on_meta(), SIZE, tile_size=20)
    result = run(f"receptive-field {SMALL} --tile-size 20")
    assert (result.code, result.out, result.err) == (0, f"{report}\n", "")
    assert run(f"receptive-field {SMALL} --method analytic --cut stem").out == (
        f"{streamplan.receptive_field(on_meta(), SIZE, method='analytic', cut='stem')}\n"
    )


def test_receptive_field_as_json(run: RunLine) -> None:
    data = json.loads(run(f"receptive-field {SMALL} --json").out)
    assert data["input_size"] == list(SIZE)
    last = next(value for value in data["values"] if value["value"] == "down")
    axis = last["axes"][0]
    assert (axis["receptive_field"], axis["stride"]) == (5, 2)


# -------------------------------------------------------------------------------------------------------------- verify


def test_verify_passes(run: RunLine) -> None:
    result = run(f"verify {SMALL} --tile-size 16 --halo recompute --rtol 1e-9")
    assert (result.code, result.err) == (0, "")
    assert "exact in float64" in result.out
    assert "tolerance 1e-09" in result.out


def test_a_plan_for_a_budget_is_what_is_verified(run: RunLine) -> None:
    data = json.loads(run(f"verify {SMALL} --max-slowdown 2 --halo recompute --json").out)
    verified = streamplan.Plan.from_json(json.dumps(data["plan"])).options
    assert verified == streamplan.plan(Small().eval(), SIZE, max_slowdown=2.0, halo="recompute").options


def test_too_small_a_tolerance_fails(run: RunLine) -> None:
    result = run(f"verify {SMALL} --tile-size 16 --dtype float32 --rtol 0")
    assert result.code == 1
    assert "DIFFERENT in float32" in result.out
    assert "FAILED" in result.out


def test_verification_as_json(run: RunLine) -> None:
    data = json.loads(run(f"verify {SMALL} --tile-size 16 --json").out)
    assert data["passed"] is True
    assert data["rtol"] == 1e-10
    names = {item["name"] for item in data["errors"]}
    assert {"output 0", "input 0", *dict(Small().named_parameters())} == names
    assert max(item["error"] for item in data["errors"]) < 1e-10
    assert streamplan.Plan.from_json(json.dumps(data["plan"])).tile_size == (16, 16)


def test_an_infinite_error_is_null(run: RunLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def differs(*args: Any, **options: Any) -> VerificationReport:
        report = verify(*args, **options)
        return VerificationReport((TensorError("output", "output 1", math.inf, 0.0),), 1e-10, "float64", report.plan)

    monkeypatch.setattr(commands, "verify", differs)
    result = run(f"verify {SMALL} --tile-size 16 --json")
    assert result.code == 1
    expected = {"kind": "output", "name": "output 1", "error": None, "scale": 0.0}
    assert json.loads(result.out)["errors"] == [expected]


def test_a_verification_that_raises_fails_as_well(run: RunLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def differs(*args: Any, **options: Any) -> VerificationReport:
        raise VerificationError("the streamed output differs")

    monkeypatch.setattr(commands, "verify", differs)
    result = run(f"verify {SMALL} --tile-size 16")
    assert (result.code, result.out, result.err) == (1, "", "error: the streamed output differs\n")


def test_seeds_draw_weights_and_image(run: RunLine) -> None:
    first, again, other = (run(f"verify {SMALL} --tile-size 16 --json --seed {seed}").out for seed in (1, 1, 2))
    assert first == again != other


def test_one_tile_verifies_no_tiling(run: RunLine) -> None:
    result = run(f"verify {SMALL} --tile-size 40")
    assert result.code == 0
    assert result.err.startswith("note: one tile is the whole image")


# --------------------------------------------------------------------------------------------------------- the process


def test_a_process(tmp_path: Path) -> None:
    """What the script that pip makes of the entry point does, in a folder whose modules can be named."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, name = scripts["streamplan"].partition(":")
    script = f"import sys; from {module} import {name}; sys.path[0] = '/nowhere'; sys.exit({name}())"
    (tmp_path / "nets.py").write_text((ROOT / "tests/cli/factories.py").read_text(encoding="utf-8"), encoding="utf-8")
    words = ["plan", "nets:Small", "--input-size", "1,3,40,36"]
    environment = {**os.environ, "STREAMPLAN_CACHE": str(tmp_path)}

    def run_process(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, *words, *more]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    result = run_process("--tile-size", "16", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert streamplan.Plan.from_json(result.stdout).tile_size == (16, 16)
    refused = run_process("--memory-budget", "1KiB")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert refused.stderr.startswith("error: no plan fits into 1.00 KiB\n")
    assert "Traceback" not in refused.stderr


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"streamplan {streamplan.__version__}\n"
    with pytest.raises(SystemExit, match="0"):
        main(["plan", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "it is put in eval mode" in shown
    assert "exit codes: 0 done, 1 verification failed" in shown


def test_words_of_the_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["streamplan", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out
