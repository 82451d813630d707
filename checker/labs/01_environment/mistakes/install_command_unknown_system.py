# exercise: install_command
# outcome: failed
# says: it should raise ValueError. The table knows no system
from packaging.version import Version


def install_command(wheels, system, python, compute):
    fitting = [r for r, row in wheels.items() if python in row["python"] and compute in row[system]]
    if not fitting:
        raise ValueError(f"no wheel for {system}, Python {python}, {compute}")
    command = f"pip install torch=={max(fitting, key=Version)}"
    return command if system == "macos" else f"{command} --index-url https://download.pytorch.org/whl/{compute}"
