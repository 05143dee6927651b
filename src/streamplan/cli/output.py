"""What a command has to say, and how it is written: as text or as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TextIO

from streamplan.cli.failures import ExitCode
from streamplan.cli.streams import tell, writing
from streamplan.features import VerificationReport
from streamplan.features.receptive_field_report import ReceptiveFieldReport


@dataclass(frozen=True)
class Outcome:
    """The result of a command."""

    text: str
    """What is written on standard output."""
    note: str = ""
    """What is worth a second look; it goes to standard error."""
    code: ExitCode = ExitCode.DONE

    def write(self, stream: TextIO) -> None:
        """Write the result on a stream, and the note on standard error.

        Raises:
            BrokenPipeError: Who reads the stream has left.
            OutputError: It cannot be written.
        """
        with writing(stream):
            stream.write(f"{self.text}\n")
        if self.note:
            tell(f"note: {self.note}")


def receptive_field_json(report: ReceptiveFieldReport) -> str:
    """The fields of a report; strides that are no integers are rounded to a float."""
    return json.dumps(dataclasses.asdict(report), indent=1, default=_number)


def verification_json(report: VerificationReport) -> str:
    """The fields of a report and whether it passed; the error of a tensor that only one net has is null."""
    errors = [_finite(dataclasses.asdict(item)) for item in report.errors]
    plan = json.loads(report.plan.to_json())
    fields = {"passed": report.passed, "rtol": report.rtol, "dtype": report.dtype, "errors": errors, "plan": plan}
    return json.dumps(fields, indent=1)


def _number(value: Any) -> int | float:
    if not isinstance(value, Fraction):
        raise TypeError(f"a {type(value).__name__} has no JSON form")
    return value.numerator if value.denominator == 1 else float(value)


def _finite(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in fields.items()
    }
