"""Watchbill: crews of AI agents that lose no task, on a laptop or on Kubernetes."""

__version__ = "0.1.0"
