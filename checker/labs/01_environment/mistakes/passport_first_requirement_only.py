# exercise: passport
# outcome: failed
# says: Square brackets give the first line of that name only
import importlib.metadata
import re

from packaging.requirements import Requirement


def passport(name):
    header = importlib.metadata.metadata(name)
    first = header["Requires-Dist"]
    parts = re.split(r" AND | OR ", header["License-Expression"] or "")
    return {
        "summary": header["Summary"],
        "python": header["Requires-Python"],
        "needs": [Requirement(first).name] if first else [],
        "licences": sorted({part for part in parts if part}),
    }
