"""`make generate`: writes what is generated from the types: crds/, the chart's copies, the API reference."""

from edgemodel.api.__main__ import render
from hack.cluster.shell import REPOSITORY
from hack.reference import reference
from hack.runtimes import toolchains


def main() -> None:
    """Writes the files; each is checked by a test that fails if it drifts."""
    for name, content in render().items():
        for folder in ("crds", "charts/edgemodel/files/crds"):
            (REPOSITORY / folder / name).write_text(content, encoding="utf-8")
    for path, content in toolchains().items():
        path.write_text(content, encoding="utf-8")
    (REPOSITORY / "docs" / "api.md").write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
