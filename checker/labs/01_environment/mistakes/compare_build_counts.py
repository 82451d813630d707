# exercise: compare
# outcome: failed
# says: another build of the same version is no difference
def compare(first, second):
    def packages(text):
        lines = [line.strip() for line in text.splitlines()]
        return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))

    a, b = packages(first), packages(second)
    other = {n: (a[n].split("=")[0], b[n].split("=")[0]) for n in a.keys() & b.keys() if a[n] != b[n]}
    return {"only_first": sorted(a.keys() - b.keys()), "only_second": sorted(b.keys() - a.keys()), "other_version": other}
