"""An image processor of a user's, whose file is published with a student."""

from transformers import ViTImageProcessorPil


class OwnImageProcessor(ViTImageProcessorPil):
    """Show images upside down, as the plain class never would."""

    def _preprocess(self, images, **kwargs):
        return super()._preprocess([image[:, ::-1].copy() for image in images], **kwargs)


OwnImageProcessor.register_for_auto_class()
