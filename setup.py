"""The kernels' libraries, compiled into the wheel for each CPU it serves. All else is in pyproject.toml."""

import runpy
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

KERNELS = Path(__file__).parent / "runtimes" / "kernels"


class BuildKernels(build_py):
    """A checkout that is installed to be edited compiles its own at first use."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        steps = runpy.run_path(str(KERNELS / "build.py"))
        for arch, target in steps["SHIPPED"].items():
            place = Path(self.build_lib) / "edge" / "runtimes" / "kernels" / "lib" / arch / steps["LIBRARY"]
            steps["build"](arch, place, [sys.executable, "-m", "ziglang", "cc"], target, steps["ONNX"])


setup(cmdclass={"build_py": BuildKernels})
