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
    "ceilings": Part("ceilings", 20, "what the card itself can: copy, matrix product, launch"),
    "correctness": Part("correctness", 50, "every path against float64 on the CPU, outputs poisoned"),
    "entropy": Part("entropy", 25, "SAR's loss against the authors' way and public labellings"),
    "taps": Part("taps", 15, "reading rows beside fused attention"),
    "step": Part("step", 80, "a training step of ViT-S/16, images a second"),
    "small": Part("small", 30, "steps of small images, which launches bound"),
    "feed": Part("feed", 25, "augmented images a second, and how long a step waits for them"),
    "memory": Part("memory", 15, "the most memory that a step takes"),
    "profile": Part("profiling", 25, "where a step's time goes: kernels, gaps, launches"),
}
"""In the order in which they run: whether the results are right is known before how fast they come."""

PROBE_SECONDS = 15
MOST_SECONDS = 300
"""Of the whole on a GPU."""
