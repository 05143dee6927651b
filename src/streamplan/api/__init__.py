"""The public functions: compile, plan, verify and register_rule, and the module that compile returns."""

from streamplan.api.compile import compile, plan
from streamplan.api.module import StreamedModule
from streamplan.api.registration import register_rule, unregister_rule
from streamplan.api.verify import TensorError, VerificationReport, verify

__all__ = [
    "StreamedModule",
    "TensorError",
    "VerificationReport",
    "compile",
    "plan",
    "register_rule",
    "unregister_rule",
    "verify",
]
