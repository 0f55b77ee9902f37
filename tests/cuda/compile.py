#!/usr/bin/env python3
"""Compiles every kernel as trawl does at run time, and then to machine code, for the oldest device supported and for Hopper.

No GPU is needed. Fails for what does not compile, for warnings, and for kernels whose registers spill into memory.
"""

import ctypes
import pathlib
import re
import subprocess
import sys
import tempfile

ARCHITECTURES = [80, 90]
ROOT = pathlib.Path(__file__).resolve().parents[2]
PRELUDE = "compute/src/accelerator/prelude.cuh"
STORED = "encoder/src/accelerated/stored.cuh"
TRAINING = "encoder/src/training/accelerated"
# What is compiled as one, as the hosts of the kernels put it together.
MODULES = {
    "search": ["index/src/accelerated/search.cu"],
    "encoder": [STORED, "encoder/src/accelerated/encoder.cu"],
    "training": [STORED, f"{TRAINING}/training.cuh", f"{TRAINING}/attention.cu", f"{TRAINING}/training.cu"],
}


def toolkit() -> pathlib.Path:
    """Where the wheels put their files."""
    for folder in sys.path:
        found = pathlib.Path(folder) / "nvidia/cu13"
        if found.is_dir():
            return found
    sys.exit("the compilers are not installed: `tests/cuda/run` does that")


class Compiler:
    """The run-time compiler."""

    def __init__(self, library: pathlib.Path):
        # It opens this one by name, which only finds what is open already.
        ctypes.CDLL(str(library.parent / "libnvrtc-builtins.so.13.0"), ctypes.RTLD_GLOBAL)
        self.library = ctypes.CDLL(str(library))

    def check(self, status: int) -> None:
        if status != 0:
            self.library.nvrtcGetErrorString.restype = ctypes.c_char_p
            raise RuntimeError(self.library.nvrtcGetErrorString(status).decode())

    def text(self, program: ctypes.c_void_p, what: str) -> str:
        size = ctypes.c_size_t()
        self.check(getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        text = ctypes.create_string_buffer(size.value)
        self.check(getattr(self.library, f"nvrtcGet{what}")(program, text))
        return text.value.decode()

    def ptx(self, source: str, architecture: int) -> tuple[str, str]:
        """The code, empty when there is none, and what the compiler said."""
        program = ctypes.c_void_p()
        self.check(self.library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), None, 0, None, None))
        options = [f"--gpu-architecture=compute_{architecture}", "--std=c++17"]
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        status = self.library.nvrtcCompileProgram(program, len(options), given)
        log = self.text(program, "ProgramLog")
        return ("" if status != 0 else self.text(program, "PTX"), log)


def main() -> None:
    cuda = toolkit()
    compiler = Compiler(cuda / "lib/libnvrtc.so.13")
    known = {ROOT / path for paths in MODULES.values() for path in paths}
    assert known >= set(ROOT.glob("*/src/**/*.cu")), "every kernel is in a module"
    faults = 0
    for module, paths in MODULES.items():
        source = "\n".join((ROOT / path).read_text() for path in [PRELUDE, *paths])
        for architecture in ARCHITECTURES:
            name = f"{module} for sm_{architecture}"
            ptx, log = compiler.ptx(source, architecture)
            if not ptx or log.strip():
                print(f"{name}:\n{log}")
                faults += 1
            if not ptx:
                continue
            with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
                file.write(ptx)
                file.flush()
                command = [cuda / "bin/ptxas", f"-arch=sm_{architecture}", "-v", "-o", "/dev/null", file.name]
                run = subprocess.run(command, capture_output=True, text=True)
            said = run.stdout + run.stderr
            spilled = re.findall(r"Function properties for (\w+)\n\s*\d+ bytes stack frame, ([1-9]\d*) bytes spill", said)
            for kernel, size in spilled:
                print(f"{name}: `{kernel}` spills {size} bytes")
            if run.returncode != 0:
                print(f"{name}:\n{said}")
            faults += len(spilled) + (run.returncode != 0)
            registers = [int(n) for n in re.findall(r"Used (\d+) registers", said)]
            print(f"{name}: {len(registers)} kernels, at most {max(registers, default=0)} registers")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
