# exercise: origin
# outcome: failed
# says: Conda's name for it may differ: go by its files.
import json
import re

from packaging.utils import canonicalize_name


def origin(files, package):
    records = [path for path in files if path.startswith("conda-meta/")]
    environment = "conda" if records else "venv" if "pyvenv.cfg" in files else "system"
    installer = None
    for path, text in files.items():
        match = re.search(r"/([^/-]+)-[^/-]+\.dist-info/INSTALLER$", path)
        if match and canonicalize_name(match[1]) == canonicalize_name(package):
            installer = text.strip()
    names = [json.loads(files[path])["name"] for path in records if path.endswith(".json")]
    replaced = package in names and installer not in (None, "conda")
    return {"environment": environment, "installer": installer, "replaced": replaced}
