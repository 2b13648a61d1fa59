"""Debian packages as raw material: fetched by apt, unpacked without being installed; what a program needs of them."""

import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

_FETCH_TIMEOUT = 600  # seconds, for all packages of one image
_TOOL_TIMEOUT = 120


class ImageError(Exception):
    """The image can not be built: what was tried, what the tool said."""


def run_tool(*command: str | Path, timeout: float = _TOOL_TIMEOUT, cwd: Path | None = None) -> str:
    """Run a program to its end and return what it printed; ImageError with its complaint if it fails."""
    words = [str(word) for word in command]
    # apt says "Depends" in the language of who started it.
    plain = {**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": ""}
    try:
        done = subprocess.run(words, capture_output=True, timeout=timeout, cwd=cwd, stdin=subprocess.DEVNULL, env=plain)
    except FileNotFoundError:
        raise ImageError(f"{words[0]} is not installed: run scripts/setup") from None
    except subprocess.TimeoutExpired:
        raise ImageError(f"{' '.join(words)} did not end in {timeout:.0f} s") from None
    if done.returncode != 0:
        raise ImageError(f"{' '.join(words)} failed: {done.stderr.decode(errors='replace').strip()[-2000:]}")
    return done.stdout.decode(errors="replace")


def kernel_package(meta: str) -> str:
    """The package with the kernel that the meta package stands for now."""
    for line in run_tool("apt-cache", "depends", meta).splitlines():
        found = re.match(r"\s*Depends: (linux-image-\S+)", line)
        if found:
            return found[1]
    raise ImageError(f"apt does not know {meta}: run apt-get update")


def unpack(packages: Iterable[str], into: Path) -> None:
    """Fetch the packages' current versions and lay their files out under `into`."""
    downloads = into.with_name(f"{into.name}.debs")
    downloads.mkdir(parents=True)
    fetch = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages]
    try:
        run_tool(*fetch, timeout=_FETCH_TIMEOUT, cwd=downloads)
    except ImageError:
        # The lists of a machine that is older than the last point release name files that are gone.
        run_tool("apt-get", "-q", "update", timeout=_FETCH_TIMEOUT)
        run_tool(*fetch, timeout=_FETCH_TIMEOUT, cwd=downloads)
    for package in sorted(downloads.glob("*.deb")):
        run_tool("dpkg-deb", "-x", package, into)
        package.unlink()
    downloads.rmdir()


def libraries(program: Path, tree: Path) -> Iterator[Path]:
    """The shared libraries of `tree` that `program` needs, and those they need; the dynamic loader among them."""
    by_name = {path.name: path for path in tree.rglob("*.so*")}
    wanted, seen = [program], set()
    while wanted:
        description = run_tool("objdump", "-p", wanted.pop())
        names = re.findall(r"NEEDED\s+(\S+)", description)
        for name in [*names, "ld-linux-x86-64.so.2"]:
            if name in seen:
                continue
            seen.add(name)
            if name not in by_name:
                raise ImageError(f"{program.name} needs {name}, which is in none of the image's packages")
            wanted.append(by_name[name])
            yield by_name[name]


def kernel_modules(names: Iterable[str], tree: Path) -> list[Path]:
    """The files of these modules and of all they depend on, in an order in which they load.

    Names that the kernel has built in, or lacks, are left out.
    """
    files = {path.stem.replace("-", "_"): path for path in tree.rglob("*.ko")}
    ordered: list[Path] = []

    def add(name: str) -> None:
        path = files.get(name.replace("-", "_"))
        if path is None or path in ordered:
            return
        depends = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        for other in depends[1].decode().split(",") if depends else ():
            add(other)
        ordered.append(path)

    for name in names:
        add(name)
    return ordered
