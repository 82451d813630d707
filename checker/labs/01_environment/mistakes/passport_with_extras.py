# exercise: passport
# outcome: failed
# says: lists every requirement, also those whose marker is false here
import importlib.metadata
import re

from packaging.requirements import Requirement


def passport(name):
    header = importlib.metadata.metadata(name)
    parts = re.split(r" AND | OR ", header["License-Expression"] or "")
    return {
        "summary": header["Summary"],
        "python": header["Requires-Python"],
        "needs": sorted({Requirement(line).name for line in header.get_all("Requires-Dist") or ()}),
        "licences": sorted({part for part in parts if part}),
    }
