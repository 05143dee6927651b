"""The public functions: compile, plan and verify, and the module that compile returns."""

from streamplan.api.compile import compile, plan
from streamplan.api.module import StreamedModule
from streamplan.api.verify import TensorError, VerificationReport, verify

__all__ = ["StreamedModule", "TensorError", "VerificationReport", "compile", "plan", "verify"]
