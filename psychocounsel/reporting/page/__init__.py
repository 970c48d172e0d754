"""The report as one HTML file that loads nothing from the network: `write` saves it, `page_html` returns it for a server."""

from psychocounsel.reporting.page.file import page_html, write

__all__ = ["page_html", "write"]
