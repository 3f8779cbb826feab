"""Comparisons of explanations on the same images, with intervals and controls, from Python or from a suite."""

from ibviz.benchmark.comparison import compare_protocols
from ibviz.benchmark.config import SuiteConfig
from ibviz.benchmark.evaluation import Evaluation, default_protocol
from ibviz.benchmark.results import Results, read_results, rebuild
from ibviz.benchmark.runner.loop import run_suite
from ibviz.benchmark.store import read_maps
from ibviz.benchmark.summary import Summary, summarise
from ibviz.settings import read_toml

__all__ = [
    "Evaluation",
    "Results",
    "SuiteConfig",
    "Summary",
    "compare_protocols",
    "default_protocol",
    "read_maps",
    "read_results",
    "read_toml",
    "rebuild",
    "run_suite",
    "summarise",
]
