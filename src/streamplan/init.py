"""Initialisation of models by what their layers compute, on images of any size."""

from __future__ import annotations

from streamplan.features.initialisation import lsuv_

__all__ = ["lsuv_"]
