# exercise: utilisation
# outcome: failed
# says: A kernel that ends within a longer one makes you forget the longer one
def utilisation(kernels, start, end, sms):
    busy = occupied = 0
    seen = start
    for b, e, used in sorted(kernels):
        b, e = max(b, start), min(e, end)
        if b < e:
            occupied += (e - b) * used
            busy += max(0, e - max(b, seen))
            seen = e
    return 100 * busy / (end - start), 100 * occupied / ((end - start) * sms)
