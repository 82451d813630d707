# exercise: utilisation
# outcome: failed
# says: Moments with two kernels count twice in the first number.
def utilisation(kernels, start, end, sms):
    inside = [(max(b, start), min(e, end), s) for b, e, s in kernels if max(b, start) < min(e, end)]
    busy = sum(e - b for b, e, s in inside)
    occupied = sum((e - b) * s for b, e, s in inside)
    return 100 * busy / (end - start), 100 * occupied / ((end - start) * sms)
