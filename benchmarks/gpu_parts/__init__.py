"""The parts of `benchmarks/gpu.py`: a module each, whose `run(setting, report)` is called in a process of its own.

They need torch, torchvision, timm, triton and numpy. What else a part uses is imported where it is used, and what is
missing is said in the part's notes.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """module: of this package. seconds: it may take on a GPU; what a part leaves goes to the later ones."""

    module: str
    seconds: float
    about: str


PARTS = {
    "ceilings": Part("ceilings", 15, "what the card itself can: copy, matrix product, launch"),
    "correctness": Part("correctness", 45, "every path against float64 on the CPU, outputs poisoned"),
    "entropy": Part("entropy", 20, "SAR's loss against the authors' way and public labellings"),
    "taps": Part("taps", 15, "reading rows beside fused attention"),
    "step": Part("step", 60, "a training step of ViT-S/16, images a second"),
    "small": Part("small", 22, "steps of small images, which launches bound"),
    "stacks": Part("stacks", 15, "ten seeds of a small network as one stack, against single runs"),
    "feed": Part("feed", 33, "augmented images a second, and how long a step waits for them, from JPEGs too"),
    "memory": Part("memory", 12, "the most memory that a step takes"),
    "profile": Part("profiling", 23, "where a step's time goes: kernels, gaps, launches"),
}
"""In the order in which they run: whether the results are right is known before how fast they come."""

PROBE_SECONDS = 40
"""To look at the device first, with libraries that nobody has read from the disk before."""

MOST_SECONDS = 300
"""Of the whole on a GPU: what one leaves of its time is the next one's."""
