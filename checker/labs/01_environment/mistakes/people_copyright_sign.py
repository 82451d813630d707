# exercise: people
# outcome: failed
# says: the brackets of '(c)' hold nobody's name
import re


def people(licence):
    earliest = {}
    for line in licence.splitlines():
        year = re.search(r"\d{4}", line)
        if line.startswith("Copyright") and year:
            for names in re.findall(r"\((.*?)\)", line):
                for name in names.split(", "):
                    earliest[name] = min(int(year[0]), earliest.get(name, 9999))
    return earliest
