"""Making streamed modules: what `compile` and `plan` take, and the module that `compile` returns."""

from streamplan.module.compile import compile, plan
from streamplan.module.streamed_module import StreamedModule

__all__ = ["StreamedModule", "compile", "plan"]
