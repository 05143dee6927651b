"""Functions replaced for one thread: other threads, other people's patches, and what is left afterwards."""

from __future__ import annotations

import threading
import types
from collections.abc import Callable
from typing import Any

import pytest
from torch._dynamo import eval_frame

from streamplan.trace.patches import steady_execution
from streamplan.trace.switches import Attribute, Code, Item, Place, switched, unswitched


def add(x: int, original: int = 1, *, instead: int = 0) -> int:
    return x + original + instead


def closing_over(number: int) -> Callable[[int], int]:
    return lambda x: x + number


def doubling(original: Callable[..., int], /, *args: Any, **kwargs: Any) -> int:
    return 2 * original(*args, **kwargs)


def in_another_thread(work: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def places() -> dict[str, tuple[Place, Callable[[], Callable[..., int]]]]:
    """A place of each kind that holds a function which adds 1, and a way to read what is there."""
    owner, namespace, closure = types.SimpleNamespace(f=add), {"f": add}, closing_over(1)

    class Base:
        def f(self, x: int, **kwargs: int) -> int:
            return add(x, **kwargs)

    inheriting = Base()
    return {
        "attribute": (Attribute(owner, "f"), lambda: owner.f),
        "inherited": (Attribute(inheriting, "f"), lambda: inheriting.f),
        "item": (Item(namespace, "f"), lambda: namespace["f"]),
        "code": (Code(add), lambda: add),
        "closure": (Code(closure), lambda: closure),
    }


@pytest.mark.parametrize("kind", places())
def test_one_thread_alone_sees_another_function(kind: str) -> None:
    place, reached = places()[kind]
    before = place.read()
    with switched(place, doubling):
        assert reached()(3) == 8
        assert in_another_thread(lambda: reached()(3)) == 4
        with switched(place, lambda original, x: -original(x)):
            assert reached()(3) == -4
        assert reached()(3) == 8
    assert reached()(3) == 4
    assert place.read() is before


@pytest.mark.parametrize("kind", ["attribute", "inherited", "item", "code"])
def test_arguments_may_have_any_name(kind: str) -> None:
    place, reached = places()[kind]
    with switched(place, doubling):
        assert reached()(3, original=5) == 16
        assert in_another_thread(lambda: reached()(3, original=5)) == 8


def test_threads_leave_in_any_order() -> None:
    place, reached = places()["attribute"]
    before, entered, leave = place.read(), threading.Event(), threading.Event()

    def stay() -> None:
        with switched(place, doubling):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=stay)
    with switched(place, doubling):
        thread.start()
        entered.wait()
    assert reached()(3) == 4
    leave.set()
    thread.join()
    assert place.read() is before


def test_an_error_leaves_nothing_behind() -> None:
    code = add.__code__
    with pytest.raises(ZeroDivisionError), switched(Code(add), lambda original, x: x // 0):
        add(3)
    assert add.__code__ is code


def test_what_somebody_else_put_there_stays() -> None:
    owner = types.SimpleNamespace(f=add)
    with switched(Attribute(owner, "f"), doubling):
        owner.f = max
    assert owner.f is max


def test_the_function_itself_is_known_meanwhile() -> None:
    code = add.__code__
    assert unswitched(add) is add
    with switched(Code(add), doubling):
        assert add.__code__ is not code
        assert unswitched(add).__code__ is code


def test_what_is_compiled_runs_compiled_in_other_threads() -> None:
    with steady_execution():
        assert eval_frame._callback_from_stance(len) is None
        assert in_another_thread(lambda: eval_frame._callback_from_stance(len)) is len
    assert eval_frame._callback_from_stance(len) is len
