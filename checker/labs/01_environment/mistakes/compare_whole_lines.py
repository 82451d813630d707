# exercise: compare
# outcome: failed
# says: whole lines are compared. The name of a package ends at the first '='.
def compare(first, second):
    a = {line.strip() for line in first.splitlines() if line.strip() and not line.strip().startswith("#")}
    b = {line.strip() for line in second.splitlines() if line.strip() and not line.strip().startswith("#")}
    return {"only_first": sorted(a - b), "only_second": sorted(b - a), "other_version": {}}
