"""From `pkg.mod:factory` to a model: every form that is taken, and where it is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

import streamplan
from streamplan.cli.models import load_model
from tests.cli import factories
from tests.cli.factories import Small
from tests.cli.running import FACTORIES, RunLine


@pytest.mark.parametrize("needs_data", [False, True])
@pytest.mark.parametrize("name", ["Small", "remember_device", "ZOO.small", "INSTANCE"])
def test_classes_functions_attributes_and_instances(name: str, *, needs_data: bool) -> None:
    model = load_model(f"{FACTORIES}:{name}", {}, needs_data=needs_data)
    assert isinstance(model, Small)
    is_made = name != "INSTANCE"
    assert model.stem.weight.is_meta == (is_made and not needs_data)


def test_arguments_reach_the_factory(run: RunLine) -> None:
    line = "plan :Small --input-size 1,3,40,36 --tile-size 16 --arg width=6 --arg norm=batch --arg num_classes=7 --json"
    plan = streamplan.Plan.from_json(run(line).out)
    assert plan.chosen.shapes == ((1, 6, 20, 18),)
    model = load_model(f"{FACTORIES}:Small", {"width": 6, "norm": "batch", "num_classes": 7}, needs_data=False)
    assert isinstance(model, Small)
    assert isinstance(model.norm, nn.BatchNorm2d)
    assert model.fc.out_features == 7


@pytest.mark.parametrize(("command", "device"), [("plan", "meta"), ("receptive-field", "meta"), ("verify", "cpu")])
def test_where_the_model_is_made(run: RunLine, command: str, device: str) -> None:
    factories.BUILT_ON.clear()
    assert run(f"{command} :remember_device --input-size 1,3,40,36 --tile-size 16").code == 0
    (built_on,) = factories.BUILT_ON
    assert built_on == device


def test_a_factory_that_reads_values_runs_on_the_cpu(run: RunLine) -> None:
    factories.BUILT_ON.clear()
    result = run("plan :reads_values --input-size 1,3,40,36 --tile-size 16")
    assert (result.code, result.err) == (0, "")
    assert factories.BUILT_ON == ["cpu"]


def test_what_a_factory_prints_is_not_in_the_output(run: RunLine) -> None:
    result = run("plan :talkative --input-size 1,3,40,36 --tile-size 16 --json")
    assert streamplan.Plan.from_json(result.out).num_tiles == 9
    assert result.err == "building\n"


def test_a_file(run: RunLine, tmp_path: Path) -> None:
    """Its name hides no installed module, and it finds its neighbours."""
    (tmp_path / "beside.py").write_text("CHANNELS = 5\n", encoding="utf-8")
    (tmp_path / "torch.py").write_text(
        "from torch import nn\nfrom beside import CHANNELS\nnet = nn.Conv2d(3, CHANNELS, 3)\n", encoding="utf-8"
    )
    result = run(f"plan {tmp_path}/torch.py:net --input-size 1,3,40,36 --tile-size 16 --json")
    assert result.err == ""
    assert streamplan.Plan.from_json(result.out).chosen.shapes == ((1, 5, 38, 34),)


def test_a_module_of_the_current_folder(run: RunLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets_of_this_folder.py").write_text("from torch.nn import Conv2d\n", encoding="utf-8")
    line = "plan nets_of_this_folder:Conv2d --arg in_channels=3 --arg out_channels=2 --arg kernel_size=(3,3)"
    result = run(f"{line} --input-size 1,3,40,36 --tile-size 16")
    assert (result.code, result.err) == (0, "")
