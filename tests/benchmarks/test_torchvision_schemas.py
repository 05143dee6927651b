from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import torchvision_schemas
from benchmarks.torchvision_schemas import define_missing_schemas

_PACKAGE = """
import torch

@torch.library.register_fake("torchvision::nms")
def meta_nms(dets, scores, iou_threshold):
    return dets.new_empty(0)

@torch.library.register_fake("torchvision::qnms")
def meta_qnms(dets, scores, iou_threshold):
    return dets.new_empty(0)
"""
"""What torchvision does on import that fails without its compiled part."""


def test_nothing_is_defined_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not define_missing_schemas()


def test_a_torchvision_without_its_compiled_part_can_be_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if hasattr(torch.ops.torchvision, "nms"):
        pytest.skip("torchvision's compiled part is there")
    folder = tmp_path / "torchvision"
    folder.mkdir()
    (folder / "__init__.py").write_text(_PACKAGE)
    (folder / "_C.so").write_bytes(b"for another machine")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(torchvision_schemas, "_libraries", [])
    assert define_missing_schemas()
    assert define_missing_schemas(), "defining them twice would be an error of torch"
    import torchvision

    assert torchvision.__file__ == str(folder / "__init__.py")
    assert hasattr(torch.ops.torchvision, "nms")
    del sys.modules["torchvision"]  # not through monkeypatch, which would put it back
