"""Starts the ranks: ``python -m schedopt.execute.launcher FOLDER``, by ``processes``.

torch is imported once, and every rank is a fork. A line in the folder says how each
ended. The launcher leads a process group, and ends all of it if its parent is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from schedopt.execute.rank import run_rank


def main() -> int:
    """Start the ranks and wait for them."""
    folder = Path(sys.argv[1])
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    ranks = {_fork(plan, rank, folder): rank for rank in range(plan["ranks"])}
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    code = 0
    with (folder / "ends.jsonl").open("w", encoding="utf-8") as ends:
        while ranks:
            pid, status = os.wait()
            ended = os.waitstatus_to_exitcode(status)
            code = code or ended
            end = {"rank": ranks.pop(pid), "code": ended, "at_s": time.monotonic()}
            ends.write(json.dumps(end) + "\n")
            ends.flush()
    return 1 if code else 0


def _fork(plan: dict[str, Any], rank: int, folder: Path) -> int:
    """A new process as this rank; its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        log = os.open(folder / f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = run_rank(plan, rank, folder)
    except BaseException:  # noqa: BLE001 (nothing of the launcher runs in its fork)
        traceback.print_exc()
    os._exit(code)


def _end_with_the_parent() -> None:
    """The parent holds our input open for as long as it lives."""
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
