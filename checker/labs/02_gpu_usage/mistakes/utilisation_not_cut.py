# exercise: utilisation
# outcome: failed
# says: The kernels are not cut to the window: what lies outside it is counted.
def utilisation(kernels, start, end, sms):
    busy = occupied = 0
    seen = float("-inf")
    for b, e, used in sorted(kernels):
        occupied += (e - b) * used
        busy += max(0, e - max(b, seen))
        seen = max(seen, e)
    return 100 * busy / (end - start), 100 * occupied / ((end - start) * sms)
