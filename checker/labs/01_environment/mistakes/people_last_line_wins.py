# exercise: people
# outcome: failed
# says: the earliest year counts, not the last one
import re


def people(licence):
    found = {}
    for line in licence.splitlines():
        match = re.match(r"Copyright.*?(\d{4}).*\(([^()]*)\)\s*$", line)
        if match:
            for name in match[2].split(", "):
                found[name] = int(match[1])
    return found
