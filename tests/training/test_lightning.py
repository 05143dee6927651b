"""examples/lightning_module.py: a LightningModule whose net is streamed, trained in three precisions."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import streamplan
from examples.lightning_module import Classifier, Discs, load_plain, make_net, train

# Lightning advises and uses what torch deprecates; nothing of that is about streamplan.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SCRIPT = Path(__file__).parents[2] / "examples" / "lightning_module.py"
EXTENT = 48
SIZE = (1, 3, EXTENT, EXTENT)
NUM_STEPS = 4
BF16 = torch.finfo(torch.bfloat16).eps


class WithSgd(Classifier):
    """Steps in proportion to gradients; those of AdamW would make noise as large as a signal."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.3, momentum=0.9)


def start() -> nn.Module:
    torch.manual_seed(0)
    return make_net()


def make_plain() -> nn.Module:
    """The counterpart of `batch_norm="frozen"`: norms in eval mode, which Lightning's trainer leaves as they are."""
    net = start()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return net


def make_streamed() -> streamplan.StreamedModule:
    streamed = streamplan.compile(start(), SIZE, 16, batch_norm="frozen")
    assert streamed.plan.num_tiles > 4
    return streamed


def trained(net: nn.Module, precision: str, folder: Path) -> dict[str, Tensor]:
    """The weights in the checkpoint, loaded into the plain net."""
    checkpoint = folder / f"{type(net).__name__}-{precision}.ckpt"
    options = {"accelerator": "cpu", "enable_progress_bar": False}
    train(WithSgd(net), Discs(EXTENT, NUM_STEPS), NUM_STEPS, checkpoint, precision=precision, **options)
    dtype = torch.float64 if precision.startswith("64") else torch.float32
    return load_plain(checkpoint, lambda: make_net().to(dtype)).state_dict()


def trained_by_hand() -> dict[str, Tensor]:
    """The plain net's weights in float64, by a loop without Lightning and without tiles."""
    net = start().double().eval()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9)
    for image, label in map(Discs(EXTENT, NUM_STEPS).__getitem__, range(NUM_STEPS)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(image[None].double()), label[None]).backward()
        optimizer.step()
    return net.state_dict()


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Euclidean, over all tensors together."""
    return float(torch.stack([(value.double() - other[name].double()).norm() for name, value in one.items()]).norm())


def test_in_float64_it_is_the_loop_by_hand(tmp_path: Path) -> None:
    expected, found = trained_by_hand(), trained(make_streamed(), "64-true", tmp_path)
    assert list(found) == list(expected)
    assert distance(expected, start().state_dict()) > 0.05
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize(("precision", "rounding"), [("32-true", 1e-6), ("bf16-mixed", BF16)])
def test_in_less_precision_it_is_as_near_to_that_as_the_plain_net(
    tmp_path: Path, precision: str, rounding: float
) -> None:
    exact = trained_by_hand()
    plain = trained(make_plain(), precision, tmp_path)
    streamed = trained(make_streamed(), precision, tmp_path)
    moved = distance(exact, start().state_dict())
    assert 0 < distance(plain, exact) < 0.1 * moved
    assert distance(streamed, exact) <= 2 * distance(plain, exact) + rounding * moved


def test_a_checkpoint_resumes_in_either_net(tmp_path: Path) -> None:
    """Names are the same, the optimiser's state included."""
    streamed, plain = WithSgd(make_streamed()), WithSgd(make_plain())
    assert list(streamed.state_dict()) == list(plain.state_dict())
    for module, name in ((streamed, "streamed"), (plain, "plain")):
        train(module, Discs(EXTENT, 8), 2, tmp_path / name, accelerator="cpu", enable_progress_bar=False)
    resumed = []
    for module, other in ((WithSgd(make_streamed()), "plain"), (WithSgd(make_plain()), "streamed")):
        train(
            module,
            Discs(EXTENT, 8),
            4,
            tmp_path / f"after {other}",
            resume=tmp_path / other,
            accelerator="cpu",
            enable_progress_bar=False,
        )
        resumed.append(module.state_dict())
    assert distance(resumed[0], resumed[1]) < 1e-5
    assert distance(resumed[0], plain.state_dict()) > 1e-2


def test_a_copy_of_the_lightning_module_is_streamed() -> None:
    """Lightning's callbacks that average weights copy the whole module."""
    twin = copy.deepcopy(WithSgd(make_streamed()))
    assert twin.net.is_streamed
    image = Discs(EXTENT, 2)[1][0][None]
    torch.testing.assert_close(twin.net(image), start().eval()(image))


@pytest.mark.parametrize("precision", ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.more)])
def test_the_example_runs(tmp_path: Path, precision: str) -> None:
    sizes = ["--extent", "96", "--tile-size", "32", "--steps", "3", "--precision", precision]
    command = [sys.executable, str(SCRIPT), *sizes, "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"trained for 3 steps in {precision}, 9 tiles per pass" in done.stdout
    assert float(done.stdout.split()[-1]) < 1e-5
    assert "net.0.weight" in torch.load(tmp_path / "lightning.ckpt", weights_only=True)["state_dict"]
