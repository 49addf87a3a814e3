"""A mapped and priced model for people and for programs: one summary, several ways to show it."""

from __future__ import annotations

from hwsim.report.plain import to_dict
from hwsim.report.summary import SegmentSummary, Summary, summarize
from hwsim.report.terminal import render

__all__ = ["SegmentSummary", "Summary", "render", "summarize", "to_dict"]
