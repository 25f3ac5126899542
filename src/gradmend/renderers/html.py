"""A report as one self-contained HTML page: no network, no build step, opens offline."""

from __future__ import annotations

from gradmend.records.report import Report
from gradmend.renderers.page.report_page import report_page


def render(report: Report) -> str:
    """Draw a report as one HTML page.

    Args:
        report: What to show.

    Returns:
        A complete document with its style, script and data inside; it loads nothing.
    """
    return report_page(report)
