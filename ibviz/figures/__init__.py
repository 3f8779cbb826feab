"""Figures for papers, from arrays: `panel` of images by methods, `curves` of deletion and insertion."""

from ibviz.figures.curves import curves
from ibviz.figures.panel import panel

__all__ = ["curves", "panel"]
