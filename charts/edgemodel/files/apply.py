"""Server-side applies the objects in a folder, a JSON file each, as soon as the API server serves their kinds."""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PATIENCE = 120.0
# The kind is not served yet, or not every API server knows the permission yet.
NOT_YET = {403, 404, 408, 409, 429}


def server() -> str:
    host = os.environ["KUBERNETES_SERVICE_HOST"]
    return f"https://{f'[{host}]' if ':' in host else host}:{os.environ['KUBERNETES_SERVICE_PORT']}"


def apply(opener: urllib.request.OpenerDirector, base: str, token: str, manifest: dict, until: float) -> None:
    name = manifest["metadata"]["name"]
    plural = {"EdgeRuntime": "edgeruntimes", "HardwareClass": "hardwareclasses"}[manifest["kind"]]
    url = f"{base}/apis/{manifest['apiVersion']}/{plural}/{name}?fieldManager=helm&force=true"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/apply-patch+yaml"}
    while True:
        request = urllib.request.Request(url, json.dumps(manifest).encode(), headers, method="PATCH")  # noqa: S310
        try:
            with opener.open(request, timeout=10):
                print(f"applied {plural}/{name}", flush=True)
                return
        except urllib.error.HTTPError as error:
            problem = f"{error.code} {error.read(2000).decode(errors='replace')}"
            passing = error.code in NOT_YET or error.code >= 500
        except OSError as error:
            problem, passing = str(error), True
        if not passing or time.monotonic() > until:
            sys.exit(f"could not apply {plural}/{name}: {problem}")
        time.sleep(1)


def main(folder: Path) -> None:
    token = (ACCOUNT / "token").read_text()
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    until = time.monotonic() + PATIENCE
    for file in sorted(folder.glob("*.json")):
        apply(opener, server(), token, json.loads(file.read_text()), until)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
