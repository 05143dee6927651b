"""What can be asked of a model beside its plan: each function with the report that it returns."""

from streamplan.features.front import ParetoPoint, pareto_front
from streamplan.features.input_gradient import input_gradient
from streamplan.features.receptive_field import receptive_field
from streamplan.features.registration import register_rule, unregister_rule
from streamplan.features.statistics import activation_statistics
from streamplan.features.verify import TensorError, VerificationReport, verify

__all__ = [
    "ParetoPoint",
    "TensorError",
    "VerificationReport",
    "activation_statistics",
    "input_gradient",
    "pareto_front",
    "receptive_field",
    "register_rule",
    "unregister_rule",
    "verify",
]
