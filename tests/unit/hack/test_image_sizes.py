"""What must not be in an image, and what only looks like it."""

import io
import tarfile

import pytest

from hack.image_sizes import STAND_IN, file_fault, runs_as_root


def fault(name: str, content: bytes = b"\x7fELF", mode: int = 0o755, kind: bytes = tarfile.REGTYPE) -> str | None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.type = len(content) if kind == tarfile.REGTYPE else 0, mode, kind
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(entry, io.BytesIO(content))
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        return file_fault(tar, tar.getmembers()[0])


@pytest.mark.parametrize(
    "name",
    [
        "usr/bin/x86_64-linux-gnu-gcc-12",
        "./usr/bin/g++",
        "usr/libexec/gcc/x86_64-linux-gnu/12/cc1plus",
        "usr/bin/ld.bfd",
        "usr/bin/clang-14",
        "opt/cuda/bin/nvcc",
        "opt/venv/bin/cmake",
    ],
)
def test_a_compiler_is_found_under_each_of_its_names(name: str) -> None:
    assert fault(name) == f"a compiler: /{name.removeprefix('./')}"
    assert fault(name, mode=0o777, kind=tarfile.SYMTYPE)


@pytest.mark.parametrize(
    "name", ["usr/bin/ld.so", "usr/bin/basename", "usr/bin/python3", "opt/llama.cpp/bin/llama-server"]
)
def test_other_programs_are_no_compilers(name: str) -> None:
    assert fault(name) is None


def test_what_is_called_like_a_compiler_and_does_not_run_is_none() -> None:
    assert fault("usr/share/lintian/overrides/gcc", mode=0o644) is None
    assert fault("usr/lib/gcc", mode=0o755, kind=tarfile.DIRTYPE) is None


@pytest.mark.parametrize(
    "name",
    [
        "opt/venv/lib/python3.11/site-packages/nvidia/cu13/lib/libnvJitLink.so.13",
        "opt/venv/lib/python3.11/site-packages/torch/lib/libtorch_cuda.so",
        "opt/llama.cpp/lib/libcublasLt.so.13",
        "usr/lib/x86_64-linux-gnu/libcuda.so.1",
    ],
)
def test_cuda_is_found_but_what_stands_in_for_it_is_not(name: str) -> None:
    assert fault(name, mode=0o644) == f"CUDA: /{name}"
    assert fault(name, content=b"... " + STAND_IN, mode=0o644) is None
    assert (
        fault(name.replace("cuda", "cpu").replace("nvidia", "numpy").replace("cublas", "blas").replace("nvJit", "jit"))
        is None
    )


def test_a_user_is_root_unless_its_number_says_that_it_is_not() -> None:
    assert [
        user for user in ("", "0", "0:0", "root", "nobody", "65532", "65532:65532", "10") if runs_as_root(user)
    ] == [
        "",
        "0",
        "0:0",
        "root",
        "nobody",
    ]
