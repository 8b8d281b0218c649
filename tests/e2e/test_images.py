"""The images that the cluster runs are fit to be: not root, no compiler, no CUDA."""

import pytest

from hack.cluster import images
from hack.image_sizes import look


@pytest.mark.parametrize("name", images.default_names())
def test_an_image_has_neither_root_nor_compiler_nor_cuda(name: str) -> None:
    found = look(images.build(name)[name])
    assert found.faults == ()
    assert found.bytes > 1e7
