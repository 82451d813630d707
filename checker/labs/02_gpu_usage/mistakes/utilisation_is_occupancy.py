# exercise: utilisation
# outcome: failed
# says: The second number is about multiprocessors
def utilisation(kernels, start, end, sms):
    busy, seen = 0, start
    for b, e, used in sorted(kernels):
        b, e = max(b, start), min(e, end)
        if b < e:
            busy += max(0, e - max(b, seen))
            seen = max(seen, e)
    share = 100 * busy / (end - start)
    return share, share
