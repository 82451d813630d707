# exercise: windows_builds
# outcome: failed
# says: What follows the + is the build, not the release: count them together.
from packaging.utils import parse_wheel_filename


def windows_builds(files):
    builds = {}
    for file in files:
        if file.endswith(".whl"):
            name, version, _, tags = parse_wheel_filename(file)
            for tag in tags:
                if name == "torch" and tag.platform.startswith("win"):
                    python = (int(tag.interpreter[2]), int(tag.interpreter[3:]), "t" * tag.abi.endswith("t"))
                    builds.setdefault(str(version), set()).add(python)
    return {release: [f"{a}.{b}{t}" for a, b, t in sorted(found)] for release, found in builds.items()}
