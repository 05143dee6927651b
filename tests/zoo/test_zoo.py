"""The networks of MONAI: exact where they stream, refused for the reason that is written down where they do not.

pytest -m zoo tests/zoo
"""

from __future__ import annotations

import pytest

from tests.zoo.checking import check_in_process
from tests.zoo.monai_nets import NOT_NETS, REFUSALS, ZOO, exported_modules


@pytest.mark.zoo
@pytest.mark.parametrize("name", ZOO)
def test_net_is_exact_or_refused_for_the_known_reason(name: str) -> None:
    outcome = check_in_process(name)
    if name in REFUSALS:
        assert outcome.verdict == "refused", outcome
        assert outcome.reason.startswith(REFUSALS[name])
        return
    assert outcome.verdict == "verified", outcome
    assert outcome.num_tiles > 1


@pytest.mark.zoo
def test_every_exported_module_is_in_the_zoo_or_left_out_for_a_reason() -> None:
    present = {entry.net for entry in ZOO.values()}
    assert not exported_modules() - present - set(NOT_NETS)
    assert not present & set(NOT_NETS)
    assert set(REFUSALS) <= set(ZOO)
