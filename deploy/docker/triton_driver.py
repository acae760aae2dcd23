"""Compile the one C file that Triton would compile on the first use of a GPU.

It is the module by which Triton calls the CUDA driver. Compiled while the image is built, it saves
the image a C compiler; `compiled-before` hands it out. Needs no GPU and no driver: what the driver
will have is stood in for by an empty library of its name.

Argument: folder to write `driver.c` and `driver.so` into. Without Triton it stays empty.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path


def main() -> None:
    target = Path(sys.argv[1])
    target.mkdir(parents=True)
    if find_spec("triton") is None:
        return
    from triton.backends.nvidia import driver
    from triton.runtime.build import compile_so_from_file

    source = Path(driver.__file__).with_name("driver.c")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder  # noqa: TID251 - Triton's, not ours
        stand_in = Path(folder) / "libcuda.so.1"
        command = ["gcc", "-shared", f"-Wl,-soname,{stand_in.name}", "-o", str(stand_in)]
        subprocess.run([*command, "-x", "c", os.devnull], check=True)  # noqa: S603
        module = compile_so_from_file(
            src_path=str(source),
            name="cuda_utils",
            library_dirs=[folder],
            include_dirs=driver.include_dirs,
            libraries=driver.libraries,
        )
        shutil.copyfile(module, target / "driver.so")
    shutil.copyfile(source, target / "driver.c")


if __name__ == "__main__":
    main()
