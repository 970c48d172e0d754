"""psychocounsel: distributed preference learning for counselling models."""

__version__ = "0.1.0"
