# exercise: windows_builds
# outcome: failed
# says: 3.9 comes before 3.10; the alphabet says otherwise.
from packaging.utils import parse_wheel_filename


def windows_builds(files):
    builds = {}
    for file in files:
        if file.endswith(".whl"):
            name, version, _, tags = parse_wheel_filename(file)
            for tag in tags:
                if name == "torch" and tag.platform.startswith("win"):
                    free = "t" if tag.abi.endswith("t") else ""
                    builds.setdefault(version.public, set()).add(f"{tag.interpreter[2]}.{tag.interpreter[3:]}{free}")
    return {release: sorted(pythons) for release, pythons in builds.items()}
