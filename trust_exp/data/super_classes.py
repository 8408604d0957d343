"""The 100 classes of CIFAR-100 in their 20 super-classes. No torch."""

from typing import NamedTuple

from trust_exp.errors import unknown


class SuperClass(NamedTuple):
    """A super-class of CIFAR-100: its name in the thesis and its five classes."""

    thesis: str
    fine: tuple[str, ...]


# In the order of the labels. Source: Krizhevsky 2009; names in the thesis: Losch 2024, Fig. A.3.
SUPER_CLASSES: dict[str, SuperClass] = {
    "aquatic_mammals": SuperClass("aquatic-mammal", ("beaver", "dolphin", "otter", "seal", "whale")),
    "fish": SuperClass("fish", ("aquarium_fish", "flatfish", "ray", "shark", "trout")),
    "flowers": SuperClass("flower", ("orchid", "poppy", "rose", "sunflower", "tulip")),
    "food_containers": SuperClass("container", ("bottle", "bowl", "can", "cup", "plate")),
    "fruit_and_vegetables": SuperClass("fruit", ("apple", "mushroom", "orange", "pear", "sweet_pepper")),
    "household_electrical_devices": SuperClass("device", ("clock", "keyboard", "lamp", "telephone", "television")),
    "household_furniture": SuperClass("furniture", ("bed", "chair", "couch", "table", "wardrobe")),
    "insects": SuperClass("insect", ("bee", "beetle", "butterfly", "caterpillar", "cockroach")),
    "large_carnivores": SuperClass("large-carnivore", ("bear", "leopard", "lion", "tiger", "wolf")),
    "large_man-made_outdoor_things": SuperClass("building", ("bridge", "castle", "house", "road", "skyscraper")),
    "large_natural_outdoor_scenes": SuperClass("scene", ("cloud", "forest", "mountain", "plain", "sea")),
    "large_omnivores_and_herbivores": SuperClass(
        "large-mammal", ("camel", "cattle", "chimpanzee", "elephant", "kangaroo")
    ),
    "medium_mammals": SuperClass("small-mammal", ("fox", "porcupine", "possum", "raccoon", "skunk")),
    "non-insect_invertebrates": SuperClass("crustacean", ("crab", "lobster", "snail", "spider", "worm")),
    "people": SuperClass("human", ("baby", "boy", "girl", "man", "woman")),
    "reptiles": SuperClass("reptile", ("crocodile", "dinosaur", "lizard", "snake", "turtle")),
    "small_mammals": SuperClass("rodent", ("hamster", "mouse", "rabbit", "shrew", "squirrel")),
    "trees": SuperClass("tree", ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree")),
    "vehicles_1": SuperClass("vehicle", ("bicycle", "bus", "motorcycle", "pickup_truck", "train")),
    "vehicles_2": SuperClass("utility-vehicle", ("lawn_mower", "rocket", "streetcar", "tank", "tractor")),
}

COARSE = tuple(SUPER_CLASSES)
FINE = tuple(sorted(name for super_class in SUPER_CLASSES.values() for name in super_class.fine))


def super_class(name: str) -> int:
    """The number of a super-class of CIFAR-100 by its own name or by the thesis'.

    Raises:
        UserError: if there is none.
    """
    numbers = {name: number for number, name in enumerate(COARSE)}
    numbers |= {found.thesis: number for number, found in enumerate(SUPER_CLASSES.values())}
    if name not in numbers:
        raise unknown("the super-class of CIFAR-100", name, numbers)
    return numbers[name]
