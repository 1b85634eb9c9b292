"""The program that the example's README shows runs as printed."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

README = Path(__file__).parents[3] / "examples" / "digits" / "README.md"
MOST_LINES = 20


async def test_the_program_in_the_readme_is_a_device(
    tmp_path: Path, make_cluster: Any, serve: Any
) -> None:
    found = re.search(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert found is not None
    program = found[1]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 3))
    np.save(tmp_path / "my_x.npy", x)
    np.save(tmp_path / "my_y.npy", x @ [1.0, -2.0, 0.5] + 3.0)
    initial = {"w": np.zeros(3, np.float32), "b": np.zeros((), np.float32)}
    cluster = make_cluster(initial=initial, rounds_total=20)

    async with serve(cluster) as url:
        text = program.replace("http://127.0.0.1:6666", url)
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", text, cwd=tmp_path)
        assert await process.wait() == 0

    assert len(program.splitlines()) <= MOST_LINES
    with np.load(tmp_path / "model.npz") as model:
        np.testing.assert_allclose(model["w"], [1.0, -2.0, 0.5], atol=0.01)
        np.testing.assert_allclose(model["b"], 3.0, atol=0.01)
