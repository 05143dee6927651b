"""streamplan: train convolutional nets on images larger than memory, tile by tile, exactly.

streamed = streamplan.compile(model, input_size=(1, 3, 8192, 8192), tile_size=2048)
print(streamed.plan)
loss = criterion(streamed(image), target)
loss.backward()
"""

from streamplan import init, testing
from streamplan.api import (
    ParetoPoint,
    StreamedModule,
    TensorError,
    VerificationReport,
    activation_statistics,
    compile,
    input_gradient,
    pareto_front,
    plan,
    receptive_field,
    register_rule,
    unregister_rule,
    verify,
)
from streamplan.errors import StreamPlanError
from streamplan.images import Source, open_slide
from streamplan.planning import Plan
from streamplan.report.initialisation import InitialisationReport, LayerInitialisation
from streamplan.report.receptive_field import ReceptiveFieldReport
from streamplan.report.statistics import ActivationStatistics, ChannelStatistics
from streamplan.rules import LocalRule

__version__ = "0.1.0"

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
    "__version__",
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
