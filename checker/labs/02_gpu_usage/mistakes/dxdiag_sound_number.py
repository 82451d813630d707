# exercise: dxdiag_gpus
# outcome: failed
# says: has written over the card's. And NVIDIA's is in the last five digits of the card's.
def dxdiag_gpus(text):
    cards = []
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "Card name":
            cards.append({})
        if cards:
            cards[-1][key.strip()] = value.strip()
    return [
        {
            "name": card["Card name"],
            "driver_version": card["Driver Version"],
            "driver_model": card["Driver Model"],
            "memory_mib": int(card["Dedicated Memory"].split()[0]),
        }
        for card in cards
        if card["Manufacturer"] == "NVIDIA"
    ]
