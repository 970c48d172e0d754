"""A report as one HTML file that asks nothing of the network: `write`, and `page_html` for a server."""

from psychocounsel.reporting.page.page_file import page_html, write

__all__ = ["page_html", "write"]
