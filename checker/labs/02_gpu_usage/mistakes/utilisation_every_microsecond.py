# exercise: utilisation
# outcome: timed out
# says: Your code did not finish within 4 s.
def utilisation(kernels, start, end, sms):
    busy = occupied = 0
    for now in range(start, end):
        running = [kernel for kernel in kernels if kernel[0] <= now < kernel[1]]
        busy += len(running) > 0
        occupied += sum(kernel[2] for kernel in running)
    return 100 * busy / (end - start), 100 * occupied / ((end - start) * sms)
