# exercise: rank_of
# outcome: failed
# says: That is the size of the first axis (what len gives)
def rank_of(x):
    return len(x)
