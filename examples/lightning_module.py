"""Train a streamed net with Lightning, then load the checkpoint into the plain net.

    pip install 'streamplan[lightning]'
    python examples/lightning_module.py --extent 2048 --precision bf16-mixed

The task is made up: each image is noise with a bright disc in it, or without one. The only line that knows of tiles is
the call of `streamplan.compile`; the names in the checkpoint are those of the plain net.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import streamplan


class Discs(Dataset[tuple[Tensor, Tensor]]):
    """Images of noise; every second one has a disc.

    Args:
        extent: Height and width in samples.
        length: Number of images.
    """

    def __init__(self, extent: int, length: int) -> None:
        self.extent = extent
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(index)
        image = torch.rand(3, self.extent, self.extent, generator=generator)
        label = index % 2
        if label:
            center = torch.randint(self.extent, (2, 1), generator=generator)
            steps = torch.arange(self.extent)
            distances = (steps[:, None] - center[0]) ** 2 + (steps[None, :] - center[1]) ** 2
            image[:, distances < (self.extent // 4) ** 2] += 1.0
        return image, torch.tensor(label)


def make_net() -> nn.Module:
    """The plain net: nothing in it knows of tiles."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    features = [*block(3, 8), nn.MaxPool2d(2), *block(8, 16), nn.MaxPool2d(2), *block(16, 16)]
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2))


class Classifier(lightning.LightningModule):
    """Two classes, cross entropy; the net may be plain or streamed.

    Args:
        net: From images to logits.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss of one batch."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over all parameters."""
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def train(
    module: Classifier,
    images: Dataset[Any],
    steps: int,
    checkpoint: Path,
    *,
    resume: Path | None = None,
    **options: Any,
) -> None:
    """Train for some steps and save a checkpoint.

    Args:
        module: What to train.
        images: What to train it on, in batches of one.
        steps: Training steps.
        checkpoint: Where to save.
        resume: A checkpoint to go on from.
        **options: More arguments of the trainer.
    """
    trainer = lightning.Trainer(
        max_steps=steps,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, DataLoader(images), ckpt_path=resume)
    trainer.save_checkpoint(checkpoint)


def load_plain(checkpoint: Path, make: Callable[[], nn.Module] = make_net) -> nn.Module:
    """The plain net with the weights of a checkpoint."""
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"]
    net = make()
    net.load_state_dict({name.removeprefix("net."): value for name, value in state.items()})
    return net


def main() -> None:
    """Train, save, load, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extent", type=int, default=1024, help="height and width of the images")
    parser.add_argument("--tile-size", type=int, default=256, help="what a tile advances by, in samples")
    parser.add_argument("--steps", type=int, default=8, help="training steps")
    parser.add_argument("--precision", default="32-true", help="what Lightning takes: 32-true, bf16-mixed, ...")
    parser.add_argument("--folder", type=Path, default=Path("demo-output"), help="where the checkpoint goes")
    parser.add_argument("--tile-progress", action="store_true", help="a bar over tiles, besides Lightning's over steps")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.folder / "lightning.ckpt"
    size = (1, 3, arguments.extent, arguments.extent)

    torch.manual_seed(0)
    streamed = streamplan.compile(
        make_net(), size, arguments.tile_size, batch_norm="frozen", progress=arguments.tile_progress
    )
    train(Classifier(streamed), Discs(arguments.extent, 8), arguments.steps, checkpoint, precision=arguments.precision)

    plain = load_plain(checkpoint).eval()
    image = Discs(arguments.extent, 2)[1][0][None]
    with torch.no_grad():
        difference = (streamed.cpu().eval()(image) - plain(image)).abs().max().item()
    print(f"trained for {arguments.steps} steps in {arguments.precision}, {streamed.plan.num_tiles} tiles per pass")
    print(f"the plain net with the checkpoint's weights differs by {difference:.1e}")


if __name__ == "__main__":
    main()
