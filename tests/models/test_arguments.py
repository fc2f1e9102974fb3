from transformers import HfArgumentParser, TrainingArguments

from hf_abkd.data.arguments import DataArguments
from hf_abkd.models.arguments import ModelArguments


def test_all_flags_stand_on_one_command_line(tmp_path):
    """argparse refuses a name that two groups of arguments define."""
    line = (
        f"--student_name_or_path s --teacher_name_or_path t --train_dir d --output_dir {tmp_path} --token x --use_cpu"
    )
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments))
    model, data, training = parser.parse_args_into_dataclasses(line.split())
    assert (model.student_name_or_path, model.teacher_name_or_path, model.token) == ("s", "t", "x")
    assert (model.trust_remote_code, model.ignore_mismatched_sizes) == (False, False)
    assert data.train_dir == "d"
    assert training.output_dir == str(tmp_path)
