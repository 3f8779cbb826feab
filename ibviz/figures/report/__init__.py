"""Report of a comparison: one interactive HTML page that needs no server, no internet and no model."""

from ibviz.figures.report.contents import (
    Band,
    Effect,
    Picture,
    Prediction,
    Report,
    ReportComparison,
    ReportModel,
    TableLine,
)
from ibviz.figures.report.page import html, save_report

__all__ = [
    "Band",
    "Effect",
    "Picture",
    "Prediction",
    "Report",
    "ReportComparison",
    "ReportModel",
    "TableLine",
    "html",
    "save_report",
]
