"""Which wheels of requirements.lock images need: all but torch's and those that only development asks for.

    python wheels.py --markers                          prints what decides, of this Python, as JSON
    python wheels.py MARKERS LOCK PYPROJECT FOLDER      removes what is not needed; prints the pins that are missing

The first runs in the base image. The second needs ``packaging`` and is run by the machine's own Python, any version 3.
"""

import json
import os
import platform
import re
import sys
from pathlib import Path

# Development asks for these, and so does a build.
TOOLS = {"setuptools", "uv"}


def main():
    if sys.argv[1] == "--markers":
        print(json.dumps(markers()))
        return
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name, parse_wheel_filename

    environment, lock, project = (Path(name).read_text(encoding="utf-8") for name in sys.argv[1:4])
    development = set(re.findall(r'^ *"([\w.-]+)', re.search(r"^dev = \[$(.*?)^\]$", project, re.M | re.S)[1], re.M))
    pins = {}
    for line in lock.splitlines():
        if line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.name not in {"torch"} | development - TOOLS and (
            pin.marker is None or pin.marker.evaluate(json.loads(environment))
        ):
            pins[canonicalize_name(pin.name)] = str(pin.specifier)[2:]
    for path in Path(sys.argv[4]).glob("*.whl"):
        name, version = parse_wheel_filename(path.name)[:2]
        if pins.get(name) == str(version):
            del pins[name]
        else:
            path.unlink()
    for name, version in pins.items():
        print(f"{name}=={version}")


def markers():
    """What PEP 508 names, and the version of glibc, by which wheels are named (empty: another C library)."""
    return {
        "implementation_name": sys.implementation.name,
        "implementation_version": platform.python_version(),
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_python_implementation": platform.python_implementation(),
        "platform_system": platform.system(),
        "python_full_version": platform.python_version(),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "sys_platform": sys.platform,
        "glibc": platform.libc_ver()[1] if platform.libc_ver()[0] == "glibc" else "",
    }


main()
