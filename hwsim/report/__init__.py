"""A mapped and priced model for people and for programs: one summary, several ways to show it."""

from __future__ import annotations

from hwsim.report.csv import to_csv
from hwsim.report.experiment import Experiment, experiment_to_dict, render_experiment
from hwsim.report.html import html_comparison, html_report
from hwsim.report.json import to_dict
from hwsim.report.summary import SegmentSummary, Summary, summarize
from hwsim.report.terminal import render

__all__ = [
    "Experiment",
    "SegmentSummary",
    "Summary",
    "experiment_to_dict",
    "html_comparison",
    "html_report",
    "render",
    "render_experiment",
    "summarize",
    "to_csv",
    "to_dict",
]
