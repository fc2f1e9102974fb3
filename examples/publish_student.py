"""From a teacher on the Hub to a published student of half its depth, with its model card; images are any on the Hub.

    hf auth login
    python examples/publish_student.py TEACHER --dataset_name IMAGES --hub_model_id OWNER/NAME --output_dir student \
        --num_train_epochs 30 --eval_strategy epoch

The student stays in `student`, and where an upload failed, `hf-abkd push student OWNER/NAME` goes on with it.
"""

from transformers import AutoImageProcessor, HfArgumentParser

import hf_abkd as ab


def main():
    parser = HfArgumentParser((ab.DataArguments, ab.DistillationArguments))
    parser.add_argument("teacher", help="the id of an image classifier on the Hub")
    data, args, named = parser.parse_args_into_dataclasses()
    images = ab.load_image_datasets(data)
    processor = AutoImageProcessor.from_pretrained(named.teacher)
    transform = ab.ImageTransform(processor, image_column=data.image_column_name, label_column=data.label_column_name)
    teacher = ab.load_teacher(named.teacher, labels=images.labels)
    trainer = ab.DistillationTrainer(
        ab.student_from_teacher(teacher, depth=0.5, labels=images.labels),
        args,
        teacher=teacher,
        stages=ab.activation_boundary(),
        train_dataset=ab.prepare(images.train, transform),
        eval_dataset=ab.prepare(images.validation, transform),
        processing_class=processor,
        compute_metrics=ab.classification_metrics(),
    )
    trainer.train()
    trainer.push_to_hub()


if __name__ == "__main__":
    main()
