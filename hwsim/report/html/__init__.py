"""The report as one HTML file: pictures as SVG, charts by plotly.js, tables, and all numbers."""

from __future__ import annotations

from hwsim.report.html.page import html_comparison, html_report

__all__ = ["html_comparison", "html_report"]
