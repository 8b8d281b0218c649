"""How fast a verified fetch is beside plain downloads of the same object, which verify nothing.

    python -m benchmarks.fetch [--megabytes 512] [--rounds 5]

All take turns on the same object in one run, against a versitygw on this machine, in the folder that TMPDIR names. The
figures are medians. s5cmd (a Go program) takes part where it is found. The exit code is 1 if the fetch is too slow.
"""

import argparse
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
from obstore.store import S3Store

from edgemodel.store.artifacts import ArtifactStore
from edgemodel.store.fetch import fetch
from tests.s3 import ACCESS_KEY, S3, SECRET_KEY, manifest_of, serve

Download = Callable[[Path], object]
KEY = "0" * 32
RANGE = 8 << 20
BOUND = 0.8
"""Of the fastest other's speed."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--megabytes", type=int, default=512)
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name, serve(Path(name)) as s3:
        digest, blob = publish(s3, Path(name) / "source", options.megabytes)
        contenders = {"edgemodel, verified": ours(s3, digest)} | dict(plain(s3, blob, options.megabytes << 20))
        seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
        for turn in range(options.rounds + 1):
            for contender, download in contenders.items():
                target = Path(name) / "target"
                target.mkdir()
                started = time.perf_counter()
                download(target)
                if turn:  # the first round warms up
                    seconds[contender].append(time.perf_counter() - started)
                shutil.rmtree(target)
        medians = {name: options.megabytes / statistics.median(taken) for name, taken in seconds.items()}
    sys.exit(0 if show(medians) >= BOUND else 1)


def publish(s3: S3, folder: Path, megabytes: int) -> tuple[str, str]:
    """Puts a random object into the store. Returns the digest of its manifest, and its blob's key in the bucket."""
    folder.mkdir()
    with (folder / "model.gguf").open("wb") as file:
        for _ in range(megabytes):
            file.write(secrets.token_bytes(1 << 20))
    manifest = manifest_of(folder, KEY)
    digest = ArtifactStore(s3.config).publish(manifest, folder)
    shutil.rmtree(folder)
    return digest, f"{s3.config.prefix}/blobs/sha256/{manifest.files[0].sha256.removeprefix('sha256:')}"


def ours(s3: S3, digest: str) -> Download:
    store = ArtifactStore(s3.config)
    return lambda folder: fetch(store, KEY, digest, folder)


def plain(s3: S3, blob: str, size: int) -> Iterator[tuple[str, Download]]:
    """What is installed and can download."""
    bucket, endpoint = s3.config.bucket, str(s3.config.endpoint)
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )
    yield "boto3 download_file", lambda folder: client.download_file(bucket, blob, str(folder / "file"))

    store = S3Store(
        bucket,
        endpoint=endpoint,
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
    )

    def stream(folder: Path) -> None:
        with (folder / "file").open("wb", buffering=0) as file:
            for block in store.get(blob).stream(min_chunk_size=RANGE):
                file.write(block)

    def ranges(folder: Path) -> None:
        with (folder / "file").open("wb", buffering=0) as file, ThreadPoolExecutor(8) as pool:

            def one(start: int) -> None:
                data = store.get_range(blob, start=start, end=min(start + RANGE, size))
                os.pwrite(file.fileno(), data, start)

            list(pool.map(one, range(0, size, RANGE)))

    yield "obstore, one stream", stream
    yield "obstore, 8 ranges at a time", ranges

    program = shutil.which("s5cmd")
    if program is None:
        print("s5cmd is not on the PATH: it does not take part")
    else:
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": "us-east-1"}
        environ = os.environ | keys

        def s5cmd(folder: Path) -> None:
            command = [program, "--endpoint-url", endpoint, "--log", "error", "cp", f"s3://{bucket}/{blob}"]
            subprocess.run([*command, str(folder / "file")], check=True, env=environ)

        yield "s5cmd cp", s5cmd


def show(speed: dict[str, float]) -> float:
    """Prints what each reached. Returns our part of the fastest other's speed."""
    (name, ours), *others = speed.items()
    best = max(figure for _, figure in others)
    for other, figure in others:
        print(f"{other:28} {figure:6.0f} MB/s")
    verdict = "PASS" if ours >= BOUND * best else "FAIL"
    print(f"{name:28} {ours:6.0f} MB/s   {ours / best:.2f} of the fastest   {verdict} (at least {BOUND})")
    return ours / best


if __name__ == "__main__":
    main()
