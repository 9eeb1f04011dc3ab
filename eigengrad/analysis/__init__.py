"""Diagnostics: what a spectrum does to gradients, what a rule would do about it, and whether a loss is well defined."""

from eigengrad.analysis.checks import checks
from eigengrad.analysis.gauge import GaugeDependence, gauge_dependence
from eigengrad.analysis.inspection import Inspection, inspect
from eigengrad.analysis.iterations import gradient_bound, iterations_for, remainder
from eigengrad.analysis.pairs import PairInspection

__all__ = [
    "GaugeDependence",
    "Inspection",
    "PairInspection",
    "checks",
    "gauge_dependence",
    "gradient_bound",
    "inspect",
    "iterations_for",
    "remainder",
]
