"""The public functions: what `streamplan` exports, and the module that `compile` returns."""

from streamplan.api.compile import compile, plan
from streamplan.api.front import ParetoPoint, pareto_front
from streamplan.api.input_gradient import input_gradient
from streamplan.api.module import StreamedModule
from streamplan.api.receptive_field import receptive_field
from streamplan.api.registration import register_rule, unregister_rule
from streamplan.api.statistics import activation_statistics
from streamplan.api.verify import TensorError, VerificationReport, verify

__all__ = [
    "ParetoPoint",
    "StreamedModule",
    "TensorError",
    "VerificationReport",
    "activation_statistics",
    "compile",
    "input_gradient",
    "pareto_front",
    "plan",
    "receptive_field",
    "register_rule",
    "unregister_rule",
    "verify",
]
