"""Exported schedules are executed by torch, and judged against the plain model."""
