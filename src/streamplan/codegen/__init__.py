"""From a cut graph to a readable Python program: prologue, tile and head, loaded so that tracebacks show it."""

from streamplan.codegen.loading import LoadedProgram, load_program
from streamplan.codegen.prepared import load_prepared
from streamplan.codegen.program import Program, emit_program

__all__ = ["LoadedProgram", "Program", "emit_program", "load_prepared", "load_program"]
