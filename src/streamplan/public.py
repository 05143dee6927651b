"""The names that `streamplan` gives its users, each from the module that makes it.

`streamplan` looks them up here when the first of them is asked for. That imports torch, which takes seconds: the
command line tells its version and of mistakes without it.
"""

from streamplan import init, testing
from streamplan.errors import StreamPlanError
from streamplan.features import (
    ParetoPoint,
    TensorError,
    VerificationReport,
    activation_statistics,
    input_gradient,
    pareto_front,
    receptive_field,
    register_rule,
    unregister_rule,
    verify,
)
from streamplan.features.initialisation_report import InitialisationReport, LayerInitialisation
from streamplan.features.receptive_field_report import ReceptiveFieldReport
from streamplan.features.statistics_report import ActivationStatistics, ChannelStatistics
from streamplan.images import Source, open_slide
from streamplan.module import StreamedModule, compile, plan
from streamplan.planning import Plan
from streamplan.rules import LocalRule

__all__ = [
    "ActivationStatistics",
    "ChannelStatistics",
    "InitialisationReport",
    "LayerInitialisation",
    "LocalRule",
    "ParetoPoint",
    "Plan",
    "ReceptiveFieldReport",
    "Source",
    "StreamPlanError",
    "StreamedModule",
    "TensorError",
    "VerificationReport",
    "activation_statistics",
    "compile",
    "init",
    "input_gradient",
    "open_slide",
    "pareto_front",
    "plan",
    "receptive_field",
    "register_rule",
    "testing",
    "unregister_rule",
    "verify",
]
