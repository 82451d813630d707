# exercise: windows_builds
# outcome: failed
# says: is a build number: most names have none
def windows_builds(files):
    builds = {}
    for file in files:
        parts = file.removesuffix(".whl").split("-")
        if parts[0] == "torch" and file.endswith(".whl") and parts[-1].startswith("win"):
            minor = parts[2][3:] + ("t" if parts[3].endswith("t") else "")
            builds.setdefault(parts[1].split("+")[0], set()).add(f"{parts[2][2]}.{minor}")
    key = lambda python: (int(python.rstrip("t").split(".")[1]), python)
    return {release: sorted(pythons, key=key) for release, pythons in builds.items()}
