# exercise: install_command
# outcome: failed
# says: keep looking for an older one
from packaging.version import Version


def install_command(wheels, system, python, compute):
    newest = max(wheels, key=Version, default=None)
    row = wheels.get(newest, {"python": []})
    if python not in row["python"] or compute not in row.get(system, ()):
        raise ValueError(f"no wheel for {system}, Python {python}, {compute}")
    command = f"pip install torch=={newest}"
    return command if system == "macos" else f"{command} --index-url https://download.pytorch.org/whl/{compute}"
