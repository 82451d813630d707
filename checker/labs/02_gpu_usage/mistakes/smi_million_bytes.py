# exercise: read_smi
# outcome: failed
# says: A MiB is 2**20 bytes, not a million.
def read_smi(text):
    rows = [line.split(",") for line in text.splitlines() if line.strip()]
    header, *lines = [[cell.strip() for cell in row] for row in rows]
    found = []
    for line in lines:
        row = {}
        for head, cell in zip(header, line):
            name, _, unit = head.partition(" ")
            if cell.startswith("[") or cell == "N/A":
                row[name] = None
            elif unit == "[MiB]":
                row[name] = int(cell.split()[0]) * 10**6
            elif unit == "[W]":
                row[name] = round(float(cell.split()[0]) * 1000)
            elif unit:
                row[name] = int(cell.split()[0])
            else:
                row[name] = cell
        found.append(row)
    return found
