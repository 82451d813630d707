# exercise: dxdiag_gpus
# outcome: failed
# says: That is Windows's number: NVIDIA's is in its last five digits
def dxdiag_gpus(text):
    cards = []
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "Card name":
            cards.append({})
        if cards:
            cards[-1].setdefault(key.strip(), value.strip())
    gpus = []
    for card in cards:
        if card["Manufacturer"] == "NVIDIA":
            digits = card["Driver Version"].replace(".", "")[-5:]
            gpus.append(
                {
                    "name": card["Card name"],
                    "driver_version": card["Driver Version"],
                    "driver_model": card["Driver Model"],
                    "memory_mib": int(card["Dedicated Memory"].split()[0]),
                }
            )
    return gpus
