"""The classes, parts, materials and kinds of place of street scenes."""

CLASSES = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "motorcycle",
    "bicycle",
)
"""Classes of segmentation: those of Cityscapes without the train."""

_PARTS = {
    "sky": "cloud",
    "building": "window door roof shop wall",
    "person": "leg head torso arm hand hair foot",
    "road": "crosswalk",
    "car": "window door wheel headlight mirror roof taillight windshield bumper",
    "truck": "wheel windshield",
    "bus": "window door wheel headlight mirror",
    "pole": "arm shade",
    "bicycle": "wheel handle saddle chain",
    "motorcycle": "wheel headlight handle",
}

PARTS = tuple(f"{name}/{part}" for name, parts in _PARTS.items() for part in parts.split())
"""Parts as in Losch 2024, Tab. 5.1, without those smaller than a pixel; a lamp's are those of the pole that it is."""

MATERIALS = ("brick", "fabric", "foliage", "glass", "metal", "plastic", "rubber", "skin", "stone", "tile", "wood")
"""Materials of Losch 2024, Tab. 5.1."""

SCENES = ("residential", "downtown", "park", "shopping", "industrial", "country road")
"""Kinds of place: the class of a whole image."""
