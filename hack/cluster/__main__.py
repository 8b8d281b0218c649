"""`python3 hack/cluster <command>`: puts the repository on the path, as `python3 -m hack.cluster` in its root would."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from hack.cluster.cli import main  # noqa: E402

sys.exit(main())
