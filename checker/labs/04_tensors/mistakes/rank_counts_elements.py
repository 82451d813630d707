# exercise: rank_of
# outcome: failed
# says: That is the number of elements; the rank is the number of axes.
def rank_of(x):
    return x.numel()
