"""Steps of training as several parts take them: ours, by the pipeline's own modules, and timm's network as it comes."""

import gc
from collections.abc import Callable, Generator
from dataclasses import dataclass, fields, replace
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml  # type: ignore[import-untyped, unused-ignore]  # which timm needs too
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from gpu_parts.setting import Report, Setting
from pipeline.data.batches.batches import ImageBatches, Standardisation
from pipeline.data.prepared.encoded import EncodedRows, index_of
from pipeline.data.prepared.prepared import Prepared
from pipeline.models.build import build_model
from pipeline.models.model_config import ModelConfig, SpatialPriorConfig
from pipeline.regularizers.spatial_entropy import SpatialEntropy
from pipeline.train.loader import TrainLoader
from pipeline.train.memory import is_out_of_memory
from pipeline.train.objective import Objective
from pipeline.train.optim import make_optimizer
from pipeline.train.step import take_step
from pipeline.train.train_config import TrainConfig

PARAMS = Path(__file__).parent.parent.parent / "params.yaml"


@dataclass(frozen=True)
class Case:
    """A network, the side of its images, the batch, the classes, and the recipe's precision."""

    model: ModelConfig
    side: int
    batch: int
    classes: int
    precision: str = "bfloat16"


def vit_s(setting: Setting) -> Case:
    """ViT-S/16 at 224 pixels, bfloat16, batches of 256; for a trial on a CPU a tiny one."""
    if setting.small:
        tiny = {"depth": 2, "embed_dim": 48, "num_heads": 3}
        return Case(ModelConfig("vit_tiny_patch16_224", tiny, "timm", 0.1), 32, 4, 10)
    return Case(ModelConfig("vit_small_patch16_224", {}, "timm", 0.1), 224, 256, 1000)


def default_case() -> tuple[Case, TrainConfig, int]:
    """What params.yaml stands at: the network, the recipe, and the images' side; read without pydantic and ruamel."""
    params = yaml.safe_load(PARAMS.read_text())
    model, train, side = params["model"], params["train"], params["prepare"]["image_size"]
    prior = SpatialPriorConfig(**model["spatial_prior"])
    config = ModelConfig(model["name"], model["kwargs"], model["init"], model["drop_path"], model["last_block"], prior)
    known = {each.name for each in fields(TrainConfig)}
    taken = TrainConfig(**{name: value for name, value in train.items() if name in known})
    return Case(config, side, taken.batch_size, 10, taken.precision), taken, side


def recipe(batch: int, precision: str = "bfloat16") -> TrainConfig:
    return TrainConfig(
        epochs=100, batch_size=batch, lr=5e-4, min_lr=1e-5, warmup_epochs=5, weight_decay=0.05, label_smoothing=0.1,
        clip_grad=None, precision=precision,
    )  # fmt: skip


def made_images(number: int, side: int, device: torch.device, *, seed: int, classes: int) -> ImageBatches:
    """Noise: a step's time does not depend on what is in the pictures, but for the components of its maps."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (number, side, side, 3), dtype=np.uint8)
    prepared = Prepared(pixels, rng.integers(0, classes, number), None, {})
    return ImageBatches(prepared, range(number), Standardisation((0.5,) * 3, (0.25,) * 3), device)


def made_jpegs(
    number: int, side: int, device: torch.device, folder: Path, *, seed: int, classes: int, repeats: int
) -> ImageBatches:
    """Pictures of soft colours with some grain, stored as `prepare` stores a large set; an epoch has each many times.

    repeats: how many times, so that a pass is long enough for what was decoded before it was timed to be used up.
    """
    rng = np.random.default_rng(seed)
    index: list[tuple[int, int]] = []
    files: list[bytes] = []
    for _ in range(number):
        soft = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((side, side))
        grained = np.asarray(soft) + rng.normal(0, 4, (side, side, 1))
        file = BytesIO()
        made = Image.fromarray(grained.clip(0, 255).astype(np.uint8))
        made.save(file, "JPEG", quality=95, subsampling=0)
        index.append((sum(length for _, length in index), len(file.getvalue())))
        files.append(file.getvalue())
    (folder / "images.bin").write_bytes(b"".join(files))
    np.save(index_of(folder, "images"), np.array(index, dtype=np.int64))
    prepared = Prepared(EncodedRows(folder, "images", (side, side, 3)), rng.integers(0, classes, number), None, {})
    ids = np.tile(np.arange(number), repeats)
    return ImageBatches(prepared, ids, Standardisation((0.5,) * 3, (0.25,) * 3), device)


class OurSteps:
    """A training run of ours, a step at a time. layers: those that SAR looks at, None for no regulariser at all.

    compiled: None, or the mode of torch.compile ("default", "reduce-overhead"). fixed: the batch is always one.
    """

    def __init__(
        self,
        setting: Setting,
        case: Case,
        config: TrainConfig,
        train: ImageBatches,
        *,
        layers: str | None,
        compiled: str | None = None,
        fixed: bool = False,
    ) -> None:
        torch.manual_seed(setting.seed)
        self.case, self.config, self._compiled = case, config, compiled
        sides = (case.side, case.side)
        self.model = build_model(case.model, num_classes=case.classes, image_size=sides, channels=3)
        self.model.to(setting.device).train()
        sar = {"spatial_entropy": SpatialEntropy(weight=0.01, layers=layers or "last", schedule="constant")}
        self.objective = Objective(self.model, sar if layers else {}, planned_epochs=config.epochs)
        if compiled:  # as `pipeline.train.compilation` does it
            how: dict[str, Any] = {"backend": "aot_eager"} if setting.small else {"mode": compiled}
            self.model.compile(dynamic=False, **how)
        self.optimizer = make_optimizer(self.model, config, beside=self.objective.trainable)
        self._batches = whole_batches(TrainLoader(train, config, model=self.model, seed=setting.seed), case.batch)
        self.inputs, self.labels = next(self._batches)
        self._fixed = fixed

    def __call__(self) -> dict[str, Tensor]:
        if not self._fixed:
            self.inputs, self.labels = self.batch()
        if self._compiled == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call, unused-ignore]
        return self.on(self.inputs, self.labels)

    def batch(self) -> tuple[Tensor, Tensor]:
        """The next one."""
        return next(self._batches)

    def close(self) -> None:
        """End what makes batches ahead."""
        self._batches.close()

    def on(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """A step on a batch."""
        half = self.config.epochs // 2
        return take_step(self.model, self.objective, self.optimizer, inputs, labels, epoch=half, config=self.config)


def whole_batches(feed: TrainLoader, size: int) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Epoch after epoch without end; a smaller last batch of an epoch is left out."""
    for epoch in count():
        yield from ((inputs, labels) for inputs, labels in feed.epoch(epoch) if len(labels) == size)


def timms_steps(setting: Setting, case: Case, config: TrainConfig, *, compiled: bool) -> Callable[[], None]:
    """timm's network without our loop, at its best: its AdamW fused, on one batch that lies there as it is needed."""
    import timm
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]

    torch.manual_seed(setting.seed)
    kwargs = dict(case.model.kwargs)
    model = timm.create_model(
        case.model.name, num_classes=case.classes, drop_path_rate=case.model.drop_path, img_size=case.side, **kwargs
    )
    model = model.to(setting.device).train()
    if compiled:
        model.compile(**({"backend": "aot_eager"} if setting.small else {}))
    optimizer = create_optimizer_v2(model, opt="adamw", lr=config.lr, weight_decay=config.weight_decay, fused=True)
    inputs = torch.randn(config.batch_size, 3, case.side, case.side, device=setting.device)
    labels = torch.randint(case.classes, (config.batch_size,), device=setting.device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(setting.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            logits = model(inputs)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        optimizer.step()

    return step


def fitting(case: Case, attempt: Callable[[Case], Any], report: Report) -> Any:
    """What `attempt` makes of the case, at half the batch, and half of that, where memory does not suffice."""
    while True:
        try:
            return attempt(case)
        except Exception as error:
            if not is_out_of_memory(error) or case.batch < 2:
                raise
        case = replace(case, batch=case.batch // 2)
        report.note(f"out of memory: batches of {case.batch} images instead")
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def graphs_and_breaks() -> tuple[int, int]:
    """Graphs that were compiled in this process, and places where a compiler had to leave one."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"]), sum(counters["graph_break"].values())
