"""Traces, logs and profiles of other tools become instances."""
