"""The whole Job, in the Python of its image, on a volume and a store of the test's."""

import json
import subprocess
from pathlib import Path
from typing import Any

from edgemodel.api.artifact import Recipe, Source
from edgemodel.core.keys import artifact_key
from edgemodel.pipeline.job import JobRequest
from edgemodel.pipeline.resolve import resolve
from edgemodel.pipeline.sources import open_source
from edgemodel.store.artifacts import ArtifactStore, Published
from tests.packages import Packages
from tests.s3 import S3


def run_job(packages: Packages, s3: S3, folder: Path, recipe: Recipe) -> tuple[list[str], dict[str, Any], Published]:
    """Makes an artifact of the model in the folder's `volume/model`, which must go well: the steps, what the Job leaves
    behind, and what is in the store."""
    source = Source(uri="pvc://claim/model")
    resolved = resolve(open_source(source, {"PVC_ROOT": str(folder / "volume")})).resolved
    request = JobRequest(key=artifact_key(resolved, recipe), source=source, resolved=resolved, recipe=recipe)
    environ = {
        "EDGEMODEL_JOB": json.dumps(request.dump()),
        "EDGEMODEL_WORK": str(folder / "work"),
        "EDGEMODEL_TERMINATION_LOG": str(folder / "termination"),
        "PVC_ROOT": str(folder / "volume"),
    }
    command = [str(packages.python), "-m", "edgemodel.pipeline"]
    done = subprocess.run(command, env=packages.env | s3.env | environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    steps = [json.loads(line)["step"] for line in done.stdout.splitlines() if '"message": "step"' in line]
    published = ArtifactStore(s3.config).read_manifest(request.key)
    assert published
    return steps, json.loads((folder / "termination").read_text()), published
