"""Starts operators fast: imports the operator once, and forks a process for each start that stdin asks for.

Python and its imports are most of the operator's start; the crash-point tests start it hundreds of times. A forked
operator is a process like any other: it reads its environment, runs `main`, and dies by SIGKILL.

Asked by a JSON line {"env": {...}, "log": PATH} it answers with a JSON line {"pid": N}.
"""

import gc
import json
import os
import signal
import sys
from contextlib import suppress

from edgemodel.controllers import main as operator


def reap(*_: object) -> None:
    """Lets dead operators go, so that their process ids are gone once they are."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def become(order: dict[str, object]) -> None:
    """Runs the operator in this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update(order["env"])  # type: ignore[call-overload]
    log = os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDWR)
    for old, new in ((null, 0), (log, 1), (log, 2)):
        os.dup2(old, new)
    code = 1
    try:
        operator.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        os._exit(code)


def serve() -> None:
    """Until stdin ends."""
    signal.signal(signal.SIGCHLD, reap)
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if not pid:
            become(order)
        print(json.dumps({"pid": pid}), flush=True)


if __name__ == "__main__":
    serve()
