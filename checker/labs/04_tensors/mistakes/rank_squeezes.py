# exercise: rank_of
# outcome: failed
# says: An axis of size 1 or 0 counts as well
def rank_of(x):
    return sum(size > 1 for size in x.shape)
