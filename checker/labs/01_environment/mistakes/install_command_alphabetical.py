# exercise: install_command
# outcome: failed
# says: That is the newest in the alphabet. As a version, 2.10 is newer than 2.9.
def install_command(wheels, system, python, compute):
    fitting = [r for r, row in wheels.items() if python in row["python"] and compute in row.get(system, ())]
    if not fitting:
        raise ValueError(f"no wheel for {system}, Python {python}, {compute}")
    command = f"pip install torch=={max(fitting)}"
    return command if system == "macos" else f"{command} --index-url https://download.pytorch.org/whl/{compute}"
