"""Costs of a stage, measured with torch on this machine: times, memory, K-FAC work.

Needs the extra ``torch``. A stage is measured alone: no process group, no transfers, so
no waiting is in the times. Its backward is run with the functions that
``torch.distributed.pipelining`` runs it with, and what its runtime keeps is kept.
"""
