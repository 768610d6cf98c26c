"""Fires heartbeats."""

from watchbill.scheduler.scheduler import Scheduler

__all__ = ["Scheduler"]
