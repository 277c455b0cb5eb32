"""Build hook (pyproject.toml): compiles the hot path where a C compiler is.

Where none is, the build goes on, and Python does the same, more slowly.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULE = "cdc.log.whole_rows"


class CompileHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """An editable installation finds the module beside its source, a wheel carries it."""
        self._scratch = None if version == "editable" else Path(tempfile.mkdtemp())
        try:
            built = compile_into(Path(self.root), self._scratch)
        except Exception as error:  # whatever a compiler that is missing or broken may raise
            self.app.display_warning(f"{MODULE} is not compiled, capture will be slower: {error}")
            return
        if version != "editable":
            build_data["force_include"][str(built)] = f"cdc/log/{built.name}"
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._scratch is not None:
            shutil.rmtree(self._scratch)


def compile_into(root: Path, folder: Path | None) -> Path:
    """The compiled module, made in `folder`, or beside its source."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    source = root.joinpath(*MODULE.split(".")).with_suffix(".pyx")
    with tempfile.TemporaryDirectory() as scratch:
        extension = Extension(MODULE, [str(source)], extra_compile_args=["-O3"])
        distribution = Distribution({"ext_modules": cythonize([extension], build_dir=scratch, quiet=True)})
        command = distribution.get_command_obj("build_ext")
        command.build_temp, command.build_lib = scratch, scratch  # type: ignore[attr-defined]
        command.ensure_finalized()
        command.run()
        built = Path(command.get_outputs()[0])
        return Path(shutil.move(built, (folder or source.parent) / built.name))


if __name__ == "__main__":
    print(compile_into(Path(__file__).parents[1], None), file=sys.stderr)
