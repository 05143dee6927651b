"""Planning leaves Python's garbage collector as it was."""

from __future__ import annotations

import gc

import pytest
from torch import nn

import streamplan
from streamplan.module.collection import paused_collection


def test_it_goes_on_afterwards() -> None:
    with paused_collection():
        assert not gc.isenabled()
        with paused_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_goes_on_after_a_refusal() -> None:
    with pytest.raises(streamplan.StreamPlanError):
        streamplan.plan(nn.Flatten(), (1, 3, 16, 16), 8)
    assert gc.isenabled()


def test_who_has_switched_it_off_keeps_it_off() -> None:
    gc.disable()
    try:
        streamplan.plan(nn.Conv2d(3, 2, 3), (1, 3, 16, 16), 8)
        assert not gc.isenabled()
    finally:
        gc.enable()
