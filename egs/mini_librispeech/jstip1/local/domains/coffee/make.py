"""Coffee: sentences of the grammar of egs/coffee (orders.txt, menu.txt there), real orders with their slot values."""

import domain  # local/domain.py
import mini  # local/data.py of llmasr1
import orders  # that of egs/coffee

# Classes of the menu that are words of the domain, in the order of their use.
CLASSES = ("coffeeDrink", "roast", "numberOfShots", "milk", "sweet", "size")


def make(places, count, rng):
    data = mini.lower(mini.read_s2i(places["s2i"]))
    said = {utt: (data.text[utt], [value for _, value in items]) for utt, items in data.entities.items()}
    drawer = orders.Orders(said)
    words = [(name, word) for name in CLASSES for word in dict.fromkeys(drawer.words[name])]
    return domain.Domain(drawer.sentences(count, rng), words, data)
