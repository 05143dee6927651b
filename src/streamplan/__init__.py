"""streamplan: train convolutional nets on images larger than memory, tile by tile, exactly.

streamed = streamplan.compile(model, input_size=(1, 3, 8192, 8192), tile_size=2048)
print(streamed.plan)
loss = criterion(streamed(image), target)
loss.backward()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from streamplan.public import *  # noqa: F403 - all that it exports
else:

    def __getattr__(name: str) -> Any:
        """What is first asked for: a public name or a module. Torch, which takes seconds, is imported then."""
        public = importlib.import_module("streamplan.public")
        if name == "__all__":
            return [*public.__all__, "__version__"]
        if name in public.__all__:
            return globals().setdefault(name, getattr(public, name))
        if name in globals():  # a module that came with the import
            return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=public)

    def __dir__() -> list[str]:
        """What may be asked for."""
        return sorted({*importlib.import_module("streamplan.public").__all__, *globals()})
