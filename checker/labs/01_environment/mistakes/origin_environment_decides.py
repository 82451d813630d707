# exercise: origin
# outcome: failed
# says: An environment of conda's does not make the package conda's
def origin(files, package):
    conda = any(path.startswith("conda-meta/") for path in files)
    environment = "conda" if conda else "venv" if "pyvenv.cfg" in files else "system"
    there = any(f"/{package}-" in path for path in files)
    return {"environment": environment, "installer": "conda" if conda else "pip" if there else None, "replaced": False}
