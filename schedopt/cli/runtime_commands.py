"""The commands around runtimes: export, execute, profile and import.

As in ``commands``, nothing slow is imported here.
"""

from __future__ import annotations
