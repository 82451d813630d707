# exercise: origin
# outcome: failed
# says: whose name only begins the same
def origin(files, package):
    conda = any(path.startswith("conda-meta/") for path in files)
    environment = "conda" if conda else "venv" if "pyvenv.cfg" in files else "system"
    name = package.lower().replace("-", "_").replace(".", "_")
    signed = [t for p, t in sorted(files.items(), reverse=True) if f"/{name}" in p and p.endswith("/INSTALLER")]
    return {"environment": environment, "installer": signed[0].strip() if signed else None, "replaced": False}
