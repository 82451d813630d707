# exercise: compare
# outcome: failed
# says: a comment or an empty line was taken for a package
def compare(first, second):
    def versions(text):
        return {line.split("=")[0]: line.split("=")[1] if "=" in line else "" for line in text.splitlines()}

    a, b = versions(first), versions(second)
    other = {name: (a[name], b[name]) for name in a.keys() & b.keys() if a[name] != b[name]}
    return {"only_first": sorted(a.keys() - b.keys()), "only_second": sorted(b.keys() - a.keys()), "other_version": other}
