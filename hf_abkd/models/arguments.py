"""Which models to distil, as flags of a command line."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_abkd.models.hub_options import HubOptions
from hf_abkd.models.smaller.factors import Factors
from hf_abkd.models.teacher_weights import TeacherWeights


@dataclass
class ModelArguments:
    """Which models to distil, as flags for ``transformers.HfArgumentParser``."""

    teacher_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Teacher: a model on the Hub, a local folder with its weights, or package.module:factory, a "
            "function without arguments that returns any torch.nn.Module; its module is imported, also from the "
            "current folder."
        },
    )
    student_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Student: a model on the Hub, a local folder with weights, for random weights a local folder with "
            "only a config.json or the path of such a file, or package.module:factory, a function without arguments "
            "that returns a transformers.PreTrainedModel."
        },
    )
    student_from_teacher: str | None = field(
        default=None,
        metadata={
            "help": "In the place of --student_name_or_path: make the student of the teacher's blocks and channels, as "
            "depth=0.5,width=0.5, depth=0.5 or width=0.5, the shares of them that it gets."
        },
    )
    teacher_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the teacher on the Hub."})
    teacher_dtype: str = field(
        default="float32", metadata={"help": "Precision of the teacher's weights: float32, bfloat16 or float16."}
    )
    teacher_device_map: str | None = field(
        default=None,
        metadata={
            "help": "Where the layers of a teacher lie that is too large for one device: auto, a device, or layers and "
            'devices as JSON, {"": "disk"} for example.'
        },
    )
    teacher_bits: int | None = field(
        default=None,
        metadata={
            "help": "8 or 4: hold the weights of the teacher's linear layers but the last one in so many bits (needs "
            "bitsandbytes)."
        },
    )
    student_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the student on the Hub."})
    image_processor_name: str | None = field(
        default=None,
        metadata={
            "help": "Image processor: a Hub id or local folder. Default: the student's, else the teacher's; a model of "
            "package.module:factory has none."
        },
    )
    teacher_image_processor_name: str | None = field(
        default=None,
        metadata={
            "help": "The teacher's image processor, if it is not stored with it, as for a package.module:factory: a "
            "Hub id or local folder. Default: the teacher's own, else --image_processor_name, else the student's."
        },
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloaded models and data sets are kept."})
    token: str | None = field(
        default=None, repr=False, metadata={"help": "Hub token for private models and data sets."}
    )
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run model code from the Hub on this machine. Only for repositories you have read."},
    )
    ignore_mismatched_sizes: bool = field(
        default=False,
        metadata={"help": "Replace the student's classification head if it has another number of classes."},
    )

    def __post_init__(self) -> None:
        """Refuse two students, factors that are not possible, and weights that are held in no possible way."""
        weights = self.teacher_weights
        if self.teacher_name_or_path is None and not weights.as_usual:
            raise ValueError(
                "--teacher_dtype, --teacher_device_map and --teacher_bits say how a teacher's weights are held: name "
                "it, --teacher_name_or_path, or leave them out"
            )
        if self.student_from_teacher is not None and not weights.as_usual:
            raise ValueError(
                f"--student_from_teacher {self.student_from_teacher} makes a student of the teacher's weights, which "
                "it needs whole and in float32: leave --teacher_dtype, --teacher_device_map and --teacher_bits out"
            )
        if self.student_factors is not None and self.student_name_or_path is not None:
            raise ValueError(
                f"--student_from_teacher {self.student_from_teacher} makes a student, and --student_name_or_path "
                f"{self.student_name_or_path} names another one: leave one out"
            )

    @property
    def student_factors(self) -> Factors | None:
        """Which share of the teacher's blocks and channels the student is made of; None if it is named."""
        if self.student_from_teacher is None:
            return None
        try:
            return Factors.read(self.student_from_teacher)
        except ValueError as error:
            raise ValueError(f"--student_from_teacher: {error}") from error

    @property
    def teacher_weights(self) -> TeacherWeights:
        """How the teacher's weights are held."""
        try:
            return TeacherWeights.of_flags(self.teacher_dtype, self.teacher_device_map, self.teacher_bits)
        except ValueError as error:
            raise ValueError(f"--teacher_dtype, --teacher_device_map, --teacher_bits: {error}") from error

    def hub(self, revision: str = "main") -> HubOptions:
        """Return how the flags say to fetch from the Hub.

        Args:
            revision: Branch, tag or commit: `teacher_revision` for what is the teacher's, for example.
        """
        return HubOptions(revision, self.token, self.cache_dir, self.trust_remote_code)
