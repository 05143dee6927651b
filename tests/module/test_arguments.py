"""What belongs to which input: arguments of a call are bound by their places, in whatever containers they come."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import streamplan
from streamplan import errors
from streamplan.planning.arguments import CallArguments

SIZE = (1, 3, 24, 20)
TILE = 12


class TwoConvs(nn.Module):
    """Two images, which are not treated alike."""

    def __init__(self, find: Callable[..., tuple[Tensor, Tensor]] = lambda batch: (batch["ct"], batch["pet"])) -> None:
        super().__init__()
        self.find = find
        self.ct, self.pet = (nn.Conv2d(3, 2, 3, padding=1, dtype=torch.float64) for _ in range(2))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        ct, pet = self.find(*args, **kwargs)
        return self.ct(ct) * 2 + self.pet(pet).relu()


@dataclasses.dataclass(frozen=True)
class Pair:
    ct: Tensor
    pet: Tensor
    weight: float = 2.0


@dataclasses.dataclass(slots=True)
class SlottedPair:
    ct: Tensor
    pet: Tensor


NamedPair = namedtuple("NamedPair", "ct pet")


class OwnDict(dict[str, Tensor]):
    """A dict with an attribute beside its items."""

    weight = 1.0


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    ct, pet = (torch.randn(SIZE, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2))
    return ct, pet


def assert_same(
    streamed: nn.Module, plain: nn.Module, call: Callable[[Callable[..., Tensor], Tensor, Tensor], Tensor]
) -> None:
    """Output and gradients by both images of a call are those of the plain net."""
    ct, pet = images()
    expected, found = call(plain, ct, pet), call(streamed, ct, pet)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    cotangent = torch.randn(expected.shape, dtype=expected.dtype)
    wanted = torch.autograd.grad(expected, (ct, pet), cotangent)
    torch.testing.assert_close(torch.autograd.grad(found, (ct, pet), cotangent), wanted, rtol=1e-12, atol=1e-12)


def by_attribute(batch: Any) -> tuple[Tensor, Tensor]:
    return batch.ct, batch.pet


def by_key(batch: Any) -> tuple[Tensor, Tensor]:
    return batch["ct"], batch["pet"]


CONTAINERS = {
    "dict": (by_key, lambda ct, pet: {"ct": ct, "pet": pet}, lambda ct, pet: {"pet": pet, "ct": ct}),
    "ordered": (by_key, lambda ct, pet: OrderedDict(ct=ct, pet=pet), lambda ct, pet: OrderedDict(pet=pet, ct=ct)),
    "default": (
        by_key,
        lambda ct, pet: defaultdict(list, ct=ct, pet=pet),
        lambda ct, pet: defaultdict(list, pet=pet, ct=ct),
    ),
    "own dict": (by_key, lambda ct, pet: OwnDict(ct=ct, pet=pet), lambda ct, pet: OwnDict(pet=pet, ct=ct)),
    "user dict": (by_key, lambda ct, pet: UserDict(ct=ct, pet=pet), lambda ct, pet: UserDict(pet=pet, ct=ct)),
    "proxy": (
        by_key,
        lambda ct, pet: MappingProxyType({"ct": ct, "pet": pet}),
        lambda ct, pet: MappingProxyType({"pet": pet, "ct": ct}),
    ),
    "in a list": (
        lambda batch: (batch[0]["ct"], batch[1]["pet"]),
        lambda ct, pet: [{"ct": ct, "n": 1}, {"pet": pet}],
        lambda ct, pet: [{"n": 1, "ct": ct}, {"pet": pet}],
    ),
    "in a dict": (
        lambda batch: (batch["a"]["ct"], batch["b"][0]),
        lambda ct, pet: {"a": {"ct": ct}, "b": (pet, None)},
        lambda ct, pet: {"b": (pet, None), "a": {"ct": ct}},
    ),
    "numbers as keys": (
        lambda batch: (batch[0], batch[1]),
        lambda ct, pet: {0: ct, 1: pet},
        lambda ct, pet: {1: pet, 0: ct},
    ),
    "dataclass": (by_attribute, Pair, lambda ct, pet: Pair(pet=pet, ct=ct)),
    "slots": (by_attribute, SlottedPair, lambda ct, pet: SlottedPair(pet=pet, ct=ct)),
    "named tuple": (by_attribute, NamedPair, lambda ct, pet: NamedPair(pet=pet, ct=ct)),
    "namespace": (
        by_attribute,
        lambda ct, pet: SimpleNamespace(ct=ct, pet=pet),
        lambda ct, pet: SimpleNamespace(pet=pet, ct=ct),
    ),
    "deque": (tuple, lambda ct, pet: deque([ct, pet]), lambda ct, pet: deque([ct, pet], maxlen=2)),
    "list": (tuple, lambda ct, pet: [ct, pet], lambda ct, pet: (ct, pet)),
}


@pytest.mark.parametrize(("find", "make", "other"), CONTAINERS.values(), ids=CONTAINERS)
def test_tensors_are_bound_by_key(find: Any, make: Any, other: Any) -> None:
    plain = TwoConvs(find)
    streamed = streamplan.compile(plain, example_inputs=(make(*images()),), tile_size=TILE)
    assert_same(streamed, plain, lambda net, ct, pet: net(make(ct, pet)))
    assert_same(streamed, plain, lambda net, ct, pet: net(other(ct, pet)))
    assert_same(streamed, plain, lambda net, ct, pet: net(make(ct, pet)))
    assert_same(streamed, plain, lambda net, ct, pet: net(make(ct[:, :, :20], pet[:, :, :20])))
    assert_same(streamed, plain, lambda net, ct, pet: net(other(ct[:, :, :20], pet[:, :, :20])))


def test_keyword_arguments_are_bound_by_name() -> None:
    plain = TwoConvs(lambda **kwargs: (kwargs["ct"], kwargs["pet"]))
    ct, pet = images()
    streamed = streamplan.compile(plain, example_inputs={"ct": ct, "pet": pet}, tile_size=TILE)
    assert_same(streamed, plain, lambda net, ct, pet: net(ct=ct, pet=pet))
    assert_same(streamed, plain, lambda net, ct, pet: net(pet=pet, ct=ct))


def test_the_order_of_keys_counts_where_the_net_reads_them_in_order() -> None:
    plain = TwoConvs(lambda batch: tuple(batch.values()))
    ct, pet = images()
    streamed = streamplan.compile(plain, example_inputs=({"ct": ct, "pet": pet},), tile_size=TILE)
    assert_same(streamed, plain, lambda net, ct, pet: net({"ct": ct, "pet": pet}))
    assert_same(streamed, plain, lambda net, ct, pet: net({"pet": pet, "ct": ct}))


def test_one_tensor_given_twice_collects_both_gradients() -> None:
    plain = TwoConvs(by_key)
    streamed = streamplan.compile(
        plain, example_inputs=(dict(zip(("ct", "pet"), images(), strict=True)),), tile_size=TILE
    )
    assert_same(streamed, plain, lambda net, ct, pet: net({"ct": ct, "pet": ct}) + net({"ct": pet, "pet": pet}))


class Optional(nn.Module):
    """Arguments that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1, dtype=torch.float64)

    def forward(self, ct: Tensor, scale: float = 1.5, pet: Tensor | None = None, *, shift: float = 0.0) -> Tensor:
        out = self.conv(ct) * scale + shift
        return out if pet is None else out + self.conv(pet).relu()


def test_arguments_may_be_given_by_place_or_by_name() -> None:
    plain = Optional()
    streamed = streamplan.compile(plain, example_inputs=(images()[0], 1.5, images()[1]), tile_size=TILE)
    assert_same(streamed, plain, lambda net, ct, pet: net(ct, pet=pet))
    assert_same(streamed, plain, lambda net, ct, pet: net(pet=pet, ct=ct, shift=1.0))
    assert_same(streamed, plain, lambda net, ct, pet: net(ct, 2, pet))
    assert_same(streamed, plain, lambda net, ct, pet: net(ct, 2.0, pet, shift=3.0))
    assert_same(streamed, plain, lambda net, ct, pet: net(ct, -0.0, pet, shift=3.0))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda net, ct, pet: net({"ct": ct}), "0['pet']"),
        (lambda net, ct, pet: net({"ct": ct, "mri": pet}), "0['pet']"),
        (lambda net, ct, pet: net({"ct": ct, "pet": pet, "mri": pet}), "0['mri']"),
        (lambda net, ct, pet: net({"ct": ct, "pet": None}), "0['pet']"),
        (lambda net, ct, pet: net({"ct": ct, "pet": 1.0}), "0['pet']"),
        (lambda net, ct, pet: net({"ct": ct, "pet": pet, "weight": pet}), "0['weight']"),
        (lambda net, ct, pet: net({"ct": ct, "pet": {"pet": pet}}), "0['pet']"),
        (lambda net, ct, pet: net([ct, pet]), "0['ct']"),
    ],
)
def test_other_tensors_than_planned_are_named(call: Any, named: str) -> None:
    ct, pet = images()
    batch = {"ct": ct, "pet": pet, "weight": 2.0}
    streamed = streamplan.compile(TwoConvs(), example_inputs=(batch,), tile_size=TILE)
    with pytest.raises(errors.InputMismatchError, match="input ") as caught:
        call(streamed, ct, pet)
    assert f"input {named} is" in caught.value.what


def test_a_tensor_hidden_from_the_search_is_refused() -> None:
    ct, pet = images()
    plain = TwoConvs(tuple)
    with pytest.raises(errors.InputMismatchError, match="cannot be taken apart"):
        streamplan.compile(plain, example_inputs=({ct, pet},), tile_size=TILE)


class Scaled(nn.Module):
    """A net whose result depends on an argument that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1, dtype=torch.float64)

    def forward(self, x: Tensor, setting: Any) -> Tensor:
        return self.conv(x) * as_number(setting)


def as_number(setting: Any) -> float:
    if isinstance(setting, np.ndarray):
        return float(setting.sum())
    if isinstance(setting, SimpleNamespace):
        return float(setting.scale["by"][0])
    return float(sum(setting)) if isinstance(setting, list | set) else float(setting)


def large(last: float) -> np.ndarray:
    array = np.ones(5000)
    array[2500] = last  # what numpy leaves out when it prints
    return array


@pytest.mark.parametrize(
    "settings",
    [
        (large(2.0), large(3.0)),
        (np.float32(0.1), np.float64(0.1)),
        (SimpleNamespace(scale={"by": [2.0]}), SimpleNamespace(scale={"by": [3.0]})),
        ({1.0, 2.0}, {1.0, 3.0}),
        ([0.1, 0.2], [0.2, 0.2]),
        (2, 2.5),
    ],
    ids=["array", "scalar", "object", "set", "list", "number"],
)
def test_constants_count_by_content(settings: tuple[Any, Any]) -> None:
    plain = Scaled()
    x = images()[0].detach()
    streamed = streamplan.compile(plain, example_inputs=(x, settings[0]), tile_size=TILE)
    for setting in (*settings, settings[0]):
        torch.testing.assert_close(streamed(x, setting), plain(x, setting), rtol=1e-12, atol=1e-12)


def test_a_constant_may_change_in_place_between_calls() -> None:
    plain = Scaled()
    x, setting = images()[0].detach(), [1.0, 2.0]
    streamed = streamplan.compile(plain, example_inputs=(x, setting), tile_size=TILE)
    setting[1] = 5.0
    torch.testing.assert_close(streamed(x, setting), plain(x, setting), rtol=1e-12, atol=1e-12)
    smaller = x[:, :, :20]
    setting[1] = 7.0
    torch.testing.assert_close(streamed(smaller, setting), plain(smaller, setting), rtol=1e-12, atol=1e-12)


def key(*values: Any) -> object:
    return CallArguments.of_tensors(values).key


def test_keys_are_equal_for_what_a_net_cannot_tell_apart() -> None:
    x = torch.zeros(SIZE)
    for make in (
        lambda: {"a": x, "b": [1, 2.0, None, float("nan")]},
        lambda: np.arange(7)[::2],
        lambda: Pair(x, x),
        lambda: slice(1, None),
        lambda: print,
        lambda: frozenset({"a", "b"}),
        lambda: torch.float32,
    ):
        assert key(make()) == key(make())
        assert hash(key(make())) == hash(key(make()))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        ((1, 2), [1, 2]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1: 2}, {True: 2}),
        ({"a": 1}, OrderedDict(a=1)),
        (defaultdict(list), defaultdict(dict)),
        (np.zeros(3), np.zeros(3, np.float32)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2), None),
        (Pair(torch.zeros(2), torch.zeros(2)), Pair(torch.zeros(2), torch.zeros(2), 3.0)),
        (lambda: 1, lambda: 2),
    ],
)
def test_keys_differ_for_what_a_net_may_tell_apart(one: Any, other: Any) -> None:
    assert key(one) != key(other)


def test_a_plan_keeps_the_keys_of_dicts() -> None:
    plain = TwoConvs(lambda batch: (batch[0], batch[1]))
    ct, pet = images()
    plan = streamplan.plan(plain, example_inputs=({1: pet, 0: ct},), tile_size=TILE)
    stored = streamplan.Plan.from_json(plan.to_json())
    assert stored.arguments == plan.arguments
    streamed = streamplan.compile(plain, plan=stored)
    assert_same(streamed, plain, lambda net, ct, pet: net({1: pet, 0: ct}))


def test_verify_names_inputs_by_their_place() -> None:
    ct, pet = images()
    report = streamplan.verify(TwoConvs(), inputs=({"pet": pet, "ct": ct},), tile_size=TILE)
    names = [item.name for item in report.errors if item.kind == "input gradient"]
    assert names == ["input 0['pet']", "input 0['ct']"]


def test_a_reference_is_called_as_the_streamed_net_was() -> None:
    ct, pet = images()
    plain = TwoConvs()
    streamed = streamplan.compile(plain, example_inputs=({"pet": pet, "ct": ct},), tile_size=TILE)
    expected = streamed({"pet": pet, "ct": ct})
    reference = streamplan.testing.reference(streamed)
    torch.testing.assert_close(reference({"pet": pet, "ct": ct}), expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(errors.InputMismatchError, match="otherwise"):
        reference({"ct": ct, "pet": pet})
