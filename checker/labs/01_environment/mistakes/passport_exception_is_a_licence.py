# exercise: passport
# outcome: failed
# says: has torn 'X WITH Y' apart
import importlib.metadata
import re

from packaging.requirements import Requirement


def passport(name):
    header = importlib.metadata.metadata(name)
    requirements = [Requirement(line) for line in header.get_all("Requires-Dist") or ()]
    here = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    parts = re.split(r" AND | OR | WITH ", header["License-Expression"] or "")
    return {
        "summary": header["Summary"],
        "python": header["Requires-Python"],
        "needs": sorted({r.name for r in here}),
        "licences": sorted({part for part in parts if part}),
    }
