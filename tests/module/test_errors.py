"""Every refusal of the public functions: its full message, its types, and that it survives pickling.

A message says what, where, why and what to do; `where` is absent only if the mistake has no place in the model.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import streamplan
from streamplan import errors
from tests.golden import assert_matches_golden
from tests.module.refused_nets import Branches, Broken, FlattenFirst, Normalized, Plain, Wider

SIZE = (1, 3, 33, 29)
ZEROS, BYTES = torch.zeros(SIZE), torch.zeros(SIZE, dtype=torch.uint8)
SOURCE = streamplan.Source(ZEROS[0])


def compiled(model: nn.Module | None = None) -> streamplan.StreamedModule:
    return streamplan.compile(model or Plain(), SIZE, 13)


def input_gradient(image: Any, target: Any, streamed: Any = None, out: Any = None) -> Any:
    return streamplan.input_gradient(streamed or compiled(), image, target, out=out)


def stored_plan(**changes: str) -> streamplan.Plan:
    """A plan read from text in which some pieces are replaced."""
    text = streamplan.plan(Plain(), SIZE, 13).to_json()
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    return streamplan.Plan.from_json(text)


@dataclass(frozen=True)
class Refusal:
    """A call and the error it raises."""

    name: str
    call: Callable[[], Any]
    kind: type[errors.StreamPlanError]
    builtin: type[Exception] = Exception
    parts: tuple[str, ...] = field(default=("why", "do"))
    """Parts of the message besides `what` that must be there."""


def refusal(
    name: str,
    call: Callable[[], Any],
    kind: type[errors.StreamPlanError],
    builtin: type[Exception] = Exception,
    parts: str = "why do",
) -> Refusal:
    return Refusal(name, call, kind, builtin, tuple(parts.split()))


EVERYWHERE = "where why do"
REFUSALS = [
    refusal("not_a_module", lambda: streamplan.compile(torch.relu, SIZE), errors.ModelTypeError, TypeError),
    refusal("already_streamed", lambda: streamplan.compile(compiled(), SIZE), errors.ModelTypeError, TypeError),
    refusal(
        "compiled_as_a_whole",
        lambda: streamplan.compile(torch.compile(Plain(), backend="eager"), SIZE),
        errors.ModelTypeError,
        TypeError,
    ),
    refusal("class_not_instance", lambda: streamplan.plan(Plain, SIZE), errors.ModelTypeError, TypeError),
    refusal("verify_not_a_module", lambda: streamplan.verify(None, SIZE), errors.ModelTypeError, TypeError),
    refusal("size_missing", lambda: streamplan.compile(Plain()), errors.InputSizeError, ValueError),
    refusal(
        "size_twice",
        lambda: streamplan.compile(Plain(), SIZE, example_inputs=torch.zeros(SIZE)),
        errors.InputSizeError,
        ValueError,
    ),
    refusal(
        "size_rank_3", lambda: streamplan.plan(Plain(), (3, 33, 29)), errors.InputSizeError, ValueError, EVERYWHERE
    ),
    refusal("size_rank_5", lambda: streamplan.plan(Plain(), (1, *SIZE)), errors.InputSizeError, ValueError, EVERYWHERE),
    refusal("size_rank_2", lambda: streamplan.plan(Plain(), (33, 29)), errors.InputSizeError, ValueError),
    refusal("size_zero", lambda: streamplan.plan(Plain(), (1, 3, 0, 29)), errors.InputSizeError, ValueError),
    refusal("size_negative", lambda: streamplan.plan(Plain(), (1, 3, 33, -29)), errors.InputSizeError, ValueError),
    refusal("size_float", lambda: streamplan.plan(Plain(), (1, 3, 33.5, 29)), errors.InputSizeError, ValueError),
    refusal("size_number", lambda: streamplan.plan(Plain(), 512), errors.InputSizeError, ValueError),
    refusal("size_text", lambda: streamplan.plan(Plain(), "1,3,33,29"), errors.InputSizeError, ValueError),
    refusal(
        "size_wrong_channels", lambda: streamplan.plan(Plain(), (1, 4, 33, 29)), errors.TracingError, parts=EVERYWHERE
    ),
    refusal(
        "tile_too_small",
        lambda: streamplan.plan(Plain(), SIZE, 6, halo="recompute"),
        errors.TileSizeError,
        ValueError,
        EVERYWHERE,
    ),
    refusal(
        "tile_too_small_on_one_axis",
        lambda: streamplan.plan(Plain(), SIZE, (20, 6), halo="recompute"),
        errors.TileSizeError,
        ValueError,
        EVERYWHERE,
    ),
    refusal("tile_of_three_axes", lambda: streamplan.plan(Plain(), SIZE, (9, 9, 9)), errors.TileSizeError, ValueError),
    refusal("tile_zero", lambda: streamplan.plan(Plain(), SIZE, 0), errors.TileSizeError, ValueError),
    refusal("tile_text", lambda: streamplan.plan(Plain(), SIZE, "13"), errors.TileSizeError, ValueError),
    refusal("tile_float", lambda: streamplan.plan(Plain(), SIZE, 13.0), errors.TileSizeError, ValueError),
    refusal("tile_floats", lambda: streamplan.plan(Plain(), SIZE, (13.0, 13.0)), errors.TileSizeError, ValueError),
    refusal(
        "first_op_is_global",
        lambda: streamplan.plan(FlattenFirst(), (1, 3, 8, 8)),
        errors.NothingToStreamError,
        parts=EVERYWHERE,
    ),
    refusal(
        "no_image",
        lambda: streamplan.plan(nn.Linear(4, 2), example_inputs=torch.zeros(5, 4)),
        errors.InputSizeError,
        ValueError,
    ),
    refusal(
        "training_batch_norm",
        lambda: streamplan.plan(Normalized(), SIZE),
        errors.TrainingBatchNormError,
        parts=EVERYWHERE,
    ),
    refusal("branch_on_values", lambda: streamplan.plan(Branches(), SIZE), errors.TracingError, parts=EVERYWHERE),
    refusal("forward_fails", lambda: streamplan.plan(Broken(), SIZE), errors.TracingError, parts=EVERYWHERE),
    refusal("cut_unknown", lambda: streamplan.plan(Plain(), SIZE, cut="stage.3"), errors.CutError, ValueError),
    refusal("cut_unknown_far", lambda: streamplan.plan(Plain(), SIZE, cut="zzzzzz"), errors.CutError, ValueError),
    refusal(
        "cut_behind_global", lambda: streamplan.plan(Plain(), SIZE, cut="fc"), errors.CutError, ValueError, EVERYWHERE
    ),
    refusal(
        "cut_at_global", lambda: streamplan.plan(Plain(), SIZE, cut="mean"), errors.CutError, ValueError, EVERYWHERE
    ),
    refusal("cut_at_input", lambda: streamplan.plan(Plain(), SIZE, cut="x"), errors.CutError, ValueError),
    refusal("cut_number", lambda: streamplan.plan(Plain(), SIZE, cut=3), errors.OptionError, ValueError),
    refusal("cut_of_numbers", lambda: streamplan.plan(Plain(), SIZE, cut=(3,)), errors.OptionError, ValueError),
    refusal("cut_empty", lambda: streamplan.plan(Plain(), SIZE, cut=()), errors.OptionError, ValueError),
    refusal("halo_unknown", lambda: streamplan.plan(Plain(), SIZE, halo="keep"), errors.OptionError, ValueError),
    refusal(
        "batch_norm_unknown", lambda: streamplan.plan(Plain(), SIZE, batch_norm="eval"), errors.OptionError, ValueError
    ),
    refusal("dtype_text", lambda: streamplan.plan(Plain(), SIZE, dtype="float16"), errors.OptionError, ValueError),
    refusal("device_unknown", lambda: streamplan.plan(Plain(), SIZE, device="gpu"), errors.OptionError, ValueError),
    refusal(
        "example_inputs_of_no_kind",
        lambda: streamplan.plan(Plain(), example_inputs=3),
        errors.OptionError,
        ValueError,
    ),
    refusal(
        "example_inputs_by_wrong_name",
        lambda: streamplan.plan(Plain(), example_inputs={"y": torch.zeros(SIZE)}),
        errors.InputMismatchError,
        ValueError,
    ),
    refusal(
        "plan_and_size",
        lambda: streamplan.compile(Plain(), SIZE, plan=stored_plan()),
        errors.OptionError,
        ValueError,
    ),
    refusal("call_rank", lambda: compiled()(torch.zeros(3, 33, 29)), errors.InputMismatchError, ValueError),
    refusal("call_channels", lambda: compiled()(torch.zeros(1, 4, 33, 29)), errors.InputMismatchError, ValueError),
    refusal("call_dtype", lambda: compiled()(torch.zeros(SIZE).double()), errors.InputMismatchError, ValueError),
    refusal("call_integers", lambda: compiled()(torch.zeros(SIZE).long()), errors.InputMismatchError, ValueError),
    refusal("call_empty", lambda: compiled()(torch.zeros(0, 3, 33, 29)), errors.InputMismatchError, ValueError),
    refusal("call_device", lambda: compiled()(torch.zeros(SIZE, device="meta")), errors.InputMismatchError, ValueError),
    refusal(
        "call_too_many", lambda: compiled()(torch.zeros(SIZE), torch.zeros(SIZE)), errors.InputMismatchError, ValueError
    ),
    refusal("call_none", lambda: compiled().forward(), errors.InputMismatchError, ValueError),
    refusal("call_not_a_tensor", lambda: compiled()([1.0]), errors.InputMismatchError, ValueError),
    refusal("call_array", lambda: compiled()(ZEROS.numpy()), errors.InputMismatchError, ValueError),
    refusal(
        "call_smaller_than_kernel", lambda: compiled()(torch.zeros(1, 3, 2, 2)), errors.TracingError, parts=EVERYWHERE
    ),
    refusal(
        "plan_for_another_model",
        lambda: streamplan.compile(Wider(), plan=stored_plan()),
        errors.PlanMismatchError,
        ValueError,
    ),
    refusal(
        "plan_of_another_version",
        lambda: stored_plan(version=('"format_version": 4', '"format_version": 99')),
        errors.PlanMismatchError,
        ValueError,
    ),
    refusal("plan_not_json", lambda: streamplan.Plan.from_json("tiles!"), errors.PlanMismatchError, ValueError),
    refusal("plan_not_a_plan", lambda: streamplan.Plan.from_json("[1]"), errors.PlanMismatchError, ValueError),
    refusal(
        "plan_without_a_field",
        lambda: stored_plan(name=('"halo"', '"hallo"')),
        errors.PlanMismatchError,
        ValueError,
    ),
    refusal(
        "statistics_not_streamed",
        lambda: streamplan.activation_statistics(Plain(), [torch.zeros(SIZE)]),  # type: ignore[arg-type]
        errors.ModelTypeError,
        TypeError,
    ),
    refusal(
        "batches_one_tensor",
        lambda: streamplan.activation_statistics(compiled(), torch.zeros(SIZE)),
        errors.BatchesError,
        ValueError,
    ),
    refusal("batches_empty", lambda: streamplan.activation_statistics(compiled(), []), errors.BatchesError, ValueError),
    refusal(
        "batches_with_labels",
        lambda: streamplan.activation_statistics(compiled(), [(torch.zeros(SIZE), 1)]),
        errors.InputMismatchError,
        ValueError,
    ),
    refusal(
        "batches_iterator",
        lambda: streamplan.init.lsuv_(compiled(), iter([torch.zeros(SIZE)])),
        errors.BatchesError,
        ValueError,
    ),
    refusal(
        "lsuv_tolerance",
        lambda: streamplan.init.lsuv_(compiled(), [torch.zeros(SIZE)], tol=0),
        errors.OptionError,
        ValueError,
    ),
    refusal(
        "lsuv_iterations",
        lambda: streamplan.init.lsuv_(compiled(), [torch.zeros(SIZE)], max_iter=0),
        errors.OptionError,
        ValueError,
    ),
    refusal(
        "gradient_of_a_plain_net",
        lambda: input_gradient(torch.zeros(SIZE), 0, Plain()),
        errors.ModelTypeError,
        TypeError,
    ),
    refusal("gradient_by_no_image", lambda: input_gradient([1.0], 0), errors.InputMismatchError, ValueError),
    refusal("gradient_by_other_dtype", lambda: input_gradient(BYTES, 0), errors.InputMismatchError, ValueError),
    refusal("gradient_of_no_class", lambda: input_gradient(ZEROS, "cat"), errors.TargetError, ValueError),
    refusal("gradient_of_two_classes", lambda: input_gradient(ZEROS, (0, 1)), errors.TargetError, ValueError),
    refusal("gradient_of_class_2", lambda: input_gradient(ZEROS, 2), errors.TargetError, ValueError, EVERYWHERE),
    refusal("gradient_of_class_minus_1", lambda: input_gradient(ZEROS, -1), errors.TargetError, ValueError, EVERYWHERE),
    refusal(
        "gradient_of_a_map",
        lambda: input_gradient(ZEROS, 0, compiled(Normalized().eval())),
        errors.TargetError,
        ValueError,
        EVERYWHERE,
    ),
    refusal("gradient_of_two_numbers", lambda: input_gradient(ZEROS, lambda y: y), errors.TargetError, ValueError),
    refusal("gradient_of_a_float", lambda: input_gradient(ZEROS, lambda y: 1.5), errors.TargetError, ValueError),
    refusal(
        "gradient_of_a_constant",
        lambda: input_gradient(ZEROS, lambda y: y.detach().sum()),
        errors.TargetError,
        ValueError,
        EVERYWHERE,
    ),
    refusal(
        "gradient_out_shape",
        lambda: input_gradient(SOURCE, 0, out=np.zeros((3, 29, 33), np.float32)),
        errors.SourceError,
        ValueError,
    ),
    refusal(
        "gradient_out_rank", lambda: input_gradient(ZEROS, 0, out=np.zeros((33, 29))), errors.SourceError, ValueError
    ),
    refusal(
        "gradient_out_dtype",
        lambda: input_gradient(SOURCE, 0, out=np.zeros(SIZE[1:], np.uint8)),
        errors.SourceError,
        ValueError,
    ),
    refusal(
        "gradient_out_read_only",
        lambda: input_gradient(SOURCE, 0, out=np.broadcast_to(np.float32(0), SIZE[1:])),
        errors.SourceError,
        ValueError,
    ),
]


def _stable(error: errors.StreamPlanError) -> str:
    """The message without fingerprints and without what torch itself said, which changes with its version."""
    text = str(error)
    if isinstance(error.__cause__, RuntimeError | TypeError) and isinstance(error, errors.TracingError):
        text = text.replace(error.why, "<what torch said>")
    return re.sub(r"\b[0-9a-f]{16}\b", "<fingerprint>", text)


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.name)
def test_message_types_and_pickle(case: Refusal) -> None:
    with pytest.raises(errors.StreamPlanError) as caught:
        case.call()
    error = caught.value
    assert type(error) is case.kind
    assert isinstance(error, case.builtin)
    assert error.what
    assert not error.what.endswith(".")
    for part in case.parts:
        assert getattr(error, part), f"the message has no {part!r}:\n{error}"
    assert_matches_golden(f"{type(error).__name__}: {_stable(error)}", f"error_{case.name}")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_hook_message() -> None:
    model = Plain()
    model.stage[0].register_forward_hook(lambda *args: None)
    with pytest.raises(errors.HookError) as caught:
        compiled(model)
    assert_matches_golden(str(caught.value), "error_hook")


def test_stale_state_message() -> None:
    """Torch words the reason; what and do are streamplan's."""
    model = Plain()
    out = compiled(model)(torch.ones(SIZE))
    with torch.no_grad():
        model.stem.weight.mul_(2.0)
    with pytest.raises(errors.StaleStateError) as caught:
        out.sum().backward()
    assert isinstance(caught.value, RuntimeError)
    assert "modified by an inplace operation" in caught.value.why
    caught.value.why = "..."
    assert_matches_golden(caught.value._message(), "error_stale_state")


def test_smallest_tile_size_on_the_error_is_the_smallest() -> None:
    model = Plain()
    with pytest.raises(errors.TileSizeError) as caught:
        streamplan.compile(model, SIZE, (1, 1), halo="recompute")
    smallest = caught.value.smallest_tile_size
    # by hand: pool 2 reads 2, the strided convolution 5, the stem 7
    assert smallest == (7, 7) == streamplan.plan(model, SIZE, 13, halo="recompute").smallest_tile_size
    assert streamplan.plan(model, SIZE, smallest, halo="recompute").grid == (8, 7)
    for axis in (0, 1):
        less = tuple(size - (index == axis) for index, size in enumerate(smallest))
        with pytest.raises(errors.TileSizeError) as again:
            streamplan.plan(model, SIZE, less, halo="recompute")
        assert again.value.smallest_tile_size == smallest
        assert again.value.where == f"axis {axis}"


@pytest.mark.parametrize("tile_size", [(13, 13, 13), 0, (13, -1), "13", 13.0, True, (13, False)])
def test_malformed_tile_sizes_name_no_smallest(tile_size: Any) -> None:
    with pytest.raises(errors.TileSizeError) as caught:
        streamplan.plan(Plain(), SIZE, tile_size)
    assert caught.value.smallest_tile_size == ()
    assert repr(tile_size) in caught.value.what


def test_sizes_may_be_any_integers() -> None:
    plan = streamplan.plan(Plain(), SIZE, 13)
    for size in (list(SIZE), torch.Size(SIZE), torch.zeros(SIZE).shape):
        assert streamplan.plan(Plain(), size, [13, 13]) == plan
    assert streamplan.plan(Plain(), tuple(np.array(SIZE)), np.int64(13)) == plan


def test_every_kind_of_error_has_a_refusal() -> None:
    """Kinds that are raised elsewhere are listed with the tests that raise them."""
    elsewhere = {
        "TraceMismatchError": "tests/trace",
        "HookError": "above",
        "StaleStateError": "above",
        "DoubleBackwardError": "tests/module/test_module.py",
        "VerificationError": "tests/features/test_verify.py",
        "ProbeMismatchError": "tests/features/test_receptive_field.py",
        "RuleTargetError": "tests/rules",
        "RuleConflictError": "tests/rules",
        "RuleError": "tests/rules",
        "SourceError": "tests/images",
        "NothingRecordedError": "tests/module/test_random_ops.py",
        "OutOfMemoryError": "tests/runtime/test_out_of_memory.py",
        "InfeasibleBudgetError": "tests/costs/test_choose.py",
        "InitialisationError": "tests/features/test_lsuv.py",
    }
    kinds = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.StreamPlanError) and value is not errors.StreamPlanError
    }
    assert kinds - set(elsewhere) - {case.kind.__name__ for case in REFUSALS} == set()
