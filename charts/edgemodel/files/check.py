"""What `helm test` runs: is the operator ready, and does the store let us in? Says where to look if not."""

import os
import re
import sys
import time
import urllib.request
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

PATIENCE = float(os.environ.get("CHECK_PATIENCE", "60"))


def operator() -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(os.environ["OPERATOR_URL"] + "/readyz", timeout=5):
        pass


def store() -> None:
    bucket = re.fullmatch(r"s3://([^/]+).*", os.environ["EDGEMODEL_STORE_URI"])[1]
    folder = os.environ.get("EDGEMODEL_STORE_CREDENTIALS")
    keys = {}
    if folder:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            keys[name.lower()] = (Path(folder) / name).read_text().strip()
    client = boto3.client(
        "s3",
        endpoint_url=os.environ.get("EDGEMODEL_STORE_ENDPOINT"),
        region_name=os.environ.get("EDGEMODEL_STORE_REGION") or "us-east-1",
        config=Config(
            connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}
        ),
        **keys,
    )
    client.head_bucket(Bucket=bucket)


CHECKS = (
    (operator, "the operator is ready", "the operator is not ready: see its log"),
    (store, "the store answers and the keys open the bucket", "the store is not usable: see objectStore in the values"),
)


def main() -> None:
    failed = False
    for check, good, bad in CHECKS:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                check()
                print(f"ok      {good}", flush=True)
                break
            except (OSError, ClientError, BotoCoreError) as error:
                if time.monotonic() > until:
                    print(f"FAILED  {bad} ({error})", flush=True)
                    failed = True
                    break
            time.sleep(2)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
