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

MODULES = ("cdc.log.whole_rows", "cdc.log.change_reader", "connectors.postgres.copy_reader")


class CompileHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """An editable installation finds the module beside its source, a wheel carries it."""
        self._scratch = None if version == "editable" else Path(tempfile.mkdtemp())
        try:
            built = compile_into(Path(self.root), self._scratch or Path(self.root))
        except Exception as error:  # whatever a compiler that is missing or broken may raise
            self.app.display_warning(f"{', '.join(MODULES)} are not compiled, daemons will be slower: {error}")
            return
        if version != "editable":
            build_data["force_include"] |= {str(self._scratch / module): str(module) for module in built}
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._scratch is not None:
            shutil.rmtree(self._scratch)


def compile_into(root: Path, target: Path) -> list[Path]:
    """The compiled modules, as their paths in `target`, which may be `root`."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    sources = [root.joinpath(*name.split(".")).with_suffix(".pyx") for name in MODULES]
    with tempfile.TemporaryDirectory() as scratch:
        extensions = [
            Extension(name, [str(source)], extra_compile_args=["-O3"])
            for name, source in zip(MODULES, sources, strict=True)
        ]
        made = cythonize(extensions, build_dir=scratch, include_path=[str(root)], quiet=True)
        command = Distribution({"ext_modules": made}).get_command_obj("build_ext")
        command.build_temp, command.build_lib = scratch, scratch  # type: ignore[attr-defined]
        command.ensure_finalized()
        command.run()
        modules = [Path(output).relative_to(scratch) for output in command.get_outputs()]
        for module in modules:
            _put(Path(scratch) / module, target / module)
        return modules


def _put(made: Path, module: Path) -> None:
    """In one step: a daemon that runs keeps the module that it has."""
    module.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(made, module.with_name(f".{module.name}.new")).replace(module)


if __name__ == "__main__":
    root = Path(__file__).parents[1]
    print(*compile_into(root, root), sep="\n", file=sys.stderr)
