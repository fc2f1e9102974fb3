"""What a launcher starts in the place of a program: it tells its environment, and ends as the program ended.

The program itself is forked from a process that has its imports, with the environment that is told here; see
`launched_by_accelerate`.
"""

import json
import os
import sys
import time
from pathlib import Path

TIMEOUT_SECONDS = 240

meeting, rank = Path(sys.argv[1]), int(os.environ["RANK"])
note = meeting / f"note{rank}"
note.write_text(json.dumps(dict(os.environ)))
note.rename(meeting / f"environment{rank}.json")
codes, end = meeting / "codes.json", time.monotonic() + TIMEOUT_SECONDS
while not codes.exists():
    if time.monotonic() > end:
        raise TimeoutError("nobody ran the program")
    time.sleep(0.02)
raise SystemExit(json.loads(codes.read_text())[rank])
