# exercise: people
# outcome: failed
# says: is from the licence's own text. Look at copyright lines only.
import re


def people(licence):
    earliest = {}
    for line in licence.splitlines():
        names, year = re.search(r"\(([^()]*)\)\s*$", line), re.search(r"\d{4}", line)
        if names and year:
            for name in names[1].split(", "):
                earliest[name] = min(int(year[0]), earliest.get(name, 9999))
    return earliest
