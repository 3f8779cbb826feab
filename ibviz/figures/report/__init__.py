"""One page to explore a comparison: a single HTML file that needs no server, no network and no model."""

from ibviz.figures.report.contents import Band, Comparison, Effect, Line, Picture, Prediction, Report, Subject
from ibviz.figures.report.page import html, save

__all__ = ["Band", "Comparison", "Effect", "Line", "Picture", "Prediction", "Report", "Subject", "html", "save"]
