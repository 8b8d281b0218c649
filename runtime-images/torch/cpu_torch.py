"""Makes a CPU build out of a CUDA build of torch: `cpu_torch.py SITE_PACKAGES`. Needs gcc and binutils.

The default x86-64 wheel of torch is linked against 4 GB of CUDA libraries that a conversion on the CPU never calls, yet
the dynamic linker wants all of them before `import torch`. One small library takes the place of them all: it has their
names, their symbols and their symbol versions; it answers that there are no devices, and any other call into it ends
the process with a message. `torch.distributed`, which reaches for CUDA while it is loaded, and CUDA's streams, which
some ask for the current one, are switched off the way a build without them is. A CPU build of torch is left as it is.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

CUDA_LIBRARY = re.compile(r"^lib(torch_cuda|torch_nvshmem|c10_cuda|caffe2_nvrtc|cu|nccl|nv)")
CUDA_FUNCTION = re.compile(r"^(cu|cuda|cudnn|cufile|nccl)[A-Z]")
"""The functions of the libraries that version no symbols."""

ANSWERS = {
    "_ZN3c104cuda12device_countEv": "xor %eax, %eax",
    "_ZN4c10d15get_gil_checkerEv": "lea slot(%rip), %rax",  # a reference that a function pointer is written to
}
"""What is called on a machine without CUDA too, and the answer."""

REFUSAL = r"""
.text
refuse: lea format(%rip), %rsi
mov $2, %edi
xor %eax, %eax
call dprintf@PLT
call abort@PLT
.section .rodata
format: .string "%s was called: CUDA was left out of this image on purpose\n"
.data
slot: .quad 0
"""

SWITCHED_OFF = """\
    for _name in ("_c10d_init", "_rpc_init", "_dist_autograd_init", "_faulty_agent_init", "_CudaStreamBase"):
        delattr(sys.modules["torch._C"], _name)
"""


def run(*command: str) -> str:
    """The command's output."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def needed(library: Path) -> set[str]:
    """The libraries that it is linked against."""
    return set(re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "-d", str(library))))


def symbols(library: Path, which: str) -> dict[str, tuple[str, int, str]]:
    """Name -> letter of its type, size and version, of the dynamic symbols that are `defined` or `undefined`."""
    found = {}
    for line in run("nm", "-D", "-P", "-tx", f"--{which}-only", str(library)).splitlines():
        name, letter, *numbers = line.split()
        name, _, version = name.partition("@")
        found[name] = letter, int(numbers[1], 16) if len(numbers) > 1 else 0, version.lstrip("@")
    return found


def stand_in(name: str, letter: str, size: int) -> str:
    """The assembly of what stands in for one symbol: an answer, a refusal, a type's identity, or zeros."""
    if name in ANSWERS or letter in "TWi":
        body = f"{ANSWERS[name]}\nret" if name in ANSWERS else f'lea 1f(%rip), %rdx\njmp refuse\n1: .string "{name}"'
        return f".text\n.globl {name}\n.type {name}, @function\n{name}: {body}\n"
    body = f".zero {max(size, 8)}"
    if name.startswith("_ZTI"):  # the bindings read the names of types while they are loaded
        body = f'.quad _ZTVN10__cxxabiv117__class_type_infoE+16, 1f, 0\n1: .string "{name.removeprefix("_ZTI")}"'
    return f".data\n.balign 16\n.globl {name}\n.type {name}, @object\n.size {name}, {max(size, 8)}\n{name}: {body}\n"


def main() -> None:
    """Replaces the CUDA libraries of the torch in the folder that is given."""
    torch = Path(sys.argv[1]) / "torch"
    libraries = list((torch / "lib").glob("lib*.so*"))
    left_out = [path for path in libraries if CUDA_LIBRARY.match(path.name)]
    kept = [path for path in libraries if path not in left_out]
    missing = sorted({name for path in kept for name in needed(path) if CUDA_LIBRARY.match(name)})
    if not missing:
        print("torch is a CPU build already")
        return

    undefined = {name: kind for path in kept for name, kind in symbols(path, "undefined").items() if kind[0] == "U"}
    own = {name for path in kept for name in symbols(path, "defined")}
    cuda = {name: kind for path in left_out for name, kind in symbols(path, "defined").items()}
    source, versions = REFUSAL, dict[str, list[str]]()
    for name, (_, _, version) in sorted(undefined.items()):
        if name not in own and (version in missing or name in cuda or CUDA_FUNCTION.match(name)):
            letter, size, _ = cuda.get(name, ("T", 0, ""))
            source += stand_in(name, letter, size)
            versions.setdefault(version, []).append(name)
    print({version or "unversioned": len(names) for version, names in versions.items()})
    versions.pop("", None)

    for path in left_out:
        path.unlink()
    stub = torch / "lib" / missing[0]
    with tempfile.TemporaryDirectory() as scratch:
        assembly, script = Path(scratch, "stub.s"), Path(scratch, "stub.map")
        assembly.write_text(source + '.section .note.GNU-stack,"",@progbits\n')
        nodes = (f"{version} {{ global: {'; '.join(names)}; }};\n" for version, names in versions.items())
        script.write_text("".join(nodes))
        link = f"-Wl,-soname,{stub.name},--version-script={script},--no-as-needed"
        run("gcc", "-shared", "-o", str(stub), str(assembly), link, "-lstdc++")
    for name in missing[1:]:
        (torch / "lib" / name).symlink_to(stub.name)

    init = torch / "__init__.py"
    loading = "        _load_global_deps()\n    from torch._C import *  # noqa: F403\n"
    head, loaded, rest = init.read_text().partition(loading)
    if not loaded:
        raise SystemExit("torch/__init__.py is not as expected: see SWITCHED_OFF")
    init.write_text(head + loaded + SWITCHED_OFF + rest)


main()
